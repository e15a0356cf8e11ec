"""Products of several tensors in one call: each that depends on the input gets its equal part."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...rules import Half
from ..tape import Tape
from . import Args, Call, Kwargs, handles, plain


@handles("einsum", "dot", "vdot", "inner", "outer", "ger", "mv", "tensordot", "kron", "cross", "chain_matmul",
         "bilinear", where=(torch.linalg.vecdot, torch.linalg.cross, torch.linalg.multi_dot))  # fmt: skip
def multilinear(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    listed = next((i for i, a in enumerate(args) if isinstance(a, (list, tuple)) and _tensors(a)), None)
    values: list[Any] = list(cast("list[Any]", args[listed])) if listed is not None else list(args)
    tracked = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    rule = tape.rule("matmul") if len(tracked) > 1 else Half()
    if not isinstance(rule, Half):
        return plain(tape, "matmul", rule, func, args, kwargs)
    held = tape.held_fixed(*values)
    tracked = [i for i in tracked if held[i].requires_grad]
    part = 1 / len(tracked) if rule.fraction == 0.5 else rule.fraction
    if len(tracked) > 1:
        held = [tape.scaled(v, part) if i in tracked else v for i, v in enumerate(held)]
    if listed is not None:
        held = [*args[:listed], held, *args[listed + 1 :]]
    return tape.gate_as(func(*held, **kwargs), *values)


def _tensors(values: Any) -> bool:
    return bool(values) and all(isinstance(v, Tensor) for v in values)


@handles("addcmul")
def addcmul(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Any:
        product = tape.seen(torch.mul, (tensor1, tensor2), {})
        return tape.seen(torch.add, (input, product if value == 1 else product * value), {})

    return call(*args, **kwargs)


@handles("addcdiv")
def addcdiv(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Any:
        ratio = tape.seen(torch.div, (tensor1, tensor2), {})
        return tape.seen(torch.add, (input, ratio if value == 1 else ratio * value), {})

    return call(*args, **kwargs)


@handles("lerp")
def lerp(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`(1 - w) a + w b`."""

    def call(input: Tensor, end: Tensor, weight: Any) -> Any:
        rest = (
            tape.seen(torch.add, (-weight, 1), {})
            if isinstance(weight, Tensor) and weight.requires_grad
            else 1 - weight
        )
        first, second = tape.seen(torch.mul, (input, rest), {}), tape.seen(torch.mul, (end, weight), {})
        return tape.seen(torch.add, (first, second), {})

    return call(*args, **kwargs)


@handles("div", "__truediv__", "__div__", "true_divide", "divide", "__rtruediv__", "__rdiv__")
def div(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """What something is divided by is a length, held fixed; a constant divided by it is a gate."""
    a, b = args[:2]
    if getattr(func, "__name__", "") in ("__rtruediv__", "__rdiv__"):
        a, b = b, a
    if kwargs.get("rounding_mode") is not None:
        return torch.div(a, b, **kwargs).detach()
    if not (isinstance(b, Tensor) and b.requires_grad):
        return tape.gate_as(torch.div(a, b), a)
    if isinstance(a, Tensor) and a.requires_grad:
        return tape.gate_as(torch.div(a, b.detach()), a)
    y = tape.bracket("div", "nonlinearity", torch.div, (a, b), {})
    tape.gate(y)
    return y


@handles("grid_sample")
def grid_sample(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Where to look is held fixed; what is seen there gets everything."""
    given: dict[str, Any] = {
        **dict(zip(("input", "grid", "mode", "padding_mode", "align_corners"), args, strict=False)),
        **kwargs,
    }
    given["grid"] = given["grid"].detach()
    return func(**given)


@handles("solve_triangular", "inverse", where=(torch.linalg.solve_triangular, torch.linalg.solve, torch.linalg.inv))
def solve(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A mixing matrix (of gated delta rules) is held fixed, what it mixes gets everything."""
    mixing = tuple(a.detach() if i == 0 else a for i, a in enumerate(args))
    return func(*mixing, **kwargs)


@handles("maximum", "minimum", "fmax", "fmin", "max", "min")
def extreme(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Of two tensors the larger, entry by entry, hands on; of one the largest."""
    values: list[Any] = [*args, *kwargs.values()]
    if len(values) < 2 or not isinstance(values[1], Tensor):
        return func(*args, **kwargs)
    a, b = values[:2]
    larger = getattr(func, "__name__", "").startswith(("max", "fmax"))
    return tape.seen(torch.where, (a >= b if larger else a <= b, a, b), {})


@handles("hypot", "cdist")
def distance(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Linear along both inputs together: its own gradient conserves."""
    y = func(*args, **kwargs)
    tape.gate(y)
    return y


@handles("complex", "polar")
def complex_number(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Linear in both parts; of a length and an angle the angle is held fixed."""

    def call(a: Tensor, b: Tensor) -> Any:
        return func(a, b.detach() if func is torch.polar and a.requires_grad else b)

    return call(*args)
