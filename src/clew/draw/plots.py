"""Draw heatmaps over pictures. Knows arrays and words, no model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .lettering import apply_fonts, cut, fitted, ticks, wrapped

Array = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """What an example looked like: `pixels` (height, width, 3) uint8, and the `box` (left, top, right, bottom) of it
    that the model saw, in its pixels; the box may reach over the edge where the model's input was padded."""

    pixels: NDArray[np.uint8]
    box: tuple[float, float, float, float]

    @staticmethod
    def of(
        image: Any,
        mean: float | Sequence[float | int] = 0.0,
        std: float | Sequence[float | int] = 1.0,
        *,
        box: Sequence[float | int] | None = None,
    ) -> Picture:
        """A picture to draw over, in its own colours: of a PIL image, of 8 bits (height, width, 3), or of a tensor as
        the model takes it.

        A tensor of floats (channel, height, width) was normalised by `mean` and `std`, one number or one for each
        channel, of colours from 0 to 1. `box`: what the model saw of it; default: all. Raises `InputError` for what is
        no picture, and where other numbers must have been used.
        """
        pixels = _pixels(image, mean, std)
        height, width = pixels.shape[:2]
        left, top, right, bottom = map(float, (0, 0, width, height) if box is None else box)
        return Picture(pixels, (left, top, right, bottom))


BEYOND = 0.25  # of the range of colours: resizing overshoots, but not by more


def _pixels(image: Any, mean: Any, std: Any) -> NDArray[np.uint8]:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    values: Array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] == 3 and values.size:
        return values
    shape = tuple(values.shape)
    if values.dtype.kind != "f" or values.ndim != 3 or values.shape[0] not in (1, 3) or not values.size:
        raise InputError(
            "this is no picture",
            expected="floats (1 or 3 channels, height, width), 8 bits (height, width, 3), or a PIL image",
            got=f"{values.dtype} {shape}",
            todo="pass one picture at a time: [clew.Picture.of(one) for one in batch]" if values.ndim == 4 else None,
        )
    try:
        scale, shift = (np.broadcast_to(np.reshape(v, (-1, 1, 1)), (shape[0], 1, 1)) for v in (std, mean))
    except ValueError as error:
        expected = f"one number, or {shape[0]}"
        raise InputError("mean and std of the channels", expected=expected, got=f"{mean} and {std}") from error
    colours = values.astype(np.float64) * scale + shift
    low, high = float(colours.min()), float(colours.max())
    if not (low >= -BEYOND and high <= 1 + BEYOND):
        raise InputError(
            "these are not the colours of a picture",
            expected="x * std + mean from 0 to 1",
            got=f"{low:.3g} to {high:.3g}",
            todo="pass the mean= and std= that the tensor was normalised by",
        )
    shown = (colours.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (3, *shape[1:])).transpose(1, 2, 0))


@dataclass(frozen=True)
class Panel:
    """One heatmap over one picture, with its title; `heat` (height, width) lies over the picture's box."""

    picture: Picture
    heat: Array
    title: str


@dataclass(frozen=True)
class Bars:
    """A small chart of named numbers, from the bottom up; `note` says in a sentence what they are."""

    names: Sequence[str]
    values: Sequence[float]
    title: str
    note: str = ""


def bars_png(bars: Bars) -> bytes:
    """The chart alone, as PNG."""
    figure = _new(3.2, 0.6 + 0.16 * len(bars.names))
    _draw_bars(figure.subplots(), bars)
    return _figure_png(apply_fonts(figure))


