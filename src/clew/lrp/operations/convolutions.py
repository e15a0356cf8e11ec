"""Convolutions of one to three axes, and transposed ones."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from ...seam import from_patches, in_patches
from ..tape import Tape
from . import Args, Call, Kwargs, handles
from .layers import affine

_FUNCTIONS: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_GRADIENTS: Any = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


@handles("conv1d", "conv2d", "conv3d")
def conv(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        axes = weight.ndim - 2
        if input.ndim == weight.ndim - 1:  # one example without its axis
            return tape.seen(func, (input[None], weight, bias, stride, padding, dilation, groups), {})[0]
        if padding == "same":
            input, padding = _padded(input, weight, dilation), 0
        padding = 0 if padding == "valid" else padding
        convolve = _FUNCTIONS[axes]

        def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
            return convolve(x, W, b, stride, padding, dilation, groups)

        patches = in_patches(weight, stride, padding, dilation, groups)

        def pull(S: Tensor, W: Tensor) -> Tensor:
            if patches:
                return from_patches(S, W, input.shape[2:])
            return _GRADIENTS[axes](input.shape, W, S, stride, padding, dilation, groups)

        return affine(tape, "conv", input, weight, bias, apply, pull)

    return call(*args, **kwargs)


@handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        axes = weight.ndim - 2

        def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
            return _TRANSPOSED[axes](x, W, b, stride, padding, output_padding, groups, dilation)

        def pull(S: Tensor, W: Tensor) -> Tensor:
            return _FUNCTIONS[axes](S, W, None, stride, padding, dilation, groups)

        return affine(tape, "conv", input, weight, bias, apply, pull)

    return call(*args, **kwargs)


def _padded(x: Tensor, W: Tensor, dilation: Any) -> Tensor:
    """The input with the zeros that `padding="same"` adds: of an odd number one more behind."""
    axes = W.ndim - 2
    steps = (dilation,) * axes if isinstance(dilation, int) else tuple(dilation)
    sides: list[int] = []
    for size, step in zip(reversed(W.shape[2:]), reversed(steps), strict=True):
        whole = step * (size - 1)
        sides += [whole // 2, whole - whole // 2]
    return F.pad(x, sides)
