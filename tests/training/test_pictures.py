"""Pictures: bundled and timm models learn classes of folders, and load as any other."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import timm.models
import torch
from PIL import Image
from safetensors.torch import load_file
from support.labelled_data import picture_folder
from transformers import AutoModelForImageClassification

import clew
import clew.training.loop
from clew.errors import OptionError
from clew.minis.digit_scenes import compose
from clew.training.data import split_data
from clew.training.finetune import finetune
from clew.training.loop import ImageDataset
from clew.training.models import freeze
from clew.training.recipes import TASKS

NAMES = ("seven", "two", "zero")  # as the folders are sorted
DIGITS = {7: "seven", 2: "two", 0: "zero"}


def quick(source, model, out, **options):
    usual = {"epochs": 2.0, "batch_size": 8, "show_progress": False, "lr": 1e-3}
    return finetune(str(source), str(model), out=out, **{**usual, **options})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes with one of three digits, in folders of parts and classes."""
    folder = tmp_path_factory.mktemp("scenes")
    for part, name, each in (("train", "train", 12), ("validation", "val", 5), ("test", "test", 10)):
        left, index = dict.fromkeys(DIGITS, each), 0
        while any(left.values()):
            scene, index = compose(part, index), index + 1
            if left.get(scene.label, 0):
                left[scene.label] -= 1
                place = folder / name / DIGITS[scene.label]
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scene.image).save(place / f"{index}.png")
    return folder


def right(loaded, folder):
    """How many pictures of a folder of classes are called what they are, one by one."""
    paths = sorted((folder / "test").glob("*/*.png"))
    found = []
    for path in paths:
        pixels, _ = loaded.preprocess(Image.open(path).convert("RGB"))
        with torch.no_grad():
            out = loaded.model(pixels[None])
        found.append(loaded.labels[int(getattr(out, "logits", out).argmax())] == path.parent.name)
    return np.mean(found), len(found)


def test_a_new_head_on_the_digits_learns_three_of_them(scenes, tmp_path):
    done = quick(scenes, "mini:digits", tmp_path, train="head", lr=0.05, epochs=8.0)
    assert done.before["accuracy"] < 0.7 < 0.9 < done.after["accuracy"]  # the head is new, its order another
    base = load_file(str(Path(clew.__file__).parent / "minis" / "digits" / "model.safetensors"))
    new = load_file(str(tmp_path / "model.safetensors"))
    assert all(torch.equal(new[k], v.float()) for k, v in base.items() if not k.startswith("classifier"))
    assert new["classifier.weight"].shape == (3, 64)
    loaded = clew.load(tmp_path)
    assert tuple(loaded.labels) == NAMES and right(loaded, scenes) == (done.after["accuracy"], 30)
    twin = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert twin.config.id2label == dict(enumerate(NAMES)) and twin.config.label2id["two"] == 1
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "image-classification" and "tokens were cut" not in card.content
    a = clew.explain(loaded, clew.open_image(next((scenes / "test" / "two").iterdir())), target="two")
    assert a.scores.shape == (1, 64)


class Stopped(Exception):
    """As if the machine went off."""


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("model", ["mini:digits", "vit"])
def test_pictures_go_on_with_the_same_bits_and_keep_the_best(scenes, vit, tmp_path, monkeypatch, model):
    """transformers stores some models under other names than they have in memory."""
    model = vit if model == "vit" else model
    asked = {"before": False, "augment": True, "lr": 5e-3, "schedule": "constant", "patience": 0, "limit": 16}
    two = quick(scenes, model, tmp_path / "two", epochs=1.0, **asked)
    real = clew.training.loop.compute_metrics

    def scripted(*values):
        left = iter(values)
        monkeypatch.setattr(clew.training.loop, "compute_metrics", lambda p: real(p) | {"selection": next(left, 0.0)})

    said = []

    def stop_at_the_third(line):
        said.append(line)
        if line.startswith("epoch 3"):
            raise Stopped

    scripted(0.9, 0.2, 0.3)
    best = quick(scenes, model, tmp_path / "best", epochs=3.0, **asked)
    scripted(0.1, 0.2, 0.3)
    last = quick(scenes, model, tmp_path / "last", epochs=3.0, **asked)
    scripted(0.1, 0.2, 0.3)
    with pytest.raises(Stopped):
        quick(scenes, model, tmp_path / "stopped", epochs=3.0, tell=stop_at_the_third, **asked)
    scripted(0.3)
    again = quick(scenes, model, tmp_path / "stopped", epochs=3.0, **asked)
    for one, other in ((best, two), (again, last)):
        found, expected = (load_file(str(done.folder / "model.safetensors")) for done in (one, other))
        assert [k for k, v in expected.items() if not torch.equal(found[k], v)] == []
    found, expected = (load_file(str(done.folder / "model.safetensors")) for done in (best, last))
    assert not any(torch.equal(found[k], v) for k, v in expected.items())


