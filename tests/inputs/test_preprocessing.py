"""Preprocessing to the last bit as timm, open_clip and transformers do it, for pictures of odd sizes."""

from __future__ import annotations

import importlib
import json
import logging

import numpy as np
import pytest
import timm.data
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

import clew
from clew.errors import InputError, LoadError
from clew.loading.hugging_face import hf_preprocess

transform = importlib.import_module("open_clip.transform")

# Sides where rounding to the nearest, down and to even differ, of one pixel, and in all orders of size.
SIZES = [(333, 500), (500, 333), (61, 90), (91, 60), (64, 64), (65, 64), (67, 131), (131, 67), (30, 47), (1, 1), (7, 3)]
NEW = int(transformers.__version__.partition(".")[0]) >= 5


def noise(width, height, mode="RGB"):
    colours = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours).convert(mode)


def same(ours, theirs):
    assert ours.dtype == torch.float32 and ours.shape == theirs.shape
    assert torch.equal(ours, theirs), float((ours - theirs).abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border", None])
@pytest.mark.parametrize("input_size", [(3, 64, 64), (3, 48, 71)])
def test_timm(size, crop_mode, input_size):
    for crop_pct, interpolation in [(0.9, "bicubic"), (0.95, "bilinear"), (1.0, "lanczos"), (0.875, "nearest"),
                                    (0.96, "box"), (0.7, "hamming"), (None, "bicubic")]:  # fmt: skip
        config = {"input_size": input_size, "interpolation": interpolation, "crop_pct": crop_pct}
        config |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_mode": crop_mode}
        theirs = timm.data.create_transform(is_training=False, **config)(noise(*size))
        same(clew.Preprocess.from_timm(config)(noise(*size))[0], theirs)


@pytest.mark.parametrize("crop_pct", [0.9, 0.875, 0.95, 0.965, 0.7, 0.1, 0.3])
def test_every_size_of_timm(crop_pct):
    """`a // b` of floats is not the floor of `a / b`."""
    for side in range(8, 300):
        config = {"input_size": (3, side, side), "crop_pct": crop_pct, "mean": (0.5,), "std": (0.5,)}
        resize = timm.data.create_transform(is_training=False, **config).transforms[0]
        assert clew.Preprocess.from_timm(config).resize == (resize.size,) * 2


def test_timm_by_chance_is_told(caplog):
    config = {"input_size": (3, 32, 32), "interpolation": "random", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert clew.Preprocess.from_timm(config).resample is Image.Resampling.BICUBIC
    assert "by chance" in caplog.text
    with pytest.raises(LoadError, match="cannot be resized"):
        clew.Preprocess.from_timm(config | {"interpolation": "sinc"})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("side", [56, (56, 56), (48, 71)])
def test_open_clip(size, mode, side):
    for interpolation, fill in (("bicubic", 0), ("bilinear", 128), ("random", 255)):
        config = {"size": side, "resize_mode": mode, "interpolation": interpolation, "fill_color": fill}
        config |= {"mean": (0.48, 0.45, 0.4), "std": (0.26, 0.27, 0.28)}
        ours = clew.Preprocess.from_open_clip(config)(noise(*size))[0]
        same(ours, transform.image_transform_v2(transform.PreprocessCfg(**config), False)(noise(*size)))


HF = [
    ("ViTImageProcessor", {"size": {"height": 48, "width": 64}}),
    ("ViTImageProcessor", {"size": 48, "resample": 3, "do_rescale": False}),
    ("ViTImageProcessor", {"size": 48, "do_normalize": False}),
    ("ViTImageProcessor", {"size": 48, "do_normalize": False, "do_rescale": False}),
    ("ViTImageProcessor", {"size": 48, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    ("ViTImageProcessor", {"size": 48, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "resample": 0}),
    ("ViTImageProcessor", {"do_resize": False, "do_center_crop": True, "crop_size": 40}),
    ("DeiTImageProcessor", {}),
    ("DeiTImageProcessor", {"size": {"height": 60, "width": 61}, "crop_size": {"height": 51, "width": 48}}),
    ("DeiTImageProcessor", {"size": {"height": 40, "width": 61}, "crop_size": {"height": 51, "width": 48}}),
    ("CLIPImageProcessor", {"size": 48, "crop_size": 48}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 57}, "crop_size": {"height": 48, "width": 32}}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 30}, "crop_size": 47, "resample": 1}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 40, "longest_edge": 60}, "crop_size": 48}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 48}, "do_center_crop": False}),
    ("BitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 57, "width": 57}}),
    ("SiglipImageProcessor", {"size": {"height": 50, "width": 50}, "resample": 2}),
    ("ChineseCLIPImageProcessor", {"size": {"height": 50, "width": 40}, "crop_size": 30}),
    ("BlipImageProcessor", {}),
    ("BeitImageProcessor", {"size": 70, "do_center_crop": True, "crop_size": 61}),
    ("BeitImageProcessor", {"size": 50, "do_pad": True, "pad_size": {"height": 56, "width": 64}}),
    ("ViTImageProcessor", {"size": 50, "do_pad": True, "pad_size": {"height": 56, "width": 64}}),
    ("SiglipImageProcessor", {"size": {"max_height": 60, "max_width": 40}}),
]  # fmt: skip


