"""Places of pictures that are cut into tiles, and of videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .pictures import Cutout, Pictures

_PLACE = re.compile(r"<row_(\d+)_col_(\d+)>")


@dataclass(frozen=True)
class Part:
    """Tiles of one picture that belong together: `rows` x `columns` of them from the tile `first` on, row by row.

    `size` is what is real of the whole (down, across), where the rest is padding.
    """

    picture: int
    first: int
    rows: int = 1
    columns: int = 1
    name: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Tiles(Pictures):
    """Pictures (…, channel, height, width) in tiles: `parts` says which of them make one picture together.

    Tiles are counted through all axes in front. What is in no part is padding.
    """

    parts: Sequence[Part]
    patch: tuple[int, int] = (1, 1)

    def cutouts(self) -> Sequence[Cutout]:
        """A cutout for each part, its tiles put together."""
        channels, height, width = self.x.shape[-3:]
        tiles = torch.arange(self.x.numel()).view(-1, channels, height, width)
        found = list[Cutout]()
        for part in self.parts:
            own = tiles[part.first : part.first + part.rows * part.columns]
            own = own.view(part.rows, part.columns, channels, height, width).permute(2, 0, 3, 1, 4)
            index = own.reshape(channels, part.rows * height, part.columns * width)
            down, across = part.size or index.shape[1:]
            found.append(Cutout(part.picture, index[:, :down, :across], self.patch, part.name))
        return found


@dataclass(frozen=True, kw_only=True)
class Video(Pictures):
    """Videos (video, frame, channel, height, width); with `channels_first` the channel is before the frame."""

    patch: tuple[int, int] = (1, 1)
    channels_first: bool = False

    what: ClassVar[str] = "video"

    def cutouts(self) -> Sequence[Cutout]:
        """A cutout for each frame."""
        index = torch.arange(self.x.numel()).view(self.x.shape)
        videos = index.transpose(1, 2) if self.channels_first else index
        return [
            Cutout(k, frame, self.patch, f"frame {t + 1}")
            for k, video in enumerate(videos)
            for t, frame in enumerate(video)
        ]


# Which tiles make which picture


def single(x: Tensor, seen: Tensor | None = None) -> Iterator[Part]:
    """Each tile of (row, tile, channel, height, width) by itself, where the arrangement is not known.

    `seen` (row, tile, height, width) says what is no padding; without it a tile of zeros behind the first is padding.
    """
    count = x.shape[1]
    for row in range(len(x)):
        real = [
            k
            for k in range(count)
            if (bool(seen[row, k].any()) if seen is not None else not k or bool(x[row, k].any()))
        ]
        for number, k in enumerate(real):
            name = f"tile {number + 1}" if len(real) > 1 else ""
            yield Part(row, row * count + k, name=name, size=None if seen is None else _size(seen[row, k]))


def by_size(sizes: Sequence[tuple[int, int]], count: int) -> Iterator[Part]:
    """Pictures of so many rows and columns of tiles, each behind a first tile that shows it whole."""
    for row, (rows, columns) in enumerate(sizes):
        yield Part(row, row * count, name="overview")
        yield Part(row, row * count + 1, rows, columns, "tiles")


def by_ratio(ratios: Sequence[Sequence[tuple[int, int] | None]], count: int) -> Iterator[Part]:
    """Pictures of so many rows and columns of tiles, several for each example; None where there is none."""
    longest = max((len(row) for row in ratios), default=0)
    for k, ratio in enumerate(one for row in ratios for one in [*row, *[None] * (longest - len(row))]):
        if ratio is not None:
            yield Part(k, k * count, *ratio)


def by_words(tokens: Sequence[Sequence[str]], seen: Tensor | None, x: Tensor) -> Iterator[Part] | None:
    """Tiles as the prompt tells them, "<row_1_col_2>" before each; behind the last comes one that shows the whole.

    None where the prompt tells of other tiles than there are.
    """
    found, pictures, count = list[Part](), 0, x.shape[1]
    for row, words in enumerate(tokens):
        real = list(single(x[row : row + 1], None if seen is None else seen[row : row + 1]))
        places = [(int(m[1]), int(m[2])) for m in map(_PLACE.search, words) if m is not None]
        at = 0
        while places:
            stop = next((k for k in range(1, len(places)) if places[k] == (1, 1)), len(places))
            own, places = places[:stop], places[stop:]
            rows, columns = own[-1]
            if own != [(i + 1, j + 1) for i in range(rows) for j in range(columns)]:
                return None
            first = row * count + at
            found += [
                Part(pictures, first, rows, columns, "tiles"),
                Part(pictures, first + rows * columns, name="overview"),
            ]
            at, pictures = at + rows * columns + 1, pictures + 1
        if not at or at != len(real):
            return None
    return iter(found)


def _size(seen: Tensor) -> tuple[int, int]:
    """Rows and columns that are real, of (height, width)."""
    return int(seen.any(1).sum()), int(seen.any(0).sum())
