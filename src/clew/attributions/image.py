"""Attributions of images: heatmaps over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..draw import Bars, Cell, Panel, Picture, panels_png
from ..draw.page import page
from ..errors import InputError
from ..files import Number
from ..shapes import Pixels, Scores
from . import tables
from .base import Attribution
from .names import model_of, predicted
from .ranges import normalized_pixels, require_range
from .saved_fields import MOST_PIXELS, SavedFields

_Shown = TypeVar("_Shown")
_SIDE = Number(1, 2**20, whole=True)


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageAttribution(Attribution):
    """Scores of one method for a batch of images.

    `all_scores` (batch, token): prefix tokens (CLS, registers) come first. `patch_grid` is (down, across). `pixels`
    (batch, height, width) where the method gives pixels; then scores are its sums over each patch, and with `normalize`
    both have been normalised, each over its own. Where an image was explained for several targets, `maps_per_image`
    results in a row are of one image.
    """

    prefix: int
    patch_grid: tuple[int, int]
    patch_size: tuple[int, int]
    input_size: tuple[int, int]
    pixels: Pixels | None = None
    pictures: Sequence[Picture] = ()
    maps_per_image: int = 1

    kind: ClassVar[str] = "image"
    tensors: ClassVar[tuple[str, ...]] = ("all_scores", "score", "logits", "pixels")
    lists: ClassVar[tuple[str, ...]] = ("pictures",)
    same: ClassVar[tuple[str, ...]] = ("method", "prefix", "patch_grid", "input_size", "maps_per_image")

    @property
    def scores(self) -> Scores:
        """(batch, patch): the scores without prefix tokens, row by row of the patch grid."""
        return self.all_scores[:, self.prefix :]

    def heatmap(self, *, normalize: str | None = None) -> Pixels:
        """(batch, height, width) in the frame of the model's input: pixels as they are, tokens bilinear.

        In the units of `scores`; or with `normalize` each map as "minmax" from 0 to 1, by "max" with a largest size of
        1. Raises `OptionError` for another.
        """
        require_range(normalize)
        return normalized_pixels(self.pixels if self.pixels is not None else self._bilinear(self.scores), normalize)

    def _bilinear(self, patches: Scores) -> Pixels:
        (rows, columns), (down, across) = self.patch_grid, self.patch_size
        maps = patches.reshape(-1, 1, rows, columns)
        covered = F.interpolate(maps, size=(rows * down, columns * across), mode="bilinear", align_corners=False)
        # A convolution drops what does not fill a patch, and padding adds: keep the frame of the input.
        height, width = self.input_size
        missing = (0, max(0, width - columns * across), 0, max(0, height - rows * down))
        return F.pad(covered, missing, mode="replicate")[:, 0, :height, :width]

    def __getitem__(self, index: int | slice | str) -> Any:
        """One result, or some, as an attribution of its own; by a name the result of one stream."""
        if isinstance(index, str):
            return super().__getitem__(index)
        found, each = super().__getitem__(index), self.maps_per_image
        start, _, step = (index if isinstance(index, slice) else slice(index, None)).indices(len(self))
        whole = step == 1 and start % each == 0 and len(found) % each == 0
        return cast(ImageAttribution, found if whole else replace(found, maps_per_image=1))

    def scored(self, example: int) -> tables.Columns:
        """The patches of one image with their scores."""
        rows, columns = self.patch_grid
        return {
            "row": [i for i in range(rows) for _ in range(columns)],
            "column": list(range(columns)) * rows,
            "score": tables.numbers(self.scores[example]),
        }

    def drawn_over(self, pictures: Any) -> ImageAttribution:
        """The same result, drawn over other pictures: one, or one for each image."""
        given: list[Any] = list(cast("Sequence[Any]", pictures)) if isinstance(pictures, (list, tuple)) else [pictures]
        images = len(self) // self.maps_per_image
        if len(given) not in (1, images):
            raise InputError("pictures to draw over", expected=f"one, or {images}", got=len(given))
        each = [one if isinstance(one, Picture) else Picture.of(one) for one in given]
        return replace(self, pictures=[one for one in each for _ in range(len(self) // len(each))])

    # Looking

    def panels(self) -> list[Panel]:
        """One overlay per example, for `plots.panels_png`."""
        heats = _arrays(self.heatmap())
        return [Panel(p, h, self._title(i)) for i, (p, h) in enumerate(zip(self._pictures(), heats, strict=True))]

    def parts(self) -> dict[str, Pixels]:
        """Heatmaps of what the content of the patches got and of what their positions got, (batch, height, width).

        Of LRP methods, with `details=True`; empty otherwise.
        """
        names = [name for name in ("semantic", "position") if name in self.details]
        return {name: self._bilinear(self.details[name][:, self.prefix :]) for name in names}

    def to_png(self) -> bytes:
        """The overlays of all examples as one PNG; of LRP methods with `details=True` parts and relevance by stage.

        Several results of one image are one row.
        """
        rows: list[list[Panel | Bars]] = [[panel] for panel in self.panels()]
        for name, heats in self.parts().items():
            for row, picture, heat in zip(rows, self._pictures(), _arrays(heats), strict=True):
                row.append(Panel(picture, heat, f"{name} part"))
        if self.details:
            for row, bars in zip(rows, self.flow(), strict=False):
                row.append(bars)
        return panels_png(self.by_image(rows))

    def to_html(self) -> str:
        """One self-contained HTML page."""
        rows = [[cell] for cell in self.cells()]
        for name, heats in self.parts().items():
            values = self.details[name][:, self.prefix :].tolist()
            for row, heat, scores in zip(rows, _arrays(heats), values, strict=True):
                row.append(replace(row[0], heat=heat, title=f"{name} part", scores=scores, facts={}))
        for row, bars in zip(rows, self.flow(), strict=False):
            row[0] = replace(row[0], flow=bars)
        return page(f"clew: {self.method}", self.by_image(rows), model_of(self))

    def by_image(self, rows: Sequence[Sequence[_Shown]]) -> list[list[_Shown]]:
        """What is shown of each result, as one row for each image."""
        each = self.maps_per_image
        return [[one for row in rows[i : i + each] for one in row] for i in range(0, len(rows), each)]

    def cells(self) -> list[Cell]:
        """One cell per example, for `page.page`."""
        scores = self.scores.detach().float().cpu().tolist()
        names = [self.name_of_target(i) for i in range(len(self))]
        return [
            Cell(
                panel.picture, panel.heat, self.method, names[i], scores[i], self.patch_grid, self.facts(i),
                predicted=self._prediction(i),
            )
            for i, panel in enumerate(self.panels())
        ]  # fmt: skip

    def _prediction(self, example: int) -> str:
        label = predicted(self, example)
        if label is None or self.logits is None:
            return ""
        return f"predicted: {label}, logit {float(self.logits[example].max()):.4g}"

    def _title(self, example: int) -> str:
        return f"{self.method}\n{self.name_of_target(example)}"

    def _pictures(self) -> Sequence[Picture]:
        if self.pictures:
            return self.pictures
        height, width = self.input_size
        blank = Picture(np.full((height, width, 3), 128, np.uint8), (0.0, 0.0, float(width), float(height)))
        return [blank] * len(self)

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def shape_in_words(self) -> str:
        """How many patches one example has."""
        return f"{self.scores.shape[1]} patches"

    # Keeping

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".png": self.to_png, ".html": self.to_html, **super().writers()}

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        names = ("prefix", "patch_grid", "patch_size", "input_size")
        meta = {name: getattr(self, name) for name in names} | {"boxes": [list(p.box) for p in self.pictures]}
        meta["maps_per_image"] = self.maps_per_image
        once = self.pictures[:: self.maps_per_image]
        return {f"picture.{i}": torch.from_numpy(p.pixels.copy()) for i, p in enumerate(once)}, meta

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        sides = {name: saved.value(name, [_SIDE]) for name in ("patch_grid", "patch_size", "input_size")}
        prefix, each = saved.value("prefix", Number(0, tokens, whole=True)), saved.value("maps_per_image", _SIDE, 1)
        for name, found in sides.items():
            if len(found) != 2:
                raise saved.wrong(name, "down and across", found)
        (rows, columns), (down, across), size = sides.values()
        if rows * columns != tokens - prefix:
            raise saved.wrong("patch_grid", f"a grid of {tokens - prefix} patches", f"{rows} x {columns}")
        if max(rows * down * columns * across, size[0] * size[1]) > MOST_PIXELS:
            raise saved.wrong("patch_size and input_size", f"at most {MOST_PIXELS:,} pixels", sides)
        boxes = saved.value("boxes", [[Number(-1e9, 1e9)]])
        if len(boxes) not in (0, batch) or batch % each or any(len(box) != 4 for box in boxes):
            raise saved.wrong("boxes", f"left, top, right, bottom of {batch} results", f"{len(boxes)} for {each} each")
        pixels = [saved.tensor(f"picture.{i}", "whole", (None, None, 3)) for i in range(len(boxes) // each)]
        if wrong := [p.dtype for p in pixels if p.dtype != torch.uint8 or not p.numel()]:
            raise saved.wrong("picture", "uint8 (height, width, 3)", wrong[0])
        pictures = [Picture(pixels[i // each].numpy(), tuple(box)) for i, box in enumerate(boxes)]
        for name in ("semantic", "position"):
            saved.detail(name, (batch, tokens))
        return {
            **{name: tuple(found) for name, found in sides.items()},
            "prefix": prefix,
            "maps_per_image": each,
            "pictures": pictures,
            "pixels": saved.tensor("pixels", "floats", (batch, *size), optional=True),
        }


def _arrays(maps: Pixels) -> np.ndarray:
    return maps.detach().float().cpu().numpy()