def test_both_heads_of_a_distilled_model_are_its_head():
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=2, img_size=32, depth=1)
    freeze(model, "head")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A tiny model as timm writes it, for four classes."""
    folder = tmp_path_factory.mktemp("timm") / "vit"
    torch.manual_seed(0)
    names = {"label_names": ["a", "b", "c", "d"]}
    timm.models.save_for_hf(
        timm.create_model("test_vit", num_classes=4), str(folder), model_config=names, safe_serialization=True
    )
    return folder


def test_a_timm_folder_ends_as_a_timm_folder(vit, tmp_path):
    source = picture_folder(tmp_path / "pictures", 20, ("bright", "dark"))
    for path in (source / "dark").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 4).save(path)
    done = quick(source, vit, tmp_path / "out", lr=3e-3)
    assert (
        done.after["accuracy"] == 1.0
        and done.after["examples"] == 8
        and set(done.after["classes"]) == {"bright", "dark"}
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "test_vit" and config["label_names"] == ["bright", "dark"]
    loaded = clew.load(tmp_path / "out")
    assert loaded.labels == ["bright", "dark"]
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    parts = split_data(TASKS["images"], source)
    with torch.no_grad():
        for i, label in enumerate(parts.test.labels):
            pixels = loaded.preprocess(parts.test.data.read(i).image)[0][None]
            assert torch.equal(model(pixels), loaded.model(pixels)) and int(model(pixels).argmax()) == label
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "timm" and "| augment | False |" in card.content
    # And is trained further from there: the head is kept, as its classes are as many.
    more = quick(source, tmp_path / "out", tmp_path / "more", epochs=1.0, train="head")
    assert more.before["accuracy"] == 1.0


def test_augmented_pictures_are_crops_and_flips_of_training_pictures_alone(vit, tmp_path, monkeypatch):
    source = picture_folder(tmp_path / "pictures", 10)
    whole = {}
    made = ImageDataset.__getitem__

    def seeing(self, index):
        found = made(self, index)
        whole.setdefault((id(self.part), self.augment is not None, index), []).append(found["pixel_values"])
        return found

    monkeypatch.setattr(ImageDataset, "__getitem__", seeing)
    plain = quick(source, vit, tmp_path / "plain", before=False, epochs=2.0)
    assert not any(augmented for _, augmented, _ in whole)
    assert all(torch.equal(one, other) for found in whole.values() for one, other in pairwise(found))
    whole.clear()
    done = quick(source, vit, tmp_path / "out", augment=True, before=False, epochs=2.0)
    varied = {key[1]: [] for key in whole}
    for (_, augmented, _), found in whole.items():
        varied[augmented] += [torch.equal(one, other) for one, other in pairwise(found)]
        assert all(one.shape == found[0].shape for one in found)
    assert len(varied[True]) == 14 and not any(varied[True])  # each of them twice, never the same
    assert len(varied[False]) == 2 and all(varied[False])  # validation, twice
    assert plain.facts["asked"]["recipe"]["augment"] is False and done.facts["asked"]["recipe"]["augment"] is True
    weights = [load_file(str(tmp_path / name / "model.safetensors")) for name in ("plain", "out")]
    assert not all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_memory_saved_makes_no_difference(scenes, vit, tmp_path):
    for model in ("mini:digits", vit):
        name = Path(str(model)).name.replace(":", "-")
        one = quick(scenes, model, tmp_path / f"{name}-1", epochs=1.0, before=False, limit=16)
        two = quick(
            scenes, model, tmp_path / f"{name}-2", epochs=1.0, before=False, limit=16, gradient_checkpointing=True
        )
        found, expected = (load_file(str(done.folder / "model.safetensors")) for done in (two, one))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
def test_lora_for_pictures(scenes, vit, tmp_path):
    done = quick(scenes, "mini:digits", tmp_path / "lora", lora=2, lr=1e-2, epochs=4.0, before=False)
    base = load_file(str(Path(clew.__file__).parent / "minis" / "digits" / "model.safetensors"))
    new = load_file(str(tmp_path / "lora" / "model.safetensors"))
    assert new.keys() == base.keys() and new["classifier.weight"].shape == (3, 64)
    assert new["classifier.bias"].abs().min() > 1e-4  # it began at 0: the head is trained itself
    for name, value in base.items():
        if "layernorm" in name or "embeddings" in name or (name.endswith("bias") and "classifier" not in name):
            assert torch.equal(new[name], value.float()), name
    changed = [k for k, v in base.items() if v.shape == new[k].shape and not torch.equal(new[k], v.float())]
    assert len(changed) == 36  # six linear layers in each of six blocks
    for name in changed:
        values = torch.linalg.svdvals((new[name] - base[name].float()).double())
        assert (values[2:] < 1e-5).all() and values[0] > 1e-4
    assert right(clew.load(tmp_path / "lora"), scenes)[0] == done.after["accuracy"]
    with pytest.raises(OptionError, match="LoRA is for models of transformers"):
        quick(scenes, vit, tmp_path / "timm", lora=2)
