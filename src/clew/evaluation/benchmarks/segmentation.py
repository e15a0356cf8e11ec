"""Segmentation: is what a method marks the object? (Guillaumin et al. 2014; Chefer et al. 2021, section 4.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ... import metrics as measures
from ...datasets import Dataset, Example
from ...errors import InputError, OptionError
from ...inputs import Preprocess
from ...metrics.segmentation import iou
from ...models import LoadedModel
from . import Again, Batch, Benchmark, Curve, Metric, Results, Values, benchmark, label_of, mean_of_column, one_of

_COUNTED = (
    "pixel_correct", "pixel_labelled", "intersection_background", "intersection_object", "union_background",
    "union_object", "f1",
)  # fmt: skip


_MAP = "average precision, mean over object and background, so that random has about a half, and over images"


@benchmark(
    name="segmentation",
    version=1,
    modality="image",
    paper="Chefer et al. 2021; Chen et al. 2023, sec. 4.2; Bakish et al. 2025, sec. 5",
    summary="heatmaps against masks of the object: accuracy, IoU, average precision, F1, pointing game",
    variants=("beyond_intuition", "pa_lrp"),
)
@dataclass(frozen=True)
class Segmentation(Benchmark):
    """Heatmaps, stretched to 0 to 1, against masks of the object.

    `threshold`: one or several of "mean", "otsu", "mean_over_variance" (mean / 3 std), or numbers: above it is object.
    `explain`: the "predicted" or the "given" class. `resize`: "squash" whole pictures to the model's input, as the
    papers do, or prepare them as the "model" was trained, which may crop.
    `variant`: "beyond_intuition" reports the F1 of its code, the mean over rows of pixels (a perfect map does not
    reach 1); "pa_lrp" is the same protocol as "paper".
    """

    threshold: tuple[str | float, ...] = ("mean",)
    explain: str = "predicted"
    resize: str = "squash"

    @property
    def metrics(self) -> Sequence[Metric]:
        found = [
            Metric("map", ("average_precision",), mean_of_column, True, True, _MAP),
            Metric("pointing_game", ("pointing",), mean_of_column, True, False, "is the maximum on the object"),
        ]
        for i, limit in enumerate(self.threshold):
            at = "" if len(self.threshold) == 1 else f" ({limit})"
            c = {name: _at(name, limit) for name in _COUNTED}
            parts = tuple(
                c[f"{kind}_{part}"] for part in ("background", "object") for kind in ("intersection", "union")
            )
            of_rows = ", of rows as released" if self.variant == "beyond_intuition" else ", mean over images"
            found += [
                Metric(
                    f"miou{at}", parts, _miou, True, i == 0, "intersection over union, mean of object and background"
                ),
                Metric(
                    f"pixel_accuracy{at}",
                    (c["pixel_correct"], c["pixel_labelled"]),
                    iou,
                    True,
                    False,
                    "share of pixels, object or not, on the right side of the threshold",
                ),
                Metric(f"f1{at}", (c["f1"],), mean_of_column, True, False, f"F1 of the object{of_rows}"),
                Metric(
                    f"foreground_recall{at}",
                    (c["intersection_object"], "object_pixels"),
                    iou,
                    True,
                    False,
                    "share of the object's pixels above the threshold",
                ),
            ]
        return found

    @property
    def curves(self) -> Sequence[Curve]:
        bins = ("object_bins", "background_bins")
        return [
            Curve(
                "precision–recall", bins, lambda o, b: measures.precision_recall(o, b)[0],
                lambda o, b: measures.precision_recall(o, b)[1], "recall", "precision",
            )
        ]  # fmt: skip

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        one_of("class to explain", self.explain, ("predicted", "given"))
        one_of("resizing", self.resize, ("squash", "model"))
        for limit in self.threshold:
            if isinstance(limit, str):
                one_of("threshold", limit, ("mean", "otsu", "mean_over_variance"))
        preprocess_of(loaded)
        return self

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        preprocess = preprocess_of(loaded, squash=self.resize == "squash")
        masks = np.stack([mask_in_frame(preprocess, example) for example in examples])
        images = [preprocess(image_of(example))[0] for example in examples]
        targets = [label_of(e) for e in examples] if self.explain == "given" else None
        device = next(loaded.model.parameters()).device
        return Batch(examples, torch.stack(images).to(device), {"": targets}, held={"masks": masks})

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        masks = batch.held["masks"]
        found: dict[str, list[Values]] = {}
        for method, result in results.items():
            heat = result[""].heatmap()
            rows: list[Values] = [{} for _ in batch.examples]
            for limit in self.threshold:
                scores = measures.segmentation(heat, masks, threshold=limit)
                f1 = scores.f1
                if self.variant == "beyond_intuition":
                    f1 = measures.f1_per_row(heat, masks, threshold=limit).mean(1)
                for i, row in enumerate(rows):
                    row |= {_at(name, limit): float(getattr(scores, name)[i]) for name in _COUNTED if name != "f1"}
                    row[_at("f1", limit)] = float(f1[i])
                    row["average_precision"] = float(scores.average_precision[i])
                    row["pointing"] = float(scores.pointing[i])
                    row["object_bins"], row["background_bins"] = (
                        list(map(float, bins[i])) for bins in (scores.object_bins, scores.background_bins)
                    )
                    row["object_pixels"] = float(scores.object_bins[i].sum())
            found[method] = rows
        return found


def _at(name: str, limit: str | float) -> str:
    return f"{name}@{limit}"


def _miou(ib: np.ndarray, ub: np.ndarray, io: np.ndarray, uo: np.ndarray) -> np.ndarray:
    return (iou(ib, ub) + iou(io, uo)) / 2


def preprocess_of(loaded: LoadedModel, *, squash: bool = False) -> Preprocess:
    """How pictures are prepared. Raises `OptionError` for a model without that."""
    if loaded.preprocess is None:
        raise OptionError(
            "how are pictures prepared for this model?", expected="a model of images from clew.load, or preprocess=",
            got=f"{loaded.name} without one",
        )  # fmt: skip
    if not squash:
        return loaded.preprocess
    return replace(loaded.preprocess, mode="squash", resize=loaded.preprocess.size)


def image_of(example: Example) -> Image.Image:
    """The picture. Raises `InputError` where there is none."""
    if example.image is None:
        raise InputError("this data has no pictures", expected="a data set of images", got=f"{example.id!r}")
    return example.image


def mask_in_frame(preprocess: Preprocess, example: Example) -> np.ndarray:
    """The mask as the model sees the picture, nearest neighbours; what is outside the picture is not labelled."""
    if example.mask is None:
        raise InputError(
            "this protocol needs a mask of the object for each picture",
            expected="data with masks",
            got=f"none for {example.id!r}",
            todo="put pictures into images/ and masks of the same names into masks/; perturbation needs none",
        )
    plain: dict[str, Any] = {"mean": (0.0,), "std": (1.0,), "rescale": 1.0, "fill": (0,), "rescale_first": False}
    nearest = replace(preprocess, **plain, channels=1, resample=Image.Resampling.NEAREST)
    values, _ = nearest(Image.fromarray((example.mask + 1).astype(np.uint8)))
    return values[0].numpy().astype(np.int8) - 1
