"""Several pictures of one example side by side, in one scale of colours: on a sheet, and on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .lettering import apply_fonts, fitted
from .plots import Array, Panel, colour_scale, height_for_width, in_frame, shrunk

_ACROSS, _MOST = 6, 24  # pictures in a line, and of an example
_SIDE = 2.0  # inches
_CELLS = 64  # of a picture across a terminal


def sheet_png(examples: Sequence[Sequence[Panel]], titles: Sequence[str]) -> bytes:
    """Examples downwards; the pictures of each in lines, above as they are, below with their heatmaps; as PNG.

    The pictures of one example share a scale. Of very many, some at equal distances are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = [[row[round(i)] for i in np.linspace(0, len(row) - 1, min(len(row), _MOST))] for row in examples]
    lines = [max(1, -(-len(row) // _ACROSS)) for row in chosen]
    across = min(_ACROSS, max((len(row) for row in chosen), default=1) or 1)
    shapes = [max((height_for_width(panel.picture.pixels) for panel in row), default=1.0) for row in chosen]
    high = [(2 * _SIDE * shape + 0.4) * count + 0.3 for count, shape in zip(lines, shapes, strict=True)]
    figure = Figure(figsize=(max(3.2, _SIDE * across + 0.8), sum(high) or 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = np.atleast_1d(np.array(figure.subfigures(len(chosen) or 1, 1, height_ratios=high or None)))
    for part, panels, title, whole, count in zip(parts, chosen, titles, examples, lines, strict=False):
        left = f" ({len(panels)} of {len(whole)} pictures)" if len(panels) < len(whole) else ""
        part.suptitle(fitted(title + left, 130.0 * across + 50, 8.0, 2), fontsize=8)
        _draw(part, panels, count, across)
    buffer = io.BytesIO()
    apply_fonts(figure).savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(part: Any, panels: Sequence[Panel], lines: int, across: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes: Any = part.subplots(2 * lines, across, squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    if not panels:
        return
    name, low, highest = colour_scale(np.concatenate([panel.heat.ravel() for panel in panels]))
    clipped = max(float(np.nanmax(np.abs(panel.heat), initial=0.0)) for panel in panels) > highest
    for k, panel in enumerate(panels):
        above, below = axes[2 * (k // across), k % across], axes[2 * (k // across) + 1, k % across]
        picture = shrunk(panel.picture)
        frame = in_frame(picture, panel.heat)
        opacity = np.where(np.isfinite(frame), 0.25 + 0.6 * np.clip(np.abs(np.nan_to_num(frame)) / highest, 0, 1), 0.0)
        above.imshow(picture.pixels)
        above.set_title(fitted(panel.title, 120.0, 7.0, 3), fontsize=7)
        below.imshow(picture.pixels)
        below.imshow(frame, cmap=name, vmin=low, vmax=highest, alpha=opacity)
    beyond = ("both" if low < 0 else "max") if clipped else "neither"
    bar = part.colorbar(
        ScalarMappable(Normalize(low, highest), name), ax=axes, fraction=0.03, aspect=25, extend=beyond,
        shrink=min(1.0, 1.2 / lines),
    )  # fmt: skip
    bar.ax.tick_params(labelsize=6)


def blocks(grid: Array, high: float) -> Any:
    """Scores (row, column) as coloured half blocks, `high` being the full colour, as `rich.text.Text`."""
    from matplotlib import colormaps
    from rich.text import Text

    rows, columns = grid.shape
    if columns > _CELLS:
        size = _CELLS, max(1, round(rows * _CELLS / columns))
        small = Image.fromarray(np.nan_to_num(grid).astype(np.float32)).resize(size, Image.Resampling.BOX)
        grid, (columns, rows) = np.asarray(small), size
    share = np.nan_to_num(grid) / (high or 1.0)
    cells = colormaps["RdBu_r"](np.clip(0.5 + share / 2, 0, 1))[..., :3]
    colours = (cells * 255).round().astype(int)
    shown = Text()
    for row in range(0, rows, 2):
        for column in range(columns):
            upper = "rgb({},{},{})".format(*colours[row, column])
            under = " on rgb({},{},{})".format(*colours[row + 1, column]) if row + 1 < rows else ""
            shown.append("▀", style=upper + under)
        shown.append("\n")
    return shown
