"""The golden arrays of evaluation on images: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from parity import Case, Outcome, arrays_in
from support.parity_vit import Family as Vit

import clew

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NINE = tuple(i / 10 for i in range(1, 10))
THRESHOLDS = {"mean": "mean", "otsu": "otsu", "MoV": "mean_over_variance"}
COLUMNS = (
    "pixel_correct", "pixel_labelled", "intersection_background", "intersection_object", "union_background",
    "union_object", "average_precision",
)  # fmt: skip
TOTALS = ("pixel_accuracy", "miou", "map", None, "iou_background", "iou_object")
ERASERS = {"": "black", "_blur": "blur", "_average": "image_mean"}


class Family:
    """Runs the cases of the folder on the model of the folder beside it, all images in one batch."""

    def __init__(self, folder: Path) -> None:
        self.arrays = arrays_in(folder / "expected.npz")
        self.entries = {e["case"]: e for e in json.loads((folder / "manifest.json").read_text())}
        self.inputs = arrays_in(folder / "pert_inputs.npz")
        seg = arrays_in(folder / "seg_inputs.npz")
        self.heatmaps = torch.from_numpy(seg["heatmaps"])
        size = self.heatmaps.shape
        self.masks = np.unpackbits(seg["masks"], axis=1)[:, : size[1] * size[2]].reshape(size)
        self.vit = Vit(folder.parent / "vit")
        pixels = arrays_in(folder.parent / "vit" / "inputs.npz")["images_u8"]
        self.images = torch.from_numpy(pixels).double() / 255
        self.labels = torch.from_numpy(self.inputs["target"])
        predicted = torch.from_numpy(self.inputs["vis_pred"])[:, 0]
        target = predicted.clone()
        target[2] = torch.from_numpy(self.inputs["vis_target_img2"])[0, 0]
        self.maps = {"predicted": predicted.double(), "target": target.double()}
        self.curves = cache(self._curves)
        self.segmented = cache(
            lambda threshold: clew.metrics.segmentation(self.heatmaps, self.masks, threshold=threshold)
        )

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[case.name]

    def tolerance(self, case: Case) -> float:
        return case.entry.get("tol", 0.0)

    def run(self, case: Case) -> Outcome:
        kind, head, *rest = case.name.split("__")
        if kind == "seg":
            return self._segmentation(head, rest[0])
        if head == "masks_vis_pred":
            masks = [
                clew.metrics.removed(self.maps["predicted"], NINE, direction=d, ties="topk")
                for d in ("positive", "negative")
            ]
            packed = np.packbits(torch.stack(masks).flatten(3).numpy(), axis=-1)
            return Outcome(packed, "metrics.removed(maps, fractions, ties='topk')")
        if head == "blurred_stride8":
            return Outcome(clew.metrics.blurred(self.images)[:, :, 4::8, 4::8].numpy(), "metrics.blurred(images)")
        if head == "r2_logits_unperturbed":
            curves, call = self.curves("r2", "predicted", "positive", "black")
            return Outcome(curves.clean.numpy(), f"{call}.clean")
        return self._r1(head, rest[0]) if head.startswith("r1") else self._r2(head, rest)

    def _segmentation(self, head: str, what: str) -> Outcome:
        threshold = THRESHOLDS[head.partition("_")[2] or "mean"]
        scores, call = self.segmented(threshold), f"metrics.segmentation(maps, masks, threshold={threshold!r})"
        rows = clew.metrics.f1_per_row(self.heatmaps, self.masks, threshold=threshold)
        if what == "f1_rows":
            return Outcome(rows, f"metrics.f1_per_row(maps, masks, threshold={threshold!r})")
        if what == "thresholds":
            return Outcome(scores.threshold, f"{call}.threshold")
        total = scores.aggregate()
        if what == "fg_bg":
            return Outcome(np.array([total["foreground_recall"], total["background_recall"]]), f"{call}.aggregate()")
        if what == "aggregate":
            found = [rows.mean(1).mean() if name is None else total[name] for name in TOTALS]
            return Outcome(np.array(found), f"{call}.aggregate()")
        columns = [getattr(scores, name) for name in COLUMNS]
        return Outcome(np.stack([*columns, rows.mean(1)], 1), call)

    def _curves(self, released: str, of: str, direction: str, eraser: str) -> tuple[clew.metrics.Curves, str]:
        model = self.vit.model("plain")
        normal = HALF if released == "r1" else IMAGENET
        options = {"direction": direction, "eraser": eraser, "ties": "topk"}
        found = clew.metrics.perturbation(model, self.images, self.maps[of], fractions=NINE, **options, **normal)
        words = ", ".join(f"{k}={v!r}" for k, v in options.items())
        return found, f"metrics.perturbation(model, images, maps of the {of} class, {words})"

    def _r1(self, head: str, what: str) -> Outcome:
        _, of, direction = head.split("_")
        curves, call = self.curves("r1", "predicted" if of == "top" else "target", _direction(direction), "black")
        clean = clew.metrics.Curves((0.0,), curves.clean[None], curves.clean)
        found = {
            "model_hits": lambda: clean.hits(self.labels)[0],
            "model_dissimilarities": lambda: clean.log_ratio_to_second(self.labels)[0],
            "perturbations_hits": lambda: curves.hits(self.labels),
            "perturbations_dissimilarities": lambda: curves.log_ratio_to_second(self.labels),
            "perturbations_logit_diff": curves.change_of_largest_logit,
            "perturbations_prob_diff": curves.change_of_largest_probability,
            "auc": lambda: self._area(clean.hits(self.labels), curves.hits(self.labels)),
        }[what]()
        return Outcome(np.asarray(found), f"{call}: {what}")

    def _area(self, clean: torch.Tensor, hits: torch.Tensor) -> np.ndarray:
        mean = torch.cat([clean, hits]).mean(1).numpy()
        return clew.metrics.auc(mean, (0.0, *NINE), span="beyond_intuition")

    def _r2(self, head: str, rest: list[str]) -> Outcome:
        direction = _direction(head.split("_")[1])
        word, _, eraser = rest[0].partition("_")
        curves, call = self.curves(
            "r2", "target" if word == "target" else "predicted", direction, ERASERS[f"_{eraser}" if eraser else ""]
        )
        values = {
            "target": lambda: curves.hits(self.labels),
            "top": curves.hits,
            "logits": curves.logit,
            "probalities": curves.probability,
        }[word]()
        if rest[-1] == "auc":
            area = clew.metrics.auc(values.mean(1).numpy(), NINE, span="pa_lrp")
            return Outcome(area, f"metrics.auc({call}, span='pa_lrp')")
        return Outcome(values.numpy(), f"{call}: {word}")


def _direction(word: str) -> str:
    return {"pos": "positive", "neg": "negative"}[word]
