"""Figures for papers: what stands where, which scale, what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import clew
from clew.attributions import comparison
from clew.attributions.figure_images import ColourScale
from clew.attributions.names import columns_of, model_of, rows_of
from clew.cli.main import app
from clew.errors import ClewError, OptionError

METHODS = ("beyond_intuition_token", "attn_lrp")


@pytest.fixture(scope="module")
def maps(digits):
    return [clew.explain(digits, clew.scenes().images[:3], method=name) for name in METHODS]


@pytest.fixture(scope="module")
def words():
    loaded = clew.load("mini:reviews-bert")
    texts = ["costs $5 & more <b>_x_</b>", *(r.text for r in clew.reviews(2))]
    return [clew.explain(loaded, texts, method=name) for name in METHODS]


def said(path):
    """The words of an SVG."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text(), re.S))


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_a_figure_of_pictures_in_each_format(maps, tmp_path, suffix):
    written = clew.figure(maps, tmp_path / f"fig{suffix}")
    first = written.read_bytes()
    assert first[:4] == {".pdf": b"%PDF", ".svg": b"<?xm", ".png": b"\x89PNG"}[suffix]
    if suffix == ".png":
        with Image.open(written) as image:
            assert image.width > 900 and np.asarray(image.convert("L")).std() > 20
    if suffix == ".pdf":  # the same figure again is the same file
        assert clew.figure(maps, tmp_path / "again.pdf").read_bytes() == first


def test_rows_columns_and_caption_are_named(maps, tmp_path):
    text = said(clew.figure(maps, tmp_path / "a.svg", inputs=["one", "two $2", "three"], methods=["BI-T", "LRP"]))
    for word in ("input", "BI-T", "LRP", "one", "two", "three", "mini:digits", "red speaks for", "largest score"):
        assert word in text, word
    own = said(clew.figure(maps, tmp_path / "b.svg", caption="Just this."))
    assert "Just this." in own and "mini:digits" not in own
    assert "red speaks" not in said(clew.figure(maps, tmp_path / "c.svg", caption=False))


def test_every_map_has_its_own_scale_or_a_method_has_one():
    maps = [np.array([[0.0, 2.0]]), np.array([[-1.0, 4.0]])]
    assert ColourScale.of(maps) == ColourScale("RdBu_r", -4.0, 4.0)
    assert ColourScale.of(maps[:1]) == ColourScale("inferno", 0.0, 2.0)
    assert ColourScale.of([np.array([[np.nan, 0.0]])]) == ColourScale("inferno", 0.0, 1.0)


def test_a_scale_for_each_method_has_a_bar_for_each(maps, tmp_path):
    shared = clew.figure(maps, tmp_path / "a.svg").read_text()
    each = clew.figure(maps, tmp_path / "b.svg", scale="method").read_text()
    assert shared.count("share of the largest") == 1 and "share of the map" not in each
    assert "comparable down it" in said(tmp_path / "b.svg").replace("\n", " ")


def test_a_figure_of_texts_has_all_words(words, tmp_path):
    text = unescape(said(clew.figure(words, tmp_path / "t.svg"))).replace(" ", "")
    for word in ("costs$5&more<b>_x_</b>", "[CLS]", *clew.reviews(1)[0].text.split()[:4]):
        assert word in text, word
    assert clew.figure(words, tmp_path / "t.png").stat().st_size > 10_000


def test_a_long_text_is_cut_and_marked(tmp_path):
    loaded = clew.load("mini:reviews-bert")
    result = clew.explain(loaded, " ".join(["scene"] * 250), method="raw_attention")
    assert "…" in said(clew.figure([result] * 3, tmp_path / "long.svg"))


