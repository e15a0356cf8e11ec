"""Figures for papers: what stands where, which scale, what is refused."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import clew
from clew.attributions.figure import _Scale
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
    assert _Scale.of(maps) == _Scale("RdBu_r", -4.0, 4.0)
    assert _Scale.of(maps[:1]) == _Scale("inferno", 0.0, 2.0)
    assert _Scale.of([np.array([[np.nan, 0.0]])]) == _Scale("inferno", 0.0, 1.0)


def test_a_scale_for_each_method_has_a_bar_for_each(maps, tmp_path):
    shared = clew.figure(maps, tmp_path / "a.svg").read_text()
    each = clew.figure(maps, tmp_path / "b.svg", scale="method").read_text()
    assert shared.count("share of the map") == 1 and "share of the map" not in each
    assert "comparable down a column" in said(tmp_path / "b.svg").replace("\n", " ")


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
        clew.figure(maps, tmp_path / "a.pdf", scale="all")
    with pytest.raises(OptionError, match="names of rows and columns"):
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
