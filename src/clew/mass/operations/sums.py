"""Sums of branches, and of the numbers of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ...seam import by_position, tensors_in
from ...shapes import at_least_float32
from ..mass_pass import Mark, Masses, MassPass
from . import Args, Call, Kwargs, as_before, at, each, name_of, same, straight_from_attention, summed


@at("add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "subtract")
def add(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A sum of two branches gives half to each. Around an attention it is a residual, which shares as the method says;
    what is added of constants gets nothing, unless these are what goes past the attention."""
    args, kwargs = by_position(args, kwargs)
    a, b = args[:2]
    inputs = [t for t in (a, b) if tape.carries(t)]
    fresh = [t for t in inputs if straight_from_attention(tape, [t])]
    if fresh:
        branch = max(fresh, key=lambda t: cast(Mark, tape.mark_of(t)).site.number)
        skip, mark = b if branch is a else a, cast(Mark, tape.mark_of(branch))
        if len(fresh) == 2 and not set(cast(Mark, tape.mark_of(skip)).sites) <= mark.site.behind:
            return _beside(tape, tape.computed(func, args, kwargs), branch, skip, mark)
        earlier = isinstance(skip, Tensor) and tape.order_of(skip) <= mark.site.order
        if len(inputs) == 2 and not earlier:  # made beside the attention: a parallel MLP, not what goes past it
            shape = branch.shape
            made = tape.switched(tape.computed(func, args, kwargs), lambda g: (summed(g, shape),), branch)
            return as_before(tape, made, [branch], same)
        if len(inputs) == 2 or (earlier and skip.shape == branch.shape):
            return tape.marked(_residual(tape, tape.computed(func, args, kwargs), branch, skip, mark))
    if len(inputs) == 1:
        return each(tape, func, args, kwargs)
    y = tape.computed(func, args, kwargs)
    return tape.marked(tape.switched(y, _halved(a, b), a, b))


def _halved(a: Tensor, b: Tensor) -> Masses:
    """Half of the mass for each of two branches."""
    first, second = a.shape, b.shape
    return lambda g: (summed(g / 2, first), summed(g / 2, second))


def _beside(tape: MassPass, y: Tensor, branch: Tensor, other: Tensor, mark: Mark) -> Any:
    """The sum of two attentions, or of two parts of one."""
    beside = cast(Mark, tape.mark_of(other))
    if set(beside.sites) & set(mark.sites):
        made = tape.switched(y, _halved(branch, other), branch, other)
    else:
        made = _residual(tape, y, branch, other, replace(mark, rows=None))
    return tape.marked(made, sites=(*mark.sites, *beside.sites))


def _residual(tape: MassPass, y: Tensor, branch: Tensor, skip: Tensor, mark: Mark) -> Any:
    """The sum of what comes from an attention and what goes past it."""
    constant, shapes = not tape.carries(skip), (branch.shape, skip.shape)
    for site in mark.sites:
        tape.keep(site, "query", skip)
        tape.keep(site, "branch", branch if mark.linear is None else mark.linear)
        if tape.nodes is not None:
            tape.around[site.number] = mark

    def back(g: Tensor) -> Sequence[Tensor | None]:
        past, through = tape.residual(mark.site, mark)
        tape.made += at_least_float32(g * (past + through - 1)).sum()
        # Where nothing goes nothing is computed: attention is not made again.
        handed = [None if isinstance(part, float) and not part else part * g for part in (through, past)]
        if constant and handed[1] is not None:  # learned queries of a detector
            tape.constants += at_least_float32(handed[1]).sum()
        parts = zip(handed, shapes, strict=True)
        return [None if part is None else summed(part, shape) for part, shape in parts][: 1 if constant else 2]

    made = tape.switched(y, back, *([branch] if constant else [branch, skip]))
    for site in mark.sites:
        tape.keep(site, "sum", made)
    return made


@at("sum", "nansum", "logsumexp")
def total(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A sum shares its mass by the probabilities that its terms were multiplied with, else evenly; what is exactly 0
    was left out."""
    if name_of(func) == "logsumexp" and not tape.scoring:  # what a softmax divides by
        return tape.weighing(func, args, kwargs)
    x = args[0] if args else kwargs["input"]
    y, mark = tape.computed(func, args, kwargs), tape.mark_of(x)
    axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
    axes = tuple(range(x.ndim)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    kept = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    weights = None if mark is None or mark.weights is None else mark.weights
    zeros = x.detach().ne(0) if weights is None else None

    def back(g: Tensor) -> Sequence[Tensor]:
        if not kept:
            for axis in sorted(a % x.ndim for a in axes):
                g = g.unsqueeze(axis)
        if weights is not None:
            share = weights.expand(x.shape).abs().to(g)
        else:
            assert zeros is not None
            share = zeros.to(g.dtype)
            share = torch.where(share.sum(axes, keepdim=True) == 0, 1.0, share)
        return (g * (share / share.sum(axes, keepdim=True)),)

    return tape.marked(tape.switched(y, back, x))


@at("mean", "nanmean")
def mean(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    return tape.marked(func(*args, **kwargs))


@at("cumsum", "cumprod", "diff", "trace", "median",
    where=[getattr(torch.fft, name) for name in ("fft", "fft2", "fftn", "rfft", "rfft2", "rfftn")])  # fmt: skip
def mixing(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    y = tape.computed(func, args, kwargs)
    why = f"{name_of(func)!r}, which mixes tokens without attention"
    return tape.refused(y, why, *(t for t in tensors_in(args, kwargs) if tape.carries(t)))


@at("lstm", "gru", "rnn_tanh", "rnn_relu", where=(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu))
def recurrent(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    y = tape.computed(func, args, kwargs)
    return tape.refused(y, "a recurrent layer", *(t for t in tensors_in(args, kwargs) if tape.carries(t)))


@at("index_add", "scatter_add")
def accumulate(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """What is put on top of zeros gets all; on top of something, half."""
    names = ("input", "dim", "index", "source" if "index_add" in name_of(func) else "src")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    base, axis, index, source = (given[n] for n in names)
    inputs = [t for t in (base, source) if tape.carries(t)]
    y = tape.computed(func, args, kwargs)
    with torch.no_grad():
        hit = func(torch.zeros_like(base), axis, index, torch.ones_like(source))
        there = (base != 0) if tape.carries(base) else torch.zeros_like(base, dtype=torch.bool)
        kept = torch.where(hit == 0, 1.0, there.to(base.dtype) / 2)

    def back(g: Tensor) -> Sequence[Tensor]:
        found: list[Tensor] = []
        if tape.carries(base):
            found.append(g * kept)
        else:
            tape.constants += at_least_float32(g * (hit == 0)).sum()
        if tape.carries(source):
            rest = g * (1 - kept) / hit.clamp(min=1)
            found.append(rest.index_select(axis, index) if "index_add" in name_of(func) else rest.gather(axis, index))
        return found

    return tape.marked(tape.switched(y, back, *inputs))
