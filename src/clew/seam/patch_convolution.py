"""Convolutions of pictures whose patches do not overlap: each is one matrix product, backwards, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def in_patches(weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether a convolution's kernels stand side by side."""
    steps = (stride,) * (weight.ndim - 2) if isinstance(stride, int) else tuple(stride)
    plain = padding in (0, (0, 0), "valid") and dilation in (1, (1, 1)) and groups == 1
    return weight.ndim == 4 and steps == tuple(weight.shape[2:]) and plain


def from_patches(g: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """The transpose of such a convolution: the gradient of pictures of a `size`, much faster than the general way."""
    (_, channels, down, across), (batch, _, rows, columns) = weight.shape, g.shape
    pixels = (g.flatten(2).mT @ weight.flatten(1)).view(batch, rows, columns, channels, down, across)
    image = pixels.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * down, columns * across)
    return F.pad(image, (0, size[1] - image.shape[3], 0, size[0] - image.shape[2]))


class _PatchConvolution(torch.autograd.Function):
    """Such a convolution with frozen weights, pulled back by a matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size = x.shape[2:]
        return F.conv2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return from_patches(gradients[0], weight, ctx.size), None, None, None


def patch_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv2d` for the gradient of its input alone."""
    frozen = not weight.requires_grad and not (bias is not None and bias.requires_grad)
    if frozen and input.ndim == 4 and input.requires_grad and in_patches(weight, stride, padding, dilation, groups):
        return cast(Tensor, _PatchConvolution.apply(input, weight, bias, stride))
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
