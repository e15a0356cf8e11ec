"""What is promised of models of which nothing is declared, tried on the zoo."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from support.attn_lrp_twin import twin_relevance
from support.plain_calls import difference, plain_gradient, streams_of
from support.zoo import ZOO, build, called
from support.zoo_common import NEWER
from torch.overrides import TorchFunctionMode

import clew

NAMES = list(ZOO)
CASES = [(name, kernel) for name, species in ZOO.items() for kernel in species.kernels]
BOTH = [name for name, species in ZOO.items() if len(species.kernels) > 1]
ALONE = [name for name, species in ZOO.items() if species.alone]
PART = 0.05
NEWER_METHODS = ("res_lrp", "libra_input_x_gradient")
METHODS = ("input_x_gradient", "attn_lrp", *NEWER_METHODS)

of_all_cases = pytest.mark.parametrize(("name", "kernel"), CASES, ids=["-".join(case) for case in CASES])


def explain(specimen, method, inputs=None, **options):
    given = copy.deepcopy(specimen.inputs) if inputs is None else inputs  # which some models change
    return clew.explain(specimen.model, given, method=method, target=specimen.score, **options)


@pytest.mark.sampled(PART)
@of_all_cases
def test_gradients_are_those_of_autograd_through_the_model_called_plainly(name, kernel):
    specimen = build(name, kernel)
    found = explain(specimen, "input_x_gradient")
    assert set(streams_of(found)) == set(specimen.species.streams)
    assert difference(found, plain_gradient(specimen)) < 1e-9


@pytest.mark.sampled(PART)
@of_all_cases
def test_relevance_is_accounted_for_and_that_of_stop_gradient_expressions(name, kernel):
    specimen = build(name, kernel)
    found = explain(specimen, "attn_lrp")
    assert set(streams_of(found)) == set(specimen.species.streams)
    size = found.checks["explained"].abs().amax()
    assert float(found.checks["unexplained"].abs().amax() / size) < 1e-9
    expected, score = twin_relevance(specimen)
    assert float((found.checks["explained"] - score).abs().amax() / size) < 1e-9
    assert difference(found, expected) < 1e-9


@pytest.mark.sampled(PART)
@of_all_cases
def test_relevance_by_newer_rules_is_accounted_for(name, kernel):
    specimen = build(name, kernel)
    for method in NEWER_METHODS:
        found = explain(specimen, method)
        assert set(streams_of(found)) == set(specimen.species.streams)
        size = found.checks["explained"].abs().amax()
        assert float(found.checks["unexplained"].abs().amax() / size) < 1e-9, method


class _Kernels(TorchFunctionMode):
    """Counts calls of fused attention."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.sampled(PART)
@pytest.mark.parametrize("name", BOTH)
def test_fused_and_written_attention_give_the_same(name):
    fused, written = (build(name, kernel) for kernel in ("sdpa", "eager"))
    for specimen, some in ((fused, True), (written, False)):
        with _Kernels() as seen, torch.no_grad():
            specimen.run()
        if some and not NEWER and not seen.calls[F.scaled_dot_product_attention]:
            pytest.skip("this release of transformers has no fused attention for it")
        assert bool(seen.calls[F.scaled_dot_product_attention]) == some
    one, other = (streams_of(explain(specimen, "attn_lrp")) for specimen in (fused, written))
    for stream, part in one.items():
        size = part.all_scores.abs().amax()
        assert float((part.all_scores - other[stream].all_scores).abs().amax() / size) < 1e-9, stream


@pytest.mark.sampled(PART)
@pytest.mark.parametrize("name", ALONE)
def test_a_batch_equals_its_single_examples(name):
    specimen = build(name)
    precise = {"compute_dtype": torch.float64}  # kernels of float32 round each shape in their own way
    for method in METHODS:
        together = streams_of(explain(specimen, method, **precise))
        for i in range(2):
            alone = streams_of(explain(specimen, method, specimen.one(i), **precise))
            assert set(alone) == set(together)
            for stream, part in together.items():
                size = part.all_scores[i].abs().amax()
                gap = float((part.all_scores[i] - alone[stream].all_scores[0]).abs().amax())
                assert gap <= 1e-9 * float(size), (method, stream)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [t for one in values for t in _tensors(one)]


def _state(specimen):
    """All of a model and its input that an explanation could leave changed."""
    model = specimen.model
    hooks = [
        (name, kind, len(found))
        for name, module in model.named_modules()
        for kind, found in vars(module).items()
        if kind.endswith("hooks")
    ]
    config = getattr(model, "config", None)
    parts = [m for m in model.modules() if hasattr(m, "config")]
    return {
        "weights": {k: v.clone() for k, v in model.state_dict().items()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": hooks,
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "config": config.to_dict() if config is not None else None,
        "attention": [getattr(m.config, "_attn_implementation", None) for m in parts],
        "inputs": [t.clone() for t in _tensors(specimen.inputs)],
        "input flags": [(t.requires_grad, t.grad is None, t._version) for t in _tensors(specimen.inputs)],
    }


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.mark.sampled(PART)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_behind(name):
    specimen = build(name)
    with torch.no_grad():
        called(specimen.model, copy.deepcopy(specimen.inputs))  # some models keep tables of their first call
    next(specimen.model.parameters()).requires_grad_(False)
    before = _state(specimen)

    def broken(output):
        raise RuntimeError("a fault in the user's own function")

    for method in METHODS:
        explain(specimen, method, specimen.inputs)
        with pytest.raises(RuntimeError, match="user's own"):
            clew.explain(specimen.model, specimen.inputs, method=method, target=broken)
    after = _state(specimen)
    assert [key for key in before if not _same(before[key], after[key])] == []
