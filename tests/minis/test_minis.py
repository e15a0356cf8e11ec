"""The bundled model and its scenes: as small, as accurate and as clean as promised."""

from __future__ import annotations

import json
from importlib import resources
from itertools import pairwise

import numpy as np
import torch

import clew
from clew.minis import captioned, scenes
from clew.minis import train_pairs as pairs
from clew.minis.captions import WORDS
from clew.minis.digit_scenes import _DIGITS, _FIRST_SEED, SEEDS_PER_SPLIT, compose, digits
from clew.minis.train_digits import TEST_SCENES, accuracy


def folder():
    return resources.files("clew.minis").joinpath("digits")


def test_it_is_small_and_was_measured():
    assert len(folder().joinpath("model.safetensors").read_bytes()) < 1_000_000
    model = clew.load("mini:digits")
    assert sum(p.numel() for p in model.model.parameters()) < 350_000
    assert model.facts["test_accuracy"] > 0.95
    assert model.labels[7] == "seven"
    assert model.model.dtype == torch.float32


def test_its_recorded_accuracy_is_what_it_reaches():
    model = clew.load("mini:digits").model
    recorded = json.loads(folder().joinpath("measured.json").read_text())
    assert recorded["test_scenes"] == TEST_SCENES
    # The first 600 of the 2,000 test scenes: two standard errors are 1.4 %.
    assert abs(accuracy(model, "test", 600) - recorded["test_accuracy"]) < 0.02


def test_splits_share_neither_digits_nor_backgrounds():
    spans = [set(range(*_DIGITS[split])) for split in ("train", "validation", "test")]
    assert sum(len(s) for s in spans) == len(set().union(*spans)) == 1797
    first = sorted(_FIRST_SEED.values())
    assert all(b - a >= SEEDS_PER_SPLIT for a, b in pairwise(first))
    a, b = digits("train")[0].reshape(-1, 64), digits("test")[0].reshape(-1, 64)
    assert not (a[:, None] == b[None]).all(-1).any()


def test_scenes_are_the_same_every_time_and_bundled_as_composed():
    bundled = scenes()
    assert len(bundled.images) >= 36
    for i in (0, 17, 47):
        scene = compose("test", TEST_SCENES + i)
        assert np.array_equal(np.asarray(bundled.images[i]), scene.image)
        assert np.array_equal(bundled.masks[i], scene.mask)
        assert bundled.labels[i] == scene.label


def test_masks_hold_the_digit_and_nothing_else():
    for i in range(20):
        scene = compose("validation", i)
        assert 0.03 < scene.mask.mean() < 0.3
        ink, ground = scene.image[scene.mask].mean(0), scene.image[~scene.mask].mean(0)
        assert np.abs(ink - ground).max() > 40


def test_removing_the_digit_removes_the_evidence():
    """Planted evidence: painted over with its surroundings, the digit cannot be read any more."""
    model, data = clew.load("mini:digits"), scenes()
    batch, _ = model.preprocess.batch(data.images)
    masks = torch.from_numpy(data.masks)[:, None]
    wide = torch.nn.functional.max_pool2d(masks.float(), 5, 1, 2).bool()
    colour = (batch * ~wide).sum((2, 3), keepdim=True) / (~wide).sum((2, 3), keepdim=True)
    labels = torch.from_numpy(data.labels)
    with torch.no_grad():
        seen = (model.model(batch).logits.argmax(-1) == labels).float().mean()
        painted = (model.model(torch.where(wide, colour, batch)).logits.argmax(-1) == labels).float().mean()
    assert seen > 0.9
    assert painted < 0.4


def test_the_default_method_finds_the_digit_and_random_weights_do_not():
    from transformers import ViTForImageClassification

    model, data = clew.load("mini:digits"), scenes()
    labels = data.labels.tolist()

    def mass(subject):
        heat = clew.explain(subject, model.preprocess.batch(data.images)[0], target=labels).heatmap().numpy()
        return float(np.mean((heat * data.masks).sum((1, 2)) / heat.sum((1, 2))))

    torch.manual_seed(0)
    untrained = ViTForImageClassification(model.model.config).eval()
    covered = float(data.masks.mean())
    assert mass(model) > 3 * covered
    assert mass(untrained) < 2 * covered


# mini:digits-clip


def pair_folder():
    return resources.files("clew.minis").joinpath("digits-clip")


def test_the_image_text_mini_is_small_and_was_measured():
    assert sum(len(file.read_bytes()) for file in pair_folder().iterdir()) < 2_000_000
    model = clew.load("mini:digits-clip")
    assert isinstance(model, clew.LoadedPair)
    assert model.facts["test_scenes"] == pairs.TEST_SCENES and model.facts["test_accuracy"] > 0.9
    scenes = clew.captioned_scenes()
    assert scenes.masks.shape == (48, 2, 80, 80) and not scenes.masks.all(1).any()
    # The first 200 of the 1,000 test scenes: two standard errors are 4 %.
    found = pairs.accuracy(model.model, model.tokenizer, "test", 200)
    assert abs(found - model.facts["test_accuracy"]) < 0.05


def test_captioned_scenes_are_the_same_every_time_and_of_their_split():
    first = sorted([*captioned._FIRST_SEED.values(), *_FIRST_SEED.values()])
    assert all(b - a >= SEEDS_PER_SPLIT for a, b in pairwise(first))
    bundled = clew.captioned_scenes()
    for i in (0, 31):
        scene = captioned.compose_captioned("test", pairs.TEST_SCENES + i)
        assert np.array_equal(np.asarray(bundled.images[i]), scene.image)
        assert np.array_equal(bundled.masks[i], scene.masks)
        assert tuple(bundled.labels[i]) == scene.labels and scene.labels[0] != scene.labels[1]
        assert all(WORDS[label] in caption for label, caption in zip(scene.labels, bundled.captions[i], strict=True))
    assert set(scene.named) <= set(scene.labels) and all(WORDS[n] in scene.caption for n in scene.named)


def test_the_map_for_a_caption_lies_on_the_digit_that_it_names():
    model, scenes = clew.load("mini:digits-clip"), clew.captioned_scenes()
    targets = [clew.Similarity(captions) for captions in scenes.captions]
    hits = {}
    for method in ("beyond_intuition_token", "random"):
        found = clew.explain(model, scenes.images, target=targets, method=method)
        held = scenes.masks.reshape(96, 10, 8, 10, 8).any((2, 4)).reshape(96, -1)
        hits[method] = held[np.arange(96), found.scores.argmax(1)].mean()
    assert hits["beyond_intuition_token"] > 0.9 > 0.4 > hits["random"]
