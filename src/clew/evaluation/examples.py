"""Examples in a report: what a method marked in them, drawn from the scores that its run stored."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..attributions import Attribution, ImageAttribution, TextAttribution
from ..datasets import Dataset
from ..draw import Piece, colour, encode_image, in_frame, is_tiny, shrunk, text_fragment
from ..errors import InputError
from ..explaining.explain import explain
from ..models import LoadedModel
from .run import Run

_LONGEST = 160  # pixels of a thumbnail
_PIECES = 400  # tokens of a text that are shown


class Shown:
    """`clew.report(run, show=Shown(run, model, data))`: heatmaps and coloured words of the best and worst examples.

    The model runs once for each example that is drawn, to place the stored scores on patches and tokens.
    """

    def __init__(self, run: Run, loaded: LoadedModel, dataset: Dataset) -> None:
        """Raises `InputError` for data that the run is not of."""
        self.run, self.loaded, self.dataset = run, loaded, dataset
        self._at = {name: i for i, name in enumerate(dataset.ids)}
        table = run.table.select(["example", "method", "scores"]).to_pylist()
        self._scores = {(row["example"], row["method"]): row["scores"] for row in table}
        strangers = [name for name, _ in self._scores if name not in self._at]
        if strangers:
            raise InputError("the run is of other data", expected=run.manifest["data"]["name"], got=strangers[:3])
        self._placed: dict[str, Attribution] = {}

    def __call__(self, example: str, method: str) -> str:
        """HTML; empty where there is nothing to draw."""
        scores = self._scores.get((example, method))
        if scores is None:
            return ""
        try:
            placed = self._place(example)
        except Exception as error:  # a report is more than its pictures
            return f"<em>{type(error).__name__}</em>"
        parts = list(placed.streams.values())
        if len(parts) == 1:
            return _drawn(placed, torch.tensor(scores), method)
        values = torch.tensor(scores).split([part.all_scores.shape[1] for part in parts])
        return "".join(_drawn(part, own, method) for part, own in zip(parts, values, strict=True))

    def _place(self, example: str) -> Attribution:
        """The patches or tokens of an example, with scores of no matter."""
        if example not in self._placed:
            one = self.dataset.read(self._at[example])
            one = one if one.choices else replace(one, label=0)  # places do not depend on the class
            some: Any = self.run.benchmark.batch(self.loaded, [one])
            self._placed[example] = explain(self.loaded, some.inputs, method="random", checks="off", **some.more)
        return self._placed[example]


def _drawn(placed: Attribution, values: Tensor, method: str) -> str:
    if isinstance(placed, ImageAttribution):
        filled = torch.cat([torch.zeros(placed.prefix), values])[None]
        return _picture(replace(placed, all_scores=filled, pixels=None)) if placed.pictures else ""
    if not isinstance(placed, TextAttribution):
        return ""
    filled = torch.zeros_like(placed.all_scores)
    filled[0, : len(values)] = values
    (cell,) = replace(placed, all_scores=filled, method=method).cells()
    pieces = [*cell.pieces[:_PIECES], *([Piece(" …")] if len(cell.pieces) > _PIECES else [])]
    return text_fragment([replace(cell, title="", subtitle="", pieces=pieces)])


def _picture(result: ImageAttribution) -> str:
    panel = result.panels()[0]
    small = shrunk(panel.picture, _LONGEST)
    over = Image.fromarray(colour(in_frame(small, panel.heat)))
    laid = Image.alpha_composite(Image.fromarray(small.pixels).convert("RGBA"), over).convert("RGB")
    both = np.concatenate([small.pixels, np.asarray(laid)], axis=1)
    image, kind = encode_image(both)
    data = base64.b64encode(image).decode()
    width = round(2 * _LONGEST * min(1.0, small.pixels.shape[1] / small.pixels.shape[0]))
    style = ' style="image-rendering: pixelated"' if is_tiny(small.pixels) else ""
    return f'<img alt="" width="{width}"{style} src="data:image/{kind};base64,{data}">'
