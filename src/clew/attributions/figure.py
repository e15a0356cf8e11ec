"""Figures for papers: a grid of inputs (downwards) and methods (across), as PDF, SVG or PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..draw import apply_fonts, fitted, in_frame, shrunk, wrapped
from ..errors import ClewError, OptionError
from ..files import write
from ..validation import validate_arguments, validate_call
from .base import Attribution
from .figure_text import texts_figure
from .image import ImageAttribution
from .text import TextAttribution

_DPI = 300
_EDGE = 1.35  # inches of a picture's side


@dataclass(frozen=True)
class _Scale:
    """What the colours mean: values from `low` to `high` on a colour map."""

    name: str
    low: float
    high: float

    @staticmethod
    def of(maps: Sequence[np.ndarray]) -> _Scale:
        """One scale for several maps: around 0 where any has negative values, else from 0."""
        values = np.concatenate([m[np.isfinite(m)].ravel() for m in maps] or [np.zeros(1)])
        high = float(np.abs(values).max(initial=0.0)) or 1.0
        return _Scale("RdBu_r", -high, high) if (values < 0).any() else _Scale("inferno", 0.0, high)


@validate_call
def figure(
    results: Sequence[Attribution],
    path: str | Path,
    *,
    inputs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    scale: str = "each",
    caption: str | bool = True,
) -> Path:
    """Write a figure: a row for each example, a column for each result, with one colour bar for all that share a scale.

    Args:
        results: attributions of the same inputs, a column each: all of images or all of texts.
        path: `.pdf`, `.svg` or `.png` (300 dots per inch).
        inputs: names of the rows. Default: what was explained in each.
        methods: headings of the columns. Default: the methods' names.
        scale: "each": every map is divided by its largest size, so that all share one scale; "method": the maps of a
            method keep their values and share a scale; sizes are comparable down a column.
        caption: a caption, or whether to write one that says what is shown.

    Raises:
        ClewError: results of different inputs, or another suffix. OptionError: an unknown scale.
    """
    validate_arguments({"results": results}, figure)
    if scale not in ("each", "method"):
        raise OptionError("unknown scale of a figure", expected="each or method", got=scale)
    sizes, kinds = {len(r) for r in results}, {isinstance(r, TextAttribution) for r in results}
    drawn_as = (ImageAttribution, TextAttribution)
    if len(sizes) != 1 or len(kinds) != 1 or not all(isinstance(r, drawn_as) for r in results):
        raise ClewError(
            "a figure has the same inputs in every column",
            expected="results of as many examples, all of images or all of texts",
            got=[f"{r.method}: {len(r)} {r.kind}" for r in results],
            todo='choose one stream, such as result["prompt"], or a picture of it, result["image"].images()[0]',
        )
    names = list(methods) if methods is not None else [r.method for r in results]
    rows = list(inputs) if inputs is not None else [results[0].name_of_target(i) for i in range(len(results[0]))]
    if len(names) != len(results) or len(rows) != len(results[0]):
        got = f"{len(names)} and {len(rows)}"
        raise OptionError("names of rows and columns", expected=f"{len(results)} and {len(results[0])}", got=got)
    said = _caption(results, scale) if caption is True else caption or ""
    draw = _texts if kinds == {True} else _images
    drawn = draw(cast("Any", results), rows, names, scale, said)

    def saved(kind: str) -> bytes:
        buffer = io.BytesIO()
        settings: dict[str, Any] = {"pdf": {"metadata": {"CreationDate": None}}, "svg": {"metadata": {"Date": None}}}
        drawn.savefig(buffer, format=kind, dpi=_DPI, bbox_inches="tight", **settings.get(kind, {}))
        return buffer.getvalue()

    return write(path, {f".{kind}": lambda kind=kind: saved(kind) for kind in ("pdf", "svg", "png")})


def _caption(results: Sequence[Attribution], scale: str) -> str:
    model = results[0].provenance.get("model", "the model")
    each = (
        "Each map is divided by its largest score."
        if scale == "each"
        else "Maps of one method share a scale, so that scores are comparable down a column."
    )
    signed = any(bool((r.scores < 0).any()) for r in results)
    colours = "red speaks for the explained class, blue against it" if signed else "brighter counts more"
    if isinstance(results[0], TextAttribution) and not signed:
        colours = "darker counts more"
    return (
        f"What {model} looked at. Rows: inputs, with the class that is explained; columns: methods. {each} "
        f"Colours: {colours}."
    )


def _new(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")  # words are measured as they are printed
    FigureCanvasAgg(drawn)
    return drawn


# Pictures


def _images(
    results: Sequence[ImageAttribution], rows: Sequence[str], names: Sequence[str], scale: str, caption: str
) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    count, columns = len(rows), len(results) + 1
    said = wrapped(caption, round(26 * columns)) if caption else ""
    below = max(0.4, 0.12 * (said.count("\n") + 1)) if said else 0.0  # inches
    drawn = _new(_EDGE * columns + 0.5, _EDGE * count + 0.5 + below)
    axes: Any = drawn.subplots(count, columns, squeeze=False)
    maps: list[list[np.ndarray]] = []
    for k, result in enumerate(results):
        maps.append([])
        for i, panel in enumerate(result.panels()):
            picture = shrunk(panel.picture)
            frame = in_frame(picture, panel.heat)
            largest = float(np.nanmax(np.abs(frame), initial=0.0)) if np.isfinite(frame).any() else 0.0
            maps[k].append(frame / largest if scale == "each" and largest else frame)
            if k == 0:
                axes[i, 0].imshow(picture.pixels)
            axes[i, k + 1].imshow(picture.pixels)
    shared = [[m for of in maps for m in of]] * len(maps) if scale == "each" else maps
    scales = [_Scale.of(of) for of in shared]
    for k, (of, colours) in enumerate(zip(maps, scales, strict=True)):
        for i, frame in enumerate(of):
            strength = np.clip(np.abs(np.nan_to_num(frame)) / colours.high, 0, 1)
            opacity = np.where(np.isfinite(frame), 0.2 + 0.7 * strength, 0.0)
            axes[i, k + 1].imshow(frame, cmap=colours.name, vmin=colours.low, vmax=colours.high, alpha=opacity)
    for i, row in enumerate(rows):
        axes[i, 0].set_ylabel(fitted(row, 68.0 * _EDGE, 7.0, 6), fontsize=7)
        for axis in axes[i]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for axis, name in zip(axes[0], ["input", *names], strict=True):
        axis.set_title(fitted(name, 64.0 * _EDGE, 7.0, 4), fontsize=7)
    groups = [(axes[:, 1:].ravel().tolist(), scales[0])] if scale == "each" else [
        (axes[:, k + 1].tolist(), colours) for k, colours in enumerate(scales)
    ]  # fmt: skip
    for where, colours in groups:
        shown = ScalarMappable(Normalize(colours.low, colours.high), colours.name)
        side = {"location": "right", "fraction": 0.03} if scale == "each" else {"location": "bottom", "fraction": 0.05}
        bar = drawn.colorbar(shown, ax=where, pad=0.02, shrink=0.8, **side)
        bar.ax.tick_params(labelsize=5, length=2)
        bar.outline.set_linewidth(0.4)
        if scale == "each":
            bar.set_label("share of the map's largest score", fontsize=6)
    if said:
        drawn.supxlabel(said, fontsize=6.5, x=0.02, ha="left")
    return apply_fonts(drawn)


# Texts


def _texts(
    results: Sequence[TextAttribution], rows: Sequence[str], names: Sequence[str], scale: str, caption: str
) -> Any:
    pieces = [[result.pieces(i) for i in range(len(rows))] for result in results]
    return texts_figure(pieces, rows, names, scale, caption, _DPI)
