"""The result: pictures, pages, files, slices."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny

import clew
from clew.draw import page, panels_png, plots
from clew.errors import ClewError, LoadError


@pytest.fixture
def result():
    return clew.explain(tiny.build("timm_not_square"), tiny.images((24, 40)), target=[0, 1, 2], details=True, n_steps=2)


def test_it_is_the_same_after_saving_and_loading(result, tmp_path):
    again = clew.Attribution.load(result.save(tmp_path / "a.safetensors"))
    for name in ("all_scores", "score", "logits"):
        assert torch.equal(getattr(again, name), getattr(result, name))
    for name in ("prefix", "patch_grid", "patch_size", "input_size", "method", "target", "options", "provenance"):
        assert getattr(again, name) == getattr(result, name)
    assert again.checks.keys() == result.checks.keys()
    assert torch.equal(again.checks["integration_error"], result.checks["integration_error"])
    assert torch.equal(again.details["token_ratio"], result.details["token_ratio"])
    assert np.array_equal(again.pictures[1].pixels, result.pictures[1].pixels)
    assert again.to_png() == result.to_png()


def test_pixels_and_options_that_are_tensors_survive(tmp_path):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    found = clew.explain(model, x, method="integrated_gradients", n_steps=2, baselines=torch.zeros(3, 32, 32))
    again = clew.Attribution.load(found.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.pixels, found.pixels)
    assert "tensor" in again.options["baselines"]


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None])
def test_what_is_no_attribution_is_refused(tmp_path, content):
    file = tmp_path / "a.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoadError, match="cannot be read"):
        clew.Attribution.load(file)


def test_other_safetensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(LoadError, match="is no attribution"):
        clew.Attribution.load(tmp_path / "a.safetensors")


def test_slices_and_joins(result):
    one = result[1]
    assert len(one) == 1
    assert torch.equal(one.scores, result.scores[1:2])
    assert one.target == ["class 1"]
    assert torch.equal(result[-1].scores, result.scores[2:])
    joined = clew.Attribution.concatenate([result[:1], result[1:]])
    assert torch.equal(joined.all_scores, result.all_scores)
    assert joined.target == result.target
    assert torch.equal(joined.checks["integration_error"], result.checks["integration_error"])
    with pytest.raises(IndexError):
        result[3]


def test_the_heatmap_is_bilinear_in_the_frame_of_the_input(result):
    heat = result.heatmap()
    assert heat.shape == (3, 24, 40)
    expected = torch.nn.functional.interpolate(
        result.scores.view(3, 1, 3, 5), scale_factor=8, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(heat, expected[:, 0])
    for one, stretched in zip(heat, result.heatmap(normalize="minmax"), strict=True):
        torch.testing.assert_close(stretched, (one - one.min()) / (one.max() - one.min()))
    for one, divided in zip(heat, result.heatmap(normalize="max"), strict=True):
        torch.testing.assert_close(divided, one / one.abs().max())
    with pytest.raises(ClewError, match="minmax or max"):
        result.heatmap(normalize="l2")


@pytest.mark.parametrize("suffix", [".png", ".html", ".safetensors"])
def test_files_are_written_whole_or_not_at_all(result, tmp_path, suffix, monkeypatch):
    written = result.save(tmp_path / "new" / f"a{suffix}")
    assert written.stat().st_size > 1000
    assert [f.name for f in written.parent.iterdir()] == [f"a{suffix}"]
    before = written.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        result.save(written)
    assert written.read_bytes() == before
    assert len(list(written.parent.iterdir())) == 1


def test_unknown_suffixes_and_unwritable_folders(result, tmp_path):
    with pytest.raises(ClewError, match=r"\.png or \.html or \.safetensors"):
        result.save(tmp_path / "a.pdf")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ClewError, match="in the way"):
        result.save(tmp_path / "file" / "a.png")


def test_png_shows_every_example_with_its_target(result):
    image = Image.open(io.BytesIO(result.to_png()))
    assert image.width > 300
    assert 3 * 130 < image.height < 3 * 240  # landscape pictures, without gaps
    assert result._repr_png_() == result.to_png()


def test_html_is_one_file_and_escapes_words(result, tmp_path):
    from dataclasses import replace

    evil = replace(result, target=["<script>alert(1)</script>", "b", "c"], method="<b>")
    text = evil.save(tmp_path / "a.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text)
    assert "integration error" in text
    assert text.count("<img") == 3 + 2 * 3


def test_large_pictures_are_shrunk_on_pages_and_kept_in_results(tmp_path):
    from PIL import Image as Pillow

    photo = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1500, 3), dtype=np.uint8))
    model = clew.LoadedModel(tiny.build("timm_token"), clew.Preprocess((32, 32), (32, 32), "cover"), None, "m")
    found = clew.explain(model, photo, method="raw_attention")
    assert found.pictures[0].pixels.shape == (900, 1500, 3)
    small = plots.shrunk(found.pictures[0])
    assert small.pixels.shape == (384, 640, 3)
    np.testing.assert_allclose(small.box, np.array(found.pictures[0].box) * 640 / 1500)
    assert len(found.to_html()) < 2_000_000


def test_scores_that_are_no_numbers_do_not_break_the_page(result):
    from dataclasses import replace

    scores = result.all_scores.clone()
    scores[0, 3] = torch.nan
    text = replace(result, all_scores=scores).to_html()
    assert "NaN" not in re.search(r'data-scores="([^"]*)"', text)[1]
    assert "null" in text


def test_a_score_that_shares_memory_with_the_logits_is_saved(tmp_path):
    model, x = tiny.build("timm_token"), tiny.images((32, 32), batch=1)
    found = clew.explain(model, x, method="raw_attention", target=lambda output: output[:, 0])
    assert torch.equal(clew.Attribution.load(found.save(tmp_path / "a.safetensors")).score, found.score)


def test_comparing_needs_the_same_examples(result, tmp_path):
    with pytest.raises(ClewError, match="same examples"):
        clew.compare([result, result[:2]], tmp_path / "a.png")
    assert clew.compare([result, result], tmp_path / "a.html").read_text().count("heatmap:") == 6
    named = clew.compare([result, result], tmp_path / "b.html", methods=["one", "<two>"]).read_text()
    assert named.count("heatmap: one") == 3 and named.count("heatmap: &lt;two&gt;") == 3
    with pytest.raises(ClewError, match="headings"):
        clew.compare([result, result], tmp_path / "c.html", methods=["one"])


def test_colour_scales():
    assert plots.colour_scale(np.array([[0.0, 2.0]]))[0] == "inferno"
    name, low, high = plots.colour_scale(np.array([[-1.0, 2.0]]))
    assert (name, low) == ("RdBu_r", -high)
    assert plots.colour_scale(np.zeros((2, 2)))[1:] == (0.0, 1.0)
    assert plots.colour_scale(np.full((2, 2), np.nan))[1:] == (0.0, 1.0)
    assert plots.colour(np.array([[np.nan, 1.0]]))[0, 0, 3] == 0


def test_resize_and_crop_are_undone():
    # A white square that the model's view contains must be covered by a map that is 1 exactly there.
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[20:40, 45:65] = 255
    preprocess = clew.Preprocess((32, 32), (40, 40), "cover")
    tensor, picture = preprocess(Image.fromarray(pixels))
    frame = plots.in_frame(picture, tensor[0].numpy())
    left, top, right, bottom = picture.box
    assert (round(right - left), round(bottom - top)) == (48, 48)
    assert np.isnan(frame[0, 0])
    assert np.nanmin(frame[24:36, 49:61]) > 0.8
    assert np.nanmax(frame[:16]) < -0.8
    assert np.nanmax(frame[:, :41]) < -0.8


def test_a_view_over_the_edge_of_the_picture():
    picture = plots.Picture(np.zeros((10, 10, 3), np.uint8), (-5.0, -5.0, 15.0, 15.0))
    frame = plots.in_frame(picture, np.arange(16, dtype=float).reshape(4, 4))
    assert frame.shape == (10, 10)
    assert np.isfinite(frame).all()


def test_hover_numbers_are_the_scores(result):
    text = page.page("t", [[cell] for cell in result.cells()])
    shown = re.findall(r'data-scores="\[([^\]]*)\]"', text)
    numbers = np.array([[float(n) for n in row.split(",")] for row in shown])
    np.testing.assert_allclose(numbers, result.to_numpy(), rtol=1e-3, atol=1e-12)


@pytest.fixture(scope="module")
def two(digits):
    images = [image.resize((640, 320)) for image in clew.scenes().images[:2]]
    return [clew.explain(digits, images, method=name) for name in ("raw_attention", "attn_lrp")]


def test_rows_of_a_png_are_as_high_as_landscape_pictures(two):
    image = np.asarray(Image.open(io.BytesIO(two[1].to_png())).convert("L"))
    white = (image[:, : image.shape[1] // 3] == 255).all(1)  # beside the titles
    runs = [len(run) for run in "".join(" x"[int(w)] for w in white).split()]
    assert white.mean() < 0.4 and max(runs) < 0.5 * 110  # inches at 110 dots


def test_stages_are_drawn_where_details_are_asked_for(digits):
    image = clew.scenes().images[0]
    plain, full = (clew.explain(digits, image, method="attn_lrp", details=d) for d in (False, True))
    widths = [Image.open(io.BytesIO(a.to_png())).width for a in (plain, full)]
    assert widths[0] == pytest.approx((2.2 + 2.7) * 110, abs=1) and widths[1] > 2 * widths[0]
    written = plain.to_html()
    assert written.count("<summary>relevance by stage</summary>") == 1 and "from the input (below)" in written


def test_pages_of_pictures_say_model_prediction_and_colours(two, tmp_path):
    signed, plain = two[1].to_html(), two[0].to_html()
    logit = float(two[1].logits[0].max())
    assert "model: <bdi>mini:digits</bdi>" in signed and f"predicted: seven, logit {logit:.4g}" in signed
    assert ">against</span> the target" in signed and "brighter counts more." not in signed
    assert ">against</span> the target" not in plain and "brighter counts more." in plain
    both = clew.compare(two, tmp_path / "a.html").read_text()
    assert (
        clew.compare(two[0], tmp_path / "c.html").read_text() == clew.compare(two[:1], tmp_path / "d.html").read_text()
    )
    assert '<h1 dir="auto">clew: mini:digits</h1>' in both and "on black to yellow" in both
    assert "<title>mine</title>" in clew.compare(two, tmp_path / "b.html", title="mine").read_text()


def test_several_scales_on_one_picture_are_told(two, monkeypatch):
    said = []
    monkeypatch.setattr("matplotlib.figure.Figure.supxlabel", lambda self, words, **more: said.append(words))
    two[0].to_png()
    assert not said
    panels_png(list(zip(*(a.panels() for a in two), strict=True)))
    assert said == ["Each heatmap has a scale of its own, which the bar beside it shows."]