def _draw_bars(axis: Any, bars: Bars) -> None:
    colours = ["#b2182b" if value >= 0 else "#2166ac" for value in bars.values]
    axis.barh(range(len(bars.names)), bars.values, color=colours)
    ticks(axis.yaxis, [cut(name, 26) for name in bars.names], fontsize=6)
    axis.tick_params(axis="x", labelsize=6)
    axis.axvline(0, color="#555", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(fitted(bars.title, 150.0, 8.0, 3), fontsize=8)


def _figure_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


_COLUMNS, _ROWS, _PART, _NAME = 60, 210, 30, 20  # that are drawn at most; rows of a part; letters of a name


def layers_png(
    heat: Array, names: Sequence[str], rows: Sequence[str] = (), label: str = "block", note: str = ""
) -> bytes:
    """Numbers by block, or by what `rows` names (down, from the first), and token (across) as a picture.

    Of many tokens only those with the largest scores are shown, in their order, each with its name; many named rows are
    drawn in parts, each with the tokens that count in it. What is no number is grey.
    """
    return _figure_png(layers_figure(heat, names, rows, label, note))


def layers_figure(heat: Array, names: Sequence[str], rows: Sequence[str], label: str, note: str = "") -> Any:
    """The figure of `layers_png`."""
    count, tokens = heat.shape
    chosen = _largest(heat, 1, _ROWS) if rows else np.arange(count)
    parts = np.array_split(chosen, -(-len(chosen) // _PART)) if rows and len(chosen) > _COLUMNS else [chosen]
    high = [0.22 * len(part) if rows else min(13.0, 0.22 * len(part)) for part in parts]
    figure = _new(1.6 + 0.22 * min(tokens, _COLUMNS), 0.6 + sum(h + 0.7 for h in high))
    axes: Any = figure.subplots(len(parts), squeeze=False, gridspec_kw={"height_ratios": high})[:, 0]
    name, low, high_end = colour_scale(heat)
    shown: Any = None
    for axis, down in zip(axes, parts, strict=True):
        across = _largest(heat[down], 0, _COLUMNS)
        shown = axis.imshow(
            heat[np.ix_(down, across)], cmap=_with_grey(name), vmin=low, vmax=high_end, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        axis.set_ylabel(label, fontsize=7)
        axis.set_yticks(range(0, len(down), max(1, len(down) // 12)))
        axis.tick_params(labelsize=6)
        if rows:
            ticks(axis.yaxis, [_name(rows[i]) for i in down], fontsize=6)
        ticks(axis.xaxis, [_name(names[i]) for i in across], fontsize=6, rotation=90)
        for k in np.flatnonzero(np.diff(across) > 1):  # tokens between these are left out
            axis.axvline(k + 0.5, color="#888", linewidth=0.6, linestyle=":")
    said = [note] if note else []
    if tokens > _COLUMNS:
        each = " in each part" if len(parts) > 1 else ""
        said.append(
            f"the {_COLUMNS} of {tokens} tokens with the largest scores{each}, dotted lines where some are left out"
        )
    if len(chosen) < count:
        said.append(f"the {len(chosen)} of {count} rows with the largest scores")
    if said:
        axes[0].set_title(wrapped("; ".join(said), max(24, 4 * min(tokens, _COLUMNS))), fontsize=7, loc="left")
    bar = figure.colorbar(
        shown, ax=axes, fraction=0.03, pad=0.02, anchor=(0, 1), aspect=25, shrink=min(1.0, 5 / sum(high))
    )
    bar.ax.tick_params(labelsize=6)
    return apply_fonts(figure)


def _with_grey(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="#d4d4d4")


def _largest(heat: Array, axis: int, most: int) -> NDArray[np.intp]:
    """Places of the rows or columns with the largest sizes, in their order."""
    sizes = np.abs(np.nan_to_num(heat, posinf=0.0, neginf=0.0)).max(axis=axis, initial=0.0)
    return np.sort(np.argsort(-sizes, kind="stable")[:most])


def _name(token: Any) -> str:
    """A token as a name beside a picture; line ends and tokens of spaces alone are made visible."""
    token = token.replace("\n", "⏎")
    return cut(token if token.strip() else token.replace(" ", "␣") or "∅", _NAME)


def _new(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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


def colour(heat: Array, among: Array | None = None) -> NDArray[np.uint8]:
    """A heatmap as RGBA, for laying over a picture: stronger values cover more. NaN is transparent.

    Its scale is that of all values `among` which it is shown, by default of its own.
    """
    from matplotlib import colormaps

    name, low, high = colour_scale(heat if among is None else among)
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


def below(pictures: Sequence[bytes]) -> bytes:
    """Pictures of PNG below one another, on white, as one."""
    opened = [Image.open(io.BytesIO(one)).convert("RGB") for one in pictures]
    whole = Image.new("RGB", (max(p.width for p in opened), sum(p.height for p in opened)), "white")
    top = 0
    for one in opened:
        whole.paste(one, (0, top))
        top += one.height
    return png(np.asarray(whole))


def jpeg(image: Array) -> bytes:
    """An image array as JPEG of high quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def is_tiny(pixels: Array) -> bool:
    """Whether a picture is shown so much larger than it is that its pixels should be seen, not smeared."""
    return max(pixels.shape[:2]) <= 96


def encode_image(pixels: Array) -> tuple[bytes, str]:
    """A picture for a page with its kind: tiny ones as they are, photographs as JPEG."""
    return (png(pixels), "png") if is_tiny(pixels) else (jpeg(pixels), "jpeg")


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


def panels_png(rows: Sequence[Sequence[Panel | Bars]]) -> bytes:
    """Examples downwards; their picture, overlays with colour bars, and charts across; as PNG. Panels come first."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    columns = 1 + max(len(row) for row in rows)
    high = [_height(row) for row in rows]
    several = max(sum(isinstance(panel, Panel) for panel in row) for row in rows) > 1
    figure = _new(2.2 + 2.7 * (columns - 1), sum(high) + (0.3 if several else 0.1))
    axes: Any = figure.subplots(len(rows), columns, squeeze=False, height_ratios=high)
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
            axis.set_title(fitted(panel.title, 160.0, 8.0, 5), fontsize=8)
            bar = figure.colorbar(ScalarMappable(Normalize(low, high), name), ax=axis, shrink=0.7, extend=beyond)
            bar.ax.tick_params(labelsize=6)
    if several:
        figure.supxlabel("Each heatmap has a scale of its own, which the bar beside it shows.", fontsize=7)
    return _figure_png(apply_fonts(figure))


def _height(row: Sequence[Panel | Bars]) -> float:
    """Inches of a row: as high as its pictures at their width, and their titles; charts need more."""
    panels = [panel for panel in row if isinstance(panel, Panel)]
    pictures = [2.1 * height_for_width(panel.picture.pixels) for panel in panels]
    titles = [0.15 * (1 + fitted(panel.title, 160.0, 8.0, 5).count("\n")) for panel in panels]
    charts = [0.6 + 0.12 * len(bars.names) for bars in row if isinstance(bars, Bars)]
    return max(max(pictures, default=0.0) + max(titles, default=0.0) + 0.15, *charts, 0.7)


def height_for_width(pixels: Array, most: float = 1.3) -> float:
    """How high a picture is drawn for its width; very high and very flat ones have more room than they fill."""
    return min(max(pixels.shape[0] / pixels.shape[1], 0.1), most)
