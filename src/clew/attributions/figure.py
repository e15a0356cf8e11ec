"""Figures for papers: a grid of inputs (downwards) and methods (across), as PDF, SVG or PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import ClewError, OptionError, close_matches
from ..files import write
from ..validation import validate_arguments, validate_call, validate_float, validate_integer
from .base import Attribution
from .figure_images import images_figure
from .figure_text import texts_figure
from .image import ImageAttribution
from .names import columns_of, model_of, rows_of, share_targets
from .text import TextAttribution

_SCALES = {
    "each": "Each map is divided by its largest score.",
    "method": "Maps of one column share a scale, so that scores are comparable down it.",
    "all": "All maps share a scale, so that all scores are comparable.",
}


@validate_call
def figure(
    results: Sequence[Attribution] | Attribution,
    path: str | Path | None = None,
    *,
    inputs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    scale: str = "each",
    caption: str | bool = True,
    width: float | int | None = None,
    dpi: int = 300,
    cmap: str | None = None,
) -> Any:
    """Write a figure: a row for each example, a column for each result, with one colour bar for all that share a scale.

    Args:
        results: attributions of the same inputs, a column each: all of images or all of texts.
        path: `.pdf`, `.svg` or `.png`. None writes nothing.
        inputs: names of the rows. Default: what is predicted and explained in each.
        methods: headings of the columns. Default: the methods' names, with what else tells columns apart.
        scale: "each": every map is divided by its largest size; "method": the maps of a column keep their values and
            share a scale; "all": all maps do.
        caption: a caption, or whether to write one that says what is shown.
        width: of the whole in inches, its height follows; letters keep their size. Default: cells of 1.35 inches.
        dpi: dots per inch of `.png`.
        cmap: name of a colour map of matplotlib. Default: "RdBu_r" where any score is negative, else "inferno".

    Returns:
        The path that was written; without one the `matplotlib.figure.Figure`.

    Raises:
        ClewError: results of different inputs, or another suffix. OptionError: what an option does not take.
    """
    validate_arguments({"results": results, "path": path}, figure)
    results = [results] if isinstance(results, Attribution) else list(results)
    if scale not in _SCALES:
        raise OptionError("unknown scale of a figure", expected=" or ".join(_SCALES), got=scale)
    dpi = validate_integer("dpi", dpi, 10, 2_400)
    points = None if width is None else 72 * validate_float("width of a figure", width, 1, 100)
    sizes, kinds = {len(r) for r in results}, {isinstance(r, TextAttribution) for r in results}
    drawn_as = (ImageAttribution, TextAttribution)
    if len(sizes) != 1 or len(kinds) != 1 or not all(isinstance(r, drawn_as) for r in results):
        raise ClewError(
            "a figure has the same inputs in every column",
            expected="results of as many examples, all of images or all of texts",
            got=[f"{r.method}: {len(r)} {r.kind}" for r in results],
            todo='choose one stream, such as result["prompt"], or a picture of it, result["image"].images()[0]',
        )
    names = _named("methods", methods, columns_of(results), "columns (results)")
    rows = _named("inputs", inputs, rows_of(results), "rows (inputs)")
    said = _caption(results, scale, inputs is not None, cmap) if caption is True else caption or ""
    if kinds == {True}:
        if cmap is not None:
            raise OptionError("words are red and blue", expected="cmap for figures of pictures", got=cmap)
        texts = cast("Sequence[TextAttribution]", results)
        pieces = [[result.pieces(i) for i in range(len(rows))] for result in texts]
        drawn = texts_figure(pieces, rows, names, scale, said, dpi, width=points)
    else:
        _require_cmap(cmap)
        panels = [result.panels() for result in cast("Sequence[ImageAttribution]", results)]
        drawn = images_figure(panels, rows, names, scale, said, dpi, points, cmap)
    if path is None:
        return drawn

    def saved(kind: str) -> bytes:
        buffer = io.BytesIO()
        settings: dict[str, Any] = {"pdf": {"metadata": {"CreationDate": None}}, "svg": {"metadata": {"Date": None}}}
        drawn.savefig(buffer, format=kind, dpi=dpi, **settings.get(kind, {}))
        return buffer.getvalue()

    return write(path, {f".{kind}": lambda kind=kind: saved(kind) for kind in ("pdf", "svg", "png")})


def _named(what: str, given: Sequence[str] | None, own: list[str], of: str) -> list[str]:
    names = own if given is None else list(given)
    if len(names) != len(own):
        raise OptionError(
            f"{what} does not name all {of}", expected=f"{len(own)} names", got=f"{len(names)}: {names}",
            todo=f"leave {what} out for {own}",
        )  # fmt: skip
    return names


def _require_cmap(name: str | None) -> None:
    from matplotlib import colormaps

    if name is not None and name not in colormaps:
        raise OptionError(
            "no such colour map", expected="a name that matplotlib knows, such as 'viridis'", got=name,
            todo=close_matches(name, colormaps),
        )  # fmt: skip


def _caption(results: Sequence[Attribution], scale: str, named: bool, cmap: str | None) -> str:
    models = " and ".join(dict.fromkeys(map(model_of, results)))
    same = share_targets(results)
    rows = "" if named else ", with what is explained" if same else ", with what is predicted"
    columns = "methods" if same else "methods, with what is explained"
    colours = _colours(results, scale, cmap)
    return f"What {models} looked at. Rows: inputs{rows}; columns: {columns}. {_SCALES[scale]} Colours: {colours}."


def _colours(results: Sequence[Attribution], scale: str, cmap: str | None) -> str:
    signed = [bool((r.scores < 0).any()) for r in results]
    if cmap is not None:
        against = ", the lower against it" if any(signed) else ""
        return f"the upper end of the bar speaks for what is explained{against}"
    both = "red speaks for what is explained, blue against it"
    if isinstance(results[0], TextAttribution):
        return both if any(signed) else "darker counts more"
    if scale == "method" and any(signed) and not all(signed):
        return f"{both}; on black to yellow, brighter counts more"
    return both if any(signed) else "brighter counts more"
