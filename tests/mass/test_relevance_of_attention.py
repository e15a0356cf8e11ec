"""Methods made of relevance of attention, on models of which nothing is declared: against their blocks, and written out
from matrices and multipliers of an encoder–decoder."""

import pytest
import torch
import torch.nn.functional as F
from mass.test_declared import IMAGES, TEXTS, TWO_READOUTS, by_mass, in_patches
from support import tiny, tiny_text
from support.zoo import build
from torch.overrides import TorchFunctionMode
from transformers.models.bart import modeling_bart

import clew
from clew.errors import CaptureError, OptionError
from clew.rules.rule_sets import CHEFER
from clew.seam import DoublePrecision

# Forks between blocks, stabilised by 1e-9, are no part of a model without blocks.
RULES = {key: rule for key, rule in CHEFER.items() if key != "fork"}
METHODS = {
    "transformer_attribution": {"start_layer": 0},
    "partial_lrp": {},
    "partial_lrp(times_gradient=True)": {"times_gradient": True},
}


def close(found, expected, allowed=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed * float(expected.abs().max()))


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, method, kernel):
    model, x = tiny.build(name, kernel), tiny.images(tiny.TINY[name].size)
    options, method = {**METHODS[method], "rules": RULES}, method.partition("(")[0]
    expected = clew.explain(model, x, method=method, target=2, **options, compute_dtype=torch.float64, checks="off")
    found = by_mass(model, {"pixel_values": x} if "hf" in name else x, 2, method, **options)
    found = in_patches(found, expected.scores.shape[1])
    close(found * (2 if name in TWO_READOUTS else 1), expected.scores)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TEXTS)
def test_texts(name, method, kernel):
    model, ids = tiny_text.build_text(name, kernel), torch.arange(5, 23).view(2, 9)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options, method = {**METHODS[method], "rules": RULES}, method.partition("(")[0]
    expected = clew.explain(model, given, method=method, target=2, **options, compute_dtype=torch.float64, checks="off")
    last = model(**given).logits.ndim == 3
    target = (lambda output: output.logits[:, -1, 2]) if last else 2
    close(by_mass(model, given, target, method, **options), expected.all_scores)


def test_default_rules():
    """With forks stabilised or not."""
    model, ids = tiny_text.build_text("bert"), torch.arange(5, 23).view(2, 9)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = clew.explain(model, given, method="partial_lrp", target=2, checks="off").all_scores
    close(by_mass(model, given, 2, "partial_lrp"), expected, 1e-6)


