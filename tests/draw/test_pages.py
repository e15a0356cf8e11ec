"""Pages as a browser shows them: how large pictures are, where words stand, what a narrow window does to long names."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from support.browser import started

import clew
from clew.app.maps import _words, cards, row_of
from clew.draw.page import page
from clew.draw.plots import is_tiny
from clew.draw.text_html import Piece, TextCell, text_fragment, text_page
from clew.evaluation.examples import _picture

ARABIC = "شاهدت فيلم Titanic (1997) أمس، وكان رائعاً! لكن 3 مشاهد سيئة."
LONG = ["a_very_long_name_of_a_class_" * 8, "words of a name " * 20, "x" * 300]


BOXES = """[...document.querySelectorAll('.stack img')].map(i => {
    const b = i.getBoundingClientRect();
    return [b.width, b.height, b.right, getComputedStyle(i).imageRendering, i.className];
})"""


@pytest.fixture(scope="module")
def browser():
    with started() as found:
        yield found


@pytest.fixture
def shown(browser, tmp_path):
    """Opens HTML in a window of some width."""
    opened = []

    def open_page(html, width=1200):
        (tmp_path / "page.html").write_text(
            f"<!doctype html><meta charset='utf-8'>{html}" if "<body" not in html else html
        )
        opened.append(browser.new_page(viewport={"width": width, "height": 800}))
        opened[-1].goto(f"file://{tmp_path / 'page.html'}")
        return opened[-1]

    yield open_page
    for one in opened:
        one.close()


def of_size(digits, size):
    """A result of a picture of this size, (across, down)."""
    return clew.explain(digits, clew.scenes().images[0].resize(size), method="raw_attention")


@pytest.mark.sampled(0.4)
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (640, 480), (90, 900), (1500, 100)])
@pytest.mark.parametrize("width", [1200, 480, 320])
def test_pictures_are_seen_and_no_wider_than_the_window(digits, shown, size, width):
    opened = shown(of_size(digits, size).to_html(), width)
    boxes = opened.evaluate(BOXES)
    assert len(boxes) == 3
    for wide, high, right, drawn, kind in boxes:
        assert max(wide, high) >= 200 and right <= width and high <= 800
        assert wide / high == pytest.approx(size[0] / size[1], rel=0.05)
        if kind != "heat":
            assert drawn == ("pixelated" if max(size) <= 96 else "auto")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_tiny_pictures_are_kept_as_they_are(digits):
    a = of_size(digits, (28, 28))
    data = re.search(r"data:image/png;base64,([^\"]+)", a.to_html())[1]
    kept = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(kept, a.pictures[0].pixels)
    assert not is_tiny(np.zeros((28, 300, 3))) and is_tiny(np.zeros((96, 96, 3)))


def test_pictures_of_the_page_of_clew_ui_and_of_reports(digits, shown):
    css = resources.files("clew.draw").joinpath("templates/app.css").read_text()
    a = of_size(digits, (28, 28))
    opened = shown(f"<style>{css}</style>{row_of(cards([a]))}{_picture(a)}", 700)
    found = opened.evaluate("[...document.querySelectorAll('img')].map(i => [i.getBoundingClientRect().width,"
                            " getComputedStyle(i).imageRendering])")  # fmt: skip
    assert len(found) == 2 and all(wide >= 200 and drawn == "pixelated" for wide, drawn in found)


@pytest.mark.parametrize("width", [1200, 360])
def test_long_names_stay_in_the_window_and_are_kept_as_tooltips(digits, shown, width):
    a = of_size(digits, (28, 28))
    cells = [replace(a.cells()[0], title=name, subtitle=name, predicted=name) for name in LONG]
    opened = shown(page("long " * 60 + "x" * 200, [cells]), width)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate(
        "[...document.querySelectorAll('figcaption')].every(c => c.getBoundingClientRect().height < 240)"
    )
    tips = opened.evaluate("[...document.querySelectorAll('.label')].map(l => l.title)")
    assert tips == [LONG[0], *(name for name in LONG for _ in range(2))]


PLACES = """selector => [...document.querySelector(selector).querySelectorAll('span, i')].map(s => {
    const b = s.getBoundingClientRect(); return [s.textContent, b.left, b.right]; })"""


def test_arabic_is_read_from_the_right_with_its_dot_at_the_left_end(shown):
    loaded = clew.load("mini:reviews-bert")
    a = clew.explain(loaded, ARABIC, method="saliency")
    for html, selector in (
        (a.to_html(), ".text"), (a._repr_html_(), "div[dir]"), (row_of(cards([a])), ".clew-words"),
    ):  # fmt: skip
        places = shown(f"<div style='width: 1100px'>{html}</div>" if "<body" not in html else html).evaluate(
            PLACES, selector
        )
        first, last = places[0], places[-1]
        assert (first[0], last[0]) == ("[CLS]", "[SEP]")
        text = [p for p in places[1:-1] if p[1] != p[2]]
        assert first[1] >= max(right for _, _, right in text) - 1 and last[2] <= min(left for _, left, _ in text) + 1
        assert text[-1][0].endswith(".") and text[-1][1] == min(left for _, left, _ in text)


def test_letters_stay_joined_over_the_edges_of_tokens(shown):
    """A word in one piece is as wide as in two: letters that part are wider."""
    css = resources.files("clew.draw").joinpath("templates/app.css").read_text()
    pages = (
        lambda p: text_fragment([TextCell("", "", p, {})]),
        lambda p: text_page("", [[TextCell("", "", p, {})]]),
        lambda p: f"<style>{css}</style>{_words(p)}",
    )
    for make in pages:
        wide = []
        for cut in (["مشاهد"], ["مش", "اهد"], ["م", "شاهد"]):
            places = shown(make([Piece(c, 1.0) for c in cut])).evaluate(PLACES, "div[dir]")
            wide.append(max(r for *_, r in places) - min(left for _, left, _ in places))
        assert wide[1] == pytest.approx(wide[0], abs=0.6) and wide[2] == pytest.approx(wide[0], abs=0.6)
