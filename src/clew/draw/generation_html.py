"""Draw the matrix of a generated text: a self-contained page, a part of a notebook, and a picture."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ..errors import InputError
from .output_panels import StreamPanel, colour_maps, drawn_panels, rounded, rounded_all
from .plots import Array, layers_png
from .text_html import Piece, direction_of, drawn_pieces, stands_apart

MOST_SCORES = 4_000_000  # on a page, which every browser still opens


def generation_page(
    title: str,
    tokens: Sequence[str],
    prompt: int,
    scores: Array,
    facts: Mapping[str, str],
    panels: Sequence[StreamPanel] = (),
    totals: Mapping[str, Sequence[float]] | None = None,
    kept: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """The page; `scores` (output, token), of which the first `prompt` tokens are the prompt.

    `panels` are other inputs, which are shown beside the text. `totals` are for each output its "score" and what the
    "text" got of it, and `kept` what operations kept, by cause.

    Raises `InputError` for more than `MOST_SCORES` of them.
    """
    if scores.size > MOST_SCORES:
        raise InputError(
            "this text has more tokens than a page can show",
            expected=f"at most {MOST_SCORES:,} scores, generated tokens × all tokens",
            got=f"{len(scores):,} × {scores.shape[1]:,}",
            todo="save it as .safetensors or .png, or explain a shorter answer",
        )
    values = [rounded(row) for row in scores.tolist()]
    return _template("generation.html.j2").render(
        title=title,
        tokens=list(tokens),
        prompt=prompt,
        scores=json.dumps(values),
        facts=dict(facts),
        dir=direction_of([Piece(t) for t in tokens]),
        apart=[stands_apart(t) for t in tokens],
        panels=drawn_panels(panels),
        colours=colour_maps(),
        totals=rounded_all(totals or {}),
        kept=rounded_all(kept or {}),
    )


def generation_fragment(title: str, tokens: Sequence[str], prompt: int, scores: Array) -> str:
    """For a notebook: the text, coloured by what the whole answer goes back to, above the picture of the matrix."""
    pieces = [Piece(t, float(s), False, (i,)) for i, (t, s) in enumerate(zip(tokens, scores.sum(0), strict=True))]
    drawn = [
        {**one, "out": i >= prompt, "apart": stands_apart(tokens[i])} for i, one in enumerate(drawn_pieces(pieces))
    ]
    picture = base64.b64encode(generation_png(tokens, prompt, scores)).decode()
    return _template("generation_fragment.html.j2").render(
        title=title, tokens=drawn, dir=direction_of(pieces), picture=f"data:image/png;base64,{picture}"
    )


def generation_png(tokens: Sequence[str], prompt: int, scores: Array) -> bytes:
    """Outputs downwards, the tokens that they go back to across; what comes later is grey."""
    later = np.arange(scores.shape[1]) >= prompt + np.arange(len(scores))[:, None]
    known = np.where(later, np.nan, scores)
    return layers_png(known, tokens, rows=tokens[prompt:], label="generated token", note="grey: comes later")


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment

    source = resources.files("clew.draw").joinpath("templates", name).read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
