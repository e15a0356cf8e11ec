"""Heatmaps against masks of the object: thresholded, and ranked."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError, OptionError, close_matches, optional_import

BINS = 100  # thresholds of the precision–recall curve


@dataclass(frozen=True)
class SegmentationScores:
    """What is counted in each image, (image,) each; numbers of a data set come from `aggregate`.

    `threshold` is on the stretched map, 0 to 1. `pixel_…`, `intersection_…` and `union_…` are numbers of pixels,
    `average_precision` and `f1` 0 to 1; `pointing` is 1 where the highest pixel is on the object, else 0. `object_bins`
    and `background_bins` (image, 100) count labelled pixels by the value of the map, from 0 to 1. All are floats.
    """

    threshold: np.ndarray
    pixel_correct: np.ndarray
    pixel_labelled: np.ndarray
    intersection_background: np.ndarray
    intersection_object: np.ndarray
    union_background: np.ndarray
    union_object: np.ndarray
    average_precision: np.ndarray
    f1: np.ndarray
    pointing: np.ndarray
    object_bins: np.ndarray
    background_bins: np.ndarray

    def aggregate(self) -> dict[str, float]:
        """The numbers of the data set: accuracy, IoU and recall over all its pixels, AP and F1 as means over images.

        Each is 0 to 1, and the larger the better.
        """
        total = {name: float(np.sum(value)) for name, value in vars(self).items() if value.ndim == 1}
        ious = [iou(total[f"intersection_{part}"], total[f"union_{part}"]) for part in ("background", "object")]
        objects, background = self.object_bins.sum(), self.background_bins.sum()
        return {
            "pixel_accuracy": total["pixel_correct"] / (total["pixel_labelled"] + np.spacing(1)),
            "miou": float(np.mean(ious)),
            "map": float(np.mean(self.average_precision)),
            "f1": float(np.mean(self.f1)),
            "iou_background": float(ious[0]),
            "iou_object": float(ious[1]),
            "foreground_recall": total["intersection_object"] / (objects + np.spacing(1)),
            "background_recall": total["intersection_background"] / (background + np.spacing(1)),
            "pointing_game": float(np.mean(self.pointing)),
        }


def segmentation(
    heatmaps: Float[Tensor, "image height width"],
    masks: np.ndarray | Tensor,
    *,
    threshold: str | float = "mean",
) -> SegmentationScores:
    """Compare maps with masks (Guillaumin et al. 2014; Chefer et al. 2021, sec. 4).

    Maps are stretched to 0 to 1; what is above the threshold is taken for the object. Average precision is that of
    both classes together: `1 - map` against the background and `map` against the object. A constant map finds nothing.

    Args:
        heatmaps: signed or not; in the frame of the masks.
        masks: (image, height, width): 1 (or True) object, 0 background, -1 not labelled and not counted.
        threshold: "mean" of the map, "otsu", "mean_over_variance" (mean / 3 std, Bakish et al. 2025) or a number.

    Raises:
        InputError, OptionError: masks of another shape or with other values, an unknown threshold.
    """
    # No list of masks is silently broadcast.
    truth = torch.as_tensor(np.asarray(masks)).to("cpu", torch.int8)
    if heatmaps.shape != truth.shape:
        raise InputError("maps and masks differ in shape", expected=tuple(truth.shape), got=tuple(heatmaps.shape))
    if len(truth) and not -1 <= int(truth.min()) <= int(truth.max()) <= 1:
        got = f"{int(truth.min())} to {int(truth.max())}"
        raise InputError("a mask has other values", expected="1 object, 0 background, -1 not labelled", got=got)
    maps = stretched(heatmaps.detach().cpu())
    limits = threshold_of(maps, threshold)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # sorting leaves Python's lock
        counted = list(pool.map(_counted, maps, limits.tolist(), truth))
    columns = [f.name for f in fields(SegmentationScores) if f.name != "threshold"]
    return SegmentationScores(limits.double().numpy(), **{c: np.array([one[c] for one in counted]) for c in columns})


def _counted(heat: Tensor, limit: float, truth: Tensor) -> dict[str, Any]:
    metrics = optional_import("sklearn.metrics", extra="bench", purpose="compute average precision")
    known = truth >= 0
    labels = (truth[known] == 1).numpy()
    values = heat[known].numpy()
    found = values > limit  # nothing is above NaN
    ranked = np.nan_to_num(values)
    both = np.concatenate([~labels, labels]), np.concatenate([np.nan_to_num(1 - values), ranked])
    inside, outside = int((found & labels).sum()), int((~found & ~labels).sum())
    union_object = int(found.sum() + labels.sum()) - inside
    best = int(torch.where(known, heat, -torch.inf).argmax())
    return {
        "pixel_correct": float(inside + outside),
        "pixel_labelled": float(len(labels)),
        "intersection_background": float(outside),
        "intersection_object": float(inside),
        "union_background": float(len(labels) - inside),
        "union_object": float(union_object),
        "average_precision": float(metrics.average_precision_score(*both)) if len(labels) else 0.0,
        "f1": 2 * inside / (union_object + inside) if union_object else 0.0,
        "pointing": float(bool(torch.isfinite(heat).all()) and truth.flatten()[best] == 1),
        "object_bins": np.histogram(ranked[labels], BINS, (0.0, 1.0))[0].astype(float),
        "background_bins": np.histogram(ranked[~labels], BINS, (0.0, 1.0))[0].astype(float),
    }


def relevance_inside(heatmaps: Float[Tensor, "image height width"], masks: np.ndarray | Tensor) -> np.ndarray:
    """(image,): which share of the positive relevance lies on the object, `Σ max(h, 0) m / Σ max(h, 0)`, 0 to 1.

    `masks` as in `segmentation`; pixels that are not labelled do not count. A map without anything positive has 0.
    Raises `InputError` for masks of another shape.
    """
    truth = torch.as_tensor(np.asarray(masks), device=heatmaps.device)
    if heatmaps.shape != truth.shape:
        raise InputError("maps and masks differ in shape", expected=tuple(truth.shape), got=tuple(heatmaps.shape))
    positive = heatmaps.detach().double().clamp(min=0).flatten(1)
    inside, known = ((positive * (truth.flatten(1) >= least)).sum(1) for least in (1, 0))
    return torch.where(known > 0, inside / known.clamp(min=torch.finfo(torch.float64).tiny), 0.0).cpu().numpy()


def stretched(heatmaps: Float[Tensor, "image height width"]) -> Float[Tensor, "image height width"]:
    """Each map from 0 to 1; a constant map becomes NaN."""
    flat = heatmaps.flatten(1)
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    return (heatmaps - low) / (high - low)


def threshold_of(maps: Float[Tensor, "image height width"], threshold: str | float = "mean") -> Float[Tensor, " image"]:
    """The threshold of each map with values from 0 to 1: the mean, Otsu's, mean / (3 std), or the number given.

    (image,). A constant map, NaN here, has the threshold 0. Raises `OptionError` for an unknown one.
    """
    flat = maps.flatten(1)
    if isinstance(threshold, (int, float)):
        return torch.full((len(maps),), float(threshold), dtype=maps.dtype)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda m: m.mean(1),
        "mean_over_variance": lambda m: m.mean(1) / (3 * m.std(1) + 1e-10),
        "otsu": lambda m: torch.tensor([_otsu(one.double().numpy()) for one in m], dtype=torch.float64),
    }
    if threshold not in kinds:
        raise OptionError("unknown threshold", got=threshold, todo=close_matches(threshold, kinds))
    return kinds[threshold](flat).nan_to_num()


def _otsu(values: np.ndarray) -> float:
    """The centre of the bin left of the split of a 256-bin histogram that maximises `w₁ w₂ (m₁ - m₂)²` (Otsu 1979)."""
    counts, edges = np.histogram(values[np.isfinite(values)], 256, (0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    left, right = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.cumsum(counts * centres) / left
        above = (np.cumsum((counts * centres)[::-1]) / right[::-1])[::-1]
    between = np.nan_to_num(left[:-1] * right[1:] * (below[:-1] - above[1:]) ** 2)
    return float(centres[int(between.argmax())])


def f1_per_row(
    heatmaps: Float[Tensor, "image height width"], masks: np.ndarray | Tensor, *, threshold: str | float = "mean"
) -> np.ndarray:
    """(image, height): what the code of Beyond Intuition reports the mean of, an F1 for each row of pixels.

    0 to 1; `masks` and `threshold` as in `segmentation`. A row without the object counts 0, so that a perfect map is
    far from 1: use `SegmentationScores.f1`. Raises `InputError` for masks of another shape, `OptionError` for an
    unknown threshold.
    """
    truth = torch.as_tensor(np.asarray(masks)) == 1
    if heatmaps.shape != truth.shape:
        raise InputError("maps and masks differ in shape", expected=tuple(truth.shape), got=tuple(heatmaps.shape))
    maps = stretched(heatmaps.detach().cpu())
    found = maps > threshold_of(maps, threshold)[:, None, None]
    inside = (found & truth).sum(2).double()
    either = found.sum(2).double() + truth.sum(2).double()
    return torch.where(truth.any(2) & (either > 0), 2 * inside / either.clamp(min=1), 0.0).numpy()


def iou(intersection: np.ndarray | float, union: np.ndarray | float) -> np.ndarray:
    """Intersection over union; 0 where both are empty."""
    return np.asarray(intersection / (union + np.spacing(1)))


def precision_recall(object_bins: np.ndarray, background_bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (…, 100), 0 to 1, when pixels from each bin of values on are taken for the object.

    Bins (…, 100) as in `SegmentationScores`, of one image or summed over several; where nothing is taken both are 0.
    """
    true = np.cumsum(object_bins[..., ::-1], -1)[..., ::-1]
    false = np.cumsum(background_bins[..., ::-1], -1)[..., ::-1]
    return true / np.maximum(true + false, 1e-12), true / np.maximum(true[..., :1], 1e-12)
