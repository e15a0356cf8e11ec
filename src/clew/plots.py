"""Draw heatmaps over pictures. Knows arrays and words, no model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """What an example looked like: `pixels` (height, width, 3) uint8, and the `box` (left, top, right, bottom) of it
    that the model saw, in its pixels; the box may reach over the edge where the model's input was padded."""

    pixels: NDArray[np.uint8]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    """One heatmap over one picture, with its title; `heat` (height, width) lies over the picture's box."""

    picture: Picture
    heat: Array
    title: str


@dataclass(frozen=True)
class Bars:
    """A small chart of named numbers, from the bottom up."""

    names: Sequence[str]
    values: Sequence[float]
    title: str


def bars_png(bars: Bars) -> bytes:
    """The chart alone, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 0.6 + 0.16 * len(bars.names)), layout="constrained")
    FigureCanvasAgg(figure)
    _draw_bars(figure.subplots(), bars)
    return _figure_png(figure)


def _draw_bars(axis: Any, bars: Bars) -> None:
    colours = ["#b2182b" if value >= 0 else "#2166ac" for value in bars.values]
    axis.barh(range(len(bars.names)), bars.values, color=colours)
    axis.set_yticks(range(len(bars.names)), bars.names, fontsize=6)
    axis.tick_params(axis="x", labelsize=6)
    axis.axvline(0, color="#555", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(bars.title, fontsize=8)


def _figure_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def layers_png(heat: Array, names: Sequence[str], rows: Sequence[str] = (), label: str = "block") -> bytes:
    """Numbers by block, or by what `rows` names (down, from the first), and token (across) as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks, tokens = heat.shape
    figure = Figure(figsize=(min(14.0, 1.6 + 0.22 * tokens), min(14.0, 1.0 + 0.22 * blocks)), layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    name, low, high = colour_scale(heat)
    shown = axis.imshow(heat, cmap=name, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axis.set_ylabel(label, fontsize=7)
    axis.set_yticks(range(0, blocks, max(1, blocks // 12)))
    axis.tick_params(labelsize=6)
    if rows and blocks <= 60:
        axis.set_yticks(range(blocks), [_plain(row) for row in rows], fontsize=6)
    if tokens <= 60:
        axis.set_xticks(range(tokens), [_plain(name) for name in names], rotation=90, fontsize=6)
    figure.colorbar(shown, ax=axis).ax.tick_params(labelsize=6)
    return _figure_png(figure)


def _plain(word: str) -> str:
    """A word without what matplotlib reads as mathematics."""
    return word.replace("$", r"\$").replace("\n", "⏎")


def colour_scale(heat: Array) -> tuple[str, float, float]:
    """Colour map, lowest and highest value for a map: diverging around 0 where any value is negative, else from 0.

    The scale ends at the 99.5th percentile, so that a few extreme pixels do not hide the rest.
    """
    values = heat[np.isfinite(heat)]
    size = np.abs(values)
    high = float(np.quantile(size, 0.995) or size.max()) if values.size else 0.0
    high = high or 1.0
    if values.size and float(values.min()) < 0:
        return "RdBu_r", -high, high
    return "inferno", 0.0, high


def colour(heat: Array) -> NDArray[np.uint8]:
    """A heatmap as RGBA, for laying over a picture: stronger values cover more. NaN is transparent."""
    from matplotlib import colormaps

    name, low, high = colour_scale(heat)
    known = np.clip(np.nan_to_num(heat, nan=0.0), low, high)
    rgba = colormaps[name]((known - low) / (high - low))
    rgba[..., 3] = np.where(np.isfinite(heat), 0.25 + 0.75 * np.abs(known) / high, 0.0)
    return (rgba * 255).astype(np.uint8)


def colour_stops(name: str, count: int = 9) -> list[str]:
    """A colour map as CSS colours, from its low end to its high end."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[name](i / (count - 1))) for i in range(count)]


def in_frame(picture: Picture, heat: Array) -> Array:
    """The heatmap in the frame of the whole picture, NaN where the model saw nothing: resize and crop undone."""
    height, width = picture.pixels.shape[:2]
    left, top, right, bottom = (round(v) for v in picture.box)
    size = max(1, right - left), max(1, bottom - top)
    stretched = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    frame = np.full((height, width), np.nan, dtype=np.float32)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    frame[y0:y1, x0:x1] = np.asarray(stretched)[y0 - top : y1 - top, x0 - left : x1 - left]
    return frame


def png(image: Array) -> bytes:
    """An image array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def jpeg(image: Array) -> bytes:
    """An image array as JPEG of high quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def shrunk(picture: Picture, longest: int = 640) -> Picture:
    """A picture no longer than `longest` pixels on either side, with its box; photographs would fill pages."""
    height, width = picture.pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(picture.pixels).resize(size, Image.Resampling.LANCZOS))
    x, y = size[0] / width, size[1] / height
    left, top, right, bottom = picture.box
    return Picture(pixels, (left * x, top * y, right * x, bottom * y))


def grid(rows: Sequence[Sequence[Panel | Bars]]) -> bytes:
    """Examples downwards; their picture, overlays with colour bars, and charts across; as PNG. Panels come first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    columns = 1 + max(len(row) for row in rows)
    figure = Figure(figsize=(2.7 * columns, 2.9 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(rows), columns, squeeze=False)
    for line, panels in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        first = panels[0]
        if isinstance(first, Panel):
            line[0].imshow(shrunk(first.picture).pixels)
        for axis, panel in zip(line[1:], panels, strict=False):
            if isinstance(panel, Bars):
                axis.axis("on")
                _draw_bars(axis, panel)
                continue
            picture = shrunk(panel.picture)
            frame = in_frame(picture, panel.heat)
            name, low, high = colour_scale(frame)
            axis.imshow(picture.pixels)
            size = np.clip(np.abs(np.nan_to_num(frame)) / high, 0, 1)
            opacity = np.where(np.isfinite(frame), 0.25 + 0.6 * size, 0.0)
            clipped = np.nanmax(np.abs(frame)) > high
            beyond = ("both" if low < 0 else "max") if clipped else "neither"
            axis.imshow(frame, cmap=name, vmin=low, vmax=high, alpha=opacity)
            axis.set_title(panel.title, fontsize=8)
            bar = figure.colorbar(ScalarMappable(Normalize(low, high), name), ax=axis, shrink=0.7, extend=beyond)
            bar.ax.tick_params(labelsize=6)
    return _figure_png(figure)
