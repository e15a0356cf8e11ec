"""Words on figures are drawn as given: nothing is mathematics, letters come from fonts that have them, lines fit."""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from unicodedata import east_asian_width

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import clew
from clew.draw import lettering
from clew.draw.generation_html import generation_fragment, generation_page, generation_png
from clew.draw.lettering import Font, apply_fonts, cut, drawable, ticks, width_of, wrapped
from clew.draw.plots import Bars, Panel, Picture, bars_png, layers_figure, layers_png, panels_png
from clew.evaluation.report.curves import Line, curves_svg

MONEY = ["$", "\\$", "a$b", "$x^2$", "costs $5 and $6", r"\\$1$", r"\frac{$", "$$", r"$\notacommand{$", "50%_#&~^{}"]
PICTURE = Picture(np.zeros((8, 8, 3), np.uint8), (0.0, 0.0, 8.0, 8.0))


def drawn(*words):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(words[0])
    axes.set_xlabel(words[0])
    axes.text(0, 0, words[0])
    figure.supxlabel(words[0])
    ticks(axes.yaxis, words)
    apply_fonts(figure)
    figure.draw_without_rendering()
    return [axes.get_title(), axes.get_xlabel(), axes.texts[0].get_text(), figure.get_supxlabel()], [
        t.get_text() for t in axes.get_yticklabels()
    ]


@settings(max_examples=80, deadline=None)
@given(st.text("$\\_^{}%&#~ab1 é", min_size=1, max_size=12))
def test_every_string_is_drawn_as_it_is(text):
    labels, names = drawn(text, "b")
    assert labels == [text] * 4
    assert names == [text, "b"]


@pytest.mark.sampled(0.4)
@pytest.mark.parametrize("words", MONEY)
def test_money_is_no_mathematics_wherever_matplotlib_draws(words, digits, tmp_path):
    heat = np.ones((2, 2))
    bars_png(Bars([words, "b"], [1.0, -1.0], words))
    layers_png(heat, [words, "b"], rows=[words, "c"], label=words)
    panels_png([[Panel(PICTURE, np.ones((8, 8)), words), Bars([words], [1.0], words)]])
    generation_png([words, "b", words], 1, np.ones((2, 3)))
    assert "b" in generation_page(words, [words, "b"], 1, np.ones((1, 2)), {words: words})
    generation_fragment(words, [words, "b"], 1, np.ones((1, 2)))
    svg = curves_svg([Line("a", np.arange(2.0), np.arange(2.0), None, 0)], words, words, "curve")
    assert re.sub(r"&amp;", "&", svg).count(words) >= 2
    result = clew.explain(digits, clew.scenes().images[:1], method="raw_attention")
    figure = clew.figure([result], inputs=[words], methods=[words], caption=words)
    figure.draw_without_rendering()
    shown = [text.get_text().replace("\n", "") for text in figure.findobj(Text)]  # lines are as long as there is room
    assert shown.count(words) == 3
    clew.figure([result], tmp_path / "a.pdf", inputs=[words], methods=[words], caption=words)


def test_words_of_a_text_are_drawn_and_measured_as_they_are(tmp_path):
    text = r"costs $5 & $x^2$ \$ a_b $"
    a = clew.explain(clew.load("mini:reviews-bert"), text, method="saliency")
    figure = clew.figure([a], inputs=["$y$"], methods=["$z$"], caption="$1 and $2")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    shown = "".join(t.get_text() for t in axes.texts)
    assert shown == "[CLS]" + text.replace(" ", "") + "[SEP]"
    boxes = [t.get_window_extent() for t in axes.texts]
    assert not any(a.x1 > b.x0 + 0.5 for a, b in pairwise(boxes))
    assert (axes.get_ylabel(), axes.get_title("left"), figure.texts[0].get_text()) == ("$y$", "$z$", "$1 and $2")


def test_the_settings_of_a_user_do_not_change_it():
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True}):
        figure = layers_figure(np.ones((2, 2)), ["$", "b_"], ["$x$", "%"], "l")
        names = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
        assert [t.get_text() for t in names] == ["$", "b_", "$x$", "%"]
        assert not any(t.get_usetex() or t.get_parse_math() for t in (*names, figure.axes[0].yaxis.label))


# Letters that fonts have or lack; a test forces both


@pytest.fixture
def fonts(monkeypatch):
    """Sets which fonts are installed: a name, and the letters it has."""

    def chosen(**held):
        monkeypatch.setattr(lettering, "_told", set())
        monkeypatch.setattr(lettering, "_chosen", {})
        monkeypatch.setattr(lettering, "installed", lambda newly=False: [Font(n, n) for n in held])
        monkeypatch.setattr(
            lettering, "_held", lambda font, some: frozenset(c for c in some if c in held.get(font.family, "é"))
        )

    return chosen