@pytest.mark.skipif(not NEW, reason="two backends came with version 5")
@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize(("name", "settings"), HF)
def test_transformers(backend, name, settings):
    processor = getattr(transformers, name + ("Pil" if backend == "pil" else ""))(**settings)
    ours = clew.Preprocess.from_hf({"image_processor_type": name, **settings}, (48, 48), backend=backend)
    for size in SIZES:
        try:
            theirs = processor(noise(*size), return_tensors="pt")["pixel_values"][0]
        except (ValueError, RuntimeError, ZeroDivisionError):  # too narrow
            with pytest.raises(InputError, match="too narrow"):
                ours(noise(*size))
            continue
        same(ours(noise(*size))[0], theirs.float())


@pytest.mark.parametrize("name", ["ViTImageProcessor", "CLIPImageProcessor", "DINOv3ViTImageProcessor"])
def test_a_loaded_model_prepares_pictures_as_auto_image_processor_does(name, tmp_path, caplog):
    if not hasattr(transformers, name):
        name += "Fast"
    getattr(transformers, name, transformers.ViTImageProcessor)().save_pretrained(tmp_path)
    ViTConfig(image_size=224).save_pretrained(tmp_path)
    ours = hf_preprocess(str(tmp_path), ViTConfig(image_size=224))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    for size in SIZES:
        same(ours(noise(*size))[0], torch.as_tensor(theirs(noise(*size), return_tensors="pt")["pixel_values"][0]))
    assert not caplog.records


def test_the_processor_in_a_file_of_all_processors_is_found(tmp_path):
    """As version 5 writes it for image–text models."""
    inner = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 32}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner, "processor_class": "X"}))
    ViTConfig().save_pretrained(tmp_path)
    found = hf_preprocess(str(tmp_path), ViTConfig(image_size=32))
    assert (found.mode, found.resize, found.size) == ("cover", (40, 40), (32, 32))


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}}, "in a way of its own"),
        ("EfficientNetImageProcessor", {"size": {"height": 32, "width": 32}}, "in a way of its own"),
        ("ViTImageProcessor", {"size": {"longest_edge": 32}}, "cannot be prepared"),
        pytest.param(
            "ViTImageProcessor",
            {"resample": 4},
            "cannot resize by box",
            marks=pytest.mark.skipif(not NEW, reason="PIL"),
        ),
    ],
)
def test_what_cannot_be_followed_is_told(name, settings, told, tmp_path, caplog):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name, **settings}))
    ViTConfig().save_pretrained(tmp_path)
    hf_preprocess(str(tmp_path), ViTConfig(image_size=32))
    assert told in caplog.text


def test_the_bundled_models_hang_on_nothing_that_is_installed(caplog):
    with caplog.at_level(logging.WARNING):
        assert clew.load("mini:digits").preprocess.library == "transformers"
    assert not caplog.records


# Where the model looked


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "made",
    [
        clew.Preprocess((48, 48), (55, 55), "cover"),
        clew.Preprocess((48, 48), (32, 32), "contain", fill=(9,)),
        clew.Preprocess((48, 40), (53, 60), "squash", library="transformers"),
        clew.Preprocess((48, 48), (30, 30), "cover", library="transformers-torchvision"),
        clew.Preprocess((48, 48), (48, 48), "keep", crop=False),
    ],
)
def test_the_box_is_where_the_model_looked(size, made):
    """A ramp of places instead of colours: what comes out says from where in the picture it came."""
    width, height = size
    if min(size) < 30:
        return
    for axis, length in ((0, width), (1, height)):
        places = np.arange(length) * 255.0 / length
        ramp = np.broadcast_to(places[None, :] if axis == 0 else places[:, None], (height, width))
        values, seen = made(Image.fromarray(np.repeat(ramp[..., None], 3, 2).astype(np.uint8)))
        line = (values[0].numpy() * 0.5 + 0.5).max(axis=0 if axis == 0 else 1) * length
        start, stop = seen.box[axis], seen.box[axis + 2]
        expected = start + (np.arange(len(line)) + 0.5) * (stop - start) / len(line) - 0.5
        inside = (expected > 4) & (expected < length - 5)
        assert np.abs(line - expected)[inside].max() < 0.02 * length + 2


