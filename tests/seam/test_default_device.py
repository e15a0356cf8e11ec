"""A caller's default device is for the caller's own tensors: clew says where it makes its own.

On "meta" there are no numbers, so that a tensor which goes there by default ends in an error.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from support.running import run
from support.tiny import TINY, build, images
from support.tiny_text import build_text, padded, texts
from support.zoo_common import NEWER
from torch import nn

import clew

FEW = {"beyond_intuition_head": {"n_steps": 2}, "dave": {"n_samples": 2}, "tis": {"n_masks": 6}}
FEW |= {
    "smoothgrad": {"n_samples": 2},
    "integrated_gradients": {"n_steps": 3},
    "beyond_intuition_token": {"n_steps": 2},
}
METHODS = clew.methods()


def same(model, inputs, method, **options):
    given = {"method": method, "target": 1, **FEW.get(method, {}), **options}
    expected = clew.explain(model, inputs, **given)
    with torch.device("meta"):
        found = clew.explain(model, inputs, **given)
        assert torch.empty(0).device.type == "meta"
    assert torch.equal(found.all_scores, expected.all_scores)


@pytest.mark.parametrize("method", METHODS)
def test_pictures(method):
    same(build("timm_token"), images(TINY["timm_token"].size), method)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.images])
def test_texts(method):
    same(build_text("llama"), padded(texts()[:2]), method)


class MakesItsOwn(nn.Module):
    """A model that makes a tensor wherever tensors are made by default."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.made_on = []

    def forward(self, x):
        self.made_on.append(torch.zeros(3).device.type)
        return self.layer(x)


@pytest.mark.parametrize("method", ["input_x_gradient", "attn_lrp", "integrated_gradients"])
def test_a_model_is_called_under_the_callers_default(method):
    model = MakesItsOwn().eval()
    inputs = torch.randn(2, 6)
    with torch.device("meta"):
        clew.explain(model, inputs, method=method, target=1)
    assert set(model.made_on) == {"meta"}
    same(model, inputs, method)


@pytest.mark.parametrize("method", ["input_x_gradient", "attn_lrp", "integrated_gradients", "raw_attention"])
def test_a_target_is_called_under_the_callers_default(method):
    made_on = []

    def one(output):
        made_on.append(torch.zeros(1).device.type)
        return (output if isinstance(output, torch.Tensor) else output.logits)[:, 1]

    declared = method == "raw_attention"
    model = build("timm_token") if declared else MakesItsOwn().eval()
    inputs = images(TINY["timm_token"].size) if declared else torch.randn(2, 6)
    with torch.device("meta"):
        found = clew.explain(model, inputs, method=method, target=one)
    assert set(made_on) == {"meta"} and found.target[0] == "one"


def test_a_model_explained_within_another_has_its_callers_default():
    inner, seen = MakesItsOwn().eval(), []

    class Outer(MakesItsOwn):
        def forward(self, x):
            with torch.device("cpu"):
                clew.explain(inner, torch.ones(1, 6), method="input_x_gradient", target=1)
            seen.extend(inner.made_on)
            return super().forward(x)

    model, inputs = Outer().eval(), torch.randn(2, 6)
    with torch.device("meta"):
        clew.explain(model, inputs, method="input_x_gradient", target=1)
    assert set(seen) == {"cpu"} and set(model.made_on) == {"meta"}


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_strings(name):
    if name == "bert" and not NEWER:
        pytest.skip("transformers 4 makes a mask of its own by default")
    model = clew.load(f"mini:reviews-{name}")
    same(model, ["a good film", "a shallow title"], "raw_attention")
    for benchmark in ("flipping", "rationale"):
        with torch.device("meta"):
            run(model, benchmark=benchmark, data="mini:reviews", limit=1)


def test_after_an_error_the_callers_default_is_back():
    def broken(output):
        raise RuntimeError("a fault in the user's own function")

    model, inputs = MakesItsOwn().eval(), torch.ones(2, 6)
    with torch.device("meta"):
        with pytest.raises(RuntimeError, match="user's own"):
            clew.explain(model, inputs, target=broken)
        assert torch.empty(0).device.type == "meta"


def test_from_loading_to_a_benchmark():
    expected = run(clew.load("mini:digits"), limit=2).table.column("scores")
    with torch.device("meta"):
        found = run(clew.load("mini:digits"), limit=2).table.column("scores")
    assert found.equals(expected)


def test_benchmarks_call_the_model_under_the_callers_default(digits):
    """And leave it as it was."""
    made_on = []
    watched = dataclasses.replace(digits, model=copy.deepcopy(digits.model))
    watched.model.register_forward_pre_hook(lambda *_: made_on.append(torch.zeros(3).device.type))
    for benchmark in ("perturbation", "segmentation"):
        with torch.device("meta"):
            run(watched, benchmark=benchmark, limit=2, show_progress=False)
            assert torch.empty(0).device.type == "meta"
        assert set(made_on) == {"meta"}, benchmark


def test_answers_and_their_sources(writer):
    context, prompt = "once upon a time. there was a cat.", "once upon a time. there was a cat. what was there?"

    def explained():
        asked = clew.Sources(writer, prompt, context=context, answer=" a cat")
        return [
            clew.explain_generation(writer, prompt, max_new_tokens=2, method="attn_lrp").scores,
            asked.explain().scores,
            asked.log_odds(torch.ones(1, 2, dtype=torch.bool, device="cpu")),
        ]

    expected = explained()
    with torch.device("meta"):
        assert all(map(torch.equal, explained(), expected))
