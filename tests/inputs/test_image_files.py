"""Pictures in: files that are not pictures, and preprocessing equal to that of timm and transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import clew
from clew.errors import InputError


def picture(width=90, height=61, mode="RGB"):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (9, 13, 3), dtype=np.uint8)).resize((width, height), 3)
    return smooth.convert(mode)


def test_it_opens_pictures_upright_and_in_rgb(tmp_path):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert clew.open_image(tmp_path / "turned.jpg").size == (61, 90)
    for mode in ("L", "RGBA", "P", "CMYK", "1"):
        suffix = "jpg" if mode == "CMYK" else "png"
        image.convert(mode).save(tmp_path / f"a.{suffix}")
        assert clew.open_image(tmp_path / f"a.{suffix}").mode == "RGB"
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert clew.open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_greys(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    opened = np.asarray(clew.open_image(tmp_path / "deep.png"))[..., 0]
    np.testing.assert_array_equal(opened, (ramp // 257).astype(np.uint8))
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(InputError, match="8 or 16 bits"):
        clew.open_image(tmp_path / "floats.tif")


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.png").write_text("not a picture")
    picture(400, 400).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    messages = {
        "missing.png": "nothing there",
        "empty.png": "0 bytes",
        "words.png": "no picture that Pillow can read",
        "cut.png": "is broken",
        "": "a folder",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            clew.open_image(tmp_path / name)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    picture(200, 200).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    with pytest.raises(InputError, match="too large"):
        clew.open_image(tmp_path / "large.png")


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (224, 224), (300, 301)])
@pytest.mark.parametrize(
    "settings",
    [
        {"crop_pct": 0.9, "crop_mode": "center"},
        {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_pct": 0.875, "crop_mode": "squash"},
    ],
)
def test_it_equals_timms_own(size, settings):
    from timm.data import create_transform

    config = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    config |= settings
    theirs = create_transform(**config)(picture(*size))
    ours, _ = clew.Preprocess.from_timm(config)(picture(*size))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(90, 61), (61, 90)])
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 48, "width": 48}, "resample": 2},
        {"size": {"height": 40, "width": 56}, "resample": 3, "image_mean": [0.4, 0.5, 0.6]},
        {"size": {"height": 48, "width": 48}, "do_normalize": False},
        {"size": {"height": 48, "width": 48}, "rescale_factor": 1 / 127.5},
    ],
)
def test_it_equals_transformers_vit_processor(size, settings):
    from transformers import ViTImageProcessor

    try:
        from transformers import ViTImageProcessorPil as Processor  # 5.x: the PIL-backed one
    except ImportError:
        Processor = ViTImageProcessor
    theirs = Processor(**settings)(picture(*size), return_tensors="pt")["pixel_values"][0]
    ours, seen = clew.Preprocess.from_hf(settings, (48, 48))(picture(*size))
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-5)
    assert seen.box == pytest.approx((0, 0, *size))


@pytest.mark.parametrize("size", [(90, 61), (61, 90)])
def test_it_equals_transformers_with_shortest_edge_and_crop(size):
    from transformers import BitImageProcessor

    try:
        from transformers import BitImageProcessorPil as Processor
    except ImportError:
        Processor = BitImageProcessor
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True}
    settings |= {"resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    theirs = Processor(**settings)(picture(*size), return_tensors="pt")["pixel_values"][0]
    ours, _ = clew.Preprocess.from_hf(settings, (48, 48))(picture(*size))
    torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=1e-5)


def test_doctor_sees_a_preprocessing_that_the_model_was_not_trained_with():
    from dataclasses import replace

    import timm

    from clew.loading.timm_models import timm_preprocess

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1, num_classes=3).eval()
    right = timm_preprocess(model, model.pretrained_cfg)
    for preprocess, ok in ((right, True), (replace(right, mean=(0.1, 0.2, 0.3)), False)):
        found = {f.name: f for f in clew.doctor(clew.LoadedModel(model, preprocess))}
        assert found["pictures"].ok == ok, found["pictures"].seen
    assert "the model was trained with" in found["pictures"].seen
