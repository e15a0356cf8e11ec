"""Nothing of an explanation stays in memory but its result."""

from __future__ import annotations

import gc

import pytest
import torch

import clew

TEXT = "a quiet film that is brilliant indeed"
FEW = {"dave": {"n_samples": 2}, "tis": {"n_masks": 4}}
CASES = [
    (name, model)
    for model in ("mini:digits", "mini:reviews-llama")
    for name, method in sorted(clew.methods().items())
    if model == "mini:digits" or not method.images
]


@pytest.fixture(autouse=True)
def _only_what_is_new():
    """What there was before is neither walked nor counted."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize(("method", "model"), CASES)
def test_the_graph_is_let_go_of(model, method):
    loaded = clew.load(model)
    given = clew.scenes("digits").images[0] if model == "mini:digits" else TEXT
    clew.explain(loaded, given, method=method, **FEW.get(method, {}))  # what is remembered per model is there now
    before = tensors()
    for _ in range(2):
        clew.explain(loaded, given, method=method, **FEW.get(method, {}))
    assert tensors() == before


@pytest.mark.parametrize("rules", ["gamma", "chefer", "pa_lrp_gamma", "epsilon"])
def test_so_are_the_books_of_every_rule(rules):
    loaded, image = clew.load("mini:digits"), clew.scenes("digits").images[0]
    clew.explain(loaded, image, method="lrp", rules=rules, part="all")
    before = tensors()
    clew.explain(loaded, image, method="lrp", rules=rules, part="all", target=clew.Each(1, 2))
    assert tensors() == before


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize(("method", "model"), CASES)
def test_nothing_waits_for_the_collector(model, method):
    loaded = clew.load(model)
    given = clew.scenes("digits").images[0] if model == "mini:digits" else TEXT
    clew.explain(loaded, given, method=method, **FEW.get(method, {}))
    before = tensors()
    gc.disable()
    try:
        clew.explain(loaded, given, method=method, **FEW.get(method, {}))
        left = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
    finally:
        gc.enable()
    assert left == before


def test_nor_do_layers_in_8_bits():
    loaded = clew.load("mini:reviews-llama", quantize="8bit")
    clew.explain(loaded, TEXT, method="attn_lrp")
    before = tensors()
    gc.disable()
    try:
        clew.explain(loaded, TEXT, method="attn_lrp")
        left = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
    finally:
        gc.enable()
    assert left == before
