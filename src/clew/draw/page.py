"""One self-contained HTML page of heatmaps: no script, font or picture from anywhere else; all words escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any

from .plots import (
    Array,
    Bars,
    Picture,
    colour,
    colour_scale,
    colour_stops,
    encode_image,
    in_frame,
    is_tiny,
    png,
    shrunk,
)
from .text_html import Piece, direction_of, drawn_folded, drawn_pieces


@dataclass(frozen=True)
class Cell:
    """One heatmap on the page: token `scores` row by row of the patch `grid`, and facts about it in plain words.

    `predicted` says of the first in a row what the model makes of the picture; `flow` is a chart that is folded.

    `words` are those of a text that belongs to it, with scores of their own. `among` are the values, its own and
    those of others, whose colours it shares.
    """

    picture: Picture
    heat: Array
    title: str
    subtitle: str
    scores: Sequence[float]
    grid: tuple[int, int]
    facts: Mapping[str, str]
    flow: Bars | None = None
    words: Sequence[Piece] = ()
    among: Array | None = None
    predicted: str = ""


def page(title: str, rows: Sequence[Sequence[Cell]], model: str = "") -> str:
    """The page: a row per example, a cell per heatmap, a slider for opacity; hovering a patch gives its number."""
    shown = [[_drawn(cell) for cell in row] for row in rows]
    kinds = {cell["signed"] for row in shown for cell in row}
    return _template().render(title=title, rows=shown, kinds=kinds, model=model)


def _drawn(cell: Cell) -> dict[str, Any]:
    cell = replace(cell, picture=shrunk(cell.picture))
    height, width = cell.picture.pixels.shape[:2]
    left, top, right, bottom = cell.picture.box
    frame = in_frame(cell.picture, cell.heat)
    among = frame if cell.among is None else cell.among
    name, low, high = colour_scale(among)
    return {
        "title": cell.title,
        "subtitle": cell.subtitle,
        "low": f"{low:.2g}",
        "high": f"{high:.2g}",
        "signed": low < 0,
        "stops": ", ".join(colour_stops(name)),
        "picture": _data(*encode_image(cell.picture.pixels)),
        "tiny": is_tiny(cell.picture.pixels),
        "size": f"aspect-ratio: {width} / {height}; width: min(100%, 85vh * {width / height:.4f})",
        "heat": _data(png(colour(frame, among))),
        "scores": [float(f"{s:.4g}") if isfinite(s) else None for s in cell.scores],
        "grid": list(cell.grid),
        "box": [left / width, top / height, right / width, bottom / height],
        "facts": dict(cell.facts),
        "dir": direction_of(cell.words),
        "words": drawn_pieces(cell.words),
        "flow": None if cell.flow is None else drawn_folded(cell.flow),
        "predicted": cell.predicted,
    }


def _data(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(image).decode()


@cache
def _template() -> Any:
    from jinja2 import Environment

    source = resources.files("clew.draw").joinpath("templates/page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(source)
