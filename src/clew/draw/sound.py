"""Scores over a spectrogram or a waveform, with time across."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .lettering import apply_fonts, fitted
from .plots import Array, colour_scale

_COLUMNS = 1500  # of a waveform


def sound_png(sound: Array, scores: Array, bands: Array | None, title: str, seconds: float | None) -> bytes:
    """A sound with its scores over it, and below the scores of its frames (frame,); as PNG.

    A spectrogram (band, frame) has scores of its entries, `bands`; a waveform (sample,) has those of its frames behind
    it. A frame lasts so many `seconds`; where that is not known, frames are counted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    end = len(scores) * (seconds or 1.0)
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
    if bands is not None:
        shown = _spectrogram(above, sound, bands, end)
        above.set_ylabel("band", fontsize=7)
    else:
        shown = _waveform(above, sound, scores, end)
        above.set_yticks([])
    bar = figure.colorbar(ScalarMappable(Normalize(*shown[1:]), shown[0]), ax=above, pad=0.01, aspect=12)
    edges = np.linspace(0.0, end, len(scores) + 1)
    for sign, ink in ((1, "#b2182b"), (-1, "#2166ac")):
        below.stairs(np.nan_to_num(scores) * (scores * sign > 0), edges, fill=True, color=ink)
    below.axhline(0, color="#555", linewidth=0.5)
    below.spines[["top", "right"]].set_visible(False)
    below.set_xlim(0, end)
    below.set_xlabel("frame" if seconds is None else "seconds", fontsize=7)
    below.set_ylabel("score of frames", fontsize=7)
    above.set_title(fitted(title, 440.0, 8.0, 2), fontsize=8)
    for axis in (above, below, bar.ax):
        axis.tick_params(labelsize=6)
    buffer = io.BytesIO()
    apply_fonts(figure).savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _spectrogram(axis: Any, sound: Array, bands: Array, end: float) -> tuple[str, float, float]:
    name, low, high = colour_scale(bands)
    place: dict[str, Any] = {"extent": (0.0, end, 0, len(sound)), "aspect": "auto", "origin": "lower"}
    axis.imshow(sound, cmap="gray", interpolation="nearest", **place)
    opacity = 0.15 + 0.75 * np.clip(np.abs(np.nan_to_num(bands)) / high, 0, 1)
    axis.imshow(np.nan_to_num(bands), cmap=name, vmin=low, vmax=high, alpha=opacity, interpolation="nearest", **place)
    return name, low, high


def _waveform(axis: Any, sound: Array, scores: Array, end: float) -> tuple[str, float, float]:
    high = colour_scale(scores)[2]
    name, low = "RdBu_r", -high  # nothing is white, behind the line
    size = float(np.abs(sound).max(initial=0.0)) or 1.0
    axis.imshow(
        np.nan_to_num(scores)[None], cmap=name, vmin=low, vmax=high, aspect="auto", interpolation="nearest", alpha=0.7,
        extent=(0.0, end, -size, size),
    )  # fmt: skip
    parts = np.array_split(sound, min(len(sound), _COLUMNS))
    times = np.linspace(0.0, end, len(parts))
    axis.fill_between(times, [p.min() for p in parts], [p.max() for p in parts], color="#222", linewidth=0.6)
    return name, low, high
