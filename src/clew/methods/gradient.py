"""Methods made of the gradient of the input. They give pixels; token scores are sums over each patch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quadrature import quadrature_rule
from ..shapes import OptionError, Pixels, at_least_float32
from ..trace import Result, Subject
from . import is_released, method


@method(paper="Simonyan et al. 2014", summary="the size of the gradient of the input")
def saliency(subject: Subject, *, absolute: bool = True) -> Result:
    """`Σ_c |∂s/∂x|`, or the signed sum over channels with `absolute=False`."""
    gradient, _ = subject.input_gradient(subject.x)
    return Result(pixels=_over_channels(gradient.abs() if absolute else gradient))


@method(paper="Shrikumar et al. 2017", summary="the input times its gradient")
def input_x_gradient(subject: Subject) -> Result:
    """`Σ_c x · ∂s/∂x`, signed; `x` is the input as the model gets it, so mean colour counts as zero."""
    gradient, _ = subject.input_gradient(subject.x)
    return Result(pixels=_over_channels(subject.x * gradient))


@method(paper="Sundararajan et al. 2017", summary="the gradient integrated from a baseline to the input")
def integrated_gradients(
    subject: Subject,
    *,
    n_steps: int = 50,
    baselines: float | Tensor = 0.0,
    quadrature: str = "gauss_legendre",
    multiply_by_inputs: bool = True,
    internal_batch_size: int | None = None,
    variant: str = "paper",
) -> Result:
    """`Σ_c (x - x') ∫ ∂s/∂x(x' + α (x - x')) dα`; without `multiply_by_inputs` the mean gradient alone.

    `variant="beyond_intuition"` gives what the released code returns: the mean of `α` times the gradient, not
    multiplied by the input. `checks`: `completeness_gap`, the sum of all pixels minus `s(x) - s(x')`.
    """
    x = subject.x
    start = subject.baseline(baselines)
    rule = quadrature_rule(quadrature, n_steps)
    points, weights = (t.to(x.dtype).to(x.device) for t in (rule.points, rule.weights))
    released = is_released(variant)
    if released:
        weights = weights * points
    total = torch.zeros_like(at_least_float32(x))
    for point, example in subject.chunks(n_steps, internal_batch_size):
        alpha = points[point].view(-1, *[1] * (x.ndim - 1))
        scaled = start[example] + alpha * (x - start)[example]
        gradient, _ = subject.input_gradient(scaled, example)
        total.index_add_(0, example, (gradient * weights[point].view_as(alpha)).to(total.dtype))
    if released or not multiply_by_inputs:
        return Result(pixels=_over_channels(total))
    pixels = _over_channels((x - start) * total)
    gap = pixels.flatten(1).sum(-1) - (_score(subject, x) - _score(subject, start))
    return Result(pixels=pixels, checks={"completeness_gap": gap})


@method(paper="Smilkov et al. 2017", summary="the gradient averaged over noisy copies of the input")
def smoothgrad(
    subject: Subject,
    *,
    n_samples: int = 25,
    stdevs: float = 0.15,
    absolute: bool = True,
    seed: int = 0,
    internal_batch_size: int | None = None,
) -> Result:
    """`Σ_c |mean_k ∂s/∂x(x + ε_k)|`, `ε` Gaussian with `stdevs` times the range of each example's values.

    The same noise for the same `seed`, whatever else is in the batch.
    """
    x = subject.x
    if n_samples < 1:
        raise OptionError("n_samples is too small", expected="at least 1", got=n_samples)
    spread = stdevs * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, *[1] * (x.ndim - 1))
    total = torch.zeros_like(at_least_float32(x))
    for sample, example in subject.chunks(n_samples, internal_batch_size):
        noise = torch.stack([_noise(seed, int(k), x[0]) for k in sample])
        gradient, _ = subject.input_gradient(x[example] + spread[example] * noise, example)
        total.index_add_(0, example, gradient.to(total.dtype) / n_samples)
    return Result(pixels=_over_channels(total.abs() if absolute else total))


def _noise(seed: int, sample: int, like: Tensor) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed * 1_000_003 + sample)
    return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like)


def _score(subject: Subject, x: Tensor) -> Tensor:
    with torch.no_grad():
        return subject.score(subject.forward(x))


def _over_channels(values: Tensor) -> Pixels:
    return at_least_float32(values).sum(1)
