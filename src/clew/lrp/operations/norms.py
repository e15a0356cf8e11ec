"""Norms, whose deviation is held fixed; in evaluation mode a batch norm is a product and a sum with constants."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...rules import FixedStd, Identity, as_gradient, share
from ..tape import Tape
from . import Args, Call, Kwargs, handles, plain


@handles("rsqrt")
def rsqrt(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The deviation of a norm that is written out, as RMS norms of Llama and its kin are: held fixed, relevance goes
    through `x / σ · w` as it is. `norm`'s identity is the same there, as nothing is subtracted or added."""
    rule = tape.rule("norm")
    if isinstance(rule, (FixedStd, Identity)):
        return func(*args, **kwargs).detach()
    return plain(tape, "norm", rule, func, args, kwargs)


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
    page, by_token = tape.page("norm"), tape.by_token
    if not isinstance(rule, (FixedStd, Identity)):
        y = plain(tape, "norm", rule, func, args, kwargs)
        if by_token is None or bias is None or bias.ndim > 1:
            return y
        return tape.hook_backward(y, lambda g, _: by_token.add_bias(page, g @ bias))

    def fixed(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        G = g if y is None else share(y * g, y, eps, False, page)
        if bias is not None and by_token is not None and bias.ndim == 1:
            page.leak("bias", G @ bias)
        elif bias is not None and G.numel() % (tape.batch * bias.numel()):  # examples share its rows, which is told
            page.leak("bias", G * bias)
        elif bias is not None:
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


@handles("group_norm")
def group_norm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(
        input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Any:
        return _of_groups(tape, func, args, kwargs, input, num_groups, weight, bias, eps)

    return call(*args, **kwargs)


@handles("instance_norm")
def instance_norm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        if not use_input_stats:
            given = (input, running_mean, running_var, weight, bias, False, momentum, eps)
            return batch_norm(tape, F.batch_norm, given, {})
        return _of_groups(tape, func, args, kwargs, input, input.shape[1], weight, bias, eps)

    return call(*args, **kwargs)


def _of_groups(
    tape: Tape,
    func: Call,
    args: Args,
    kwargs: Kwargs,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Any:
    """A norm over groups of channels and all places, of each example."""
    per_channel = (1, -1, *[1] * (x.ndim - 2))
    kept: list[Tensor] = []

    def grouped(values: Tensor) -> Tensor:
        return values.reshape(len(values), groups, -1)

    def compute(x: Tensor) -> Tensor:
        variance = grouped(x).var(-1, unbiased=False, keepdim=True)
        kept.append((variance + eps).rsqrt())
        return func(*(x, *args[1:]), **kwargs)

    def pull(g: Tensor) -> Tensor:
        G = grouped(g if weight is None else g * weight.view(per_channel))
        return ((G - G.mean(-1, keepdim=True)) * kept[0]).reshape(g.shape)

    whole = None if bias is None else bias.view(per_channel).expand(1, *x.shape[1:])
    return norm(tape, func, args, kwargs, x, compute, pull, whole, eps)


@handles("batch_norm", where=(torch.batch_norm,))
def batch_norm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    if func is torch.batch_norm:
        return tape.without_rule("batch_norm", func, args, kwargs)

    def call(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        if training or running_mean is None or running_var is None:  # statistics of the batch join its examples
            return tape.without_rule("batch_norm", func, args, kwargs)
        tape.rule("norm")
        page, per_channel = tape.page("norm"), (1, -1, *[1] * (input.ndim - 2))
        scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (-running_mean * scale + (0 if bias is None else bias)).view(per_channel)
        y = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)

        def back(g: Tensor, _: Tensor | None) -> Tensor:
            page.leak("bias", shift * g)
            return g.contiguous()  # torch's own backward is wrong for some strides of a single example

        return tape.hook_backward(y, back)

    return call(*args, **kwargs)


@handles("local_response_norm")
def local_response_norm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The denominator is held fixed."""
    x = args[0]
    ratio = torch.where(x == 0, 0.0, func(*args, **kwargs) / x).detach()
    return x * ratio