def test_what_does_not_fit_is_refused(maps, words, tmp_path):
    with pytest.raises(ClewError, match="same inputs in every column"):
        clew.figure([maps[0], words[0]], tmp_path / "a.pdf")
    with pytest.raises(ClewError, match="same inputs in every column"):
        clew.figure([maps[0], maps[1][:2]], tmp_path / "a.pdf")
    with pytest.raises(ClewError, match="cannot save"):
        clew.figure(maps, tmp_path / "a.jpg")
    with pytest.raises(OptionError, match="scale of a figure"):
        clew.figure(maps, tmp_path / "a.pdf", scale="none")
    with pytest.raises(OptionError, match="inputs does not name all rows"):
        clew.figure(maps, tmp_path / "a.pdf", inputs=["one"])
    assert not list(tmp_path.iterdir())


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(clew.scenes().images[:2]):
        image.save(f"{i}.png")
    asked = ["figure", "0.png", "1.png", "--model", "mini:digits", "--method", "raw_attention", "--out", "f.svg"]
    done = CliRunner().invoke(app, [*asked, "--heading", "RA", "--row", "first", "--row", "second"])
    assert done.exit_code == 0, done.output
    assert "RA" in said(tmp_path / "f.svg") and "second" in said(tmp_path / "f.svg")
    assert CliRunner().invoke(app, [*asked, "--width", "4", "--cmap", "viridis"]).exit_code == 0
    assert "0.png" in said(tmp_path / "f.svg") and "predicted: seven" in said(tmp_path / "f.svg").replace("\n", " ")
    with pytest.raises(OptionError, match=r"cannot write that figure"):
        CliRunner().invoke(app, [*asked[:-1], "f.gif"], catch_exceptions=False)
    clew.captioned_scenes().images[0].save("two.png")
    pair = [
        "figure",
        "two.png",
        "--model",
        "mini:digits-clip",
        "--text",
        "a seven",
        "--text",
        "a two",
        "--out",
        "p.png",
    ]
    assert CliRunner().invoke(app, pair, catch_exceptions=False).exit_code == 0


def pictures_of(drawn):
    """Where pictures stand, row by row from above: (left, bottom, right, top) in inches."""
    wide, high = drawn.get_size_inches()
    drawn.canvas.draw()
    places = [(axis, axis.get_position()) for axis in drawn.axes if axis.images]
    return [(p.x0 * wide, p.y0 * high, p.x1 * wide, p.y1 * high) for _, p in places]


@pytest.mark.parametrize("scale", ["each", "method", "all"])
@pytest.mark.parametrize("size", [(64, 64), (640, 400), (300, 400)])
def test_pictures_of_a_row_stand_in_line_close_to_the_next(digits, scale, size):
    images = [image.resize(size) for image in clew.scenes().images[:2]]
    drawn = clew.figure([clew.explain(digits, images, method=name) for name in METHODS], scale=scale)
    places = np.array(pictures_of(drawn)).reshape(2, 3, 4)
    assert np.ptp(places[:, :, [1, 3]], axis=1).max() < 1e-9  # the input as high as the maps
    wide, high = places[0, 0, 2] - places[0, 0, 0], places[0, 0, 3] - places[0, 0, 1]
    assert wide / high == pytest.approx(size[0] / size[1], rel=0.01)
    assert 0 < places[0, 0, 1] - places[1, 0, 3] < 0.1  # inches between rows
    headings = [t for t in drawn.texts if t.get_text() in ("input", *METHODS)]
    assert len({round(t.get_position()[1], 6) for t in headings}) == 1


def test_columns_of_one_method_are_told_apart_by_what_they_explain(digits, tmp_path):
    images = clew.scenes().images[:2]
    three, one = (clew.explain(digits, images, method="attn_lrp", target=k) for k in (3, 1))
    own = clew.explain(digits, images, method="attn_lrp")
    text = said(clew.figure([three, one, own], tmp_path / "a.svg")).replace("\n", " ")
    for word in ("attn_lrp: three", "attn_lrp: one", "attn_lrp: predicted", "predicted: seven", "predicted: one"):
        assert word in text, word
    assert "with what is predicted" in text and "methods, with what is explained" in text
    text = said(clew.figure([three, clew.explain(digits, images, method="raw_attention")], tmp_path / "b.svg"))
    assert "attn_lrp: three" in text and "raw_attention: predicted" in text.replace("\n", " ")
    other = [clew.explain(digits, images, method="attn_lrp", target=k) for k in ([3, 1], [1, 3])]
    assert columns_of(other) == ["attn_lrp: three, one", "attn_lrp: one, three"]
    assert rows_of([three]) == ["target: three", "target: three"]


