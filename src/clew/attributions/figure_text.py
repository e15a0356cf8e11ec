"""The figure of texts: coloured words, a row for each text, a column for each result. Knows words, no results."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import isfinite
from typing import Any

from ..draw import (
    Piece,
    Ruler,
    TextRun,
    apply_fonts,
    fitted,
    language_of,
    scale_of,
    set_in_lines,
    shade,
    slant,
)
from ..errors import OptionError

_LINES, _SIZE = 14, 6.0  # of a text in a cell: lines, and points of its letters
_STEP, _FIRST = 1.55 * _SIZE, 9.0  # from line to line, and from the upper edge to the first
_LABEL, _TITLE, _CAPTION = 6.5, 7.0, 6.5  # points
_DPI, _MOST, _LINES_ALONE = 160, 40, 100  # of a picture of texts alone: how fine, how many of them, how long each
_LEAST = 60.0  # points of a column
_GAP = 8.0  # between columns, rows and what is written beside them


def texts_figure(
    pieces: Sequence[Sequence[Sequence[Piece]]],
    rows: Sequence[str],
    names: Sequence[str],
    scale: str,
    caption: str,
    dpi: int,
    lines: int = _LINES,
    width: float | None = None,
) -> Any:
    """Columns of texts in pieces. Everything is measured first: a row is as high as its text and its label need, at
    most so many lines of text; `width` (points) is that of the whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = [[scale_of(some) for some in of] for of in pieces]
    if scale == "method":
        sizes = [[max(of)] * len(of) for of in sizes]
    if scale == "all":
        sizes = [[max(map(max, sizes))] * len(of) for of in sizes]
    language = language_of("".join([*rows, *names, caption, *(p.text for of in pieces for some in of for p in some)]))
    ruler = Ruler(_SIZE, dpi, language)
    labels = [fitted(row, 80.0, _LABEL, 8) for row in rows]
    measured = [Ruler(_LABEL, dpi, language).of(label) for label in labels]
    beside = max(wide for wide, _ in measured) + _GAP
    cell = 72 * max(2.2, 6.5 / len(pieces)) if width is None else (width - beside) / len(pieces) - _GAP
    if cell < _LEAST:
        raise OptionError(
            "the figure is too narrow for its columns",
            expected=f"{(beside + len(pieces) * (_LEAST + _GAP)) / 72:.1f} inches or more",
            got=(width or 0) / 72,
        )
    set_texts = [[set_in_lines(some, cell - 4, lines, ruler, 0.3 * _SIZE) for some in of] for of in pieces]
    across = beside + len(pieces) * (cell + _GAP)
    titles = [fitted(name, cell, _TITLE, 4) for name in names]
    said = fitted(caption, 0.98 * across, _CAPTION, 100) if caption else ""
    heights = [
        max(_FIRST + _STEP * (max(len(of[i]) for of in set_texts) - 1) + 4.0, measured[i][1] + 2.0)
        for i in range(len(rows))
    ]
    above = max(Ruler(_TITLE, dpi, language).of(title)[1] for title in titles) + _GAP
    below = Ruler(_CAPTION, dpi, language).of(said)[1] + _GAP if said else 0.0
    down = above + sum(heights) + _GAP * len(rows) + below
    drawn = Figure(figsize=(across / 72, down / 72), dpi=dpi)
    FigureCanvasAgg(drawn)
    top = down - above
    for i, label in enumerate(labels):
        for k in range(len(pieces)):
            left = beside + k * (cell + _GAP)
            axis: Any = drawn.add_axes(
                (left / across, (top - heights[i]) / down, cell / across, heights[i] / down),
                xlim=(0, cell), ylim=(heights[i], 0), xticks=[], yticks=[],
            )  # fmt: skip
            axis.spines[:].set_visible(False)
            axis.patch.set_visible(False)
            _put(axis, set_texts[k][i], sizes[k][i])
            if i == 0:
                axis.set_title(titles[k], fontsize=_TITLE, pad=4, loc="left" if len(pieces) == 1 else "center")
            if k == 0:
                axis.set_ylabel(label, fontsize=_LABEL, rotation=0, ha="right", va="center", labelpad=4)
        top -= heights[i] + _GAP
    if said:
        drawn.text(0.01, 0.3 * _GAP / down, said, fontsize=_CAPTION, ha="left", va="bottom")
    return apply_fonts(drawn)


def texts_png(pieces: Sequence[Sequence[Sequence[Piece]]], rows: Sequence[str], names: Sequence[str]) -> bytes:
    """Columns of texts as PNG; of very many texts the first, and of very long ones the beginning."""
    first = [of[:_MOST] for of in pieces]
    notes = [f"{_MOST} of {len(rows)} texts."] if len(rows) > _MOST else []
    notes += ["Each text has a scale of its own in each column."] if len(pieces) > 1 else []
    buffer = io.BytesIO()
    drawn = texts_figure(first, rows[:_MOST], names, "each", " ".join(notes), _DPI, _LINES_ALONE)
    drawn.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


def _put(axis: Any, lines: Sequence[Sequence[TextRun]], largest: float) -> None:
    """Words on coloured boxes, line after line."""
    from matplotlib.patches import Rectangle

    for i, line in enumerate(lines):
        y = _FIRST + i * _STEP
        for part in line:
            score, x = part.piece.score, part.x + 2.0
            if part.blank:
                continue
            if score is not None and isfinite(score):
                r, g, b = shade(score, largest)
                corner, high = (x - 0.3, y - 1.15 * _SIZE), 1.5 * _SIZE
                colour = (r / 255, g / 255, b / 255)
                axis.add_patch(Rectangle(corner, part.wide + min(0.6, part.gap), high, color=colour, linewidth=0))
            style = slant(part.shown) if part.piece.special else "normal"
            axis.text(x, y, part.shown, fontsize=_SIZE, style=style, va="baseline", ha="left")
