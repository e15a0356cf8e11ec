"""Methods made of the gradient of the input. Images: pixels, whose sums over each patch are token scores. Texts: one
number for the word embedding `x` of each token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import at_least_float32
from ..subject import MOST_STEPS, PathRecord, Result, Subject, quadrature_rule, scaled_along
from ..validation import validate_float, validate_integer, validate_seed
from . import is_released, method


@method(paper="Simonyan et al. 2014", summary="the size of the gradient of the input")
def saliency(subject: Subject, *, absolute: bool = True) -> Result:
    """`Σ_c |∂s/∂x|` over channels, of texts `‖∂s/∂x‖`; with `absolute=False` the signed sum."""
    gradient, _ = subject.input_gradient(subject.x)
    return _result(subject, gradient, absolute=absolute)


@method(paper="Shrikumar et al. 2017", summary="the input times its gradient")
def input_x_gradient(subject: Subject) -> Result:
    """`Σ_c x · ∂s/∂x`, signed; `x` is the input as the model gets it, so mean colour counts as zero."""
    gradient, _ = subject.input_gradient(subject.x)
    return _result(subject, subject.x * gradient)


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
    start = subject.baseline(baselines, x)
    rule = quadrature_rule(quadrature, n_steps)
    own = rule.weights.to(x.dtype).to(x.device)
    released, taken = is_released(variant), PathRecord(start, x)
    weights = own * rule.points.to(own) if released else own
    total = torch.zeros_like(at_least_float32(x))
    for point, example in subject.chunks(n_steps, internal_batch_size):
        scaled = scaled_along(start, x, rule, point, example)
        gradient, _ = subject.input_gradient(scaled, example)
        taken.add(scaled, own[point], example)
        total.index_add_(0, example, (gradient * weights[point].view(-1, *[1] * (x.ndim - 1))).to(total.dtype))
    subject.measure_path(quadrature, taken, n_steps)
    if released or not multiply_by_inputs:
        return _result(subject, total)
    values = (x - start) * total
    gap = at_least_float32(values).flatten(1).sum(-1) - (_score(subject, x) - _score(subject, start))
    return _result(subject, values, {"completeness_gap": gap})


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
    """`Σ_c |mean_k ∂s/∂x(x + ε_k)|`, of texts the norm; `ε` Gaussian with `stdevs` times the range of each example's
    values, of texts those of their tokens.

    The same noise for the same `seed`, whatever else is in the batch and however it is padded.
    """
    x = subject.x
    n_samples, seed = validate_integer("n_samples", n_samples, 1, MOST_STEPS), validate_seed("seed", seed)
    spread = validate_float("stdevs", stdevs, 0) * _range(x, subject.mask).view(-1, *[1] * (x.ndim - 1))
    total = torch.zeros_like(at_least_float32(x))
    for sample, example in subject.chunks(n_samples, internal_batch_size):
        noise = torch.stack([_noise(seed, int(k), x[0], by_token=subject.bound.is_text) for k in sample])
        gradient, _ = subject.input_gradient(x[example] + spread[example] * noise, example)
        total.index_add_(0, example, gradient.to(total.dtype) / n_samples)
    return _result(subject, total, absolute=absolute)


def _range(x: Tensor, mask: Tensor | None) -> Tensor:
    """Largest minus least value of each example, (batch,), padding left out."""
    high = low = x
    if mask is not None:
        padding = ~mask.to(x.device)[..., None]
        high, low = x.masked_fill(padding, -torch.inf), x.masked_fill(padding, torch.inf)
    return high.flatten(1).amax(1) - low.flatten(1).amin(1)


def _noise(seed: int, sample: int, like: Tensor, *, by_token: bool) -> Tensor:
    """Noise of one copy; `by_token` drawn for one token after the other: what is behind them changes nothing."""
    generator = torch.Generator("cpu").manual_seed(seed * 1_000_003 + sample)
    if not by_token:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like)
    rows = [torch.randn(like.shape[1], generator=generator, dtype=torch.float32, device="cpu") for _ in like]
    return torch.stack(rows).to(like)


def _score(subject: Subject, x: Tensor) -> Tensor:
    with torch.no_grad():
        return subject.score(subject.forward(x))


def _result(
    subject: Subject, values: Tensor, checks: dict[str, Tensor] | None = None, *, absolute: bool = False
) -> Result:
    """Values in the shape of the input as one number per pixel or token: summed, or their size."""
    values = at_least_float32(values)
    if subject.bound.is_text:
        return Result(scores=values.norm(dim=-1) if absolute else values.sum(-1), checks=checks or {})
    return Result(pixels=(values.abs() if absolute else values).sum(1), checks=checks or {})
