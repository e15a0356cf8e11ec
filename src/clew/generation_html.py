"""Draw the matrix of a generated text: a self-contained page, and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from .plots import Array, layers_png


def generation_page(title: str, tokens: Sequence[str], prompt: int, scores: Array, facts: Mapping[str, str]) -> str:
    """The page; `scores` (output, token), of which the first `prompt` tokens are the prompt."""
    values = [[None if not np.isfinite(v) else float(f"{v:.4g}") for v in row] for row in scores.tolist()]
    return _template().render(
        title=title, tokens=list(tokens), prompt=prompt, scores=json.dumps(values), facts=dict(facts)
    )


def generation_png(tokens: Sequence[str], prompt: int, scores: Array) -> bytes:
    """Outputs downwards, the tokens that they go back to across."""
    return layers_png(scores, tokens, rows=tokens[prompt:], label="generated token")


@cache
def _template() -> Any:
    from jinja2 import Environment

    source = resources.files("clew").joinpath("templates/generation.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
