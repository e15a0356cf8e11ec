"""What each token of an answer goes back to in other inputs, on one page: pictures, words, charts; one panel for each.

A picture is on the page once, with its scores as small numbers (one byte each) that the page draws over it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np
from PIL import Image

from .plots import Array, Picture, colour_scale, colour_stops, encode_image, is_tiny, shrunk
from .text_html import Piece, direction_of

MOST_CELLS = 3_000_000  # bytes of scores over pictures on a page
_SIDES = 8, 96  # cells across a picture, at least and at most
_COLOURS = 33


@dataclass(frozen=True)
class PicturesOfOutputs:
    """Pictures with names, and for each output a heatmap (height, width) over the box of each of them."""

    pictures: Sequence[tuple[str, Picture]]
    heats: Iterable[Sequence[Array]]


@dataclass(frozen=True)
class WordsOfOutputs:
    """A text, and the `scores` (output, piece) of its pieces; those without a score in `pieces` are not coloured."""

    pieces: Sequence[Piece]
    scores: Array


@dataclass(frozen=True)
class StreamPanel:
    """One input under its `name`, its `shares` of each output's score, and what it looks like.

    `charts` are PNGs, one for each output, or for the first of them.
    """

    name: str
    shares: Sequence[float]
    pictures: PicturesOfOutputs | None = None
    words: WordsOfOutputs | None = None
    charts: Sequence[bytes] = ()


def drawn_panels(panels: Sequence[StreamPanel]) -> list[dict[str, Any]]:
    """What the template needs of each panel: what stands there, and in `data` the numbers of all outputs, as JSON."""
    return [_drawn(panel) for panel in panels]


def colour_maps() -> str:
    """The colours of heatmaps, signed and not, as JSON."""
    found = {name: colour_stops(kind, _COLOURS) for name, kind in (("signed", "RdBu_r"), ("plain", "inferno"))}
    return json.dumps(found)


def _drawn(panel: StreamPanel) -> dict[str, Any]:
    found: dict[str, Any] = {"name": panel.name, "pictures": [], "pieces": [], "dir": "ltr", "chart": ""}
    data: dict[str, Any] = {"shares": rounded(panel.shares)}
    if panel.pictures is not None:
        found["pictures"], data["heat"] = _drawn_pictures(panel.pictures, len(panel.shares))
    if panel.words is not None:
        found["pieces"], found["dir"] = panel.words.pieces, direction_of(panel.words.pieces)
        data["words"] = [rounded(row) for row in panel.words.scores.tolist()]
    if panel.charts:
        data["charts"] = ["data:image/png;base64," + base64.b64encode(_small(one)).decode() for one in panel.charts]
        found["chart"] = data["charts"][0]
    return found | {"data": json.dumps(data).replace("<", "\\u003c")}


def _drawn_pictures(shown: PicturesOfOutputs, outputs: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    least, most = _SIDES
    longest = int(np.clip(sqrt(MOST_CELLS / max(1, outputs * len(shown.pictures))), least, most))
    pictures = [_drawn_picture(name, picture, len(shown.pictures)) for name, picture in shown.pictures]
    rows: list[list[Array]] = [[_reduced(heat, longest) for heat in heats] for heats in shown.heats]
    scales = [colour_scale(np.concatenate([heat.ravel() for heat in row])) if row else ("", 0, 1.0) for row in rows]
    signed = any(low < 0 for _, low, _ in scales)
    tops = [top for _, _, top in scales]
    maps: list[dict[str, Any]] = []
    for k in range(len(pictures)):
        cells = np.stack([np.round(np.clip(row[k] / top, -1, 1) * 127) for row, top in zip(rows, tops, strict=True)])
        kept = base64.b64encode(cells.astype(np.int8).tobytes()).decode()
        maps.append({"rows": cells.shape[1], "columns": cells.shape[2], "cells": kept})
    return pictures, {"signed": signed, "tops": rounded(tops), "maps": maps}


def _drawn_picture(name: str, picture: Picture, among: int) -> dict[str, Any]:
    picture = shrunk(picture, 640 if among < 5 else 320)
    height, width = picture.pixels.shape[:2]
    left, top, right, bottom = picture.box
    image, kind = encode_image(picture.pixels)
    return {
        "name": name,
        "source": f"data:image/{kind};base64," + base64.b64encode(image).decode(),
        "tiny": is_tiny(picture.pixels),
        "size": f"aspect-ratio: {width} / {height}; width: min(100%, 60vh * {width / height:.4f})",
        "box": f"left: {left / width:.3%}; top: {top / height:.3%}; "
        f"width: {(right - left) / width:.3%}; height: {(bottom - top) / height:.3%}",
    }


def _small(chart: bytes) -> bytes:
    """A chart of few colours, which takes a third of the room."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(chart)) as drawn:
        drawn.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _reduced(heat: Array, longest: int) -> Array:
    """A heatmap of at most so many cells a side, each the mean of what it covers; what is no number is 0."""
    known = np.nan_to_num(heat.astype(np.float32), posinf=0.0, neginf=0.0)
    scale = longest / max(known.shape)
    if scale >= 1:
        return known
    size = max(1, round(known.shape[1] * scale)), max(1, round(known.shape[0] * scale))
    return np.asarray(Image.fromarray(known).resize(size, Image.Resampling.BOX))


def rounded(values: Iterable[float]) -> list[float | None]:
    """Numbers of four digits for a page; None for what is no number."""
    return [float(f"{v:.4g}") if isfinite(v) else None for v in values]


def rounded_all(values: Mapping[str, Iterable[float]]) -> str:
    """Numbers by name, as JSON that may stand in a script."""
    return json.dumps({name: rounded(row) for name, row in values.items()}).replace("<", "\\u003c")
