"""Attributions of several pictures in one example: in grids of their own, cut into tiles, or frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draw import Cell, Panel, Picture, TextCell, blocks, sheet_png, text_fragment
from ..draw.page import page
from ..files import Number
from ..shapes import Pixels
from . import tables
from .base import Attribution
from .image import ImageAttribution
from .saved_fields import MOST_PIXELS, SavedFields

_SIDE = Number(1, 2**20, whole=True)
_FRAME = {"name": str, "size": [_SIDE], "patch": [_SIDE], "box": [Number(-1e9, 1e9)]}


@dataclass(frozen=True)
class Frame:
    """One picture of an example, its `size` and that of its patches in pixels of the model's input."""

    name: str
    size: tuple[int, int]
    patch: tuple[int, int]
    picture: Picture

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return -(-self.size[0] // self.patch[0]), -(-self.size[1] // self.patch[1])

    @property
    def patches(self) -> int:
        """How many patches there are."""
        return self.grid[0] * self.grid[1]

    def sums(self, pixels: Tensor) -> Tensor:
        """Values of pixels (height, width) summed over each patch, row by row."""
        (down, across), (rows, columns) = self.patch, self.grid
        covered = F.pad(pixels, (0, columns * across - self.size[1], 0, rows * down - self.size[0]))
        return covered.reshape(rows, down, columns, across).sum((1, 3)).flatten()


@dataclass(frozen=True, kw_only=True, repr=False)
class PicturesAttribution(Attribution):
    """Scores of one method for a batch of examples with one or more pictures each, which `frames` name.

    `all_scores` (batch, patch): the patches of all pictures of an example in a row, each picture row by row. `pixels`
    (batch, pixel) likewise. Examples with less than the longest are filled up with 0. `images(example)` are the
    pictures' own results.
    """

    pixels: Tensor
    frames: Sequence[Sequence[Frame]]

    kind: ClassVar[str] = "pictures"
    tensors: ClassVar[tuple[str, ...]] = ("all_scores", "score", "logits", "pixels")
    lists: ClassVar[tuple[str, ...]] = ("frames",)

    def images(self, example: int = 0) -> list[ImageAttribution]:
        """The result of each picture of one example, with its heatmap in its own grid of patches."""
        one = self[example]
        assert isinstance(one, PicturesAttribution)
        common: dict[str, Any] = {f.name: getattr(one, f.name) for f in fields(Attribution)}
        common["details"] = {}
        found: list[ImageAttribution] = []
        patch = pixel = 0
        for frame in one.frames[0]:
            area = frame.size[0] * frame.size[1]
            common["all_scores"] = one.all_scores[:, patch : patch + frame.patches]
            found.append(
                ImageAttribution(
                    **common,
                    prefix=0,
                    patch_grid=frame.grid,
                    patch_size=frame.patch,
                    input_size=frame.size,
                    pixels=one.pixels[:, pixel : pixel + area].view(1, *frame.size),
                    pictures=[frame.picture],
                )
            )
            patch, pixel = patch + frame.patches, pixel + area
        return found

    def scored(self, example: int) -> tables.Columns:
        """The patches of each picture of one example with their scores."""
        images = zip(self.frames[example], self.images(example), strict=True)
        found = tables.stacked(({"picture": frame.name}, image.scored(0)) for frame, image in images)
        return {name: found.get(name, []) for name in ("picture", "row", "column", "score")}

    def heatmap(self) -> Pixels:
        """(batch, height, width), where every example has one picture and all are of one size; else see `images`."""
        if any(len(row) != 1 for row in self.frames) or len({row[0].size for row in self.frames}) != 1:
            raise self._lacks("one heatmap for each example; images(example) has one for each picture", "one picture")
        return self.pixels.view(len(self), *self.frames[0][0].size)

    # Looking

    def panels(self, example: int = 0) -> list[Panel]:
        """One overlay for each picture of an example, with its name and what it got in all."""
        return [
            Panel(f.picture, image.heatmap()[0].detach().float().cpu().numpy(), f"{f.name}: {_total(image):+.3g}")
            for f, image in zip(self.frames[example], self.images(example), strict=True)
        ]

    def chart(self, example: int = 0) -> bytes:
        """The pictures of one example as PNG: above as they are, below with scores, all in one scale of colours."""
        return sheet_png([self.panels(example)], [self._title(example)])

    def to_png(self) -> bytes:
        """The pictures of all examples as one PNG."""
        return sheet_png([self.panels(i) for i in range(len(self))], [self._title(i) for i in range(len(self))])

    def to_html(self) -> str:
        """One self-contained HTML page: a row for each picture; those of an example share a scale of colours."""
        return page(f"clew: {self.method}", [[cell] for i in range(len(self)) for cell in self.cells(i)])

    def cells(self, example: int) -> list[Cell]:
        """One cell for each picture of an example, for `page.page`."""
        panels, images = self.panels(example), self.images(example)
        shared = self.pixels[example].detach().float().cpu().numpy()
        name, facts = self.name_of_target(example), self.facts(example)
        made = [
            Cell(
                panel.picture, panel.heat, panel.title, name, image.scores[0].tolist(), image.patch_grid, {},
                among=shared,
            )
            for panel, image in zip(panels, images, strict=True)
        ]  # fmt: skip
        return [replace(made[0], facts=facts), *made[1:]] if made else []

    def to_rich(self, example: int = 0) -> Any:
        """The patches of each picture of one example as coloured blocks, as `rich` prints them on a terminal."""
        from rich.console import Group
        from rich.text import Text

        images = self.images(example)
        grids = [image.scores[0].detach().float().cpu().view(image.patch_grid).numpy() for image in images]
        high = max((float(abs(grid).max()) for grid in grids if grid.size), default=0.0)
        shown: list[Any] = []
        for frame, grid in zip(self.frames[example], grids, strict=True):
            head = f"{frame.name}  {grid.shape[0]} x {grid.shape[1]} patches  {float(grid.sum()):+.4g}"
            shown += [Text(head), blocks(grid, high)]
        return Group(*shown)

    def _title(self, example: int) -> str:
        return f"{self.method}, {self.name_of_target(example)}"

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def _repr_html_(self) -> str:
        return text_fragment(
            [TextCell(self.method, self.name_of_target(i), [], {}, [("", self.chart(i))]) for i in range(len(self))],
            charts=True,
        )

    def shape_in_words(self) -> str:
        """How many pictures and patches the examples have."""
        return "; ".join(f"{len(row)} pictures of {sum(f.patches for f in row)} patches" for row in self.frames[:3])

    # Keeping

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".png": self.to_png, ".html": self.to_html, **super().writers()}

    def join(self, values: Sequence[Any], sizes: Sequence[int], room: float = 0.0) -> Any:
        """One field of several results; what is shorter is filled up with 0."""
        tensors = [v for v in values if isinstance(v, Tensor)]
        if len(tensors) == len(sizes) and all(t.ndim == 2 for t in tensors):
            return padded([row for t in tensors for row in t])
        return super().join(values, sizes, room)

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {
            f"picture.{i}.{k}": torch.from_numpy(frame.picture.pixels.copy())
            for i, row in enumerate(self.frames)
            for k, frame in enumerate(row)
        }
        rows = [
            [{"name": f.name, "size": list(f.size), "patch": list(f.patch), "box": list(f.picture.box)} for f in row]
            for row in self.frames
        ]
        return tensors, {"frames": rows}

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        rows: list[list[dict[str, Any]]] = saved.value("frames", [[_FRAME]])
        if len(rows) != batch:
            raise saved.wrong("frames", f"pictures of {batch} examples", len(rows))
        frames: list[list[Frame]] = []
        for i, row in enumerate(rows):
            frames.append([])
            for k, plain in enumerate(row):
                size, patch, box = plain["size"], plain["patch"], plain["box"]
                if (len(size), len(patch), len(box)) != (2, 2, 4):
                    raise saved.wrong("frames", "size and patch (down, across), box of four", plain["name"][:40])
                pixels = saved.tensor(f"picture.{i}.{k}", "whole", (None, None, 3))
                if pixels.dtype != torch.uint8 or not pixels.numel():
                    raise saved.wrong("picture", "uint8 (height, width, 3)", pixels.dtype)
                frames[i].append(Frame(plain["name"], tuple(size), tuple(patch), Picture(pixels.numpy(), tuple(box))))
        areas = [sum(f.size[0] * f.size[1] for f in row) for row in frames]
        counts = [sum(f.patches for f in row) for row in frames]
        if max(areas, default=0) > MOST_PIXELS:
            raise saved.wrong("frames", f"at most {MOST_PIXELS:,} pixels", max(areas))
        if max(counts, default=0) != tokens:
            raise saved.wrong("frames", f"{tokens} patches at most", max(counts, default=0))
        pixels = saved.tensor("pixels", "floats", (batch, max(areas, default=0)))
        return {"pixels": pixels, "frames": frames}


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of several lengths as one tensor (row, longest), filled up with 0."""
    longest = max((len(row) for row in rows), default=0)
    return torch.stack([F.pad(row, (0, longest - len(row))) for row in rows])


def _total(image: ImageAttribution) -> float:
    return float(image.all_scores.sum())
