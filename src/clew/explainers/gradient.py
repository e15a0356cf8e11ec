"""Methods made of the gradient of the input. Images: pixels, whose sums over each patch are token scores. Texts: one
number for the word embedding `x` of each token. Models that are not declared: the same for each of their streams."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import at_least_float32
from ..subject import (
    MOST_STEPS,
    PathRecord,
    Result,
    StreamSubject,
    Subject,
    add_up,
    leaves_of,
    noise_of,
    quadrature_rule,
    scaled_leaves,
)
from ..validation import validate_float, validate_integer, validate_seed
from . import is_released, method

Explained = Subject | StreamSubject


@method(paper="Simonyan et al. 2014", summary="the size of the gradient of the input", any_model=True)
def saliency(subject: Explained, *, absolute: bool = True) -> Result:
    """`Σ_c |∂s/∂x|` over channels, of texts `‖∂s/∂x‖`; with `absolute=False` the signed sum."""
    at = leaves_of(subject)
    gradients, _ = at.gradients()
    return at.result(gradients, size=absolute)


@method(paper="Shrikumar et al. 2017", summary="the input times its gradient", any_model=True)
def input_x_gradient(subject: Explained) -> Result:
    """`Σ_c x · ∂s/∂x`, signed; `x` is the input as the model gets it, so mean colour counts as zero."""
    at = leaves_of(subject)
    gradients, _ = at.gradients()
    return at.result({key: x * gradients[key] for key, x in at.leaves.items()})


@method(
    paper="Sundararajan et al. 2017", summary="the gradient integrated from a baseline to the input", any_model=True
)
def integrated_gradients(
    subject: Explained,
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
    at = leaves_of(subject)
    x = at.leaves
    start = at.baseline(baselines, x)
    rule = quadrature_rule(quadrature, n_steps)
    weights = rule.weights * rule.points if (released := is_released(variant)) else rule.weights

    def integrate() -> dict[str, Tensor]:
        taken = {key: PathRecord(start[key], x[key]) for key in x}
        total: dict[str, Tensor] = {}
        for point, rows in at.chunks(n_steps, internal_batch_size):
            scaled = scaled_leaves(start, x, rule, point, rows)
            gradients, _ = at.gradients(scaled, rows)
            for key, record in taken.items():
                record.add(scaled[key], rule.weights.to(x[key].dtype)[point.cpu()], rows)
            add_up(total, x, gradients, weights[point.cpu()], rows)
        at.measure_path(quadrature, taken.values(), n_steps)
        return total

    total = at.along(start, integrate)
    if released or not multiply_by_inputs:
        return at.result(total, checks=at.told)
    values = {key: (x[key] - start[key]) * total[key] for key in x}
    gap = at.per_example(values) - at_least_float32(at.clean_scores() - at.scores_at(start))
    return at.result(values, checks={"completeness_gap": gap, **at.told})


@method(paper="Smilkov et al. 2017", summary="the gradient averaged over noisy copies of the input", any_model=True)
def smoothgrad(
    subject: Explained,
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
    at = leaves_of(subject)
    x = at.leaves
    n_samples, seed = validate_integer("n_samples", n_samples, 1, MOST_STEPS), validate_seed("seed", seed)
    stdevs = validate_float("stdevs", stdevs, 0)
    spread = {key: stdevs * size for key, size in at.ranges(x).items()}
    one = {key: value[0] if at.has_examples_first(key) else value for key, value in x.items()}
    weights = torch.full((n_samples,), 1 / n_samples, dtype=torch.float64)

    def average() -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for sample, rows in at.chunks(n_samples, internal_batch_size):
            noisy: dict[str, Tensor] = {}
            for key, value in x.items():
                noise = torch.stack([noise_of(seed, int(k), one[key], by_token=at.is_words(key)) for k in sample])
                noise = noise if at.has_examples_first(key) else noise[0]
                noisy[key] = at.kept(key, value[rows] + spread[key][rows] * noise, value[rows])
            gradients, _ = at.gradients(noisy, rows)
            add_up(total, x, gradients, weights[sample.cpu()], rows)
        return total

    return at.result(at.along(None, average), size=absolute, checks=at.told)
