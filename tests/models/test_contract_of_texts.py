"""What every architecture of text promises, tried on a tiny random model of each."""

from __future__ import annotations

import pytest
import torch
from support.states import assert_adds_up, states_within
from support.tiny_text import LENGTHS, TEXT_CASES, TINY_TEXT, build_text, padded, texts

import clew
from clew.diagnosis import state
from clew.explaining.explain import subject_of
from clew.explaining.prepare import prepare
from clew.lrp.relevance import propagate
from clew.seam.twin import original
from clew.targets.outputs import answer_logits_of, logits_of

SLOW = ("smoothgrad", "integrated_gradients", "random")
METHODS = [name for name, method in clew.methods().items() if name not in SLOW and not method.images]
FEW = ["beyond_intuition_head", "beyond_intuition_token", "input_x_gradient", "pa_lrp", "transformer_attribution"]
RULES = ["attn_lrp", "cp_lrp", "epsilon", "gamma", "z_plus", "chefer", "fixed_std"]


@pytest.fixture(autouse=True)
def _no_fast_path():
    """Without the kernel that `nn.MultiheadAttention` takes outside of any mode, whose last bits differ."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.fixture(params=TEXT_CASES, ids=lambda case: "-".join(case))
def case(request):
    name, kernel = request.param
    return name, build_text(name, kernel)


def target_of(name, text, at=1):
    """A target for one text of the model: heads over tokens need a place."""
    return clew.Token(at + min(len(text) - 1, 3), 1) if "tokens" in name else None


def subject_for(name, model, rows, **options):
    inputs = padded(rows)
    first = inputs["attention_mask"].argmax(1).tolist()
    target = [target_of(name, row, start) for row, start in zip(rows, first, strict=True)]
    ready = prepare(model, inputs, compute_dtype=torch.float64)
    return subject_of(ready, target if any(target) else None, **options), target


def outputs(output):
    answers = answer_logits_of(output)
    return torch.cat(answers, 1) if answers is not None else logits_of(output)


@pytest.mark.sampled(0.1)
def test_padding_on_any_side_changes_nothing(case):
    name, model = case
    rows = texts()[:2]
    inputs = padded(rows)
    first = inputs["attention_mask"].argmax(1).tolist()
    fused = getattr(model.config, "_attn_implementation", "sdpa") == "sdpa" or len(TINY_TEXT[name].kernels) == 1
    for k, method in enumerate(METHODS if fused else FEW):
        options = {"method": method, "compute_dtype": torch.float64}
        options |= {"n_steps": 2} if method.startswith("beyond_intuition") else {}
        target = [target_of(name, row, start) for row, start in zip(rows, first, strict=True)]
        together = clew.explain(model, inputs, target=target if any(target) else None, **options)
        # The model's own call, in its own precision: some cast to float32 in between.
        told = together.checks.get("as_called", "")  # kernels of experts take no float64
        assert together.checks["forward_difference"] <= 1e-5 or "Double" in told
        assert torch.isfinite(together.scores).all()
        for i, row in list(enumerate(rows))[k % 2 :: 2]:  # padded on the right, or on the left
            alone = clew.explain(model, row, target=target_of(name, row, 0), **options)
            real = slice(first[i], first[i] + len(row))
            assert not together.scores[i, : real.start].any()
            assert not together.scores[i, real.stop :].any()
            size = float(alone.scores.abs().max()) or 1.0
            difference = float((together.scores[i, real] - alone.scores[0]).abs().max())
            assert difference < 1e-10 * size, (method, i, difference / size)
            assert together.target[i].split(" at ")[0] == alone.target[0].split(" at ")[0]


def test_what_attention_adds_is_the_models_own(case):
    """The state between attention and MLP is one that the model has, and what heads bring from tokens adds up to it."""
    name, model = case
    subject, _ = subject_for(name, model, texts()[:1])
    blocks = range(subject.depth)
    with states_within([subject.bound.blocks[block] for block in blocks]) as seen:
        trace = subject.run(blocks, hidden=blocks)
    for block in blocks:
        assert_adds_up(subject.parts(trace, block), seen[block])


@pytest.mark.sampled(0.15)
@pytest.mark.parametrize("name", [name for name, tiny in TINY_TEXT.items() if len(tiny.kernels) > 1])
def test_eager_equals_sdpa(name):
    models = [build_text(name, kernel) for kernel in ("sdpa", "eager")]
    row = texts()[0]
    for method in METHODS:
        options = {"n_steps": 2} if method.startswith("beyond_intuition") else {}
        fused, eager = (
            clew.explain(m, row, method=method, target=target_of(name, row), compute_dtype=torch.float64, **options)
            for m in models
        )
        if "attention" in fused.checks:
            assert (fused.checks["attention"], eager.checks["attention"]) == ("sdpa", "eager")
        difference = float((fused.scores - eager.scores).abs().max())
        assert difference <= 1e-10 * float(fused.scores.abs().max()), method


def test_forward_attention_and_readout_are_the_models_own(case):
    name, model = case
    subject, _ = subject_for(name, model, texts())
    everything = range(subject.last + 1)
    with torch.no_grad():
        if name.startswith("pair_open"):  # whose products depend on whether weights ask for gradients
            plain = outputs(original(subject.model)(**subject.inputs))
        else:
            plain = outputs(subject.forward())
    for leaf in (None, (0, "v"), (0, "o"), (subject.last, "o")):
        seen = outputs(subject.run(everything, hidden=everything, leaf=leaf).output)
        assert torch.equal(seen.detach(), plain), leaf
    trace = subject.run(everything, leaf=(subject.last, "o"))
    for layer in everything:
        again = trace[layer].probabilities().double() @ trace[layer].v.detach()
        real = torch.arange(again.shape[2]) < torch.tensor(LENGTHS)[:, None]
        both = (t.detach().transpose(1, 2)[real] for t in (again, trace[layer].o))
        torch.testing.assert_close(*both, rtol=0, atol=1e-10)
    g = trace.gradients([(subject.last, "o")])[subject.last, "o"]
    read = trace.read()
    declared = (read.start(g.shape[2], separate=True) * read.weights.ne(0)[..., None]).sum(1) > 0
    assert torch.equal(declared, g.abs().amax((1, 3)) > 0)
    torch.testing.assert_close(read.weights.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.sampled(0.4)
def test_the_account_closes_and_rules_leave_the_score_as_it_is(case):
    name, model = case
    subject, _ = subject_for(name, model, texts())
    with torch.no_grad():
        score = subject.score(subject.forward(), clean=True)
    for rules in RULES:
        found = propagate(subject, rules, positions=True)
        torch.testing.assert_close(found.total, score, rtol=1e-12, atol=1e-12)
        for part in ("all", "semantic", "position"):
            account = found.account(part)
            largest = torch.stack([v.abs() for v in account.values()]).amax(0)
            assert float((account["unexplained"].abs() / largest).max()) < 1e-9, (rules, part)


@pytest.mark.sampled(0.3)
def test_what_the_head_reads_is_enough(case):
    name, model = case
    subject, _ = subject_for(name, model, texts())
    for rules in ("attn_lrp", "cp_lrp"):
        spared = propagate(subject, rules, positions=True)
        subject.per_row = False
        whole = propagate(subject, rules, positions=True)
        subject.per_row = True
        torch.testing.assert_close(spared.semantic, whole.semantic, rtol=0, atol=1e-10)
        torch.testing.assert_close(spared.total, whole.total, rtol=0, atol=1e-12)


@pytest.mark.sampled(0.4)
def test_nothing_is_left_behind(case):
    name, model = case
    model.float()  # as models are used; and MPT of transformers 4 makes no mask in float64
    next(iter(model.parameters())).requires_grad_(False)
    before = state(model)

    def broken(output):
        raise RuntimeError("a fault in the user's own function")

    for method in ("beyond_intuition_head", "pa_lrp", "saliency"):
        clew.explain(
            model,
            padded(texts()),
            method=method,
            target=[target_of(name, t, 5) for t in texts()] if "tokens" in name else None,
        )
        with pytest.raises(RuntimeError, match="user's own"):
            clew.explain(model, texts()[0], method=method, target=broken)
    assert state(model) == before


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("name", TINY_TEXT)
def test_doctor_finds_nothing_wrong(name):
    model = build_text(name, TINY_TEXT[name].kernels[0]).float()
    assert [f for f in clew.doctor(model) if not f.ok] == []


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma3", "phi3", "olmo2", "mixtral", "modernbert", "bloom", "mpt", "bert", "gpt2"]
)
def test_positions_get_relevance(name):
    model = build_text(name, TINY_TEXT[name].kernels[0]).float()
    found = clew.explain(model, padded(texts()), method="pa_lrp", part="position", details=True)
    assert float(found.scores.abs().max()) > 1e-6
    if name in ("bert", "gpt2"):
        assert "position_by_layer" not in found.details
    else:
        layers = found.details["position_by_layer"]
        assert layers.shape == (3, 3, found.scores.shape[1])
        assert (layers.abs().amax((0, 2)) > 1e-9).all()