def test_fonts_that_have_the_letters_are_chosen(fonts):
    fonts(Greek="αβγ", Chinese="影画", Both="影α")
    assert drawable("plain", ["sans-serif"]) == ("plain", {"parse_math": False, "usetex": False})
    assert drawable("é", ["sans-serif"])[1] == {"parse_math": False, "usetex": False}
    shown, manner = drawable("影画", ["sans-serif"])
    assert shown == "影画" and manner["fontfamily"] == ["sans-serif", "Chinese"]
    assert set(drawable("影画γ", ["sans-serif"])[1]["fontfamily"]) == {"sans-serif", "Chinese", "Greek"}


def test_chinese_characters_are_drawn_in_the_language_of_the_whole_figure(fonts):
    fonts(**{"Sans SC": "影カ한", "Sans JP": "影カ한", "Sans KR": "影カ한"})
    for words, own in (("影", "SC"), ("影 カ", "JP"), ("影 한", "KR")):
        assert drawable(words, ["sans-serif"])[1]["fontfamily"][1] == f"Sans {own}"
        figure = Figure()
        axes = figure.subplots()
        axes.set_title("影")
        axes.set_xlabel(words)
        apply_fonts(figure)
        assert axes.title.get_fontfamily()[1] == f"Sans {own}"


def test_what_no_font_has_is_a_box_and_told_once_with_what_to_install(fonts, caplog):
    fonts(Greek="αβγ")
    with caplog.at_level(logging.WARNING, logger="clew"):
        assert drawable("α影 ไ 🎬\u200d ", ["sans-serif"])[0] == "α□ □ □ "
        assert drawable("影", ["sans-serif"])[0] == "□"
    assert len(caplog.records) == 3
    for script, package in (
        ("CJK letters", "fonts-noto-cjk"),
        ("Thai letters", "fonts-noto-core"),
        ("emoji", "fonts-symbola"),
    ):
        (message,) = [r.getMessage() for r in caplog.records if script in r.getMessage()]
        assert package in message


def test_figures_of_all_scripts_are_drawn_without_a_warning(tmp_path):
    """Whatever is installed here: warnings of matplotlib would be errors."""
    words = "影片 カナ 한국어 ไทย हिन्दी 🎬 👩‍👩‍👧 e\u0301 \x07\t\x00 \u2028 " + chr(0xE123)
    a = clew.explain(clew.load("mini:reviews-bert"), words, method="saliency")
    for suffix in (".png", ".pdf", ".svg"):
        clew.figure([a], tmp_path / f"a{suffix}", inputs=[words], methods=[words], caption=words)
    layers_png(np.ones((1, 1)), [words], rows=[words], label=words)


def test_fonts_of_this_machine_are_known_and_read():
    held = {f.family for f in lettering.installed(newly=True)}
    assert "DejaVu Sans" in held and not any("Resort" in name or name.startswith("cm") for name in held)
    added, rest = lettering.fallbacks(frozenset(["é", chr(0xE123)]), "SC")
    assert len(added) == 1 and rest == {chr(0xE123)}
    assert not lettering._held(Font("none", "/no/such.ttf"), frozenset("é"))


def test_an_old_matplotlib_gets_words_in_their_order(monkeypatch, caplog):
    monkeypatch.setattr(lettering, "shapes_letters", lambda: False)
    monkeypatch.setattr(lettering, "_told", set())
    assert drawable("אב (12)", ["sans-serif"])[0] == "(12) בא"
    assert drawable("first שלום\nsecond", ["sans-serif"])[0] == "first םולש\nsecond"
    assert not caplog.records
    assert drawable("بت", ["sans-serif"])[0] == "تب"
    assert "matplotlib>=3.11" in caplog.text


# Lines


@given(st.text("ab_ 影\u0301", max_size=80), st.integers(2, 20), st.integers(1, 4))
def test_lines_fit_and_hold_the_whole_text(text, width, lines):
    def wide(some):
        return sum(0 if c == "\u0301" else 2 if east_asian_width(c) in "WF" else 1 for c in some)

    whole = wrapped(text, width)
    assert all(wide(line) <= width for line in whole.split("\n"))
    assert re.sub(r"\s", "", whole) == re.sub(r"\s", "", text)
    some = wrapped(text, width, lines).split("\n")
    assert len(some) <= lines and all(wide(line) <= width + 1 for line in some)
    assert wide(cut(text, width)) <= max(width, 3) and width_of(text) == wide(text)
    assert (cut(text, width) == text) == (wide(text) <= width) or text.endswith("…")


