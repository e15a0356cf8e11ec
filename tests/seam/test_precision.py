"""Half precision, quantised weights, checkpointing, and models spread over devices."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

import clew
from clew.diagnosis import state
from clew.errors import InputError, LoadError
from clew.explainers import parse_method
from clew.seam.quantized import float_forward, float_weight, is_quantized, kernel_difference
from clew.seam.twin import twin

METHODS = [
    "raw_attention", "generic_attribution", "beyond_intuition_head", "beyond_intuition_token", "input_x_gradient",
    "attn_lrp", "cp_lrp", "pa_lrp", "transformer_attribution",
]  # fmt: skip
TEXTS = [r.text for r in clew.reviews(6)]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def agreement(one, other):
    """The mean rank correlation of the scores of real tokens."""
    pairs = zip(one.scores.cpu(), other.scores.cpu(), one.mask, strict=True)
    return sum(float(spearmanr(a[m], b[m]).statistic) for a, b, m in pairs) / len(one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_half_precision_ranks_like_single(name, dtype):
    full, half = (clew.load(f"mini:reviews-{name}", dtype=d) for d in (torch.float32, dtype))
    for method in METHODS:
        one = clew.explain(full, TEXTS, method=method)
        other = clew.explain(half, TEXTS, method=method)
        assert other.scores.dtype == torch.float32
        assert agreement(one, other) > 0.97, method  # 40 words that say nothing have scores near 0


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_checkpointing_changes_nothing_and_stays_on(name):
    model = clew.load(f"mini:reviews-{name}")
    plain = {m: clew.explain(model, TEXTS, method=m).scores for m in METHODS}
    enable = getattr(model.model, "activation_checkpointing_enable", None)  # its name from transformers 5 on
    (enable or model.model.gradient_checkpointing_enable)()
    before = state(model.model)
    for method, scores in plain.items():
        torch.testing.assert_close(clew.explain(model, TEXTS, method=method).scores, scores, rtol=0, atol=0)
    assert state(model.model) == before
    assert any(getattr(part, "gradient_checkpointing", False) for part in model.model.modules())


# Spread over devices


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_dispatched_model_is_explained_inside_its_hooks(name):
    from accelerate import dispatch_model

    model = clew.load(f"mini:reviews-{name}")
    plain = {m: clew.explain(model, TEXTS, method=m).scores for m in METHODS}
    model.model = dispatch_model(model.model, {"": "cpu"}, force_hooks=True)
    for method, scores in plain.items():
        torch.testing.assert_close(clew.explain(model, TEXTS, method=method).scores, scores, rtol=0, atol=1e-7)


@GPU
def test_a_model_on_two_devices():
    plain = clew.load("mini:reviews-llama")
    folder = plain.model.config._name_or_path
    spread = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": 0, "model.norm": 0}
    spread |= {"model.rotary_emb": "cpu", "score": 0}
    model = clew.load(folder, device_map=spread)
    for method in METHODS:
        one, other = (clew.explain(m, TEXTS, method=method, target=0) for m in (plain, model))
        torch.testing.assert_close(one.scores, other.scores.cpu(), rtol=1e-3, atol=1e-5)


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_what_the_cpu_gives(dtype):
    one = clew.load("mini:reviews-llama")
    other = clew.load("mini:reviews-llama", device="cuda", dtype=dtype)
    for method in METHODS:
        a, b = (clew.explain(m, TEXTS, method=method) for m in (one, other))
        assert agreement(a, b) > (0.999 if dtype == torch.float32 else 0.97), method


# Quantised


def in_floats(name, packed):
    """The same model with ordinary linear layers that hold what the packed weights stand for."""
    twin = clew.load(name)
    with torch.no_grad():
        for path, layer in packed.named_modules():
            if is_quantized(layer):
                twin.model.get_submodule(path).weight.copy_(float_weight(layer))
    return twin


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_quantised_models_are_explained_as_what_their_weights_stand_for(name, bits):
    model = clew.load(f"mini:reviews-{name}", quantize=bits)
    layers = [part for part in model.model.modules() if is_quantized(part)]
    assert len(layers) >= 12
    twin = in_floats(f"mini:reviews-{name}", model.model)
    for method in [*METHODS, "lrp(rules='gamma')", "lrp(rules='z_plus')"]:
        called, options = parse_method(method)
        one = clew.explain(model, TEXTS, method=called, target=1, **options)
        other = clew.explain(twin, TEXTS, method=called, target=1, **options)
        close = {"rtol": 0, "atol": 2e-5 * float(other.scores.abs().max())}
        torch.testing.assert_close(one.scores.float(), other.scores, **close)
        if "unexplained" in one.checks:
            assert float(one.checks["unexplained"].abs().max()) < 1e-4
        assert one.checks["weights"].startswith(f"{len(layers)} quantised layers")
        assert "weights" not in other.checks
    assert all("forward" not in vars(part) for part in layers)
    with pytest.raises(InputError, match="in its own precision"):
        clew.explain(model, TEXTS, compute_dtype=torch.float64)


def test_a_packed_weight_is_not_kept_for_the_backward_pass():
    layer = clew.load("mini:reviews-bert", quantize="4bit").model.bert.encoder.layer[0].intermediate.dense
    x = torch.randn(1, 3, 96, requires_grad=True)
    y = float_forward(layer)(x)
    held = [getattr(y.grad_fn, name) for name in dir(y.grad_fn) if name.startswith("_raw_saved")]
    assert all(not isinstance(t.data, torch.Tensor) or t.data.numel() < layer.in_features for t in held)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, float_weight(layer).float().sum(0).expand_as(g), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "quantize", "message"),
    [
        ("mini:reviews-bert", "2bit", "4bit or 8bit"),
        ("timm:vit_tiny_patch16_224", "4bit", "does not take quantize"),
    ],
)
def test_what_cannot_be_quantised(name, quantize, message):
    with pytest.raises(LoadError, match=message):
        clew.load(name, quantize=quantize)


def test_a_checkpoint_is_not_quantised_silently(tmp_path):
    model = clew.load("mini:reviews-bert").model
    model.save_pretrained(tmp_path / "folder")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(LoadError, match="without quantize= or device_map="):
        clew.load(tmp_path / "folder", checkpoint=tmp_path / "weights.pth", quantize="4bit")


# 4-bit weights that bitsandbytes packs anew at the first plain call, on processors with AVX512-BF16


@pytest.fixture(params=[("nf4", False), ("nf4", True), ("fp4", False)], ids=["nf4", "nf4-nested", "fp4"])
def four_bits(request, tmp_path):
    """A model whose 4-bit weights fit that packing, and the folder of its float weights."""
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForSequenceClassification

    kind, nested = request.param
    config = LlamaConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=256,
        vocab_size=96, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    there = {"quantization_config": four, "device_map": {"": "cpu"}}  # on the GPU by default, where there is one
    model = LlamaForSequenceClassification.from_pretrained(tmp_path, **there).eval()
    return model, [part for part in model.modules() if is_quantized(part)]


def on_such_a_processor(layers, yes):
    for layer in layers:
        layer.support_avx512bf16_for_cpu = yes


def pack_anew(layers):
    """What a plain call does to the weights there; bitsandbytes' own function, which needs no such processor."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu

    for layer in layers:
        state = layer.weight.quant_state
        layer.weight.data, layer.weight.quant_state = _convert_weight_packed_for_cpu(layer.weight.data, state)


