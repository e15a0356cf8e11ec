"""Choosing on the page in a real browser: methods, classes, files, what is done with long texts."""

from __future__ import annotations

import pytest
from support.browser import Page, chromium, served

import clew
from clew.app.offered_methods import cost


@pytest.fixture(scope="module")
def server(folder):
    chromium()
    with served(folder, "--model", "mini:digits", "--model", "mini:reverse") as found:
        yield found


@pytest.fixture
def page(server, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    found = Page(context.new_page(), server[0])
    yield found
    assert not found.trouble and server[1].poll() is None
    context.close()


@pytest.fixture
def scene(folder):
    path = folder / "scene.png"
    clew.scenes().images[3].save(path)
    return path


def test_of_several_texts_maps_there_are_a_picture_and_zips(page, folder):
    page.page.get_by_role("button", name="Words of a review").click()
    page.said("done")
    for kind, end in (("png", "png"), ("csv", "zip")):
        with page.page.expect_download() as found:
            page.page.locator(f"#download-{kind}").click()
        assert found.value.suggested_filename.endswith(end)


def test_methods_are_told_and_those_that_do_not_work_are_not_offered(page):
    said = page.page.locator("#methods-said")
    page.methods("attn_lrp", "tis")
    said.get_by_text("TIS: scores of samples of the patches, others left out. Costs about").first.wait_for()
    assert f"AttnLRP: relevance through attention by half and by Taylor expansion. Costs {cost('attn_lrp')}" in (
        said.inner_text()
    )
    said.locator("summary").first.click()
    assert said.locator("details dt").count() == len(clew.methods())
    page.choose("model", "mini:reviews-bert")
    said.get_by_text("3 left out for this model").wait_for()
    chosen = page.page.locator("#methods .token")
    assert chosen.all_inner_texts() == ["attn_lrp"]  # what works stays, TIS is of pictures
    page.page.locator("#methods input").click()
    assert page.page.locator("#methods").get_by_role("option").count() == len(clew.methods()) - 3
    page.page.keyboard.press("Escape")
    page.choose("model", "mini:reverse")  # one that was brought along is tried
    said.get_by_text(f"{sum(not m.any_model for m in clew.methods().values())} left out for this model").wait_for()
    said.locator("summary").last.click()
    assert "no declaration fits" in said.locator("details").last.inner_text()
    page.page.locator("#explain-text textarea").fill("a b c")
    page.explain()
    assert page.cards() == ["attn_lrp"]
    page.page.frame_locator("#maps iframe").get_by_text("a").first.wait_for()
    page.page.locator("#download-png:enabled").wait_for()


def test_a_class_is_found_by_a_part_of_its_name_with_the_keyboard(page, scene):
    page.upload(str(scene))
    page.methods("raw_attention")
    box, keys = page.page.locator("#target input"), page.page.keyboard

    def explained(*pressed):
        box.click()
        for one in ("Control+a", "Delete", *pressed):
            keys.press(one)
        page.explain()
        return page.text("#maps .clew-sub >> nth=1")

    box.click()
    keys.type("hre")
    page.page.locator("#target").get_by_role("option", name="three").wait_for()
    assert page.page.locator("#target").get_by_role("option").count() == 1
    keys.press("ArrowDown")
    keys.press("Enter")
    page.explain()
    assert page.text("#maps .clew-sub >> nth=1") == "for three"
    assert explained() == "for four"  # nothing: the predicted one
    assert explained("5", "Enter") == "for five"
    box.fill("three / four")
    page.explain()
    assert page.text("#maps .clew-sub >> nth=1") == "for three rather than four"


def test_a_long_text_is_explained_in_windows(page):
    page.choose("model", "mini:reviews-bert")
    page.methods("raw_attention")
    page.page.locator("#explain-text textarea").fill("a dull film, and a fine one . " * 60)
    page.explain("0 of 1 methods")
    assert "longer than the model's positions" in page.text("#maps")
    page.page.locator("#long").get_by_label("explain them in windows").check()
    page.page.locator("#window input").fill("64")
    page.explain()
    assert page.page.locator("#maps .clew-word").count() >= 480
    page.page.locator("#long").get_by_label("explain their beginning").check()
    page.explain()
    assert page.page.locator("#maps .clew-word").count() < 260 and not page.page.locator("#window").is_visible()
