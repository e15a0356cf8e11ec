"""The chat tab in a real browser: a picture and a question, a source, and what is behind each word of the answer."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.browser import Page, chromium, served

import clew

HOSTILE = "</script><img src=x onerror=alert(1)>\"'{{7*7}} <style>*{display:none}</style>"


@pytest.fixture(scope="module")
def server(folder):
    chromium()
    with served(folder, "--model", "mini:reviews-bert") as found:
        yield found


@pytest.fixture(params=[(1280, 800), (390, 844)], ids=["wide", "narrow"])
def page(server, browser, request):
    context = browser.new_context(viewport={"width": request.param[0], "height": request.param[1]})
    found = Page(context.new_page(), server[0])
    tab = found.page.get_by_role("tab", name="Chat")
    if not tab.is_visible():  # behind the button for more tabs
        found.page.locator(".overflow-menu > button:visible").first.click()
        tab = found.page.get_by_role("button", name="Chat and answers", exact=True)
    tab.click()
    found.page.locator("#ask").wait_for()
    yield found
    assert found.page.evaluate("document.documentElement.scrollWidth") <= request.param[0]
    assert not found.trouble
    assert not [u for u in found.requests if not u.startswith((server[0], "data:", "blob:", "about:"))]
    assert server[1].poll() is None
    context.close()


@pytest.fixture
def scene(folder):
    found = clew.chat_scenes()[0]
    Image.fromarray(found.image).save(folder / "scene.png")
    return found


def ask(page, wait_for="done"):
    page.page.evaluate("document.querySelector('#chat-status .clew-status').textContent = ''")
    page.page.locator("#ask").click()
    page.said(wait_for, "chat-status")


def answer(page):
    frame = page.page.frame_locator("#chat-shown iframe")
    frame.locator("#text .chosen").wait_for()
    return frame


def heat(frame):
    """The heatmap as it is drawn: (row, column, RGBA)."""
    drawn = frame.locator(".panel canvas").evaluate(
        "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return np.array(drawn[2:]).reshape(drawn[0], drawn[1], 4)


def test_a_picture_and_a_question(page, scene, folder):
    page.upload(str(folder / "scene.png"), "chat")
    page.page.locator("#chat-preview img").wait_for()
    page.page.locator("#chat-words textarea").fill(scene.question)
    ask(page)
    frame = answer(page)
    assert frame.locator("#text .out").all_inner_texts() == [f" {scene.answer}"]
    g = clew.explain_generation(
        clew.load("mini:digits-chat"), {"images": [Image.fromarray(scene.image)], "text": scene.question}
    )
    drawn, values = heat(frame), g["image"].heatmap()[0].numpy()
    red = drawn[..., 0].astype(int) - drawn[..., 2]
    strong = np.abs(values) > 0.2 * np.abs(values).max()
    assert (np.sign(red[strong]) == np.sign(values[strong])).all()
    share = float(frame.locator(".share").first.inner_text().split()[1])
    assert share == pytest.approx(float(g.shares()["pixel_values"][0]), rel=1e-3)
    page.page.locator("#chat-shown iframe").scroll_into_view_if_needed()
    inner = frame.locator("body").evaluate("b => [b.scrollWidth, b.getBoundingClientRect().bottom]")
    page.page.wait_for_function("high => document.querySelector('.clew-frame').clientHeight >= high", arg=inner[1])
    box = page.page.locator("#chat-shown iframe").bounding_box()
    assert inner[0] <= box["width"]  # nothing to scroll within the frame


def test_a_word_of_the_answer_is_clicked(page):
    page.page.get_by_role("button", name="Letters backwards").click()
    page.said("done", "chat-status")
    frame = answer(page)
    source = frame.locator(".panel .text .t")
    for i in (2, 7):
        frame.locator("#text .out").nth(i).click()
        colours = source.evaluate_all(
            "some => some.map(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number))"
        )
        assert int(np.argmin([c[1] for c in colours])) == 9 - i
    assert not page.page.locator("#chat-file").is_visible()
    with page.page.expect_download() as found:
        page.page.locator("#chat-download-numbers").click()
    kept = clew.Attribution.load(found.value.path().rename(found.value.path().with_suffix(".safetensors")))
    assert len(kept) == frame.locator("#text .out").count()
    page.page.locator("#chat-answer textarea, #chat-answer input").fill("j h")
    ask(page)
    assert "".join(answer(page).locator("#text .out").all_inner_texts()).split() == ["j", "h"]


def test_what_is_wrong_is_said(page, scene, folder):
    ask(page, "not explained")
    assert "there is no picture" in page.text("#chat-shown")
    page.upload({"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\nnothing"}, "chat")
    page.page.locator("#chat-words textarea").fill("which ?")
    ask(page, "not explained")
    assert "this file" in page.text("#chat-shown") and str(folder) not in page.text("#chat-shown")
    page.upload(str(folder / "scene.png"), "chat")
    page.page.locator("#chat-words textarea").fill(HOSTILE)
    ask(page)
    assert not answer(page).locator("img[src=x]").count()
    page.choose("chat-model", "mini:reviews-bert")
    page.page.get_by_text("mini:reviews-bert is not for chat").wait_for()
    ask(page, "not explained")
    assert "is not for chat" in page.text("#chat-shown")


def test_cancelling_ends_the_work(page):
    page.choose("chat-model", "mini:reverse")
    page.page.locator("#chat-words textarea").fill("a b c d e f g h i j")
    page.page.locator("#chat-answer textarea, #chat-answer input").fill("a b c d e f g h i j " * 3)
    page.choose("chat-method", "smoothgrad")
    page.page.locator("#ask").click()
    page.said("of 30 tokens", "chat-status")
    page.page.locator("#chat-cancel").click()
    page.said("stopped", "chat-status")
    page.page.wait_for_timeout(2_000)
    assert not page.page.locator("#chat-shown iframe").count()
    page.page.locator("#chat-answer textarea, #chat-answer input").fill("a b")
    page.choose("chat-method", "saliency")
    ask(page)
    assert answer(page).locator("#text .out").count() == 2
