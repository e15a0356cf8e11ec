"""What every architecture promises, tried on a tiny random model of each, with fused and hand-written attention."""

from __future__ import annotations

import copy

import pytest
import torch
from support.states import assert_adds_up, states_within
from support.tiny import TINY, build, images

import clew
from clew.explaining.prepare import prepare
from clew.subject.subject import Subject
from clew.targets.outputs import logits_of

CASES = [(name, kind) for name, tiny in TINY.items() for kind in ("sdpa", "eager") if kind == "sdpa" or tiny.eager]
METHODS = [name for name in clew.methods() if name not in ("smoothgrad", "integrated_gradients")]
FEW = {"n_steps": 3}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request):
    name, kind = request.param
    return name, kind, build(name, kind), images(TINY[name].size)


def subject_of(model, x):
    ready = prepare(model, x)
    target = lambda out, rows: logits_of(out).amax(-1)  # noqa: E731
    return Subject(ready.model, ready.bound, ready.inputs, lambda output: target, precise=True)


FEW_COPIES = {"dave": {"n_samples": 2}, "tis": {"n_masks": 6}}
KNOW_POSITIONS = ("timm_eva", "hf_beit", "pair_eva")  # in their blocks, so that no token can be left out


def options_of(method):
    return FEW if method.startswith("beyond_intuition") else FEW_COPIES.get(method, {})


def methods_for(name):
    known = name.startswith(KNOW_POSITIONS) and name != "hf_beit_cls"
    return [method for method in METHODS if not (known and method == "tis")]


def test_forward_is_unchanged_to_the_last_bit(case):
    *_, model, x = case
    subject = subject_of(model, x)
    everything = range(subject.last + 1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            plain = logits_of(model(x))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    subject.precise = False  # the model as it is, casts and all
    for leaf in (None, (0, "v"), (0, "o"), (subject.last, "o")):
        seen = logits_of(subject.run(everything, hidden=everything, leaf=leaf).output)
        assert torch.equal(seen.detach(), plain), leaf


def test_what_attention_adds_is_the_models_own(case):
    """The state between attention and MLP is one that the model has, and what heads bring from tokens adds up to it."""
    *_, model, x = case
    subject = subject_of(model, x)
    blocks = range(subject.depth)
    with states_within([subject.bound.blocks[block] for block in blocks]) as seen:
        trace = subject.run(blocks, hidden=blocks)
    for block in blocks:
        assert_adds_up(subject.parts(trace, block), seen[block])


def test_captured_attention_times_values_is_the_models_own_output(case):
    *_, model, x = case
    subject = subject_of(model, x)
    trace = subject.run(range(subject.last + 1))
    for layer in range(subject.last + 1):
        A = trace[layer].probabilities()
        torch.testing.assert_close(A.sum(-1), torch.ones_like(A.sum(-1)), rtol=0, atol=1e-6)
        torch.testing.assert_close(A.double() @ trace[layer].v, trace[layer].o, rtol=0, atol=1e-12)


def test_declared_readout_is_what_the_head_reads(case):
    *_, model, x = case
    subject = subject_of(model, x)
    trace = subject.run([subject.last], leaf=(subject.last, "o"))
    gradient = trace.gradients([(subject.last, "o")])[subject.last, "o"]
    reached = gradient.abs().amax((0, 1, 3)).nonzero().flatten().tolist()
    read = trace.read()
    assert sorted(read.rows.tolist()) == reached
    assert (read.weights > 0).all()


@pytest.mark.sampled(0.15)
@pytest.mark.parametrize("name", list(TINY))
def test_batch_equals_single_examples(name):
    """With fused attention; that hand-written attention gives the same for a batch is tested below."""
    model, x = build(name), images(TINY[name].size)
    grid = tuple(side // TINY[name].patch for side in TINY[name].size)
    for method in (method for method in methods_for(name) if method != "random"):
        options = {"method": method, "checks": "off", **options_of(method)}
        together = clew.explain(model, x, **options)
        assert (together.prefix, together.patch_grid) == (TINY[name].prefix, grid)
        assert together.scores.shape == (3, grid[0] * grid[1]) and together.scores.dtype == torch.float64
        assert torch.isfinite(together.all_scores).all(), method
        alone = torch.cat([clew.explain(model, x[i], **options).all_scores for i in range(3)])
        scale = alone.abs().max().clamp(min=1e-30)
        assert ((together.all_scores - alone).abs().max() / scale) < 1e-10, method


@pytest.mark.sampled(0.15)
@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if tiny.eager])
def test_eager_equals_sdpa(name):
    models = [build(name, kind) for kind in ("sdpa", "eager")]
    x = images(TINY[name].size)
    for method in methods_for(name):
        options = {"target": 1, "checks": "off", "compute_dtype": torch.float64, **options_of(method)}
        fused, eager = (clew.explain(model, x, method=method, **options) for model in models)
        # The pool of SigLIP asks `nn.MultiheadAttention` for weights, which then writes its attention out.
        if "attention" in fused.checks and name not in ("pair_siglip", "pair_siglip2"):
            assert (fused.checks["attention"], eager.checks["attention"]) == ("sdpa", "eager")
        scale = fused.all_scores.abs().max().clamp(min=1e-30)
        assert (fused.all_scores - eager.all_scores).abs().max() / scale < 1e-10, method


@pytest.mark.sampled(0.4)
def test_nothing_is_left_behind(case):
    *_, model, x = case
    some = next(iter(model.parameters()))
    some.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]

    def broken(output):
        raise RuntimeError("a fault in the user's own function")

    clew.explain(model, x, method="beyond_intuition_head", **FEW)
    clew.explain(model, x, method="saliency")
    with pytest.raises(RuntimeError, match="user's own"):
        clew.explain(model, x, method="generic_attribution", target=broken)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.sampled(0.3)
def test_doctor_finds_nothing_wrong(case):
    *_, model, x = case
    assert [f for f in clew.doctor(model, x) if not f.ok] == []


@pytest.mark.parametrize("name", TINY)
def test_what_the_head_reads_is_enough(name):
    model, x = build(name), images(TINY[name].size)
    subject = subject_of(model, x)
    last, found = subject.last, []
    for readout_only in (False, True):
        trace = subject.run([last], leaf=(last, "o"), readout_only=readout_only)
        found.append((trace.score.detach(), trace.gradients([(last, "o")])[last, "o"]))
    for whole, read in zip(*found, strict=True):
        torch.testing.assert_close(read, whole, rtol=0, atol=1e-12)


def test_of_the_last_block_only_what_the_head_reads_is_computed():
    model, x = build("timm_token"), images((32, 32))
    subject, seen = subject_of(model, x), []
    for block in subject.bound.blocks:
        block.mlp.fc1.register_forward_hook(lambda module, args, output: seen.append(output.detach().abs().sum(-1)))
    subject.run([3], leaf=(3, "o"), readout_only=True)
    assert all((layer > 0).all() for layer in seen[:-1])
    assert (seen[-1][:, 0] > 0).all() and not seen[-1][:, 1:].any()
