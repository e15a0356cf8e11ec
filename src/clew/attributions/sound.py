"""Attributions of sound: scores of frames in time, over a spectrogram or a waveform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draw import TextCell, blocks, sound_png, text_fragment, text_page
from ..files import Number
from . import tables
from .base import Attribution
from .saved_fields import MOST_PIXELS, SavedFields

_SPANS = 50  # how many spans a sound has, where no width is said


class RankedSpan(NamedTuple):
    """A span of time with its score: first and behind-last frame, and the same in seconds, where these are known."""

    frames: tuple[int, int]
    seconds: tuple[float, float] | None
    score: float

    def __str__(self) -> str:
        where = "frames {} to {}".format(*self.frames)
        return f"{where if self.seconds is None else '{:.2f} to {:.2f} s'.format(*self.seconds)}  {self.score:+.4g}"


@dataclass(frozen=True, kw_only=True, repr=False)
class SoundAttribution(Attribution):
    """Scores of one method for a batch of sounds: `scores` (batch, frame).

    `sound` is what the model was given: a spectrogram (batch, band, frame), with scores of its entries in `bands`
    (batch, band, frame), or a waveform (batch, sample), of which `step` samples are a frame. `seconds` is the length of
    a frame, where it is known.
    """

    sound: Tensor
    bands: Tensor | None = None
    step: int = 1
    seconds: float | None = None

    kind: ClassVar[str] = "sound"
    tensors: ClassVar[tuple[str, ...]] = ("all_scores", "score", "logits", "sound", "bands")
    same: ClassVar[tuple[str, ...]] = ("method", "step", "seconds")

    def top(self, k: int = 5, *, width: int | None = None, absolute: bool = False) -> list[list[RankedSpan]]:
        """The `k` spans of `width` frames of each sound with the largest sums (or sizes of sums), none over another.

        By default a span is the fiftieth part of the sound. Of equal sums the earlier comes first.
        """
        width = width or max(1, round(self.all_scores.shape[1] / _SPANS))
        return [self._top(i, k, width, absolute=absolute) for i in range(len(self))]

    def _top(self, example: int, k: int, width: int, *, absolute: bool) -> list[RankedSpan]:
        scores = self.all_scores[example].detach().double().cpu()
        sums = scores.unfold(0, min(width, len(scores)), 1).sum(-1)
        left, found = sums.abs() if absolute else sums.clone(), list[RankedSpan]()
        while len(found) < k and bool((left > -torch.inf).any()):
            start = int(left.argmax())
            stop = min(start + width, len(scores))
            seconds = None if self.seconds is None else (start * self.seconds, stop * self.seconds)
            found.append(RankedSpan((start, stop), seconds, float(sums[start])))
            left[max(0, start - width + 1) : stop] = -torch.inf
        return found

    def scored(self, example: int) -> tables.Columns:
        """The frames of one sound with their scores, and their seconds where these are known."""
        frames, long = range(self.all_scores.shape[1]), self.seconds
        times = {} if long is None else {"start_seconds": [i * long for i in frames]}
        times |= {} if long is None else {"stop_seconds": [(i + 1) * long for i in frames]}
        return {"frame": list(frames), **times, "score": tables.numbers(self.all_scores[example])}

    # Looking

    def chart(self, example: int = 0) -> bytes:
        """The sound of one example with its scores over it, and the scores of frames below, as PNG."""
        bands = None if self.bands is None else _array(self.bands[example])
        title = f"{self.method}, {self.name_of_target(example)}"
        return sound_png(_array(self.sound[example]), _array(self.all_scores[example]), bands, title, self.seconds)

    def to_png(self) -> bytes:
        """The chart of the first example."""
        return self.chart(0)

    def cells(self) -> list[TextCell]:
        """One cell per example, for a page."""
        return [
            TextCell(self.method, self.name_of_target(i), [], self._facts(i), [(self.stream_name, self.chart(i))])
            for i in range(len(self))
        ]

    def _facts(self, example: int) -> dict[str, str]:
        return {"most": "; ".join(map(str, self.top()[example]))} | self.facts(example)

    def to_html(self) -> str:
        """One self-contained HTML page."""
        return text_page(f"clew: {self.method}", [[cell] for cell in self.cells()])

    def to_rich(self, example: int = 0) -> Any:
        """The frames of one example as coloured blocks, and the spans that count most, as `rich` prints them."""
        from rich.console import Group
        from rich.text import Text

        row = _array(self.all_scores[example])[None]
        most = Text("\n".join(map(str, self.top(absolute=True)[example])))
        return Group(blocks(row, float(abs(row).max(initial=0.0))), most)

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def _repr_html_(self) -> str:
        return text_fragment(self.cells(), charts=True)

    def shape_in_words(self) -> str:
        """How long one example is."""
        frames = self.all_scores.shape[1]
        return f"{frames} frames" + (f" of {self.seconds:.3g} s" if self.seconds is not None else "")

    # Keeping

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".html": self.to_html, ".png": self.to_png, **super().writers()}

    def join(self, values: Sequence[Any], sizes: Sequence[int], room: float = 0.0) -> Any:
        """One field of several results; shorter sounds are filled up with 0."""
        tensors = [v for v in values if isinstance(v, Tensor) and v.ndim > 1]
        if len(tensors) == len(sizes):
            longest = max(t.shape[-1] for t in tensors)
            values = [F.pad(t, (0, longest - t.shape[-1])) for t in tensors]
        return super().join(values, sizes, room)

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"step": self.step, "seconds": self.seconds}

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        step, seconds = (
            saved.value("step", Number(1, 2**31, whole=True)),
            saved.value("seconds", (None, Number(0, 1e6))),
        )
        bands = saved.tensor("bands", "floats", (batch, None, tokens), optional=True)
        sound = saved.tensor("sound", "floats", (batch, None) if bands is None else tuple(bands.shape))
        if bands is None and -(-sound.shape[1] // step) != tokens:
            raise saved.wrong("sound", f"{tokens} frames of {step} samples", sound.shape[1])
        if sound.numel() > MOST_PIXELS * max(1, batch):
            raise saved.wrong("sound", f"at most {MOST_PIXELS:,} numbers", sound.numel())
        return {"sound": sound, "bands": bands, "step": step, "seconds": seconds}


def _array(values: Tensor) -> Any:
    return values.detach().float().cpu().numpy()
