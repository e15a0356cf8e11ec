"""In which direction texts are read, against the standard's own words; what pages and figures make of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from unicodedata import bidirectional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clew
from clew.draw import bidi
from clew.draw.lettering import Ruler, shapes_letters
from clew.draw.text_html import Piece, direction_of, text_fragment, text_page
from clew.draw.text_html import TextCell as Cell
from clew.draw.text_lines import set_in_lines

ARABIC = "شاهدت فيلم Titanic (1997) أمس، وكان رائعاً! لكن 3 مشاهد سيئة."
HEBREW = "הסרט Titanic היה נהדר (10/10)!"
LETTERS = "abc XYZ אבג شاهد 123٣٤ .,!()[]-+%$:/\u064b\u2067\u2069"


@given(st.text(LETTERS, max_size=12))
def test_the_first_strong_character_outside_isolates_says_the_direction(text):
    depth = 0  # P2: skip what stands between an isolate initiator and its PDI; P3: R or AL is from right to left
    expected = "ltr"
    for character in text:
        if character == "\u2067":
            depth += 1
        elif character == "\u2069":
            depth = max(0, depth - 1)
        elif depth == 0 and bidirectional(character) in ("L", "R", "AL"):
            expected = "ltr" if bidirectional(character) == "L" else "rtl"
            break
    assert bidi.direction(text) == expected


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        ("car means אבג.", "ltr", "car means גבא."),
        ("אבג means car.", "rtl", ".means car גבא"),
        ("אב 12 גד", "rtl", "דג 12 בא"),
        ("אב 1-2 גד", "rtl", "דג 1-2 בא"),
        ("אב $12.50 גד", "rtl", "דג $12.50 בא"),
        ("אב (12) גד", "rtl", "דג (12) בא"),
        ("א Ti (97) ב", "rtl", "ב Ti (97) א"),
        ("א (b) ב", "rtl", "ב (b) א"),
        ("a (א) b", "ltr", "a (א) b"),
        ("a (א", "ltr", "a (א"),
        ("123 אב", "rtl", "בא 123"),
        ("אב!", "rtl", "!בא"),
        ("abc", "ltr", "abc"),
        ("", "ltr", ""),
    ],
)  # worked out by hand from rules W1 to L4 of UAX 9
def test_characters_stand_where_the_standard_puts_them(text, base, expected):
    assert bidi.direction(text) == base
    assert bidi.visual(text) == expected


def test_letters_are_joined_as_arabic_is_written():
    assert bidi.joins("مش", "اهد")  # sheen joins what follows
    assert not bidi.joins("را", "ئع")  # alef does not
    assert bidi.joins("رائعً", "ا") and not bidi.joins("ab", "cd") and not bidi.joins("", "ا")
    assert not bidi.joins("של", "ום")


# Pages


class Shown(HTMLParser):
    """The words of each `dir`-ed block, as a reader gets them, and the direction."""

    def __init__(self, page):
        super().__init__()
        self.blocks, self._depth = [], 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "div" and found.get("dir") in ("ltr", "rtl"):
            self.blocks.append([found["dir"], "", []])
            self._depth = 1
        elif self._depth and tag == "span":
            self.blocks[-1][2].append(found.get("dir"))

    def handle_endtag(self, tag):
        self._depth = 0 if tag == "div" else self._depth

    def handle_data(self, data):
        if self._depth:
            self.blocks[-1][1] += data


@pytest.mark.parametrize("text", [ARABIC, HEBREW, "He said שלום.", "… 12 ؟ نعم", "1 + 1 = 2", "plain"])
def test_pages_say_the_direction_of_the_text_and_not_of_the_tokenizers_signs(text):
    pieces = [Piece("[CLS]", 0.1, True, (0,))]
    for k, word in enumerate(re.findall(r"\s+|\S+", text)):
        pieces.append(Piece(word) if word.isspace() else Piece(word, 0.1 * k, False, (k + 1,)))
    pieces.append(Piece("[SEP]", 0.1, True, (99,)))
    strong = [bidirectional(c) for c in text if bidirectional(c) in ("L", "R", "AL")]
    expected = "rtl" if strong and strong[0] != "L" else "ltr"
    for page in (text_fragment([Cell("m", "t", pieces, {})]), text_page("t", [[Cell("m", "t", pieces, {})]])):
        assert "unicode-bidi" in page
        (way, words, isolated), *_ = Shown(page).blocks
        assert way == expected and words.strip("\n ") == f"[CLS]{text}[SEP]"
        assert isolated[0] == isolated[-1] == "ltr" and not any(isolated[1:-1])  # words are not torn apart


def test_explained_texts_come_with_their_direction():
    loaded = clew.load("mini:reviews-bert")
    a = clew.explain(loaded, [ARABIC, "a film"], method="saliency")
    for page in (a.to_html(), a._repr_html_()):
        assert [way for way, *_ in Shown(page).blocks] == ["rtl", "ltr"]
    assert direction_of([Piece("<s>"), Piece("<0xD8>"), Piece("שלום")]) == "rtl"


# Lines of figures


@pytest.fixture(scope="module")
def ruler():
    return Ruler(6.0, 100)


def lines(text, ruler, width=150.0, special=True, most=30):
    words = [Piece(w, None if w.isspace() else 1.0) for w in re.findall(r"\s+|\S+", text)]
    pieces = [Piece("[CLS]", 1.0, True), *words] if special else words
    return set_in_lines(pieces, width, most, ruler, 1.8)


def test_words_stand_from_the_right_in_a_text_that_is_read_from_the_right(ruler):
    (line,) = lines(ARABIC, ruler, width=400.0)
    at = {p.text: p.x for p in line if not p.blank}
    assert at["[CLS]"] > at["شاهدت"] > at["فيلم"] > at["Titanic"] > at["أمس،"] > at["وكان"] > at["سيئة."]
    assert at["(1997)"] > at["Titanic"]  # Latin words and their numbers run to the right within it
    assert max(p.x + p.wide for p in line) == pytest.approx(400.0, abs=3)
    (line,) = lines("He said שלום עולם now", ruler, width=400.0)
    at = {p.text: p.x for p in line if not p.blank}
    assert at["He"] < at["said"] < at["עולם"] < at["שלום"] < at["now"]


@settings(max_examples=60, deadline=None)
@given(st.text("abc אבגشاهد 12.,!()$\\ 影画\n", min_size=1, max_size=60))
def test_no_words_lie_over_each_other_and_none_is_lost(text):
    ruler = Ruler(6.0, 100)
    found = lines(text, ruler, width=70.0)
    assert "".join(p.text for line in found for p in line if not p.blank) == "[CLS]" + re.sub(r"\s+", "", text)
    for line in found:
        spans = sorted((p.x, p.x + p.wide) for p in line if not p.blank)
        assert all(b[0] >= a[1] - 1e-6 for a, b in pairwise(spans))
        assert all(a >= -1e-6 and b <= 72.6 for a, b in spans)


def test_a_word_wider_than_a_line_is_cut_and_a_long_text_ends_in_dots(ruler):
    found = lines("a" * 300, ruler, width=60.0)
    assert len(found) > 5 and all(p.wide <= 60.0 for line in found for p in line)
    short = lines("many words " * 50, ruler, width=60.0, most=3)
    assert len(short) == 3 and short[-1][-1].text == "…"
    right = lines("מילים רבות " * 50, ruler, width=60.0, most=3)
    assert right[-1][-1].text == "…" and right[-1][-1].x == min(p.x for p in right[-1])


def test_letters_of_a_figure_stay_joined_over_the_edges_of_tokens(ruler):
    """A word in two tokens is as wide as in one, where matplotlib joins letters; Latin letters do not change."""
    for cut in (["مش", "اهد"], ["م", "شاهد"], ["فيل", "م"], ["را", "ئع"]):
        (line,) = set_in_lines([Piece(c, 1.0) for c in cut], 200.0, 3, ruler, 1.8)
        gaps = sum(p.gap for p in line[:-1])
        assert sum(p.wide for p in line) == pytest.approx(ruler.of("".join(cut))[0], abs=1.0 if shapes_letters() else 9)
        assert bool(gaps) == (cut == ["را", "ئع"])  # alef does not join what follows it
    (line,) = set_in_lines([Piece("film", 1.0), Piece("s", 1.0)], 200.0, 3, ruler, 1.8)
    assert [p.shown for p in line] == ["film", "s"]


def test_no_line_begins_with_a_full_stop(ruler):
    found = set_in_lines([Piece(c, 1.0) for c in "影片好看。" * 12], 40.0, 30, ruler, 1.8)
    assert len(found) > 5 and not any(line[0].text == "。" for line in found)
