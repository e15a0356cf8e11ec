"""The figure of pictures: heatmaps over them, a row for each picture, a column for each result. Knows no results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..draw import Panel, Ruler, apply_fonts, fitted, in_frame, language_of, shrunk
from ..errors import OptionError

_CELL, _LEAST = 97.0, 14.0  # points of a cell across, as it is and at least
_FLAT, _TALL = 0.1, 1.5  # height of a cell for its width: pictures beyond stand in the middle
_GAP, _LABEL_WIDTH = 4.0, 64.0
_WORDS, _CAPTION, _TICKS = 7.0, 6.5, 5.0  # points of letters
_BAR = 5.0  # how thick a bar of colours is
_UNIT = {"each": "share of the largest score", "all": "score"}


@dataclass(frozen=True)
class ColourScale:
    """What the colours mean: values from `low` to `high` on a colour map."""

    name: str
    low: float
    high: float

    @staticmethod
    def of(maps: Sequence[np.ndarray], name: str | None = None) -> ColourScale:
        """One scale for several maps: around 0 where any has negative values, else from 0."""
        values = np.concatenate([m[np.isfinite(m)].ravel() for m in maps] or [np.zeros(1)])
        high = float(np.abs(values).max(initial=0.0)) or 1.0
        if (values < 0).any():
            return ColourScale(name or "RdBu_r", -high, high)
        return ColourScale(name or "inferno", 0.0, high)

    def ticks(self) -> dict[float, str]:
        """The ends and 0, as they are written."""
        return {value: f"{value:.2g}" for value in dict.fromkeys((self.low, 0.0, self.high))}


def images_figure(
    panels: Sequence[Sequence[Panel]],
    rows: Sequence[str],
    names: Sequence[str],
    scale: str,
    caption: str,
    dpi: int,
    width: float | None,
    cmap: str | None,
) -> Any:
    """Columns of panels, the pictures before them. Everything is measured first: a row is as high as its picture is
    at the width of a cell, and `width` (points) is that of the whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = [shrunk(panel.picture) for panel in panels[0]]
    maps = [[_map(panel, scale) for panel in of] for of in panels]
    together = scale != "method"
    scales = [ColourScale.of([m for of in maps for m in of], cmap)] * len(maps) if together else [
        ColourScale.of(of, cmap) for of in maps
    ]  # fmt: skip

    language = language_of("".join([*rows, *names, caption]))
    words, small = Ruler(_WORDS, dpi, language), Ruler(_TICKS, dpi, language)
    most = _LABEL_WIDTH if width is None else min(_LABEL_WIDTH, 0.22 * width)
    labels = [fitted(row, most, _WORDS, 6) if row else "" for row in rows]
    beside = max(words.of(label)[0] for label in labels) + 2 * _GAP
    ticks = max(small.of(shown)[0] for shown in scales[0].ticks().values())
    behind = 2 * _GAP + _BAR + ticks + 20.0 if together else _GAP  # 20: the bar's label and its marks
    columns = len(panels) + 1
    cell = _CELL if width is None else (width - beside - behind) / columns - _GAP
    if cell < _LEAST:
        least = (beside + behind + columns * (_LEAST + _GAP)) / 72
        raise OptionError(
            "the figure is too narrow for its columns", expected=f"{least:.1f} inches or more", got=(width or 0) / 72
        )
    across = beside + behind + columns * (cell + _GAP)
    titles = [fitted(name, cell, _WORDS, 12) for name in ["input", *names]]
    shapes = [picture.pixels.shape[0] / picture.pixels.shape[1] for picture in pictures]
    heights = [
        max(cell * min(max(shape, _FLAT), _TALL), words.of(label)[1])
        for shape, label in zip(shapes, labels, strict=True)
    ]
    said = fitted(caption, across - 2 * _GAP, _CAPTION, 100) if caption else ""
    above = max(words.of(title)[1] for title in titles) + 2 * _GAP
    bars = 0.0 if together else _GAP + _BAR + 10.0  # 10: its numbers
    under = Ruler(_CAPTION, dpi, language).of(said)[1] + 2 * _GAP if said else 0.0
    down = above + sum(heights) + _GAP * len(rows) + bars + under

    drawn = Figure(figsize=(across / 72, down / 72), dpi=dpi)
    FigureCanvasAgg(drawn)

    def axes(left: float, bottom: float, wide: float, high: float) -> Any:
        return drawn.add_axes((left / across, bottom / down, wide / across, high / down), xticks=[], yticks=[])

    def write(x: float, y: float, text: str, size: float, **manner: Any) -> None:
        drawn.text(x / across, y / down, text, fontsize=size, **manner)

    lefts = [beside + k * (cell + _GAP) for k in range(columns)]
    for left, title in zip(lefts, titles, strict=True):
        write(left + cell / 2, down - above + _GAP, title, _WORDS, ha="center", va="bottom")
    at = down - above
    for i, (high, picture) in enumerate(zip(heights, pictures, strict=True)):
        at -= high
        write(beside - _GAP, at + high / 2, labels[i], _WORDS, ha="right", va="center")
        for k, left in enumerate(lefts):
            axis = axes(left, at, cell, high)
            axis.spines[:].set_visible(False)
            axis.imshow(picture.pixels)
            if k:
                _overlay(axis, maps[k - 1][i], scales[k - 1])
        at -= _GAP
    if together:
        high = min(sum(heights) + _GAP * (len(rows) - 1), 2.5 * 72)
        middle = (down - above + at + _GAP) / 2
        bar = axes(lefts[-1] + cell + 2 * _GAP, middle - high / 2, _BAR, high)
        unit = fitted(_UNIT[scale], high, 6.0, 2)
        _draw_bar(drawn, bar, scales[0], "vertical", unit if not unit.endswith("…") else "")
    else:
        for left, colours in zip(lefts[1:], scales, strict=True):
            _draw_bar(drawn, axes(left + 0.1 * cell, at - _BAR, 0.8 * cell, _BAR), colours, "horizontal", "")
    if said:
        write(_GAP, _GAP, said, _CAPTION, ha="left", va="bottom")
    return apply_fonts(drawn)


def _map(panel: Panel, scale: str) -> np.ndarray:
    """A heatmap in the frame of its picture, of its own size where that is asked for."""
    frame = in_frame(shrunk(panel.picture), panel.heat)
    largest = float(np.nanmax(np.abs(frame), initial=0.0)) if np.isfinite(frame).any() else 0.0
    return frame / largest if scale == "each" and largest else frame


def _overlay(axis: Any, frame: np.ndarray, colours: ColourScale) -> None:
    strength = np.clip(np.abs(np.nan_to_num(frame)) / colours.high, 0, 1)
    opacity = np.where(np.isfinite(frame), 0.2 + 0.7 * strength, 0.0)
    axis.imshow(frame, cmap=colours.name, vmin=colours.low, vmax=colours.high, alpha=opacity)


def _draw_bar(drawn: Any, axis: Any, colours: ColourScale, orientation: str, label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shown = ScalarMappable(Normalize(colours.low, colours.high), colours.name)
    bar = drawn.colorbar(shown, cax=axis, orientation=orientation)
    bar.set_ticks(list(colours.ticks()), labels=list(colours.ticks().values()))
    bar.ax.tick_params(labelsize=_TICKS, length=2, pad=1)
    bar.outline.set_linewidth(0.4)
    if label:
        bar.set_label(label, fontsize=6, labelpad=2)