def test_columns_are_told_apart_by_options_and_models(digits):
    images = clew.scenes().images[:1]
    plain = clew.explain(digits, images, method="lrp")
    other = clew.explain(digits, images, method="lrp", rules="cp_lrp")
    assert columns_of([plain, other]) == ["lrp (rules=epsilon)", "lrp (rules=cp_lrp)"]
    moved = replace(plain, provenance={**plain.provenance, "model": "/somewhere/else/vit"})
    assert columns_of([plain, moved]) == ["lrp, mini:digits", "lrp, vit"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/a/b/vit/", "vit"), ("./runs/vit", "vit"), ("hf:/a/vit", "vit"), ("C:\\a\\vit", "vit"),
     ("hf:google/vit", "hf:google/vit"), ("timm:vit.augreg", "timm:vit.augreg"), ("mini:digits", "mini:digits")],
)  # fmt: skip
def test_of_a_models_path_the_last_part_is_shown(maps, tmp_path, name, shown):
    a = replace(maps[0], provenance={"model": name})
    assert model_of(a) == shown
    assert f"What {shown} looked at" in said(clew.figure(a, tmp_path / "a.svg"))


def test_width_dots_and_colours_are_chosen(maps, words, tmp_path):
    with Image.open(clew.figure(maps, tmp_path / "a.png", width=3.25, dpi=100)) as image:
        assert abs(image.width - 325) <= 1
    with Image.open(clew.figure(words, tmp_path / "b.png", width=5, dpi=120)) as image:
        assert abs(image.width - 600) <= 1
    drawn = clew.figure(maps, cmap="PiYG")
    shown = {axis.images[1].get_cmap().name for axis in drawn.axes if len(axis.images) == 2}
    assert shown == {"PiYG"} and any("upper end of the bar" in t.get_text().replace("\n", " ") for t in drawn.texts)
    for options, match in (
        ({"cmap": "viridiss"}, "viridis"), ({"width": 0.5}, "1 to 100"), ({"width": 1}, "inches or more"),
        ({"dpi": 0}, "dpi"), ({"width": "3"}, "width"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=match):
            clew.figure(maps, **options)
    with pytest.raises(OptionError, match="figures of pictures"):
        clew.figure(words, cmap="viridis")


def test_targets_are_whole_in_narrow_columns(digits):
    image = clew.scenes().images[0]
    targets = (1, 7, clew.Contrast(1, 7))
    found = [clew.explain(digits, image, method="beyond_intuition_token", target=t) for t in targets]
    texts = [t.get_text().replace("\n", " ") for t in clew.figure(found, width=3.25).texts]
    assert any(t.endswith("one rather than seven") for t in texts)


def test_one_scale_for_all(maps):
    drawn = clew.figure(maps, scale="all")
    largest = max(float(np.abs(axis.images[1].get_array()).max()) for axis in drawn.axes if len(axis.images) == 2)
    assert {axis.images[1].norm.vmax for axis in drawn.axes if len(axis.images) == 2} == {largest}


def test_one_result_is_a_figure(maps):
    assert len(pictures_of(clew.figure(maps[0][0]))) == 2


def test_compared_texts_are_named_by_what_they_explain(monkeypatch, tmp_path):
    loaded, given = clew.load("mini:reviews-bert"), []
    monkeypatch.setattr(comparison, "texts_png", lambda *named: given.append(named[1:]) or b"")
    both = [clew.explain(loaded, clew.reviews(1)[0].text, method="attn_lrp", target=k) for k in (0, 1)]
    clew.compare(both, tmp_path / "a.png")
    assert given == [(rows_of(both), ["attn_lrp: negative", "attn_lrp: positive"])]
    assert given[0][0] == ["predicted: negative"]
