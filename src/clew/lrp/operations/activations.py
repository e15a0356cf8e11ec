"""Functions of single numbers: activations, powers, bounds."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...rules import FixedStd, Identity
from ...seam import tensors_in
from ..residual import single_entries
from ..tape import Tape
from . import Args, Call, Kwargs, handles, in_place, plain


@handles("gelu", "silu", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "mish", "hardswish", "tanh", "prelu",
         "rrelu", "softsign", "tanhshrink", "softshrink", "hardshrink", "threshold", "hardtanh", "erf", "abs",
         "absolute", "__abs__", "square", "sqrt", "expm1", "log1p", "arcsinh", "asinh", "atan", "arctan", "sinh", "tan",
         "asin", "arcsin", where=(torch.special.erf, torch.special.expm1, torch.special.log1p))  # fmt: skip
def activation(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A function of single numbers that is 0 at 0: all relevance goes through, `g · f(x)/x`."""
    rule = tape.rule("activation")
    if not isinstance(rule, Identity):
        return plain(tape, "activation", rule, func, args, kwargs)
    if kwargs.get("inplace"):
        return _in_place(tape, func, args, kwargs)
    kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}

    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        y = func(x, *args[1:], **kwargs)
        return y, (y / x).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # an exact zero has no relevance to hand on

    y = tape.ruled(compute, lambda g, inputs, ratio: (g * cast(Tensor, ratio),), (), args[0])
    single_entries(y)
    tape.activated[id(y)] = y
    return tape.gate_as(y, args[0])


def _in_place(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The argument itself is changed, whether or not the model takes what is returned."""
    x = args[0]
    old = tape.moved(x, x.clone())
    return tape.moved(y := activation(tape, func, (old, *args[1:]), {**kwargs, "inplace": False}), x.copy_(y))


@handles("clamp", "clip", "clamp_min", "clamp_max")
def clamp(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Where a bound takes the place of a number, the bound gets its relevance."""
    x = args[0]
    if any(bound.requires_grad for bound in tensors_in(args[1:], kwargs)):
        return _between(tape, func, args, kwargs)
    y = func(*args, **kwargs)
    page, inside = tape.page("clamp"), (y == x).detach()

    def back(g: Tensor, y: Tensor | None) -> None:
        page.leak("constant", torch.where(inside, 0.0, cast(Tensor, y) * g))

    return tape.gate_as(tape.hook_backward(y, back, keep=True), x)


def _between(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A clamp by bounds that depend on the input: the larger, then the smaller of two tensors."""
    first = "max" if getattr(func, "__name__", "") == "clamp_max" else "min"
    given = {**dict(zip((first, "max"), args[1:], strict=False)), **kwargs}
    y = args[0]
    for name, choose in (("min", torch.maximum), ("max", torch.minimum)):
        if given.get(name) is not None:
            y = tape.seen(choose, (y, torch.as_tensor(given[name], dtype=y.dtype, device=y.device)), {})
    return y


@handles("pow", "__pow__", "__rpow__", "float_power")
def power(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`x^n`: all relevance goes through; a negative power is a length that something is divided by, held fixed."""
    base, exponent = (*args, *kwargs.values())[:2]
    if getattr(func, "__name__", "") == "__rpow__":
        base, exponent = exponent, base
    n = exponent if isinstance(exponent, (int, float)) else None
    if isinstance(exponent, Tensor) and not exponent.requires_grad and exponent.numel() == 1:
        n = float(exponent)
    if n is not None and n > 0:
        return activation(tape, torch.pow, (base, exponent), {})
    rule = tape.rule("norm")
    if n is not None and isinstance(rule, (FixedStd, Identity)):
        return func(*args, **kwargs).detach()
    y = tape.bracket("pow", "nonlinearity", func, args, kwargs)
    tape.gate(y)
    return y


@handles("glu")
def glu(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, dim: int = -1) -> Any:
        a, b = input.chunk(2, dim)
        return tape.seen(torch.mul, (a, tape.seen(torch.sigmoid, (b,), {})), {})

    return call(*args, **kwargs)


for _name in ("relu", "leaky_relu", "elu", "celu", "selu", "hardtanh", "tanh", "sqrt", "abs", "square", "erf",
              "expm1", "threshold", "rrelu", "silu", "mish", "hardswish"):  # fmt: skip
    in_place(_name, activation)
for _name in ("clamp", "clamp_min", "clamp_max", "clip"):
    in_place(_name, clamp)
in_place("pow", power)
