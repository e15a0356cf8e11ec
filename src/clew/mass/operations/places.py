"""Convolutions and pooling, whose places overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...seam import tensors_in
from ..mass_pass import MassPass
from . import Args, Call, Kwargs, as_before, at, name_of


@at("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Each place hands its mass evenly to the places that it covers, and evenly to their channels."""
    given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    x, W, rest = given.pop("input"), given.pop("weight"), args[3:]
    y = tape.computed(func, args, kwargs)
    if not tape.carries(x):
        return tape.refused(y, "a convolution whose weights depend on the input", *tensors_in(args, kwargs))
    names = ("stride", "padding", "dilation")
    if "transpose" in name_of(func):
        names = ("stride", "padding", "output_padding", "groups", "dilation")
    options = {**dict(zip(names, rest, strict=False)), **given}
    options = {k: v for k, v in options.items() if k not in ("bias", "groups")}

    def back(g: Tensor) -> Sequence[Tensor]:
        lead, axes = W.ndim - 1, W.ndim - 2
        with torch.enable_grad():
            seen = x.new_zeros(*x.shape[:-lead], 1, *x.shape[-axes:]).requires_grad_()
            ones = torch.ones(1, 1, *W.shape[2:], dtype=x.dtype, device=x.device)
            covered = func(seen, ones, None, **options)
            with torch.no_grad():
                count = func(torch.ones_like(seen), ones, None, **options)
                share = g.sum(-lead, keepdim=True) / count.clamp(min=1)
            handed = torch.autograd.grad(covered, seen, share)[0]
        return ((handed / x.shape[-lead]).expand(x.shape),)

    return as_before(tape, tape.switched(y, back, x), [x])


@at("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Shared by the places that are there; what was put around them gets nothing."""
    x = args[0] if args else kwargs.pop("input")
    y, rest = tape.computed(func, args, kwargs), args[1:]

    def back(g: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            seen = torch.zeros_like(x).requires_grad_()
            covered = func(seen, *rest, **kwargs)
            with torch.no_grad():
                whole = func(torch.ones_like(x), *rest, **kwargs)
            return (torch.autograd.grad(covered, seen, g / whole)[0],)

    return tape.marked(tape.switched(y, back, x))


@at("grid_sample")
def grid_sample(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    inputs = [t for t in tensors_in(args, kwargs) if tape.carries(t)]
    y = tape.computed(func, args, kwargs)
    return tape.refused(y, "places that are sampled (deformable attention), of which no attention is known", *inputs)
