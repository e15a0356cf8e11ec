"""The kinds of places there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attributions import Attribution, ImageAttribution, TensorAttribution, TextAttribution
from ..draw import Picture


@runtime_checkable
class Places(Protocol):
    """How the entries of a stream are arranged, shown and erased."""

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> Attribution:
        """The result of a stream, of one number for each entry, (batch, *axes of the argument).

        `common` are fields that all results have.
        """
        ...

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """The argument with `value` in the place of what is not kept; `keep` is shaped as the result's `scores`."""
        ...


@dataclass(frozen=True)
class Words:
    """Token numbers `input_ids` (batch, token). Scores over more axes than these (the coordinates of boxes) are summed.

    `tokens` are what they look like; `mask` says which are no padding, `special` which the tokenizer added.
    """

    input_ids: Tensor
    mask: Tensor
    special: Tensor
    tokens: Sequence[Sequence[str]]
    texts: Sequence[str] = ()
    offsets: Tensor | None = None

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> TextAttribution:
        """Scores of tokens, 0 at padding."""
        scores = scores.flatten(2).sum(-1) if scores.ndim > 2 else scores
        return TextAttribution(
            all_scores=scores.masked_fill(~self.mask.to(scores.device), 0.0),
            input_ids=self.input_ids,
            mask=self.mask,
            special=self.special,
            tokens=self.tokens,
            texts=self.texts,
            offsets=self.offsets,
            **common,
        )

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """Another token number where words are not kept."""
        return torch.where(keep, x, torch.as_tensor(value, dtype=x.dtype, device=x.device))


@dataclass(frozen=True)
class Pixels:
    """Pixels (batch, channel, height, width) of any number of channels, in patches of `patch` (down, across)."""

    patch: tuple[int, int] = (1, 1)
    pictures: Sequence[Picture] = ()

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> ImageAttribution:
        """Scores of patches and a heatmap of pixels: channels are summed."""
        pixels = scores.sum(1)
        height, width = pixels.shape[-2:]
        (down, across), grid = self.patch, self._grid(height, width)
        covered = F.pad(pixels, (0, grid[1] * across - width, 0, grid[0] * down - height))
        patches = covered.reshape(-1, grid[0], down, grid[1], across).sum((2, 4)).flatten(1)
        return ImageAttribution(
            all_scores=patches,
            prefix=0,
            patch_grid=grid,
            patch_size=self.patch,
            input_size=(height, width),
            pixels=pixels,
            pictures=self.pictures,
            **common,
        )

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """Another colour in the patches that are not kept."""
        height, width = x.shape[-2:]
        grid = self._grid(height, width)
        kept = keep.view(-1, 1, *grid).repeat_interleave(self.patch[0], 2).repeat_interleave(self.patch[1], 3)
        return torch.where(kept[..., :height, :width], x, torch.as_tensor(value, dtype=x.dtype, device=x.device))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.patch[0]), -(-width // self.patch[1])


@dataclass(frozen=True)
class Entries:
    """A tensor (batch, …) of any shape: each entry has a score. `columns` are names along its last axis."""

    columns: Sequence[str] = ()

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> TensorAttribution:
        """One score for each entry."""
        shape = tuple(scores.shape[1:])
        return TensorAttribution(
            all_scores=scores.reshape(len(scores), prod(shape)), shape=shape, columns=list(self.columns), **common
        )

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """Another value in the entries that are not kept."""
        return torch.where(keep.view(x.shape), x, torch.as_tensor(value, dtype=x.dtype, device=x.device))