@pytest.mark.parametrize("method", ["transformer_attribution", "partial_lrp"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_of_an_encoder_and_a_decoder(method, kernel, monkeypatch):
    """Under AttnLRP, without stabilisers, relevance is input times gradient of another model: norms and activations are
    fixed, products halved. So `S` is a gradient of that."""
    specimen = build("bart", kernel)
    found = clew.explain(specimen.model, specimen.inputs, method=method, target=specimen.score, rules="attn_lrp")
    multipliers, G, A, V = literal_multipliers(monkeypatch)
    eager = [torch.einsum("bhqd,bhkd->bhqk", S, v) * a for S, v, a in zip(multipliers, V, A, strict=True)]
    n = 2
    if method == "partial_lrp":
        close(found["input_ids"].all_scores, eager[-1].clamp(min=0).mean(1)[:, -1])
        assert not found["decoder_input_ids"].all_scores.any()
        return
    C = [(R * g).clamp(min=0).mean(1) for R, g in zip(eager, G, strict=True)]
    source = torch.eye(C[0].shape[-1], dtype=torch.float64).expand(2, -1, -1)
    for one in C[:n]:
        source = source + one @ source
    prefix = torch.eye(C[n].shape[-1], dtype=torch.float64).expand(2, -1, -1)
    across = torch.zeros(2, prefix.shape[-1], source.shape[-1], dtype=torch.float64)
    for own, cross in zip(C[n::2], C[n + 1 :: 2], strict=True):
        prefix, across = prefix + own @ prefix, across + own @ across
        across = across + cross @ source
    close(found["input_ids"].all_scores, across[:, -1])
    close(found["decoder_input_ids"].all_scores, prefix[:, -1])


def literal_multipliers(monkeypatch):
    """`S`, `∂s/∂A`, `A` and `V` of each attention of the BART, in the order of its calls.

    `S` by autograd: norms whose deviations are constants, activations as factors, products of two that give each half.
    """

    class Fixed(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if func is F.layer_norm:
                x, _, w, b, eps = (*args, *kwargs.values())[:5]
                x_, deviation = x - x.mean(-1, keepdim=True), (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
                return x_ / deviation.detach() * w + b
            if func is F.gelu:
                x = args[0]
                return x * (func(x, **kwargs) / x).detach()
            return func(*args, **kwargs)

    def run(fixed):
        specimen = build("bart", "eager")
        seen, half = [], (lambda t: t / 2 + t.detach() / 2) if fixed else (lambda t: t)

        def product(module, query, key, value, mask, scaling=None, **kwargs):
            logits = half(query) @ half(key).mT * (scaling or query.shape[-1] ** -0.5)
            A = (logits if mask is None else logits + mask).softmax(-1)
            A.requires_grad_()
            o = half(A) @ half(value)
            seen.append((A, value, o))
            return o.transpose(1, 2).contiguous(), A

        monkeypatch.setattr(modeling_bart, "eager_attention_forward", product)
        with DoublePrecision(specimen.model):
            if fixed:
                with Fixed():
                    score = specimen.score(specimen.model(**specimen.inputs))
            else:
                score = specimen.score(specimen.model(**specimen.inputs))
        return seen, score

    seen, score = run(True)
    of_output = torch.autograd.grad((score / score.detach()).sum(), [o for _, _, o in seen])
    plain, exact = run(False)
    G = torch.autograd.grad(exact.sum(), [A for A, _, _ in plain])
    return [g / 2 for g in of_output], G, [A.detach() for A, _, _ in plain], [v.detach() for _, v, _ in plain]


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("method", ["transformer_attribution", "partial_lrp"])
@pytest.mark.parametrize(
    "name", ["llava", "qwen2_vl", "t5_gated", "whisper", "bart", "swin", "detr", "timm_hiera", "owlvit", "wav2vec2"]
)
def test_any_model(name, method):
    specimen = build(name)
    found = clew.explain(specimen.model, specimen.inputs, method=method, target=specimen.score)
    parts = [found[name] for name in found.streams]
    assert all(part.all_scores.isfinite().all() for part in parts)
    assert any(bool(part.all_scores.any()) for part in parts)
    checks = parts[0].checks
    assert checks["unaccounted"] < 1e-9
    assert {"mass", "attention", "account", "rules"} <= set(checks["verified"].split(", "))


def test_rules_that_give_attention_nothing_are_refused():
    specimen = build("bart")
    with pytest.raises(OptionError, match="give attention no relevance"):
        clew.explain(specimen.model, specimen.inputs, method="partial_lrp", target=specimen.score, rules="cp_lrp")


@pytest.mark.parametrize("method", ["transformer_attribution", "partial_lrp"])
def test_released_variants_need_a_declared_model(method):
    specimen = build("bart")
    with pytest.raises(OptionError, match="needs a declared model"):
        clew.explain(specimen.model, specimen.inputs, method=method, target=specimen.score, variant="chefer")


def test_calls_that_are_not_found_again_are_an_error(monkeypatch):
    from clew.mass import Site

    specimen, own = build("bart"), Site.gave
    monkeypatch.setattr(Site, "gave", lambda self, shape, ends: self.number != 2 and own(self, shape, ends))
    with pytest.raises(CaptureError, match="was not found again"):
        clew.explain(specimen.model, specimen.inputs, method="partial_lrp", target=specimen.score)
