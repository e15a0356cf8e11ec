"""Attention: fused, written out by hand, and `nn.MultiheadAttention`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...rules import (
    Half,
    Identity,
    Stop,
    Taylor,
    as_gradient,
    share,
)
from ...seam import FusedAttention, multi_head_attention
from ...shapes import at_least_float32
from ..tape import Tape
from . import Args, Call, Kwargs, handles, plain

# Attention


@handles("multi_head_attention_forward")
def mha(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    return tape.seen(multi_head_attention, args, {**kwargs, "batch_first": True})


@handles("scaled_dot_product_attention")
def sdpa(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    c = FusedAttention(*args, **kwargs).for_all_heads()
    query, key, mask = c.query, c.key, c.attn_mask
    softmax_rule, product_rule = tape.rule("softmax"), tape.rule("matmul")
    fused = isinstance(softmax_rule, (Taylor, Stop)) and isinstance(product_rule, Half)
    if mask is not None and mask.requires_grad:  # a bias made of the input gets its part
        fused = False
    tape.behind_attention()
    if not fused:
        return tape.seen(eager_attention, (query, key, c.value, mask, c.is_causal, c.scale), {})
    assert isinstance(product_rule, Half)
    if isinstance(softmax_rule, Stop):
        query, key = query.detach(), key.detach()
    rows = None if c.is_causal or mask is not None else tape.rows_that_matter(query)
    if rows is None:
        return _fused(tape, func, query, key, c.value, mask, c.is_causal, c.scale, product_rule)
    some = _fused(tape, func, query[:, :, rows], key, c.value, None, False, c.scale, product_rule)
    return some.new_zeros(*query.shape[:3], some.shape[3]).index_copy(2, rows, some)


def _fused(
    tape: Tape,
    func: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    rule: Half,
) -> Tensor:
    """Attention through the model's own kernel: its gradients, halved at each product, are AttnLRP's.

    Relevance of the scores `x = QKᵀ·scale + mask` is `Σ x·g_x = Σ q·g_q + Σ mask·g_x`; the rest of the half that `A`
    got is the softmax's.
    """
    attends, valued = q.requires_grad or k.requires_grad, v.requires_grad
    half = rule.fraction
    to_v = half if attends or rule.halve_stopped else 1.0
    to_a = half if valued else 1.0
    to_qk = to_a * (half if q.requires_grad and k.requires_grad else 1.0)
    # One factor for all goes in at the output, the rest at queries and keys.
    common = to_v if valued else to_a
    page, layer, sums = tape.page("attention"), tape.block, dict[str, Tensor]()
    tape.at_beginning(sums.clear)
    biased = mask is not None and mask.dtype != torch.bool and attends

    def at_output(g: Tensor, o: Tensor | None) -> Tensor:
        assert o is not None
        S = share(o * g, o, rule.epsilon, rule.signed, page) if rule.epsilon else g
        sums["o"] = tape.relevance(o, S)
        if biased and mask is not None:
            sums["mask"] = tape.per_example(mask_relevance(q, k, v, o, S, mask, causal, scale))
        handed = S if common == 1 else common * S
        if layer is not None and attends and tape.keep_attention:
            tape.attention[layer] = handed * (to_a / common)
        if seen_call is not None and attends:
            seen_call.S = handed * (to_a / common)
        return handed

    def at_scores(g: Tensor, x: Tensor | None) -> Tensor:
        sums["scores"] = tape.relevance(x, g) / common
        return g * (to_qk / common)

    def account() -> None:
        if "o" not in sums:
            return
        if attends:
            scores, bias = sums["scores"], sums.get("mask", torch.zeros_like(sums["o"]))
            page.leak("softmax", to_a * (sums["o"] - scores - bias))
            if biased:
                page.leak("attention_bias", to_a * bias)
            if half != 0.5:
                more_v, more_qk = (1 - to_a - to_v) * valued, to_a - to_qk * (q.requires_grad + k.requires_grad)
                page.leak("copies", more_v * sums["o"] + more_qk * scores)
        elif to_v != 1:
            page.leak("stopped", (1 - to_v) * sums["o"])

    tape.at_end(account)
    if q.requires_grad:
        seen = tape.hook_backward(q, at_scores, keep=True), tape.scaled(k, to_qk / common)
    else:
        seen = q, tape.hook_backward(k, at_scores, keep=True)
    y = func(*seen, v, attn_mask=mask, is_causal=causal, scale=scale)
    seen_call = tape.attends(y)
    return tape.hook_backward(y, at_output, keep=True)


@torch.no_grad()
def mask_relevance(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, S: Tensor, mask: Tensor, causal: bool, scale: float | None
) -> Tensor:
    """`Σ_ij mask_ij · A_ij (S_i·v_j - S_i·o_i)`, of every (batch, head), a block of queries at a time."""
    q, k, v, o, per_unit = map(at_least_float32, (q, k, v, o, S))
    total = q.new_zeros(*q.shape[:2])
    mask = mask.expand(*mask.shape[:-2], q.shape[-2], k.shape[-2])
    size = max(1, 2**23 // (q.shape[0] * q.shape[1] * k.shape[2]))
    for rows in torch.arange(q.shape[2], device=q.device).split(size):
        bias = mask[..., rows, :]
        logits = (q[:, :, rows] @ k.mT) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale) + bias
        if causal:
            later = torch.arange(k.shape[2], device=q.device) > rows[:, None]
            logits = logits.masked_fill(later, -math.inf)
        g = logits.softmax(-1) * (
            per_unit[:, :, rows] @ v.mT - (per_unit[:, :, rows] * o[:, :, rows]).sum(-1, keepdim=True)
        )
        total += torch.where(g == 0, 0.0, bias * g).sum((-2, -1))
    return total


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """Attention in steps, for rules that need its scores."""
    logits = torch.matmul(q, k.mT) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        # Not minus infinity: a query at padding may see nothing at all.
        least = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~mask, least) if mask.dtype == torch.bool else logits + mask
    return torch.matmul(torch.softmax(logits, -1), v)


@handles("matmul", "bmm", "mm", "__matmul__", "__rmatmul__")
def matmul(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    a, b = (*args, *kwargs.values())[:2]
    args, kwargs = (), {}
    if getattr(func, "__name__", "") == "__rmatmul__":
        a, b, func = b, a, torch.matmul
    if tape.gates:
        a, b = tape.held_fixed(a, b)
    if isinstance(b, torch.nn.Parameter) and b.ndim == 2 and not b.requires_grad and not kwargs:
        return tape.seen(torch.nn.functional.linear, (a, b.mT), {})  # a projection that is written as a product
    second = id(a) in tape.probs  # softmax times values
    both = a.requires_grad and b.requires_grad
    rule = tape.rule("matmul") if both or second else Half()
    if not isinstance(rule, Half):
        return plain(tape, "matmul", rule, func, args, kwargs)
    page, layer = tape.page("matmul"), tape.block
    # Models scale scores before or after the product; the stabiliser is one of the product of unscaled tensors.
    epsilon = rule.epsilon * tape.scales.get(id(a), 1.0) * tape.scales.get(id(b), 1.0)
    stopped = second and not both and rule.halve_stopped
    factor = rule.fraction if both or stopped else 1.0

    def at_output(g: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        S = share(y * g, y, epsilon, rule.signed, page) if epsilon else g
        if stopped:
            page.leak("stopped", (1 - factor) * y * S)
        if both and factor != 0.5:
            page.leak("copies", (1 - 2 * factor) * y * S)
        if second and both and layer is not None and tape.keep_attention:
            # Some models keep heads on the axis of examples.
            heads = S.unflatten(0, (tape.batch, -1)) if S.ndim == 3 and len(S) > tape.batch else S
            tape.attention[layer] = factor * heads
        if seen_call is not None and a.requires_grad:
            seen_call.S = factor * S
        return S

    y = func(tape.scaled(a, factor), tape.scaled(b, factor), *args[2:], **kwargs)
    seen_call = tape.attends(y) if second else None
    if epsilon or second or factor == rule.fraction != 0.5:
        y = tape.hook_backward(y, at_output, keep=True)
    if both and not second and tape.keeps_calls:
        tape.logits[id(y)] = y
    return y


@handles("softmax")
def softmax(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    rule = tape.rule("softmax")
    y = _softmax(tape, rule, func, args, kwargs)
    if tape.in_attention:
        tape.probs[id(y)] = y
    return y


def _softmax(tape: Tape, rule: Any, func: Call, args: Args, kwargs: Kwargs) -> Any:
    page = tape.page("softmax")
    if isinstance(rule, Taylor):
        return tape.bracket("softmax", "softmax", func, args, kwargs)
    if isinstance(rule, Stop):
        return func(*args, **kwargs).detach()
    if not isinstance(rule, Identity):
        return plain(tape, "softmax", rule, func, args, kwargs)

    def identity(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        assert inputs is not None and y is not None
        return (as_gradient(y * g, inputs[0], page, rule.epsilon),)

    return tape.ruled(lambda x: func(x, *args[1:], **kwargs), identity, rule.saves, args[0])


@handles("baddbmm")
def baddbmm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
        product = tape.seen(torch.bmm, (batch1, batch2), {})
        product = product if alpha == 1 else tape.seen(torch.mul, (product, alpha), {})
        return product if beta == 0 else tape.seen(torch.add, (product, input * beta), {})

    return call(*args, **kwargs)


@handles("masked_fill")
def masked_fill(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, mask: Tensor, value: Any) -> Any:
        return _chosen(tape, func(input, mask, value), (value, mask), (input, ~mask))

    return call(*args, **kwargs)


@handles("where")
def where(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(condition: Tensor, input: Any, other: Any) -> Any:
        y = torch.where(condition, input, other)
        return _chosen(tape, y, (input, condition), (other, ~condition))

    if func is Tensor.where:  # called on the values
        args = (args[1], args[0], *args[2:])
    return call(*args, **kwargs)


def _chosen(tape: Tape, y: Any, *choices: tuple[Any, Tensor]) -> Any:
    """`y`, put together of values where a mask chose them: what chosen constants get is booked."""
    page, cause = tape.page("where"), "attention_bias" if tape.place == "attention" else "constant"

    def back(g: Tensor, _: Tensor | None) -> None:
        for value, chosen in choices:
            if not (isinstance(value, Tensor) and value.requires_grad):
                page.leak(cause, torch.where(chosen & (g != 0), value * g, 0.0))

    return tape.hook_backward(y, back)
