"""Token mass, which knows nothing of a model, against the blocks, readouts and prefixes that declarations say."""

import pytest
import torch
from support import tiny, tiny_text

import clew
from clew.explainers import find_method
from clew.explaining.any_model import AnyModel, subject_of_any

METHODS = {
    "attention_rollout": {"start_layer": 0},
    "generic_attribution": {"start_layer": 0},
    "gradient_attention_rollout": {"start_layer": 0},
    "raw_attention": {},
    "beyond_intuition_head": {"start_layer": 0, "feedback": False},
    "beyond_intuition_token": {"start_layer": 0, "feedback": False},
}
IMAGES = [name for name in tiny.TINY if not name.startswith("pair_")]
TEXTS = ["bert", "roberta", "electra", "distilbert", "deberta_v2", "modernbert", "modernbert_mean", "gpt2",
         "gpt2_classes", "mpt", "llama", "llama_classes", "mistral", "qwen3", "gemma2", "gemma3", "phi3",
         "olmo2", "bloom"]  # fmt: skip
# Their heads read CLS beside the mean of the patches: declarations count both, mass shares.
TWO_READOUTS = ("dino_linear", "hf_dinov2", "hf_dinov2_other_size", "hf_dinov2_with_registers")


def by_mass(model, inputs, target, method, **options):
    """What a method gives where nothing is declared: the only stream, and the account."""
    subject = subject_of_any(AnyModel.of(model, model, inputs, None), target)
    result = find_method(method)(subject, **options)
    assert result.checks["unaccounted"] < 1e-9
    (found,) = result.streams.values()
    return found


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def in_patches(pixels, count):
    """Sums over channels and patches (batch, patch), of so many patches."""
    batch, _, height, width = pixels.shape
    side = round((height * width / count) ** 0.5)
    rows, columns = height // side, width // side
    whole = pixels[..., : rows * side, : columns * side].sum(1)
    return whole.view(batch, rows, side, columns, side).sum((2, 4)).flatten(1)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, method, kernel):
    model, x = tiny.build(name, kernel), tiny.images(tiny.TINY[name].size)
    precise = {"compute_dtype": torch.float64, "checks": "off"}
    expected = clew.explain(model, x, method=method, target=2, **METHODS[method], **precise).scores
    found = by_mass(model, {"pixel_values": x} if "hf" in name else x, 2, method, **METHODS[method])
    close(in_patches(found, expected.shape[1]) * (2 if name in TWO_READOUTS else 1), expected)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TEXTS)
def test_texts(name, method, kernel):
    model, ids = tiny_text.build_text(name, kernel), torch.arange(5, 23).view(2, 9)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    precise = {"compute_dtype": torch.float64, "checks": "off"}
    expected = clew.explain(model, given, method=method, target=2, **METHODS[method], **precise).all_scores
    last = model(**given).logits.ndim == 3
    target = (lambda output: output.logits[:, -1, 2]) if last else 2
    close(by_mass(model, given, target, method, **METHODS[method]), expected)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("method", ["attention_rollout", "generic_attribution", "gradient_attention_rollout"])
def test_from_a_later_layer_on(method, start):
    model, ids = tiny_text.build_text("bert"), torch.arange(5, 23).view(2, 9)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = clew.explain(model, given, method=method, target=2, start_layer=start, checks="off").all_scores
    close(by_mass(model, given, 2, method, start_layer=start), expected)


def test_attention_of_an_earlier_layer():
    model, x = tiny.build("timm_token"), tiny.images(tiny.TINY["timm_token"].size)
    expected = clew.explain(model, x, method="raw_attention", layer=1, checks="off").scores
    close(in_patches(by_mass(model, x, None, "raw_attention", layer=1), expected.shape[1]), expected)


@pytest.mark.parametrize("quadrature", ["gauss_legendre", "uniform"])
@pytest.mark.parametrize("method", ["beyond_intuition_head", "beyond_intuition_token"])
@pytest.mark.parametrize(
    "name",
    ["timm_token", "timm_registers_average", "timm_layer_scale", "hf_vit", "torchvision_vit", "timm_attention_pool"],
)
def test_feedback_of_images(name, method, quadrature):
    """Every row of the last attention that the head reads has its own: one, all, or those of a pool."""
    model, x = tiny.build(name), tiny.images(tiny.TINY[name].size)
    options = {"start_layer": 0, "n_steps": 4, "quadrature": quadrature}
    expected = clew.explain(model, x, method=method, target=2, compute_dtype=torch.float64, checks="off", **options)
    found = by_mass(model, {"pixel_values": x} if "hf" in name else x, 2, method, **options)
    close(in_patches(found, expected.scores.shape[1]), expected.scores)


@pytest.mark.parametrize("method", [*METHODS, "attention_gradcam", "transformer_attribution", "chefer"])
def test_the_first_pass_over_a_model_with_own_functions(method):
    """BLOOM's activation is an autograd function; every method finds that by itself, in whatever order they come."""
    ids = torch.arange(5, 23).view(2, 9)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"variant": method} if method == "chefer" else METHODS.get(method, {})
    name = "generic_attribution" if method == "chefer" else method
    by_mass(tiny_text.build_text("bloom", "eager"), given, lambda o: o.logits[:, -1, 0], name, **options)
