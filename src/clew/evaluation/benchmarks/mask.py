"""Signed heatmaps against masks, without a threshold: one part of the joint table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...metrics import relevance_inside, soft_scores
from ...models import LoadedModel
from . import Again, Batch, Curve, Metric, Results, Values, mean_of_column
from .segmentation import Segmentation

_NAMES = ("relevance inside", "average precision", "pointing game")


@dataclass(frozen=True)
class Mask(Segmentation):
    """The share of positive relevance inside the mask, how well pixels rank the object, and where the maximum is."""

    @property
    def metrics(self) -> Sequence[Metric]:
        what = ("share of positive relevance on the object", "of the object's pixels", "is the maximum on the object")
        return [Metric(n, (n,), mean_of_column, True, n != _NAMES[-1], w) for n, w in zip(_NAMES, what, strict=True)]

    @property
    def curves(self) -> Sequence[Curve]:
        return ()

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        masks: np.ndarray = batch.held["masks"]
        found: dict[str, list[Values]] = {}
        for method, result in results.items():
            heat = result[""].heatmap().detach().cpu().double()
            inside = relevance_inside(heat, masks)
            found[method] = [_row(float(inside[i]), heat[i].numpy(), mask) for i, mask in enumerate(masks)]
        return found


def _row(inside: float, heat: np.ndarray, mask: np.ndarray) -> Values:
    """Of one picture; None where all of it, or nothing, is the object. A flat map points nowhere."""
    true, values = mask[mask >= 0] == 1, heat[mask >= 0]
    if not true.any() or true.all():
        return dict.fromkeys(_NAMES)
    best = bool(true[int(values.argmax())]) and float(np.ptp(values)) > 0
    return dict(zip(_NAMES, (inside, soft_scores(true, values).average_precision, float(best)), strict=True))
