"""Any method averaged over changed copies of an image, each mapped back to the image: ResLRP+, SmoothGrad, DAVE.

What changes the image counts as a part of the model. So gradients of a copy are those of the image itself, by autograd;
maps of patches are of what the model got, and are mapped back by the transpose of the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..lrp import propagate
from ..shapes import Pixels, at_least_float32
from ..subject import MOST_STEPS, Result, Subject, leaves_of
from ..validation import validate_float, validate_integer, validate_seed
from . import Method, find_method, method, parse_method
from .augmentations import Copies, drawn, given, without_outliers
from .lrp import spread


@method(
    paper="Smilkov et al. 2017; Berend et al. 2026", summary="any method, averaged over changed copies of the image",
    images=True,
)  # fmt: skip
def augmented(
    subject: Subject,
    *,
    base: str | Callable[..., Any] = "res_lrp(level='pixel')",
    augmentations: str | Sequence[str] = "shift",
    n_samples: int | None = None,
    stdevs: float = 0.15,
    matrices: Tensor | None = None,
    outliers: bool = True,
    seed: int = 0,
    internal_batch_size: int | None = None,
) -> Result:
    """`mean_k c_k`, `c_k` what `base` ("NAME(option=value, …)") gives for copy k of the image, in the image's frame.

    `augmentations`, one name or several, one after the other: "shift", down and across by even parts of a patch, from
    0 on (`n_samples` is a square number then); "flip", left to right, every other copy on average; "affine", turned by
    up to 20°, moved by up to a tenth, up to a tenth larger or smaller; "noise", Gaussian with `stdevs` times the range
    of each image's values. `matrices` (sample, 2, 3), as `affine_grid` of torch takes them, take the place of what is
    drawn. `n_samples`: 4 by default. `outliers=False` leaves out what is far from the median of the copies, as `dave`.

    The default is ResLRP+ (the paper says four translations; these are ours); SmoothGrad is
    `base="saliency(absolute=False)", augmentations="noise"`. Methods that give pixels give those of the image, others
    a number for each patch, which is spread over it before it is mapped back. The same copies for the same `seed`,
    whatever else is in the batch.
    """
    chosen, options = _base(base)
    names = [augmentations] if isinstance(augmentations, str) else list(augmentations)
    copies = _copies(subject, names, n_samples, matrices, validate_seed("seed", seed))
    if "noise" in names:
        sizes = leaves_of(subject).ranges({"": subject.given})[""].flatten().double().cpu()
        copies = replace(copies, stdevs=validate_float("stdevs", stdevs, 0) * sizes.expand(len(copies), -1))

    def explained(one: Subject, copy: Tensor) -> Tensor:
        found = chosen(one, **options)
        if found.pixels is not None:
            return found.pixels
        if found.scores is None:
            raise OptionError(f"{chosen.name} gives neither scores nor pixels", expected="a method of images")
        patches = at_least_float32(found.scores.detach()[:, one.bound.prefix :])
        return copies.mapped_back(spread(patches, one), copy)

    return Result(
        pixels=_averaged(subject, copies, explained, outliers=outliers, size=internal_batch_size),
        options={"base": base if isinstance(base, str) else chosen.name, "n_samples": len(copies)},
    )


@method(
    paper="Wróbel et al. 2026", summary="DAVE: effective transform times pixels, averaged over changed copies",
    images=True,
)  # fmt: skip
def dave(
    subject: Subject,
    *,
    n_samples: int | None = None,
    alpha: float = 0.5,
    filters: bool = True,
    matrices: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    internal_batch_size: int | None = None,
) -> Result:
    """`c_k = x ⊙ ∂s(x_k)/∂x`, with the gradient under the rules "libra" (attention, deviations and gates constant), of
    copies `x_k = (1 - t_k) T_k(x) + √(1 - (1 - t_k)²) ε_k`, `t` from 0 to `alpha` in even steps; the mean over copies
    of each entry, without those farther than 2.5 robust deviations from their median.

    `T`: mirrored or not, turned by up to 20°, moved by up to a tenth, up to a tenth larger or smaller. `n_samples`: 50
    by default (released: 100). `alpha` matters: the paper has 0.1 for ViT-S, 0.3 for ViT-B, 0.5 for DeiT-S and DeiT3-S,
    0.7 for DeiT-B, 0.9 for DeiT3-B. `matrices` (sample, 2, 3) and `noise` (sample, channel, height, width) take the
    place of what `seed` draws.

    `filters`: negative sums over channels are cut, then smoothed: half of the map and half of its Gaussian mean (11
    pixels, σ 7), and a bilateral mean (5 pixels, σ 0.5, of values 0.05); the paper divides by the largest
    (`normalize="max"`). `details`: `relevance` (batch, channel, height, width), the mean over copies.
    """
    n_samples = (50 if matrices is None else None) if n_samples is None else n_samples
    seed = validate_seed("seed", seed)
    copies = _copies(subject, ["flip", "affine"], n_samples, matrices, seed)
    kept = 1 - torch.linspace(0, validate_float("alpha", alpha, 0, 1), len(copies), dtype=torch.float64)
    stdevs = (1 - kept.square()).sqrt()[:, None].expand(-1, len(subject.given))
    noise = _fitting(noise, (len(copies), *subject.given.shape[1:]))
    copies = replace(copies, weights=kept, stdevs=stdevs, noise=noise)

    def transformed(one: Subject, copy: Tensor) -> Tensor:
        found = propagate(one, "libra", level="pixel").channels
        assert found is not None
        return found

    found = _averaged(subject, copies, transformed, outliers=False, size=internal_batch_size)
    pixels = found.sum(1)
    return Result(
        pixels=_smoothed(pixels.clamp(min=0)) if filters else pixels,
        options={"n_samples": len(copies)},
        details={"relevance": found} if subject.details else {},
    )


def _base(base: str | Callable[..., Any]) -> tuple[Method, dict[str, Any]]:
    """A method, and its options. Raises `OptionError` for what is none, or makes copies itself."""
    name, options = parse_method(base) if isinstance(base, str) else (base, {})
    found = find_method(name)
    if found.function in (augmented, dave):
        raise OptionError("copies of copies cannot be mapped back", expected="another base method", got=found.name)
    return found, options


def _copies(subject: Subject, names: Sequence[str], count: int | None, matrices: Tensor | None, seed: int) -> Copies:
    count = None if count is None else validate_integer("n_samples", count, 1, MOST_STEPS)
    size, grid = (subject.given.shape[-2], subject.given.shape[-1]), subject.grid()
    patch = size[0] / grid[0], size[1] / grid[1]
    made = drawn(names, count or 4, size, patch, seed) if matrices is None else given(matrices, count)
    still = torch.eye(2, 3, dtype=torch.float64)
    return Copies(None if bool((made == still).all()) else made, torch.ones(len(made), dtype=torch.float64), None, seed)


def _fitting(noise: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """Noise that is given. Raises `OptionError` where it does not fit."""
    found = None if noise is None else torch.as_tensor(noise)
    if found is not None and tuple(found.shape) != shape:
        raise OptionError("noise does not fit the copies", expected=shape, got=tuple(found.shape))
    return found


def _averaged(
    subject: Subject, copies: Copies, explain: Callable[[Subject, Tensor], Tensor], *, outliers: bool, size: int | None
) -> Tensor:
    """The mean over copies of what each gives: (batch, …)."""
    total: Tensor | None = None
    for copy, example, one in copies.batches(subject, size):
        found = at_least_float32(explain(one, copy).detach())
        if total is None:
            whole = (subject.batch,) if outliers else (len(copies), subject.batch)
            total = found.new_zeros(*whole, *found.shape[1:])
        if outliers:
            total.index_add_(0, example, found / len(copies))
        else:
            total[copy, example] = found
    assert total is not None
    return total if outliers else without_outliers(total)


def _smoothed(maps: Pixels) -> Pixels:
    """DAVE's filters; outside of the picture there is nothing."""
    line = _gaussian(11, 7.0, maps)
    blurred = F.conv2d(maps[:, None], torch.outer(line, line)[None, None], padding=5)[:, 0]
    maps = (maps + blurred) / 2
    near, side = _gaussian(5, 0.5, maps), F.pad(maps, (2, 2, 2, 2))
    total, weights = torch.zeros_like(maps), torch.zeros_like(maps)
    for down in range(5):
        for across in range(5):
            other = side[:, down : down + maps.shape[1], across : across + maps.shape[2]]
            weight = near[down] * near[across] * torch.exp(-((other - maps) / 0.05).square() / 2)
            total, weights = total + weight * other, weights + weight
    return total / weights


def _gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    """Its values at whole numbers around 0, with sum 1."""
    places = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    found = torch.exp(-(places / sigma).square() / 2)
    return found / found.sum()
