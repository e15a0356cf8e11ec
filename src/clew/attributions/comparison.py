"""Several results side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from ..draw import TextCell, latex, panels_png, text_page
from ..draw.page import page
from ..errors import ClewError
from ..files import write
from ..validation import validate_arguments, validate_call
from .base import Attribution
from .figure_text import texts_png
from .image import ImageAttribution
from .names import columns_of, model_of, rows_of
from .text import TextAttribution


@validate_call
def compare(
    attributions: Sequence[Attribution] | Attribution,
    path: str | Path,
    *,
    title: str | None = None,
    methods: Sequence[str] | None = None,
) -> Path:
    """Several results for the same inputs side by side, a column each: `.html` with sliders and numbers, `.png`, of
    texts `.tex`.

    Several results of one image, and those of its text, share a row. `methods`: headings instead of their names.
    `title`: of the page, by default the model's name.

    Raises `ClewError` where they do not hold the same number of examples, or not all images or all texts.
    """
    validate_arguments({"attributions": attributions}, compare)
    attributions = [attributions] if isinstance(attributions, Attribution) else list(attributions)
    if methods is not None:
        if len(methods) != len(attributions):
            raise ClewError("headings to compare", expected=f"{len(attributions)}", got=list(methods))
        attributions = [replace(a, method=name) for a, name in zip(attributions, methods, strict=True)]
    models = " and ".join(dict.fromkeys(map(model_of, attributions)))
    title = f"clew: {models}" if title is None else title
    sizes = {len(a) for a in attributions}
    if len(sizes) != 1:
        raise ClewError(
            "results to compare must hold the same examples", expected="equal batch sizes", got=sorted(sizes)
        )
    kinds = {a.kind for a in attributions}
    if kinds <= {"image", "pair"} and len({cast("ImageAttribution", a).maps_per_image for a in attributions}) == 1:
        return write(path, _of_images(cast("Sequence[ImageAttribution]", attributions), title, models))
    if kinds == {"text"}:
        return write(path, _of_texts(cast("Sequence[TextAttribution]", attributions), title))
    raise ClewError("these results cannot stand side by side", expected="all images, or all texts", got=sorted(kinds))


def _of_images(
    attributions: Sequence[ImageAttribution], title: str, models: str
) -> dict[str, Callable[[], str | bytes]]:
    def as_png() -> bytes:
        rows = list(zip(*(a.panels() for a in attributions), strict=True))
        return panels_png(attributions[0].by_image(rows))

    def as_html() -> str:
        rows = list(zip(*(a.cells() for a in attributions), strict=True))
        return page(title, attributions[0].by_image(rows), models)

    return {".png": as_png, ".html": as_html}


def _of_texts(attributions: Sequence[TextAttribution], title: str) -> dict[str, Callable[[], str | bytes]]:
    def cells() -> list[tuple[TextCell, ...]]:
        return list(zip(*(a.cells() for a in attributions), strict=True))

    def as_png() -> bytes:
        count = range(len(attributions[0]))
        pieces = [[a.pieces(i) for i in count] for a in attributions]
        return texts_png(pieces, rows_of(attributions), columns_of(attributions))

    return {
        ".html": lambda: text_page(title, cells()),
        ".tex": lambda: latex([cell for row in cells() for cell in row]),
        ".png": as_png,
    }
