"""What works on each token by itself, and what only measures it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...seam import tensors_in
from ..mass_pass import SOFTMAX, MassPass
from . import Args, Call, Kwargs, as_before, at, each, same, spread, summed, through


@at("linear")
def linear(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    x = args[0] if args else kwargs["input"]
    y = tape.computed(func, args, kwargs)
    width, shape = y.shape[-1], x.shape
    if not tape.carries(x):  # weights made of the input
        return tape.refused(y, "weights of a linear layer that depend on the input", *tensors_in(args, kwargs))
    made = tape.switched(y, lambda g: (spread(g, shape),), x)
    return as_before(tape, made, [x], through(width), layer=True)


@at("layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "normalize")
def norm(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    x = args[0] if args else kwargs["input"]
    y = tape.computed(func, args, kwargs)
    return as_before(tape, tape.switched(y, lambda g: (g,), x), [x], same, linear=False)


@at("rsqrt", "var", "std", "norm", "var_mean", "std_mean", "reciprocal", "argmax", "argmin",
    where=(torch.linalg.norm, torch.linalg.vector_norm, torch.linalg.matrix_norm))  # fmt: skip
def length(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A length, by which something is divided: it gets no mass, unless it is what is explained, of an embedding."""
    x = args[0] if args else None
    if not (tape.scoring and func in _NORMS and isinstance(x, Tensor)):
        return tape.weighing(func, args, kwargs)
    y, shape = tape.computed(func, args, kwargs), x.shape
    kept = func(x.detach(), *args[1:], **{**kwargs, "keepdim": True}).shape
    return tape.marked(tape.switched(y, lambda g: (g.reshape(kept).expand(shape) * (kept.numel() / shape.numel()),), x))


_NORMS = frozenset({torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm})


@at("pow", "__pow__", "float_power")
def power(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    exponent = (*args, *kwargs.values())[1]
    negative = isinstance(exponent, (int, float)) and exponent < 0
    return (length if negative else each)(tape, func, args, kwargs)


@at("softmax", where=tuple(SOFTMAX))
def softmax(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Scores of attention get no mass, nor do those of routers. Of the score that is explained they keep it."""
    if tape.scoring:
        return each(tape, func, args, kwargs)
    return tape.weighing(func, args, kwargs, probabilities=True)


@at("cosine_similarity")
def cosine(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    a, b = args[:2]
    axis = kwargs.get("dim", args[2] if len(args) > 2 else 1)
    inputs = [t for t in (a, b) if tape.carries(t)]
    y, whole, shapes = (
        tape.computed(func, args, kwargs),
        torch.broadcast_shapes(a.shape, b.shape),
        [x.shape for x in inputs],
    )

    def back(g: Tensor) -> Sequence[Tensor]:
        return [_evenly(g.unsqueeze(axis) / len(shapes), whole, shape) for shape in shapes]

    return tape.marked(tape.switched(y, back, *inputs))


def _evenly(g: Tensor, whole: Sequence[int], shape: torch.Size) -> Tensor:
    """Mass of a result of axes of length 1, even over these axes of the `whole` shape."""
    return summed((g * (g.numel() / math.prod(whole))).expand(whole), shape)
