"""The seam by itself: what it recognises, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import copy
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from support import tiny
from torch import nn

import clew
from clew.errors import CaptureError
from clew.seam.capture import Capture
from clew.seam.precision import DoublePrecision
from clew.seam.twin import twin


class Handwritten(nn.Module):
    """Attention as some model files write it: cap, bias, cast to float32 and back, mask, dropout."""

    def __init__(self, way: str):
        super().__init__()
        self.way, self.bias = way, torch.randn(4, 7, 7).double()

    def forward(self, q, k, v):
        if self.way == "matmul":
            logits = torch.matmul(q, k.transpose(-2, -1)) * 0.5 + self.bias
            probs = F.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype)
            return torch.matmul(F.dropout(probs, 0.0), v)
        if self.way == "cap":
            logits = 3 * torch.tanh((q @ k.mT) / 3)
            return logits.softmax(-1) @ v
        assert self.way == "sdpa"
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.3)


BATCH = 2


def qkv():
    return [torch.randn(2, 4, 7, 5).double() for _ in range(3)]


def watch(module, *inputs, leaf=None):
    with Capture([module], [module], BATCH, keep=frozenset({0}), leaf=leaf) as seam:
        output = module(*inputs)
    return output, seam.records[0]


@pytest.mark.parametrize("way", ["matmul", "cap", "sdpa"])
def test_probabilities_are_those_of_the_model(way):
    module, (q, k, v) = Handwritten(way), qkv()
    output, seen = watch(module, q, k, v)
    assert torch.equal(output, module(q, k, v))
    assert seen.backend == ("sdpa" if way == "sdpa" else "eager")
    tolerance = 1e-6 if way == "matmul" else 1e-12
    torch.testing.assert_close(seen.probabilities() @ v, output, rtol=0, atol=tolerance)
    torch.testing.assert_close(seen.probabilities(torch.tensor([2, 5])), seen.probabilities()[:, :, [2, 5]])


@pytest.mark.parametrize("mask", [None, "causal", "boolean", "additive", "row"])
def test_sdpa_masks(mask):
    q, k, v = qkv()
    masks = {
        "boolean": torch.rand(2, 1, 7, 7) > 0.2,
        "additive": torch.randn(7, 7).double(),
        "row": torch.tensor([0.0] * 6 + [-math.inf]).double().expand(2, 1, 1, 7),
    }
    chosen = masks.get(mask)
    if mask == "boolean":
        chosen = chosen | torch.eye(7, dtype=torch.bool)

    class Fused(nn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=chosen, is_causal=mask == "causal")

    output, seen = watch(Fused(), q, k, v)
    torch.testing.assert_close(seen.probabilities() @ v, output, rtol=1e-12, atol=1e-13)
    rows = torch.tensor([1, 6])
    torch.testing.assert_close(seen.probabilities(rows), seen.probabilities()[:, :, rows])


def test_grouped_queries_are_repeated():
    q, (k, v) = torch.randn(2, 4, 7, 5).double(), (torch.randn(2, 2, 7, 5).double() for _ in range(2))

    class Grouped(nn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    output, seen = watch(Grouped(), q, k, v)
    assert seen.v.shape == (2, 4, 7, 5)
    torch.testing.assert_close(output, Grouped()(q, k, v), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["v", "o"])
@pytest.mark.parametrize("way", ["cap", "sdpa"])
def test_the_leaf_starts_the_graph(way, name):
    q, k, v = qkv()
    output, seen = watch(Handwritten(way), q, k, v, leaf=(0, name))
    leaf = getattr(seen, name)
    assert leaf.is_leaf
    assert leaf.requires_grad
    assert torch.autograd.grad(output.sum(), leaf)[0].shape == leaf.shape


def test_attention_gradient_is_autograds():
    q, k, v = qkv()
    A = (q @ k.mT).softmax(-1).requires_grad_()
    score = ((A @ v) ** 3).sum()
    expected = torch.autograd.grad(score, A)[0]
    _, seen = watch(Handwritten("cap"), q, k, v, leaf=(0, "o"))
    o = (A @ v).detach().requires_grad_()
    g_o = torch.autograd.grad((o**3).sum(), o)[0]
    torch.testing.assert_close(seen.attention_gradient(g_o), expected, rtol=1e-12, atol=1e-12)


MHA = {
    "plain": {},
    "no_bias": {"bias": False},
    "other_widths": {"kdim": 6, "vdim": 10},
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("mask", [None, "causal", "per_head", "padding", "both"])
@pytest.mark.parametrize("kind", list(MHA))
def test_multi_head_attention_is_torchs_own_to_the_last_bit(kind, mask, need_weights, batch_first, frozen):
    torch.backends.mha.set_fastpath_enabled(False)
    module = nn.MultiheadAttention(12, 3, batch_first=batch_first, **MHA[kind]).double().eval()
    if frozen:
        module.requires_grad_(False)
    x = torch.randn(2, 7, 12).double()
    key, value = (x, x) if kind != "other_widths" else (torch.randn(2, 7, 6).double(), torch.randn(2, 7, 10).double())
    inputs = [t if batch_first else t.transpose(0, 1) for t in (x, key, value)]
    if kind != "other_widths":
        inputs = [inputs[0]] * 3
    options = {"need_weights": need_weights}
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
    if mask in ("causal", "both"):
        options |= {"attn_mask": causal, "is_causal": mask == "causal"}
    if mask == "per_head":
        options |= {"attn_mask": torch.randn(6, 7, 7).double()}
    if mask in ("padding", "both"):
        options |= {"key_padding_mask": padding}
    try:
        with torch.no_grad():
            expected, weights = module(*inputs, **options)
            lent = twin(module)
            with Capture([lent], [lent], BATCH, keep=frozenset({0})) as seam:
                found, found_weights = lent(*inputs, **options)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert torch.equal(found, expected)
    assert seam.records[0].backend == ("eager" if need_weights else "sdpa")
    if need_weights:
        assert torch.equal(found_weights, weights)
        torch.testing.assert_close(seam.records[0].probabilities().mean(1), weights)


def test_multi_head_attention_with_extra_keys_is_refused():
    module = nn.MultiheadAttention(12, 3, add_zero_attn=True, batch_first=True).eval()
    x = torch.randn(2, 7, 12)
    with pytest.raises(CaptureError, match="keys of its own"), Capture([module], [module], BATCH, keep=frozenset({0})):
        module(x, x, x)
    assert not module._forward_hooks


def test_two_attention_calls_in_one_block_are_refused():
    class Twice(Handwritten):
        def forward(self, q, k, v):
            return super().forward(q, k, v) + super().forward(q, k, v)

    with pytest.raises(CaptureError, match="twice"):
        watch(Twice("sdpa"), *qkv())


def test_another_model_run_inside_is_not_seen():
    inner, outer = Handwritten("sdpa"), Handwritten("sdpa")
    q, k, v = qkv()
    with Capture([outer], [outer], BATCH, keep=frozenset({0})) as seam:
        inner(q, k, v)
        assert not seam.records
        outer(q, k, v)
    assert list(seam.records) == [0]


def test_other_threads_are_not_seen():
    module = Handwritten("sdpa")
    q, k, v = qkv()
    with Capture([module], [module], BATCH, keep=frozenset({0})) as seam:
        thread = threading.Thread(target=module, args=(q, k, v))
        thread.start()
        thread.join()
        assert not seam.records


def test_hooks_are_gone_after_an_error():
    module = Handwritten("sdpa")
    with pytest.raises(AttributeError), Capture([module], [module], BATCH, keep=frozenset({0}), hidden=frozenset({0})):
        module(1, 2, 3)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_threads_explain_one_model_at_once():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    expected = clew.explain(model, x, method="beyond_intuition_head", target=1).scores
    found: list[torch.Tensor] = []

    def work():
        found.append(clew.explain(model, x, method="beyond_intuition_head", target=1).scores)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.allclose(f, expected, rtol=1e-10) for f in found)
    assert all(p.requires_grad for p in model.parameters())


def test_explaining_works_in_inference_mode_and_with_gradient_checkpointing():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    expected = clew.explain(model, x, method="generic_attribution").scores
    with torch.inference_mode():
        inside = clew.explain(model, x * 1.0, method="generic_attribution").scores
    assert torch.equal(inside, expected)
    model.set_grad_checkpointing(True)
    assert torch.equal(clew.explain(model, x, method="generic_attribution").scores, expected)
    assert model.grad_checkpointing


def test_a_compiled_or_wrapped_model_is_explained_as_the_model_inside():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    expected = clew.explain(model, x, method="raw_attention").scores
    in_place = copy.deepcopy(model)
    in_place.blocks[1].compile()
    for wrapped in (torch.compile(model), nn.DataParallel(model), in_place):
        assert torch.equal(clew.explain(wrapped, x, method="raw_attention").scores, expected)


class _Casts(nn.Module):
    """What models do to be exact in half precision, and what costs them digits in double precision."""

    def forward(self, x):
        x = x.to(torch.float32).float().type(torch.float32).to(dtype=torch.float32)
        x = F.softmax(x, dim=-1, dtype=torch.float32).to(torch.float64) + torch.softmax(x, -1, torch.float32)
        return x.type_as(torch.zeros(1)) * 3


class _RotaryTables(nn.Module):
    def forward(self, x):
        return x.float()


def test_casts_to_shorter_floats_are_left_out_but_for_rotary_tables():
    x = torch.randn(3, 4, dtype=torch.float64)
    casts, tables = _Casts(), _RotaryTables()
    both = nn.ModuleList([casts, tables])
    with DoublePrecision(both):
        found, table = casts(x), tables(x)
        assert x.to("cpu").dtype == torch.float64
        assert x.half().dtype == torch.float64
        assert x.to(torch.int64).dtype == torch.int64
    torch.testing.assert_close(found, 2 * x.softmax(-1) * 3, rtol=0, atol=0)
    assert table.dtype == torch.float32
    assert casts(x).dtype == torch.float32
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in both.modules())
