"""Perturbation of images: erase pixels or patches in the order of a heatmap, and watch the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import InputError, OptionError, close_matches, optional_import
from ..inputs import refuse_unreadable
from ..models import LoadedModel
from ..seam import in_callers_modes
from ..targets import Scale, head_of, logits_of
from ..validation import validate_arguments, validate_call, validate_float, validate_size
from .curves import TENTHS, Curves

ERASERS = {
    "black": "0 in the picture's own range of 0 to 1",
    "blur": "the picture blurred by a Gaussian of 51 × 51 pixels, σ 20",
    "image_mean": "the mean colour of the picture",
    "channel_mean": "the mean colour that the model's preprocessing subtracts: 0 after normalisation",
}
"""What stands where pixels were, by name."""
_ALIASES = {"mean": "image_mean"}


@validate_call
def perturbation(
    model: nn.Module | LoadedModel | Callable[[Tensor], Any],
    images: Float[Tensor, "batch channel height width"],
    heatmaps: Float[Tensor, "batch height width"] | Float[Tensor, "batch down across"],
    *,
    fractions: Sequence[float] = TENTHS,
    direction: str = "positive",
    eraser: str = "black",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    ties: str = "first",
    internal_batch_size: int = 64,
) -> Curves:
    """Erase growing fractions of each image, most relevant first, and record the logits (Chefer et al. 2021, sec. 4).

    Gives `Curves` with logits (step, image, class).

    Args:
        model: a classifier of images as its preprocessing gives them.
        images: pixels from 0 to 1, before normalisation.
        heatmaps: a value for each pixel, or one for each patch of a grid: patches are then erased whole.
        fractions: how much is erased at each step, from 0 to 1; `floor(fraction × units)` units are.
        direction: "positive" erases the most relevant first, "negative" the least relevant.
        eraser: what comes in place of a pixel, one of `ERASERS`.
        ties: of equal values the "first" in reading order is erased first; "topk" leaves them to `torch.topk`, whose
            order is not specified, as the papers' code does.
        mean: of the normalisation of the model's inputs; default: that of a loaded model.
        std: the same.
        internal_batch_size: copies of images that the model sees at a time.

    Raises:
        InputError, OptionError: for maps of other images, an unknown direction or eraser, and a missing normalisation.
    """
    validate_arguments({"images": images, "heatmaps": heatmaps}, perturbation)
    refuse_unreadable(images, "images")
    refuse_unreadable(heatmaps, "heatmaps")
    fractions = tuple(validate_float("a fraction", one, 0, 1) for one in fractions)
    if images.ndim != 4 or not images.is_floating_point():
        got = f"{images.dtype} of shape {tuple(images.shape)}"
        raise InputError("these are no images", expected="floats (batch, channel, height, width), 0 to 1", got=got)
    if not fractions:
        raise OptionError("there is no step to erase at", expected="fractions, from 0 to 1", got="none")
    if heatmaps.ndim != 3 or len(heatmaps) != len(images):
        raise InputError("maps and images do not belong together", expected=len(images), got=tuple(heatmaps.shape))
    internal_batch_size = validate_size("internal_batch_size", internal_batch_size)
    mean, std = normalisation(model, mean, std)
    if {len(mean), len(std)} - {1, images.shape[1]}:
        expected, got = f"1 or {images.shape[1]} numbers each", f"{len(mean)} and {len(std)}"
        raise OptionError("mean and std are numbers for each channel", expected=expected, got=got)
    x, fill = erasable(images, eraser, mean, std)
    forward = forward_of(model)
    erased = removed(heatmaps, fractions, direction=direction, ties=ties)
    own = torch.arange(len(x), device=x.device)
    logits = perturbed_logits(forward, x, fill, erased, own, internal_batch_size)
    with torch.no_grad():
        clean = torch.cat([forward(part) for part in x.split(internal_batch_size)])
    return Curves(tuple(fractions), logits, clean, scale_of(model, clean.shape[-1]))


def removed(
    heatmaps: Float[Tensor, "case down across"],
    fractions: Sequence[float],
    *,
    direction: str = "positive",
    ties: str = "first",
) -> Bool[Tensor, "case step down across"]:
    """Which pixels (or patches) are erased at each step: true for `floor(fraction × units)` of them.

    The options are those of `perturbation`, the heatmaps of any unit: only their order counts.
    Raises `OptionError` for an unknown direction, for unknown ties, and for fractions outside 0 to 1.
    """
    if direction not in ("positive", "negative") or ties not in ("first", "topk"):
        raise OptionError("unknown direction or ties", expected="positive or negative, first or topk", got=direction)
    if not all(0 <= f <= 1 for f in fractions):
        raise OptionError("fractions run from 0 to 1", got=list(fractions))
    flat = heatmaps.flatten(1) if direction == "positive" else -heatmaps.flatten(1)
    counts = [int(f * flat.shape[1] + 1e-9) for f in fractions]  # 0.3 · 10 is 3, whatever binary fractions make of it
    if ties == "topk":
        none = torch.zeros_like(flat, dtype=torch.bool)
        steps = [none.scatter(1, flat.topk(n).indices, True) for n in counts]
        return torch.stack(steps, 1).view(len(flat), len(counts), *heatmaps.shape[1:])
    order = flat.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places).view(len(flat), 1, *heatmaps.shape[1:])
    return ranks < torch.tensor(counts, device=flat.device)[:, None, None]


def blurred(images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
    """The images under a Gaussian of σ 20 pixels, cut to 51 × 51, edges mirrored (Bakish et al. 2025's eraser)."""
    ndimage = optional_import("scipy.ndimage", extra="bench", purpose="blur images")
    found = ndimage.gaussian_filter(images.detach().cpu().double().numpy(), 20, radius=25, mode="mirror", axes=(2, 3))
    return torch.from_numpy(found).to(images)


# The parts, for benchmarks that share them


def erasable(images: Tensor, eraser: str, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Images and what is to come in place of their pixels, both as the model takes them."""
    eraser = _ALIASES.get(eraser, eraser)
    if eraser not in ERASERS:
        raise OptionError("unknown eraser", got=eraser, todo=close_matches(eraser, ERASERS))
    low, high = float(images.amin()), float(images.amax())
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError("these are no pixels", expected="values from 0 to 1", got=f"{low:.2f} to {high:.2f}")
    shift, scale = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in (mean, std))
    if eraser == "blur":
        fill = blurred(images)
    elif eraser == "image_mean":
        fill = images.mean((2, 3), keepdim=True)
    else:
        fill = shift[None] if eraser == "channel_mean" else torch.zeros_like(shift)[None]
    return (images - shift) / scale, ((fill - shift) / scale).expand(len(images), *fill.shape[1:])


def perturbed_logits(
    forward: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch channel height width"],
    fill: Tensor,
    erased: Bool[Tensor, "case step down across"],
    owner: Int[Tensor, " case"],
    chunk: int,
    fills: Int[Tensor, " case"] | None = None,
) -> Float[Tensor, "step case class"]:
    """Logits of every case at every step, many copies at a time; a case is an order of one image's (`owner`'s) units.

    `fills` says which entry of `fill` a case takes; default: its owner's.
    """
    cases, steps = erased.shape[:2]
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) * erased.shape[2] // height
    columns = torch.arange(width, device=x.device) * erased.shape[3] // width
    fills = owner if fills is None else fills

    def of(case: Tensor, step: Tensor) -> Tensor:
        gone = erased[case, step]
        if gone.shape[1:] != (height, width):
            gone = gone[:, rows][:, :, columns]
        return forward(torch.where(gone[:, None], fill[fills[case]], x[owner[case]]))

    return copied_logits(of, cases, steps, chunk, x.device)


def copied_logits(
    of: Callable[[Int[Tensor, " copy"], Int[Tensor, " copy"]], Tensor],
    cases: int,
    steps: int,
    chunk: int,
    device: torch.device,
) -> Float[Tensor, "step case class"]:
    """Logits of every case at every step, `of` their numbers, many copies at a time."""
    with torch.no_grad():
        each = torch.arange(cases * steps, device=device).split(chunk)
        found = [of(copies // steps, copies % steps) for copies in each]
    return torch.cat(found).view(cases, steps, -1).transpose(0, 1)


def normalisation(
    model: Any, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """As given, or of a loaded model. Raises `OptionError` where neither is known."""
    preprocess = model.preprocess if isinstance(model, LoadedModel) else None
    if preprocess is not None:
        mean, std = (own if given is None else given for given, own in ((mean, preprocess.mean), (std, preprocess.std)))
    if mean is None or std is None:
        todo = "pass mean=(…) and std=(…), or a model from clew.load"
        raise OptionError("how are this model's inputs normalised?", expected="mean and std per channel", todo=todo)
    return mean, std


def scale_of(model: Any, outputs: int) -> Scale | None:
    """What makes probabilities of a model's logits, see `Curves`; a softmax for functions that are no models."""
    module = model.model if isinstance(model, LoadedModel) else model
    return head_of(module).scale(outputs) if isinstance(module, nn.Module) else "softmax"


def forward_of(model: Any) -> Callable[[Tensor], Tensor]:
    """From inputs to logits."""
    module = model.model if isinstance(model, LoadedModel) else model

    def forward(x: Tensor) -> Tensor:
        with in_callers_modes():
            return logits_of(module(x))

    return forward