# Rows of figures, matrices of tokens


def test_labels_of_rows_do_not_overlap():
    loaded = clew.load("mini:reviews-bert")
    a = clew.explain(loaded, ["dull", "superb", "a film", "no", "so so"], method="attn_lrp")
    names = [
        "short",
        "a label of many words that needs several lines",
        "x" * 70,
        "影" * 40,
        "a_long_name_of_a_class_that_goes_on",
    ]
    for rows in (names, [a.name_of_target(i) for i in range(5)]):
        headings = ["attn_lrp", "a very long heading of a column, with options(n_steps=8)" * 2]
        figure = clew.figure([a, a], inputs=rows, methods=headings, caption="c")
        figure.draw_without_rendering()
        labels = [axes.yaxis.label.get_window_extent() for axes in figure.axes if axes.get_ylabel()]
        assert len(labels) == 5
        assert not any(x.overlaps(y) for i, x in enumerate(labels) for y in labels[i + 1 :])
        words = [t.get_window_extent() for axes in figure.axes for t in axes.texts]
        assert not any(x.overlaps(y) for x in labels for y in words)
        titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
        assert len(titles) == 2 and not titles[0].overlaps(titles[1])


def named(axes):
    return [t.get_text() for t in axes.get_xticklabels()], [t.get_text() for t in axes.get_yticklabels()]


def test_of_many_tokens_those_that_count_are_named():
    rng = np.random.default_rng(0)
    heat = rng.normal(size=(20, 150))
    names = [f"t{i}" for i in range(150)]
    figure = layers_figure(heat, names, [f"r{i}" for i in range(20)], "token")
    figure.draw_without_rendering()
    across, down = named(figure.axes[0])
    largest = sorted(range(150), key=lambda j: -max(abs(v) for v in heat[:, j]))[:60]
    assert across == [f"t{j}" for j in sorted(largest)]
    assert down == [f"r{i}" for i in range(20)]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), heat[:, sorted(largest)])
    assert "60 of 150 tokens" in figure.axes[0].get_title(loc="left")
    few = layers_figure(heat[:, :60], names[:60], [], "block")
    assert named(few.axes[0])[0] == names[:60] and not few.axes[0].get_title(loc="left")
    boxes = [t.get_window_extent() for t in figure.axes[0].get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_many_rows_are_drawn_in_parts_with_tokens_of_their_own():
    heat = np.zeros((130, 400))
    for i in range(130):
        heat[i, 2 * i] = 1.0 + i
    figure = layers_figure(heat, [f"t{j}" for j in range(400)], [f"r{i}" for i in range(130)], "token")
    figure.draw_without_rendering()
    parts = figure.axes[:-1]  # the last holds the colours
    assert [name for axes in parts for name in named(axes)[1]] == [f"r{i}" for i in range(130)]
    for axes in parts:
        across, down = named(axes)
        assert len(across) == 60 and {f"t{2 * int(r[1:])}" for r in down} <= set(across)


def test_what_comes_later_is_grey_and_no_score():
    import io

    from PIL import Image

    scores = np.full((3, 6), -1.0)
    scores[:, 3:] = 0.0
    image = np.asarray(Image.open(io.BytesIO(generation_png(list("abcdef"), 3, scores))).convert("RGB")).reshape(-1, 3)
    grey = (image == (0xD4, 0xD4, 0xD4)).all(1).sum()
    assert grey > 1000
    earlier = generation_png(list("abcdef"), 5, scores[:1])  # one row: only the last token comes later
    image = np.asarray(Image.open(io.BytesIO(earlier)).convert("RGB")).reshape(-1, 3)
    assert 0 < (image == (0xD4, 0xD4, 0xD4)).all(1).sum() < grey


def test_names_beside_a_matrix_are_visible_and_short():
    figure = layers_figure(np.ones((1, 5)), ["\n", "  ", "", "x" * 90, "$a$"], [], "block")
    figure.draw_without_rendering()
    assert named(figure.axes[0])[0] == ["⏎", "␣␣", "∅", "x" * 19 + "…", "$a$"]


def test_a_notebook_shows_the_text_of_a_generation(writer):
    g = clew.explain_generation(writer, "they don't", max_new_tokens=4)
    shown = re.sub(r"<[^>]+>", "", g._repr_html_())
    assert "".join(g.tokens) in shown.replace("&#39;", "'")
    assert "data:image/png;base64" in g._repr_html_()
    assert g._repr_html_().count("underline; text") == 4