def test_what_is_padded_lies_beyond_the_picture():
    made = clew.Preprocess((48, 48), (48, 48), "squash", pad=(60, 72))
    values, seen = made(noise(96, 96))
    assert values.shape == (3, 60, 72) and seen.box == (0, 0, 144, 120) and not values[:, 48:].any()


# Channels


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "RGBA"])
def test_a_model_of_one_channel_gets_grey_pictures(mode):
    grey = noise(50, 40, "L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    given = deep if mode == "I;16" else grey.convert(mode)
    config = {"input_size": (1, 32, 32), "mean": (0.4,), "std": (0.2,), "interpolation": "bicubic"}
    values, seen = clew.Preprocess.from_timm(config)(given)
    same(values, timm.data.create_transform(is_training=False, **config)(grey))
    assert seen.pixels.shape == (40, 50, 3) and np.array_equal(seen.pixels[..., 0], np.asarray(grey))


def test_a_model_of_one_channel_as_transformers_prepares_it(tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**small, image_size=32, patch_size=8, num_channels=1)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    made = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.3], image_std=[0.6])
    made.save_pretrained(tmp_path)
    loaded, xray = clew.load(tmp_path), noise(50, 40, "L")
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(xray, return_tensors="pt")["pixel_values"]
    same(loaded.preprocess(xray)[0], theirs[0])
    a = clew.explain(loaded, [xray, xray.convert("RGB")], method="raw_attention")
    with torch.no_grad():
        torch.testing.assert_close(a.logits, loaded.model(torch.cat([theirs, theirs])).logits)
    assert a.to_png() and torch.equal(a.scores[0], a.scores[1])


def test_values_of_several_channels_for_one_are_told(caplog):
    config = {"input_size": (1, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    made = clew.Preprocess.from_timm(config)
    assert made.mean == pytest.approx((0.5,)) and "their averages are taken" in caplog.text
    assert made.normalized_by([0.25], None).mean == (0.25,)


def test_more_channels_than_pictures_have():
    made = clew.Preprocess((32, 32), (32, 32), "squash").with_channels(13)
    with pytest.raises(InputError, match=r"13 channels(.|\n)*a tensor \(batch, 13"):
        made(noise(40, 40))


@pytest.mark.parametrize(("largest", "told"), [(4095, "nearly black"), (16000, "dark"), (60000, ""), (0, "")])
def test_twelve_bits_in_sixteen_are_told(largest, told, tmp_path, caplog):
    values = np.linspace(0, largest, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(values).save(tmp_path / "scan.png")
    clew.open_image(tmp_path / "scan.png")
    assert (
        (told in caplog.text and "scan.png" in caplog.text and "/ 4095 * 255" in caplog.text)
        if largest == 4095
        else (told in caplog.text and bool(caplog.records) == bool(told))
    )


def test_channels_are_those_of_the_patch_embedding(tmp_path):
    """A convolution elsewhere, which comes first, says nothing of the input; nor does what follows a backbone."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3, in_chans=1).eval()
    model._modules = {"aside": torch.nn.Conv2d(7, 7, 1).eval(), **model._modules}
    x = torch.randn(2, 1, 32, 32)
    assert clew.explain(model, x, method="raw_attention").scores.shape == (2, 4)
    with pytest.raises(InputError, match=r"\(batch, 1, height, width\)"):
        clew.explain(model, torch.randn(2, 7, 32, 32), method="raw_attention")
    find = clew.architectures()["timm_vit"]
    hybrid = timm.create_model("vit_small_r26_s32_224", img_size=64, depth=2, num_classes=3).eval()
    assert find.bind(hybrid).channels is None
    assert find.bind(timm.create_model("vit_tiny_patch16_224", depth=1, in_chans=5)).channels == 5
