"""Places of arguments that hold several pictures: which of their entries are the pixels of which picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isqrt
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..attributions import Frame, PicturesAttribution, padded
from ..draw import Picture
from ..inputs import picture_of

Colours = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel


@dataclass(frozen=True)
class Cutout:
    """One picture, or one part of it: `index` (channel, height, width) says where in the argument its pixels are.

    `picture` counts the pictures of the whole argument; `part` names this part, where a picture has several. Without
    `colours` the channels are none.
    """

    picture: int
    index: Tensor
    patch: tuple[int, int]
    part: str = ""
    colours: bool = True


@dataclass(frozen=True, kw_only=True)
class Pictures(ABC):
    """Pictures in one argument `x`. `examples` says for each picture to which example it belongs.

    `colours` are mean and standard deviation of each channel, by which the pictures were normalized, where known.
    """

    x: Tensor
    examples: Sequence[int]
    colours: Colours | None = None

    what: ClassVar[str] = "picture"

    @abstractmethod
    def cutouts(self) -> Sequence[Cutout]:
        """All pictures of the argument, in order; what is padding is in none."""

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> PicturesAttribution:
        """Scores of patches and pixels of each picture: channels are summed. Scores are (batch, *axes of the argument),
        or as the argument, where its first axis is that of the examples."""
        pixels, sums, frames = list[Tensor](), list[Tensor](), list[list[Frame]]()
        for i, cutouts in enumerate(self._by_example(len(scores))):
            flat = (scores[i] if scores.ndim > self.x.ndim else scores).flatten()
            heats = [flat[cutout.index.to(flat.device)].sum(0) for cutout in cutouts]
            frames.append([self._frame(*named) for named in zip(cutouts, _names(cutouts, self.what), strict=True)])
            pairs = list(zip(frames[i], heats, strict=True))
            sums.append(torch.cat([frame.sums(heat) for frame, heat in pairs] or [flat[:0]]))
            pixels.append(torch.cat([heat.flatten() for heat in heats] or [flat[:0]]))
        return PicturesAttribution(all_scores=padded(sums), pixels=padded(pixels), frames=frames, **common)

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """Another colour in the patches that are not kept."""
        erased = torch.zeros(x.numel(), dtype=torch.bool, device=x.device)
        for row, cutouts in zip(keep, self._by_example(len(keep)), strict=True):
            start = 0
            for cutout in cutouts:
                size = Frame("", (cutout.index.shape[1], cutout.index.shape[2]), cutout.patch, _NONE)
                kept = row[start : start + size.patches].view(size.grid)
                kept = kept.repeat_interleave(cutout.patch[0], 0).repeat_interleave(cutout.patch[1], 1)
                erased[cutout.index[:, ~kept[: size.size[0], : size.size[1]]].to(x.device)] = True
                start += size.patches
        return torch.where(erased.view(x.shape), torch.as_tensor(value, dtype=x.dtype, device=x.device), x)

    def _by_example(self, batch: int) -> list[list[Cutout]]:
        found = list[list[Cutout]]([] for _ in range(batch))
        for cutout in self.cutouts():
            found[self.examples[cutout.picture]].append(cutout)
        return found

    def _frame(self, cutout: Cutout, name: str) -> Frame:
        size = (cutout.index.shape[1], cutout.index.shape[2])
        values = self.x.detach().flatten()[cutout.index.to(self.x.device)]
        return Frame(name, size, cutout.patch, _picture(values if cutout.colours else values[:1] * 0, self.colours))


def _names(cutouts: Sequence[Cutout], what: str) -> list[str]:
    """Names within one example: which picture, where there are several, and which part of it."""
    names = list[str]()
    groups = [list(group) for _, group in groupby(cutouts, key=lambda one: one.picture)]
    for k, group in enumerate(groups):
        picture = "" if len(groups) == 1 else f"{what} {k + 1}"
        names += [", ".join(filter(None, [picture, one.part])) or what for one in group]
    return names


def _picture(values: Tensor, colours: Colours | None) -> Picture:
    """What values (channel, height, width) look like, in their own colours where these are known."""
    if colours is None or len(values) < 3 or len(colours[0]) != 3:
        return picture_of(values)
    return picture_of(values, *colours)


_NONE = Picture(np.zeros((1, 1, 3), np.uint8), (0.0, 0.0, 1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Packed(Pictures):
    """Patches of all pictures in one row: (patch, features) or (patch, channel, height, width).

    `grids` (picture, 3) count frames, and patches down and across. Patches come row by row, or, where `merge` is more
    than 1, in groups of merge x merge, each row by row. Features are (channel, frame, down, across) with `step` frames,
    and `patch` pixels on a side; where that does not fit, a patch is one place.
    """

    grids: Sequence[tuple[int, int, int]]
    merge: int = 1
    patch: int = 1
    step: int = 1

    def cutouts(self) -> Sequence[Cutout]:
        """A cutout for each picture, or for each step in time of a video."""
        features, p = self.x[0].numel(), self.patch
        channels, left = divmod(features, p * p * self.step)
        fits = not left and channels in (1, 3, 4)
        if fits:
            inside = torch.arange(features).view(channels, self.step, p, p).transpose(0, 1).flatten(0, 1)
        else:
            p, inside = 1, torch.arange(features).view(-1, 1, 1)
        found, start = list[Cutout](), 0
        for k, (times, down, across) in enumerate(self.grids):
            count, m = times * down * across, self.merge
            rows = torch.arange(start, start + count).view(times, down // m, across // m, m, m)
            rows = rows.transpose(2, 3).reshape(times, 1, down, 1, across, 1)
            index = (rows * features + inside[None, :, None, :, None, :]).reshape(times, -1, down * p, across * p)
            names = [""] if times == 1 else [f"frame {self.step * t + 1}" for t in range(times)]
            found += [Cutout(k, one, (p, p), name, fits) for one, name in zip(index, names, strict=True)]
            start += count
        return found


@dataclass(frozen=True, kw_only=True)
class Filled(Pictures):
    """Patches of each picture in a row of its own (picture, patch, features), filled up to one length.

    `grids` (picture, 2) count patches down and across, which come row by row; features are (down, across, channel).
    """

    grids: Sequence[tuple[int, int]]

    def cutouts(self) -> Sequence[Cutout]:
        """A cutout for each picture, without what fills its row up."""
        longest, features = self.x.shape[1:]
        p = isqrt(features // 3)
        fits = 3 * p * p == features
        p = p if fits else 1
        inside = torch.arange(features).view(p, p, -1).permute(2, 0, 1)
        found = list[Cutout]()
        for k, (down, across) in enumerate(self.grids):
            rows = torch.arange(k * longest, k * longest + down * across).view(1, down, 1, across, 1)
            index = (rows * features + inside[:, None, :, None, :]).reshape(-1, down * p, across * p)
            found.append(Cutout(k, index, (p, p), colours=fits))
        return found
