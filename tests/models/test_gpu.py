"""A GPU gives what the CPU gives: every architecture, method and kind of result. Skipped where there is none.

`CLEW_TEST_DEVICE=cpu` runs these tests without one, which shows only that they can be run.
"""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.commands import run
from support.plain_calls import streams_of
from support.running import QUIET
from support.tiny import TINY, images
from support.tiny import build as build_vision
from support.tiny_pairs import NO_TEXT, PAIRS, build_pair
from support.tiny_text import TINY_TEXT, build_text, padded, texts
from support.zoo import ZOO, build, called

import clew
from clew.seam.quantized import float_weight, is_quantized

DEVICE = os.environ.get("CLEW_TEST_DEVICE") or "cuda"
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")

FEW = {"beyond_intuition_head": {"n_steps": 2}, "beyond_intuition_token": {"n_steps": 2}, "dave": {"n_samples": 2}}
FEW |= {"tis": {"n_masks": 6}, "smoothgrad": {"n_samples": 2}, "integrated_gradients": {"n_steps": 3}}
METHODS = list(clew.methods())
TEXT_METHODS = [name for name, method in clew.methods().items() if not method.images]
REVIEWS = [r.text for r in clew.reviews(3)]


def there(value):
    """Tensors of an input, on the GPU."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE)
    if isinstance(value, dict):
        return {k: there(v) for k, v in value.items()}
    return tuple(map(there, value)) if isinstance(value, tuple) else value


def same(one, other, within=1e-8):
    """Scores of every stream, and what a result shows of them."""
    found, expected = streams_of(other), streams_of(one)
    assert set(found) == set(expected)
    for name, part in found.items():
        a, b = (p.all_scores if hasattr(p, "all_scores") else p.scores for p in (expected[name], part))
        a, b = a.cpu(), b.cpu()
        size = float(a.abs().max()) or 1.0
        assert float((a - b).abs().max()) <= within * size, name
        np.testing.assert_allclose(part.to_numpy(), expected[name].to_numpy(), rtol=0, atol=within * size)


def captions(name):
    """Token numbers of three texts, each with the number that ends one for its model."""
    ids = torch.randint(8, 58, (3, 6), generator=torch.Generator().manual_seed(5))
    ids[:, 0], ids[:, -1] = 1, {"clip_end_token": 7, "open_clip_custom_text": 7, "metaclip2": 2}.get(name, 59)
    return ids


def explained(model, there_model, inputs, method, **options):
    given = {"method": method, "target": 1, "compute_dtype": torch.float64, **FEW.get(method, {}), **options}
    return clew.explain(model, inputs, **given), clew.explain(there_model, there(inputs), **given)


@pytest.mark.parametrize("name", list(TINY))
def test_architectures_of_pictures(name):
    model, x = build_vision(name), images(TINY[name].size)
    moved = copy.deepcopy(model).to(DEVICE)
    known = name.startswith(("timm_eva", "hf_beit", "pair_eva")) and name != "hf_beit_cls"
    for method in METHODS:
        if not (known and method == "tis"):
            same(*explained(model, moved, x, method))


@pytest.mark.parametrize("name", list(TINY_TEXT))
def test_architectures_of_texts(name):
    model, inputs = build_text(name), padded(texts()[:2])
    moved = copy.deepcopy(model).to(DEVICE)
    first = inputs["attention_mask"].argmax(1).tolist()
    target = [clew.Token(i + 3, 1) for i in first] if "tokens" in name else None if "answers" in name else 1
    for method in TEXT_METHODS:
        same(*explained(model, moved, inputs, method, target=target), 1e-4)  # cos and sin of positions are in float32


@pytest.mark.parametrize("name", list(PAIRS))
def test_pictures_with_texts(name):
    model, x = build_pair(name), images((32, 32))
    moved = copy.deepcopy(model).to(DEVICE)
    ids = captions(name)
    for method in ("raw_attention", "beyond_intuition_token", "attn_lrp", "grad_eclip"):
        options = {"method": method, "compute_dtype": torch.float64, **FEW.get(method, {})}
        for side in ("image",) if name in NO_TEXT or method == "grad_eclip" else ("image", "text"):
            targets = (clew.Similarity(list(numbers)) for numbers in (ids, ids.to(DEVICE)))
            one, other = (
                clew.explain(m, pixels, target=target, side=side, **options)
                for m, pixels, target in zip((model, moved), (x, x.to(DEVICE)), targets, strict=True)
            )
            same(one, other)


@pytest.mark.parametrize("name", list(ZOO))
def test_any_model(name):
    specimen = build(name)
    moved = copy.deepcopy(specimen.model).to(DEVICE)
    for method in ("input_x_gradient", "attn_lrp", "res_lrp", "attention_rollout"):
        results, errors = [], []
        for model, inputs in ((specimen.model, specimen.inputs), (moved, there(specimen.inputs))):
            with torch.no_grad():
                called(model, copy.deepcopy(inputs))
            try:
                found = clew.explain(model, copy.deepcopy(inputs), method=method, target=specimen.score)
            except clew.errors.ClewError as error:
                errors.append(error)
            else:
                results.append(found)
        assert len(results) == 2 or (len(errors) == 2 and method == "attention_rollout"), errors
        if results:
            same(*results, 1e-4)  # of models that compute in float32 inside


# From loading to files


@pytest.mark.parametrize("method", ["random", "raw_attention", "beyond_intuition_token", "attn_lrp", "pa_lrp"])
def test_a_picture_from_file_to_page(method, tmp_path):
    picture = clew.scenes("digits").images[0]
    one, other = (clew.explain(clew.load("mini:digits", device=d), picture, method=method) for d in ("cpu", DEVICE))
    same(one, other, 1e-3)
    np.testing.assert_allclose(one.heatmap().cpu(), other.heatmap().cpu(), rtol=0, atol=1e-3)
    for ending in ("html", "png", "csv", "json", "npy", "safetensors"):
        other.save(tmp_path / f"a.{ending}")
    assert clew.Attribution.load(tmp_path / "a.safetensors").scores.device.type == "cpu"
    assert len(other.to_dataframe()) == len(one.to_dataframe())
    assert other.to_html() and str(other)
    clew.figure([one, other], tmp_path / "figure.png")


def test_texts_from_words_to_page(tmp_path):
    for name in ("bert", "llama"):
        one, other = (clew.explain(clew.load(f"mini:reviews-{name}", device=d), REVIEWS) for d in ("cpu", DEVICE))
        same(one, other, 1e-3)
        assert [[t.token for t in row] for row in one.top(3)] == [[t.token for t in row] for row in other.top(3)]
        for ending in ("html", "csv", "json", "npy", "safetensors"):
            other.save(tmp_path / f"a.{ending}")
        assert other[0].to_html() and str(other)


def test_an_answer_to_a_picture():
    scene, found = next(iter(clew.chat_scenes())), []
    for device in ("cpu", DEVICE):
        model, asked = clew.load("mini:digits-chat", device=device), {"images": [scene.image], "text": scene.question}
        found.append(clew.explain_generation(model, asked, max_new_tokens=3, method="attn_lrp"))
    assert found[0].outputs == found[1].outputs
    same(*found, 1e-3)
    assert found[1].to_html()


def test_an_answer_and_its_sources(writer):
    moved = copy.copy(writer)
    moved.model = copy.deepcopy(writer.model).to(DEVICE)
    context = "once upon a time. there was a cat. the cat said hello."
    prompt = f"{context} what was there?"
    one, other = (clew.Sources(m, prompt, context=context, answer=" a cat") for m in (writer, moved))
    np.testing.assert_allclose(one.explain().scores.cpu(), other.explain().scores.cpu(), rtol=0, atol=1e-4)
    one, other = (clew.explain_generation(m, prompt, max_new_tokens=3, method="attn_lrp") for m in (writer, moved))
    assert one.outputs == other.outputs
    same(one, other, 1e-3)


@pytest.mark.parametrize(
    ("benchmark", "model", "data"),
    [
        ("segmentation", "mini:digits", "mini:digits"),
        ("perturbation", "mini:digits", "mini:digits"),
        ("sanity", "mini:digits", "mini:digits"),
        ("flipping", "mini:reviews-llama", "mini:reviews"),
        ("rationale", "mini:reviews-bert", "mini:reviews"),
    ],
)
def test_benchmarks(benchmark, model, data, tmp_path):
    options = {**QUIET, "methods": ["random", "raw_attention", "attn_lrp"], "limit": 4}
    rows = []
    for device in ("cpu", DEVICE):
        found = clew.evaluate(
            benchmark, clew.load(model, device=device), data, out=tmp_path / f"on-{device}", **options
        )
        assert found.failed == 0
        rows.append({(r["method"], r["metric"]): r["value"] for r in found.summary()})
    assert rows[0].keys() == rows[1].keys()
    for key, value in rows[0].items():
        assert value == pytest.approx(rows[1][key], rel=2e-2, abs=2e-2, nan_ok=True), key


def test_commands(tmp_path):
    clew.scenes("digits").images[0].save(tmp_path / "x.png")
    found = run("explain", str(tmp_path / "x.png"), "-m", "mini:digits", "--device", DEVICE, "--json")
    assert json.loads(found.stdout)
    found = run("doctor", "mini:digits", "--device", DEVICE)
    assert found.exit_code == 0, found.output


# As models run on a GPU


def test_autocast():
    model = clew.load("mini:reviews-llama", device=DEVICE)
    plain = clew.explain(model, REVIEWS, method="attn_lrp", target=0)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = clew.explain(model, REVIEWS, method="attn_lrp", target=0)
    assert torch.is_autocast_enabled(DEVICE) is False
    a, b = plain.scores.flatten().cpu(), found.scores.flatten().cpu()
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.98


def test_a_model_is_explained_in_double_precision_and_called_as_it_is():
    """Convolutions round to TF32 by default, and so does the call that an explanation is compared with."""
    import timm

    for model in (clew.load("mini:digits").model, timm.create_model("vit_tiny_patch16_224").eval()):
        side = getattr(model, "patch_embed", None)
        x = torch.randn(2, 3, *(side.img_size if side is not None else (model.config.image_size,) * 2), device=DEVICE)
        found = clew.explain(model.to(DEVICE), x, method="attn_lrp", compute_dtype=torch.float64)
        assert "forward" in found.checks["verified"]  # a difference beyond what float32 allows would have been refused


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_models_are_explained_as_what_their_weights_stand_for(bits):
    packed = clew.load("mini:reviews-llama", quantize=bits, device=DEVICE)
    assert next(packed.model.parameters()).device.type == torch.device(DEVICE).type
    floats = clew.load("mini:reviews-llama", device=DEVICE)
    with torch.no_grad():
        for path, layer in packed.model.named_modules():
            if is_quantized(layer):
                floats.model.get_submodule(path).weight.copy_(float_weight(layer))
    for method in ("raw_attention", "generic_attribution", "attn_lrp", "pa_lrp", "input_x_gradient"):
        one, other = (clew.explain(model, REVIEWS, method=method, target=1) for model in (floats, packed))
        same(one, other, 1e-4)
        assert other.checks["weights"].endswith("explained with their weights in floats")


def test_a_compiled_model():
    model, x = build_vision("timm_token").float().to(DEVICE), images(TINY["timm_token"].size).float().to(DEVICE)
    plain = clew.explain(model, x, method="attn_lrp")
    assert float(plain.checks["unexplained"].abs().max()) < 1e-3
    found = clew.explain(torch.compile(model), x, method="attn_lrp")
    same(plain, found, 1e-3)


def test_a_default_device():
    with torch.device(DEVICE):
        model = clew.load("mini:digits", device=DEVICE)
        for method in METHODS:
            options = {"method": method, **FEW.get(method, {})}
            assert torch.isfinite(clew.explain(model, clew.scenes("digits").images[0], **options).scores).all()


def test_inputs_elsewhere_than_the_model():
    """Numbers on the CPU are taken to where the model is, as files are."""
    model = build_vision("timm_token").to(DEVICE)
    x = images(TINY["timm_token"].size)
    same(clew.explain(model, x.to(DEVICE), method="attn_lrp"), clew.explain(model, x, method="attn_lrp"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_in_half_precision(dtype):
    """Torch's flash kernel keeps no probabilities; what is seen of it is compared with its own output."""
    torch.manual_seed(0)
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, max_position_embeddings=512, **sizes)).eval().to(DEVICE)
    ids = torch.randint(5, 100, (1, 256), device=DEVICE)
    half = copy.deepcopy(model).to(dtype)
    backends = [torch.nn.attention.SDPBackend.FLASH_ATTENTION, torch.nn.attention.SDPBackend.MATH]
    for method in ("raw_attention", "attention_rollout", "generic_attribution", "attn_lrp", "in_flow", "token_tm"):
        one = clew.explain(model, ids, method=method, target=7).scores
        with torch.nn.attention.sdpa_kernel(backends, set_priority=True):
            other = clew.explain(half, ids, method=method, target=7).scores
        a, b = one.flatten().cpu(), other.float().flatten().cpu()
        assert float(F.cosine_similarity(a, b, 0)) > 0.98, method
