"""What axe-core finds on the page: nothing serious or critical, on any tab, before and after an explanation."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from support.browser import Page, chromium, served

import clew

# What Gradio writes and a page cannot change, by rule: part of what it says of itself, and why it is so.
FROM_GRADIO = {
    "nested-interactive": ('aria-label="common.upload"', "its button for more files holds the field that takes them"),
}
BAD = ("serious", "critical")


@pytest.fixture(scope="module")
def server(folder):
    chromium()
    clew.evaluate(
        "segmentation", clew.load("mini:digits"), "mini:digits", methods=["raw_attention", "random"],
        out=folder / "runs" / "first", limit=3, show_progress=False,
    )  # fmt: skip
    with served(folder, "--runs", str(folder / "runs")) as (address, _):
        yield address


@pytest.fixture(params=["light", "dark"])
def page(server, browser, request):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    found = Page(context.new_page(), f"{server}/?__theme={request.param}")
    assert found.page.locator("body.dark").count() == (request.param == "dark")
    yield found
    context.close()


def ours(node: dict, rule: str) -> bool:
    return rule not in FROM_GRADIO or FROM_GRADIO[rule][0] not in node["html"]


def find_nothing(page):
    page.page.mouse.move(0, 0)
    page.page.add_style_tag(content="* { transition: none !important; animation: none !important }")  # no fading
    page.page.wait_for_timeout(500)
    found = Axe().run(page.page).response["violations"]
    told = [
        f"{one['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for one in found
        if one["impact"] in BAD
        for node in one["nodes"]
        if ours(node, one["id"])
    ]
    assert not told, "\n".join(told)


def test_explaining(page):
    find_nothing(page)
    page.page.locator("#methods-said summary").first.click()
    for example in ("A digit among clutter", "A Llama reads", "Words of a review", "Which caption, where"):
        page.forget()
        page.page.get_by_role("button", name=example).click()
        page.said("done")
        page.page.locator("#download-html:enabled").wait_for()
        find_nothing(page)
    page.choose("model", "mini:reviews-bert")
    page.page.locator("#long").get_by_label("explain them in windows").check()
    page.page.locator("#explain-text textarea").fill("a dull film, and a fine one . " * 60)
    page.explain()
    find_nothing(page)  # of a long text that scrolls
    page.page.locator("#explain-text textarea").fill("")
    page.explain("not explained")
    find_nothing(page)


def test_chat(page):
    page.page.get_by_role("tab", name="Chat").click()
    find_nothing(page)
    page.page.get_by_role("button", name="One of four digits").click()
    page.said("done", "chat-status")
    find_nothing(page)


def test_comparing(page, folder):
    page.page.get_by_role("tab", name="Compare").click()
    find_nothing(page)
    clew.scenes().images[3].save(folder / "scene.png")
    page.upload(str(folder / "scene.png"), "compare")
    page.page.locator("#compare").click()
    page.said("done", "compare-status")
    find_nothing(page)


def test_results(page):
    page.page.get_by_role("tab", name="Results").click()
    find_nothing(page)
    page.page.locator("[data-testid='cell-0-1']").click()
    page.page.locator("#example .clew-card").first.wait_for()
    find_nothing(page)
