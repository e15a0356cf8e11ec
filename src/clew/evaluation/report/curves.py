"""Curves of methods as SVG that takes the page's colours and font."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ...draw import apply_fonts

# Seven colours that stand out on white and on black, each in four styles of line.
COLOURS = ("#3b76c4", "#d1495b", "#2a9d5c", "#b07d12", "#8e5bb5", "#1a94a3", "#c2618c")
DASHES = ("", "6 3", "2 2", "8 3 2 3")
_INK = "#010203"  # stands for the page's own colour of text


@dataclass(frozen=True)
class Line:
    """One method's curve (point,), with limits to shade if any; `style` counts through colours and dashes."""

    label: str
    x: np.ndarray
    y: np.ndarray
    limits: tuple[np.ndarray, np.ndarray] | None
    style: int


def colour_of(style: int) -> str:
    """The colour of the method in this place."""
    return COLOURS[style % len(COLOURS)]


def dash_of(style: int) -> str:
    """Its line's dashes as SVG names them, empty for a whole line."""
    return DASHES[style // len(COLOURS) % len(DASHES)]


def curves_svg(lines: Sequence[Line], x_label: str, y_label: str, name: str) -> str:
    """An `<svg>` element; the line of style i has the id `name-i`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axis: Any = figure.subplots()
    for line in reversed(lines):  # the best on top
        dashes = tuple(float(part) / 1.4 for part in dash_of(line.style).split())
        colour = colour_of(line.style)
        if line.limits is not None:
            axis.fill_between(line.x, *line.limits, color=colour, alpha=0.15, linewidth=0)
        style: Any = (0, dashes) if dashes else "solid"
        axis.plot(line.x, line.y, color=colour, linewidth=1.4, linestyle=style, gid=f"{name}-{line.style}")
    axis.set_xlabel(x_label, fontsize=9, color=_INK)
    axis.set_ylabel(y_label, fontsize=9, color=_INK)
    axis.tick_params(labelsize=8, color=_INK, labelcolor=_INK, length=3)
    axis.grid(alpha=0.15, color=_INK, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_INK)
    axis.spines[["left", "bottom"]].set_alpha(0.4)
    apply_fonts(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    used = set(re.findall(r"#([\w.-]+)", svg))  # the other ids would occur in each picture of the page
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used or m[1].startswith(name) else "", svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :].replace(_INK, "currentColor")
    width, height = (72 * size for size in figure.get_size_inches())
    label = escape(f"{y_label} against {x_label}")
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{body}'
