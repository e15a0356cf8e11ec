"""ResLRP against its literal twin, and on models of which nothing is declared."""

from __future__ import annotations

import pytest
import torch
from support import res_lrp_twin, tiny, tiny_text
from support.zoo import build
from torch import nn

import clew
from clew.errors import OptionError
from clew.rules import ResidualGamma

TARGETS = [1, 4, 0]
SIZES = ("cancellation", "amplification")


class Wrapped(nn.Module):
    """A model of which nothing is declared."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, given):
        return self.model(given)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("base", ["attn_lrp", "cp_lrp"])
@pytest.mark.parametrize("name", ["timm_token", "timm_layer_scale", "timm_not_square"])
def test_it_is_its_equation(name, base, gamma):
    model, x = tiny.build(name), tiny.images(tiny.TINY[name].size)
    found = clew.explain(model, x, method="res_lrp", target=TARGETS, base=base, gamma=gamma, part="all", details=True)
    for i, (image, target) in enumerate(zip(x, TARGETS, strict=True)):
        R, C, A = res_lrp_twin.res_lrp(model, image, target, gamma=gamma, fixed=base == "cp_lrp")
        torch.testing.assert_close(found.all_scores[i], R, rtol=1e-9, atol=1e-11 * float(R.abs().max()))
        torch.testing.assert_close(found.details["cancellation"][i], torch.tensor(C, dtype=torch.float64))
        torch.testing.assert_close(found.details["amplification"][i], torch.tensor(A, dtype=torch.float64))
    assert "order" in found.checks["verified"] and "rules" in found.checks["verified"]


@pytest.mark.parametrize("name", ["timm_token", "hf_vit", "timm_eva_rotary", "torchvision_vit"])
def test_sums_are_seen_where_nothing_is_declared(name):
    model, x = tiny.build(name), tiny.images(tiny.TINY[name].size)
    declared = clew.explain(model, x, method="res_lrp", target=TARGETS, level="pixel", details=True)
    found = clew.explain(Wrapped(model), x, method="res_lrp", target=TARGETS, details=True)
    assert "semantic" not in found.details
    torch.testing.assert_close(found.pixels, declared.pixels, rtol=1e-9, atol=1e-12)
    for size in SIZES:
        torch.testing.assert_close(found.details[size], declared.details[size])
        assert found.details[size].shape == (3, 8)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "modernbert", "bloom", "gemma2"])
def test_texts_in_a_batch_are_as_alone(name):
    model, rows = tiny_text.build_text(name), tiny_text.texts()
    batch = clew.explain(model, tiny_text.padded(rows, "r"), method="res_lrp", target=1, details=True)
    assert batch.details["cancellation"].shape == batch.details["amplification"].shape
    for i, row in enumerate(rows):
        alone = clew.explain(model, {"input_ids": row[None]}, method="res_lrp", target=1, details=True)
        scores = batch.all_scores[i][batch.mask[i]] if hasattr(batch, "mask") else batch.all_scores[i][: len(row)]
        torch.testing.assert_close(scores, alone.all_scores[0], rtol=1e-9, atol=1e-11)
        for size in SIZES:
            torch.testing.assert_close(batch.details[size][i], alone.details[size][0])


def test_several_targets_of_one_input():
    model, x = tiny.build("timm_token"), tiny.images((32, 32), 2)
    found = clew.explain(model, x, method="res_lrp", target=clew.Each(1, 3), details=True)
    for i, target in enumerate([1, 3]):
        alone = clew.explain(model, x, method="res_lrp", target=target, details=True)
        torch.testing.assert_close(found.all_scores[i::2], alone.all_scores)
        for size in SIZES:
            torch.testing.assert_close(found.details[size][i::2], alone.details[size])


def test_the_tower_of_a_chat_model_alone():
    specimen = build("llava")
    options = {"target": specimen.score, "details": True}
    plain = clew.explain(specimen.model, specimen.inputs, method="attn_lrp", target=specimen.score)
    tower = clew.explain(specimen.model, specimen.inputs, method="res_lrp", stream="pixel_values", **options)
    whole = clew.explain(specimen.model, specimen.inputs, method="res_lrp", **options)
    words = [a["input_ids"].all_scores for a in (plain, tower, whole)]
    torch.testing.assert_close(words[0], words[1], rtol=0, atol=1e-12)
    assert (words[0] - words[2]).abs().max() > 1e-4
    pictures = [a["pixel_values"].all_scores for a in (plain, tower, whole)]
    assert all((pictures[i] - pictures[j]).abs().max() > 1e-4 for i, j in ((0, 1), (0, 2), (1, 2)))
    sizes = [a["pixel_values"].details["cancellation"].shape[1] for a in (tower, whole)]
    assert 0 < sizes[0] < sizes[1]
    with pytest.raises(OptionError, match="no stream"):
        clew.explain(specimen.model, specimen.inputs, method="res_lrp", stream="picture", **options)


def test_it_is_lrp_with_a_rule_at_residual_sums():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    rules = {**clew.RULE_SETS["cp_lrp"], "add:residual": ResidualGamma(0.5)}
    found = clew.explain(model, x, method="res_lrp", base="cp_lrp", gamma=0.5, target=TARGETS)
    same = clew.explain(model, x, method="lrp", rules=rules, target=TARGETS)
    torch.testing.assert_close(found.all_scores, same.all_scores)
    named = clew.explain(model, x, method="lrp", rules="res_lrp", target=TARGETS)
    torch.testing.assert_close(named.all_scores, clew.explain(model, x, method="res_lrp", target=TARGETS).all_scores)
    assert "cancellation" not in same.details


@pytest.mark.parametrize("options", [{"base": "lrp"}, {"gamma": -1.0}, {"gamma": float("nan")}])
def test_options_that_there_are_not(options):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    with pytest.raises(OptionError):
        clew.explain(model, x, method="res_lrp", target=1, **options)
