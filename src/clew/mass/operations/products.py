"""Products of two tensors; softmax attention is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...seam import by_position, matrix_product, multi_head_attention, tensors_in
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
        mark = tape.mark_of(other)
        if tape.carries(x) and mark is not None and mark.probabilities and not tape.carries(other):
            known = tape.mark_of(y)
            assert known is not None
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
    if name_of(func) == "__rtruediv__":
        return length(tape, func, args, kwargs)
    if not tape.carries(a):
        return length(tape, func, args, kwargs)
    if not tape.carries(b):
        return each(tape, func, args, kwargs)
    y = tape.computed(func, args, kwargs)
    return tape.marked(tape.switched(y, lambda g: (summed(g, a),), a))


@at("addmm", "addbmm", "baddbmm")
def add_product(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`β·c + α·a b`: mass goes through the product."""
    c, a, b = args[:3]
    if func is not torch.addmm or tape.carries(b):  # scores of attention are written so
        return _product_of_two(tape, func, args, kwargs, [t for t in (a, b) if tape.carries(t)])
    x = a if tape.carries(a) else c
    y = tape.computed(func, args, kwargs)
    return as_before(
        tape, tape.switched(y, lambda g: (spread(g, x) if x is a else summed(g, x),), x), [x], through(y.shape[-1])
    )


@at("matmul", "__matmul__", "bmm", "mm", "mv")
def matmul(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    args, kwargs = by_position(args, kwargs)
    a, b = args[:2]
    mark = tape.mark_of(a)
    if mark is not None and mark.probabilities and not tape.carries(a):
        return tape.site(b, Seen(probs=a.detach()), tape.computed(func, (a, b), {}))
    if tape.carries(a) and tape.carries(b):
        return _product_of_two(tape, func, args, kwargs, [a, b])
    y = tape.computed(func, args, kwargs)
    if tape.carries(a):  # times weights
        if b.ndim == 1:
            return tape.marked(tape.switched(y, lambda g: ((g[..., None] / a.shape[-1]).expand(a.shape),), a))
        back: Call = lambda g: (summed(spread(g, y.new_empty(()).expand(*y.shape[:-1], a.shape[-1])), a),)  # noqa: E731
        return as_before(tape, tape.switched(y, back, a), [a], through(y.shape[-1]))
    with torch.no_grad():  # a fixed matrix that mixes tokens
        weights = a.detach().abs()
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    back = lambda g: (summed(weights.mT @ g, b),)  # noqa: E731
    return tape.marked(tape.switched(y, back, b))


def _product_of_two(tape: MassPass, func: Call, args: Args, kwargs: Kwargs, inputs: list[Tensor]) -> Any:
    """A product of two things that depend on the input. Of scores no mass comes back; of the similarity that is
    explained each gets half; attention without a softmax is refused."""
    y, found, where = tape.computed(func, args, kwargs), len(tape.sites), tape.where
    a = args[-2]

    def back(g: Tensor) -> Sequence[Tensor | None]:
        if len(tape.sites) > found:
            tape.refuse_linear_attention(where)
        values: list[Tensor | None] = []
        for x in inputs:
            whole = g.sum(-1, keepdim=True) if x is a else g.sum(-2, keepdim=True)
            whole = whole / (len(inputs) * x.shape[-1 if x is a else -2])
            values.append(summed(whole.expand(*whole.shape[:-2], *x.shape[-2:]), x))
        return values

    return tape.marked(tape.switched(y, back, *inputs))


@at("einsum")
def einsum(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    args = (_spelt_out(args[0], args[1:]), *args[1:])
    form = matrix_product(args)
    if form is not None:
        given = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
        for old, new in zip(cast("Sequence[Tensor]", given), form.factors, strict=True):
            if (mark := tape.mark_of(old)) is not None:
                tape.known_as(new, mark)
        return tape.seen(form.of, (matmul(tape, torch.matmul, form.factors, {}),), {})
    inputs = [t for t in tensors_in(args, kwargs) if tape.carries(t)]
    y = tape.computed(func, args, kwargs)
    operands: list[Tensor] = list(args[1] if isinstance(args[1], (list, tuple)) else args[1:])
    if "->" not in args[0] or len(operands) > 2 or "." in args[0]:
        return tape.refused(y, "an Einstein sum of more than two tensors", *inputs)
    names, out = args[0].replace(" ", "").split("->")
    names = names.split(",")

    def back(g: Tensor) -> Sequence[Tensor]:
        ones = [torch.ones_like(t) for t in operands]
        shared = g / torch.einsum(args[0], *ones) / len(inputs)
        found: list[Tensor] = []
        for i, x in enumerate(operands):
            if not tape.carries(x):
                continue
            others = [(n, o) for j, (n, o) in enumerate(zip(names, ones, strict=True)) if j != i]
            missing = set(names[i]) - set(out) - {c for n, _ in others for c in n}
            assert not missing
            expression = ",".join([out, *(n for n, _ in others)]) + "->" + names[i]
            found.append(torch.einsum(expression, shared, *(o for _, o in others)))
        return found

    return tape.marked(tape.switched(y, back, *inputs))


def _spelt_out(expression: Any, operands: Sequence[Any]) -> Any:
    """An Einstein sum whose `...` are letters."""
    if not isinstance(expression, str) or "..." not in expression or "->" not in expression:
        return expression
    if operands and isinstance(operands[0], (list, tuple)):
        operands = operands[0]
    names, out = expression.replace(" ", "").split("->")
    most = ""
    spelt: list[str] = []
    for name, x in zip(names.split(","), operands, strict=False):
        letters = "ABCDEFGH"[: x.ndim - len(name.replace("...", ""))] if "..." in name else ""
        most = max(most, letters, key=len)
        spelt.append(name.replace("...", letters))
    return ",".join(spelt) + "->" + out.replace("...", most)


@at("scaled_dot_product_attention")
def sdpa(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if enable_gqa and key.shape[-3] != query.shape[-3]:
            more = query.shape[-3] // key.shape[-3]
            key = tape.seen(torch.repeat_interleave, (key, more), {"dim": -3})
            value = tape.seen(torch.repeat_interleave, (value, more), {"dim": -3})
        options = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale}
        y = tape.computed(func, (query, key, value), options)
        mask = None if attn_mask is None else attn_mask.detach()
        seen = Seen(None, query.detach(), key.detach(), scale, mask, is_causal)
        return tape.site(value, seen, y)

    return call(*args, **kwargs)


@at("multi_head_attention_forward")
def mha(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    return tape.seen(multi_head_attention, args, {**kwargs, "batch_first": True})