def literal_weight(layer, *, rounded):
    """Number by number: the code of each half of a byte, times the scale of its block of 64."""
    from bitsandbytes.functional import dequantize_blockwise

    state = layer.weight.quant_state
    absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    absmax = absmax.bfloat16().float() if rounded else absmax
    halves = [half for byte in layer.weight.data.flatten().tolist() for half in (byte >> 4, byte & 0xF)]
    scales, code = absmax.tolist(), state.code.tolist()
    values = [code[number] * scales[place // state.blocksize] for place, number in enumerate(halves)]
    return torch.tensor(values).view(state.shape)


def test_4_bit_weights_are_read_in_both_orders(four_bits):
    _, layers = four_bits
    layers = layers[:3]
    on_such_a_processor(layers, False)
    for layer in layers:
        torch.testing.assert_close(float_weight(layer), literal_weight(layer, rounded=False), rtol=1e-6, atol=1e-8)
    expected = [literal_weight(layer, rounded=True) for layer in layers]
    assert all(not torch.equal(w, float_weight(layer)) for w, layer in zip(expected, layers, strict=True))
    on_such_a_processor(layers, True)
    before = [float_weight(layer) for layer in layers]
    pack_anew(layers)
    for layer, w, first in zip(layers, expected, before, strict=True):
        assert torch.equal(float_weight(layer), first)
        torch.testing.assert_close(first, w, rtol=1e-6, atol=1e-8)


def test_4_bit_scores_are_the_same_before_and_after_weights_are_packed_anew(four_bits):
    model, layers = four_bits
    ids = torch.randint(1, 96, (2, 9))
    options = {"method": "attn_lrp", "target": 1, "checks": "off"}  # a call of ours would need that processor's kernel
    on_such_a_processor(layers, True)
    before = clew.explain(model, ids, **options).scores
    pack_anew(layers)
    assert torch.equal(clew.explain(model, ids, **options).scores, before)


def test_4_bit_models_are_explained_on_this_processor_called_or_not(four_bits):
    model, layers = four_bits
    ids = torch.randint(1, 96, (2, 9))
    states = [dict(vars(layer.weight.quant_state)) for layer in layers]
    before = clew.explain(model, ids, method="attn_lrp", target=1)
    for layer, state_ in zip(layers, states, strict=True):  # what the checks called has left no trace
        assert vars(layer.weight.quant_state).keys() == state_.keys()
        assert all(value is state_[name] for name, value in vars(layer.weight.quant_state).items())
    with torch.no_grad():
        model(ids)
    after = clew.explain(model, ids, method="attn_lrp", target=1)
    assert torch.equal(before.scores, after.scores)
    assert all(float(kernel_difference(layer)) < 0.01 for layer in layers)


def test_the_kernel_of_a_layer_tells_wrong_floats(four_bits, monkeypatch):
    import clew.seam.quantized as quantized

    _, layers = four_bits
    right = float_weight
    monkeypatch.setattr(quantized, "float_weight", lambda module: 1.05 * right(module))
    assert float(kernel_difference(layers[0])) > 0.04
    monkeypatch.undo()
    with torch.no_grad():
        twin(layers[0], as_is=True)(torch.randn(2, 128))
    assert not getattr(layers[0].weight.quant_state, "packing_format_for_cpu", False)


def test_4_bit_models_whose_sizes_do_not_fit_can_be_called():
    """96 columns are no multiple of 64: bitsandbytes would raise inside the plain call, on such a processor."""
    model = clew.load("mini:reviews-llama", quantize="4bit")
    ids = torch.randint(5, 90, (1, 7))
    with torch.no_grad():
        model.model(ids)
    found = clew.explain(model, ids, method="attn_lrp")
    assert "as_called" not in found.checks and found.checks["forward_difference"] < 0.05
