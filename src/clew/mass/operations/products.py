"""Products of two tensors; softmax attention is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...seam import FusedAttention, by_position, matrix_product, multi_head_attention, tensors_in
from ...shapes import at_least_float32
from ..mass_pass import MassPass
from ..site import Seen
from . import Args, Call, Kwargs, as_before, at, each, name_of, spread, summed, through
from .tokens import length


@at("mul", "__mul__", "__rmul__", "multiply")
def mul(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    args, kwargs = by_position(args, kwargs)
    y = each(tape, func, args, kwargs)
    a, b = args[:2]
    for x, other in ((a, b), (b, a)):
        if tape.is_probable(other) and tape.carries(x) and not tape.carries(other):
            known = tape.mark_of(y)
            if known is not None:
                known.weights = cast(Tensor, other).detach()
    return y


@at("glu")
def glu(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`a · σ(b)` of the two halves of a tensor."""

    def call(input: Tensor, dim: int = -1) -> Any:
        a, b = tape.seen(torch.chunk, (input, 2, dim), {})
        return tape.seen(torch.mul, (a, tape.seen(torch.sigmoid, (b,), {})), {})

    return call(*args, **kwargs)


@at("div", "__truediv__", "true_divide", "divide", "__rtruediv__")
def div(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """What something is divided by is a length, which gets no mass."""
    args, kwargs = by_position(args, kwargs)
    a, b = args[:2]
    if name_of(func) == "__rtruediv__" or not tape.carries(a):
        return length(tape, func, args, kwargs)
    if not tape.carries(b):
        return each(tape, func, args, kwargs)
    y, shape = tape.computed(func, args, kwargs), a.shape
    return tape.marked(tape.switched(y, lambda g: (summed(g, shape),), a))


@at("addmm", "addbmm", "baddbmm")
def add_product(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`β·c + α·a b`: mass goes through the product."""
    batched = func is not torch.addmm and func is not Tensor.addmm
    names = ("input", *(("batch1", "batch2") if batched else ("mat1", "mat2")))
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    c, a, b = (given[name] for name in names)
    added, shape = c.shape, a.shape
    y = tape.computed(func, args, kwargs)
    if not (tape.carries(a) or tape.carries(b)):
        return tape.marked(tape.switched(y, lambda g: (summed(g, added),), c))
    if batched or tape.carries(b):  # scores of attention are written so
        return _multilinear(tape, y, torch.bmm if batched else torch.mm, (a, b))
    return as_before(tape, tape.switched(y, lambda g: (spread(g, shape),), a), [a], through(y.shape[-1]), layer=True)


@at("matmul", "__matmul__", "bmm", "mm", "mv")
def matmul(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    args, kwargs = by_position(args, kwargs)
    a, b = args[:2]
    y = tape.computed(func, args, kwargs)
    if tape.is_probable(a) and not tape.carries(a) and b.ndim > 1:
        return tape.site(b, Seen(probs=a.detach()), y, a)
    made = _multilinear(tape, y, func, args)
    return made if tape.carries(b) else as_before(tape, made, [a], through(y.shape[-1]), layer=True)


@at("einsum")
def einsum(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    args = (args[0], *(args[1] if isinstance(args[1], (list, tuple)) else args[1:]))
    if len(args) == 3 and tape.is_probable(args[2]) and not tape.is_probable(args[1]):
        names, out = args[0].split("->")
        args = (",".join(reversed(names.split(","))) + f"->{out}", args[2], args[1])
    form = matrix_product(args) if len(args) == 3 and tape.is_probable(args[1]) else None
    if form is None:
        return _multilinear(tape, tape.computed(func, args, kwargs), func, args)
    for old, new in zip(args[1:], form.factors, strict=True):
        if (mark := tape.mark_of(old)) is not None:
            tape.known_as(new, mark)
    return tape.seen(form.of, (matmul(tape, torch.matmul, form.factors, {}),), {})


@at("dot", "vdot", "inner", "outer", "tensordot", where=(torch.linalg.vecdot, torch.linalg.multi_dot))
def product(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    return _multilinear(tape, tape.computed(func, args, kwargs), func, args, kwargs)


def _multilinear(tape: MassPass, y: Tensor, func: Call, args: Args, kwargs: Kwargs | None = None) -> Any:
    """A product of tensors `func(*args)`: what carries mass gets equal parts, even over what is summed, or by the sizes
    of the fixed numbers that it is multiplied with.

    Of scores no mass comes back, the similarity that is explained has it of both sides, attention without a softmax is
    refused.
    """
    several = [t for t in tensors_in(args, {}) if tape.carries(t)]
    inputs = list({id(t): t for t in several}.values())
    found, where = len(tape.sites), tape.where

    def back(g: Tensor) -> Sequence[Tensor | None]:
        if len(several) > 1 and len(tape.sites) > found:
            why = "a product of two tensors that depend on the input: attention without a softmax has no probabilities"
            raise tape.refusal(why, where)
        with torch.enable_grad():
            ones = {id(t): torch.ones_like(t).requires_grad_() for t in inputs}

            def sizes(value: Any) -> Any:
                if isinstance(value, (list, tuple)):
                    return [sizes(one) for one in cast("list[Any]", value)]
                return ones.get(id(value), value.detach().abs()) if isinstance(value, Tensor) else value

            covered = func(*map(sizes, args), **(kwargs or {}))
        nothing = covered.detach() == 0  # it is multiplied by zeros alone
        tape.constants += at_least_float32(g * nothing).sum()
        share = torch.where(nothing, 0.0, g / covered.detach() / len(several))
        return torch.autograd.grad(covered, list(ones.values()), share)

    return tape.marked(tape.switched(y, back, *inputs))


@at("scaled_dot_product_attention")
def sdpa(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def repeat(values: Tensor, more: int, **axis: int) -> Any:
        return tape.seen(torch.repeat_interleave, (values, more), axis)

    c = FusedAttention(*args, **kwargs).for_all_heads(repeat)
    options = {"attn_mask": c.attn_mask, "is_causal": c.is_causal, "scale": c.scale}
    y = tape.computed(func, (c.query, c.key, c.value), options)
    mask = None if c.attn_mask is None else c.attn_mask.detach()
    seen = Seen(None, c.query.detach(), c.key.detach(), c.scale, mask, c.is_causal)
    return tape.site(c.value, seen, y, c.query, c.key)


@at("multi_head_attention_forward")
def mha(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    return tape.seen(multi_head_attention, args, {**kwargs, "batch_first": True})
