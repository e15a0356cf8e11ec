"""Linear layers, convolutions, norms and activations."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from ...rules import (
    Affine,
    AffineRule,
    FixedStd,
    Identity,
    as_gradient,
    share,
)
from ...seam import input_gradient, linear_of, rows_read
from ..tape import Tape
from . import Args, Call, Kwargs, handles, plain

# Linear layers and convolutions


@handles("linear")
def linear(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        x = tape.mark(input, "classifier") if tape.place == "head" else tape.used_by_linear(input)
        rows = rows_read(x, tape.batch, x.shape[1], tape.reads) if tape.read and x.ndim == 3 else None

        def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
            return linear_of(x, W, b, rows)

        return affine(tape, "linear", x, weight, bias, apply, lambda S, W: input_gradient(S, W, rows))

    return call(*args, **kwargs)


@handles("addmm")
def addmm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`b + x W`, as GPT-2 writes its linear layers."""
    b, x, W = args[:3]
    if kwargs or W.requires_grad or b.requires_grad:
        return tape.without_rule("addmm", func, args, kwargs)

    def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
        return F.linear(x, W, b)

    return affine(tape, "linear", x, W.mT, b, apply, lambda S, W: S @ W)


@handles("rsqrt")
def rsqrt(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The deviation of a norm that is written out, as RMS norms of Llama and its kin are: held fixed, relevance goes
    through `x / σ · w` as it is. `norm`'s identity is the same there, as nothing is subtracted or added."""
    rule = tape.rule("norm")
    if isinstance(rule, (FixedStd, Identity)):
        return func(*args, **kwargs).detach()
    return plain(tape, "norm", rule, func, args, kwargs)


@handles("conv2d")
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
        def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
            return F.conv2d(x, W, b, stride, padding, dilation, groups)

        pair = (stride, stride) if isinstance(stride, int) else tuple(stride)
        padding = 0 if padding == "valid" else padding
        patches = pair == weight.shape[2:] and padding in (0, (0, 0)) and dilation in (1, (1, 1)) and groups == 1

        def pull(S: Tensor, W: Tensor) -> Tensor:
            if patches:
                return _from_patches(S, W, input.shape[2:])
            return conv2d_input(input.shape, W, S, stride, padding, dilation, groups)  # pyright: ignore[reportArgumentType]

        return affine(tape, "conv", input, weight, bias, apply, pull)

    return call(*args, **kwargs)


def _from_patches(S: Tensor, W: Tensor, size: Any) -> Tensor:
    """The transpose of a convolution whose patches do not overlap: one matrix product, faster than the general way."""
    (_, channels, down, across), (batch, _, rows, columns) = W.shape, S.shape
    pixels = (S.flatten(2).mT @ W.flatten(1)).view(batch, rows, columns, channels, down, across)
    image = pixels.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * down, columns * across)
    return F.pad(image, (0, size[1] - image.shape[3], 0, size[0] - image.shape[2]))


def affine(tape: Tape, operation: str, x: Tensor, W: Tensor, b: Tensor | None, apply: Call, pull: Call) -> Any:
    """`y = apply(x, W, b)` under its rule."""
    rule = tape.rule(operation)
    if not isinstance(rule, AffineRule):
        return plain(tape, operation, rule, apply, (x, W, b), {})
    weight, bias = W.detach(), None if b is None else b.detach()
    page, at_pixels = tape.page(operation), x is tape.leaf

    def back(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        op = Affine(inputs[0] if inputs else None, y, weight, bias, apply, pull)
        handed = rule.affine(op, g, page)
        if rule.currency == "gradient":
            return (handed,)
        if at_pixels:
            tape.pixels = handed
            return (torch.zeros_like(handed),)
        return (as_gradient(handed, op.input, page),)

    return tape.ruled(lambda x: apply(x, weight, bias), back, rule.saves, x)


# Norms and activations


@handles("layer_norm")
def layer_norm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> Any:
        kept: list[Tensor] = []
        shape = list(normalized_shape)
        axes = tuple(range(-len(shape), 0))

        def compute(x: Tensor) -> Tensor:
            y, _, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
            kept.append(rstd)
            return y

        def pull(g: Tensor) -> Tensor:
            G = g.clone() if weight is None else g * weight
            return G.sub_(G.mean(axes, keepdim=True)).mul_(kept[0])

        return norm(tape, func, args, kwargs, input, compute, pull, bias, eps)

    return call(*args, **kwargs)


@handles("rms_norm")
def rms_norm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Any:
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        kept: list[Tensor] = []
        axes = tuple(range(-len(normalized_shape), 0))

        def compute(x: Tensor) -> Tensor:
            kept.append((x.square().mean(axes, keepdim=True) + eps).rsqrt())
            return func(x, normalized_shape, weight, eps)

        def pull(G: Tensor) -> Tensor:
            return (G if weight is None else G * weight) * kept[0]

        return norm(tape, func, args, kwargs, input, compute, pull, None, eps)

    return call(*args, **kwargs)


def norm(
    tape: Tape,
    func: Call,
    args: Args,
    kwargs: Kwargs,
    x: Tensor,
    compute: Call,
    pull: Call,
    bias: Tensor | None,
    eps: float,
) -> Any:
    """A norm under its rule; `pull` is the gradient of the norm whose deviation is fixed."""
    rule = tape.rule("norm")
    if not isinstance(rule, (FixedStd, Identity)):
        return plain(tape, "norm", rule, func, args, kwargs)
    page = tape.page("norm")

    def fixed(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        G = g if y is None else share(y * g, y, eps, False, page)
        if bias is not None:
            page.leak("bias", G.reshape(tape.batch, -1, bias.numel()).sum(1) * bias.flatten())
        return (pull(G),)

    def identity(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        assert inputs is not None and y is not None
        return (as_gradient(y * g, inputs[0], page, getattr(rule, "epsilon", 0.0)),)

    tape.used(x)
    if tape.place == "head":
        x = tape.mark(x, "norm")
    y = tape.ruled(compute, fixed if isinstance(rule, FixedStd) else identity, rule.saves, x)
    return tape.mark(y, "pooled") if tape.place == "head" else tape.forks(y)


@handles("normalize")
def normalize(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Features brought to length 1: the length is the deviation of a norm, held fixed."""

    def call(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
        rule = tape.rule("norm")
        if not isinstance(rule, (FixedStd, Identity)):
            return plain(tape, "norm", rule, func, args, kwargs)
        return input / input.detach().norm(p, dim, keepdim=True).clamp(min=eps)

    return call(*args, **kwargs)


@handles("gelu", "silu", "relu", "relu6", "leaky_relu", "elu", "mish", "hardswish", "tanh")
def activation(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    rule = tape.rule("activation")
    if not isinstance(rule, Identity):
        return plain(tape, "activation", rule, func, args, kwargs)
    kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}

    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        y = func(x, *args[1:], **kwargs)
        return y, (y / x).nan_to_num_(nan=0.0)  # an exact zero has no relevance to hand on

    y = tape.ruled(compute, lambda g, inputs, ratio: (g * cast(Tensor, ratio),), (), args[0])
    tape.activated[id(y)] = y
    return y


@handles("sigmoid")
def sigmoid(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    rule = tape.rule("activation")
    if not isinstance(rule, Identity):
        return plain(tape, "activation", rule, func, args, kwargs)
    return func(*args, **kwargs).detach()  # a gate: x σ(x) hands everything to x
