"""clew broken on purpose, in many ways: a result that comes out wrong is refused, none is handed out.

"Wrong" is a score, a target or its value that differs from those of the unbroken clew by more than 1e-3 of the largest.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from support.faults import FAULTS, LATER, QUANTISED, in_calls, row_before, swapped_types
from support.tiny_text import build_text

import clew
from clew.errors import CheckFailed
from clew.verification import user_call

METHODS = {
    "images": ["raw_attention", "generic_attribution", "beyond_intuition_token", "integrated_gradients", "attn_lrp",
               "lrp(rules='z_plus')", "attention_rollout"],
    "texts": ["attention_rollout", "gradient_attention_rollout", "beyond_intuition_head", "input_x_gradient", "pa_lrp",
              "transformer_attribution"],
    "decoder": ["attention_rollout", "attention_gradcam", "beyond_intuition_token", "saliency", "pa_lrp", "cp_lrp"],
    "pairs": ["raw_attention", "generic_attribution", "beyond_intuition_head", "input_x_gradient", "attn_lrp"],
}  # fmt: skip
FEW = {"integrated_gradients": {"n_steps": 6}, "dave": {"n_samples": 4}, "tis": {"n_masks": 8}}


@pytest.fixture(scope="module")
def settings():
    """Models with their inputs and targets; several targets, so that no fault is one for one of them only."""
    scenes, reviews = clew.captioned_scenes(), clew.reviews(8)
    texts = sorted((r.text for r in reviews), key=len)
    return {
        "images": (clew.load("mini:digits"), clew.scenes().images[:2], [None, 3]),
        "texts": (clew.load("mini:reviews-bert"), [texts[0], texts[-1]], [None, 1]),
        "decoder": (clew.load("mini:reviews-llama"), [texts[0], texts[-1]], [None, 1]),
        "pairs": (clew.load("mini:digits-clip"), scenes.images[:2], [clew.Similarity(c) for c in scenes.captions[:2]]),
    }


def explained(setting, method):
    model, inputs, target = setting
    target = target if isinstance(target[0], clew.Similarity) else [t if t is not None else None for t in target]
    if target[0] is None:  # a list holds classes only
        first = clew.explain(model, inputs[0], method=method, **FEW.get(method, {}))
        second = clew.explain(model, inputs, method=method, target=target[1], **FEW.get(method, {}))
        return [first, second]
    return [clew.explain(model, inputs, method=method, target=target)]


@pytest.fixture(scope="module")
def right(settings):
    return {
        (name, method): explained(settings[name], method) for name, methods in METHODS.items() for method in methods
    }


def is_wrong(one, other):
    if one.target != other.target or one.all_scores.shape != other.all_scores.shape:
        return True
    size = float(other.all_scores.abs().max())
    return (
        float((one.all_scores - other.all_scores).abs().max()) > 1e-3 * size
        or float((one.score - other.score).abs().max()) > 1e-3 * float(other.score.abs().max())
    )  # fmt: skip


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_result_is_refused(name, settings, right, monkeypatch, untyped):
    FAULTS[name](monkeypatch)
    silent, refused, unchanged = [], [], []
    for key, expected in right.items():
        try:
            found = explained(settings[key[0]], key[1])
        except clew.ClewError as error:
            refused.append((*key, str(error).splitlines()[0]))
            continue
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:  # it does not even run
            refused.append((*key, repr(error)))
            continue
        wrong = any(is_wrong(a, b) for a, b in zip(found, expected, strict=True))
        (silent if wrong else unchanged).append(key)
    assert not silent, silent
    assert refused, "this fault changes nothing here"


@pytest.mark.parametrize("name", [*FAULTS, *LATER])
def test_what_a_fault_changes_is_there(name, monkeypatch, untyped):
    """A name that has moved is seen by `make test`, too, which breaks clew in a few ways only."""
    (FAULTS.get(name) or LATER[name])(monkeypatch)


def test_nothing_is_refused_without_a_fault(settings, right):
    user_call._known.clear()
    for name, methods in METHODS.items():
        for method in methods:
            for found in explained(settings[name], method):
                assert found.checks["forward_difference"] < 1e-4
                assert "forward" in found.checks["verified"].split(", ")
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", LATER)
def test_wrong_words_and_windows_are_refused(name, settings, monkeypatch, untyped):
    model, (short, long), _ = settings["texts"]
    text = f"{short} {long}"

    def made():
        if "windows" in name:
            return clew.explain(model, text, method="input_x_gradient", window=16, stride=5, target=1)
        return clew.explain(model, text, method="input_x_gradient", target=1).words("sum")

    made()
    LATER[name](monkeypatch)
    with pytest.raises(CheckFailed):
        made()


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("name", QUANTISED)
def test_wrong_quantised_weights_are_refused(name, bits, settings, monkeypatch, untyped):
    import clew.seam.quantized as quantized

    model, texts = clew.load("mini:reviews-llama", quantize=bits), settings["decoder"][1]
    clew.explain(model, texts, method="attn_lrp")
    right = quantized.float_weight
    monkeypatch.setattr(quantized, "float_weight", lambda module: QUANTISED[name](right(module)))
    for method in ("attn_lrp", "input_x_gradient", "beyond_intuition_token"):
        with pytest.raises(CheckFailed, match="quantised layer"):
            clew.explain(model, texts, method=method)


@pytest.mark.parametrize("classes", [1, 2])
def test_scores_near_zero_are_not_refused_for_their_rounding(classes):
    """One output that is 0, and two that are equal: relative to these all rounding is large."""
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=64, depth=4, num_classes=classes
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        logits = model(x)[0]
        model.head.bias[0] -= logits[0] - (logits[1] if classes == 2 else 0)
    target = clew.Contrast(0, 1) if classes == 2 else 0
    for method in clew.methods():
        found = clew.explain(model, x, method=method, target=target, **FEW.get(method, {}))
        assert float(found.score[0].abs()) < 1e-4
        assert found.checks["forward_difference"] < 1e-4


def test_of_equal_logits_either_may_be_the_predicted_one(settings):
    model, images, _ = settings["images"]
    equal = clew.LoadedModel(copy.deepcopy(model.model), model.preprocess, model.labels)
    with torch.no_grad():
        equal.model.classifier.weight.zero_()
        equal.model.classifier.bias.zero_()
    assert len(clew.explain(equal, images, method="raw_attention").target) == 2


@pytest.mark.parametrize("method", ["attn_lrp", "input_x_gradient", "raw_attention"])
@pytest.mark.parametrize("target", [None, clew.Span(5, 7), clew.Token(4, 9)])
def test_a_token_explained_at_the_row_before_is_refused(target, method, writer, monkeypatch, untyped):
    ids = torch.randint(5, 60, (2, 9))
    clew.explain(writer, ids, method=method, target=target)
    row_before(monkeypatch)
    with pytest.raises(CheckFailed):
        clew.explain(writer, ids, method=method, target=target)


@pytest.mark.parametrize("method", ["attn_lrp", "saliency", "attention_rollout"])
def test_other_token_types_are_refused(method, monkeypatch, untyped):
    model = build_text("bert").float()
    types = torch.tensor([[0] * 5 + [1] * 4])
    inputs = {"input_ids": torch.randint(5, 60, (1, 9)), "token_type_ids": types}
    clew.explain(model, inputs, method=method, target=1)
    in_calls("inputs", swapped_types)(monkeypatch)
    with pytest.raises(CheckFailed, match="called as its user calls it"):
        clew.explain(model, inputs, method=method, target=1)
