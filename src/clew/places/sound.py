"""Places of sound: frames of a spectrogram or of a waveform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attributions import SoundAttribution


@dataclass(frozen=True, kw_only=True)
class Spectrogram:
    """A spectrogram `x` (batch, …) with frames and bands on its last two axes, or with `bands_first` bands and frames.

    Axes between are channels, which are summed. A frame lasts so many `seconds`, where that is known.
    """

    x: Tensor
    bands_first: bool = True
    seconds: float | None = None

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> SoundAttribution:
        """Scores of frames, and of each band in them."""
        bands = self._turned(scores).flatten(1, -3).sum(1) if scores.ndim > 3 else self._turned(scores)
        sound = self._turned(self.x.detach())
        sound = sound.flatten(1, -3)[:, 0] if sound.ndim > 3 else sound
        return SoundAttribution(
            all_scores=bands.sum(1), sound=sound.to(bands.dtype), bands=bands, seconds=self.seconds, **common
        )

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """Another value in all bands of the frames that are not kept."""
        kept = self._turned(keep.view(len(x), *[1] * (x.ndim - 2), keep.shape[-1]))
        return torch.where(kept, x, torch.as_tensor(value, dtype=x.dtype, device=x.device))

    def _turned(self, values: Tensor) -> Tensor:
        return values if self.bands_first else values.mT


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """A waveform `x` (batch, sample); `step` samples are a frame, of so many `seconds`, where that is known."""

    x: Tensor
    step: int = 1
    seconds: float | None = None

    def attribution(self, scores: Tensor, common: Mapping[str, Any]) -> SoundAttribution:
        """Scores of frames."""
        covered = F.pad(scores, (0, -scores.shape[1] % self.step))
        frames = covered.unflatten(1, (-1, self.step)).sum(2)
        sound = self.x.detach().to(scores.dtype)
        return SoundAttribution(all_scores=frames, sound=sound, step=self.step, seconds=self.seconds, **common)

    def erase(self, x: Tensor, keep: Tensor, value: int | float | Tensor) -> Tensor:
        """Another value in the frames that are not kept."""
        kept = keep.repeat_interleave(self.step, 1)[:, : x.shape[1]]
        return torch.where(kept, x, torch.as_tensor(value, dtype=x.dtype, device=x.device))
