"""Results of inputs of other kinds beside each other: on a page for each token of an answer, and on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..draw import Piece, TextCell, below, blocks, panels_png
from ..draw.output_panels import PicturesOfOutputs, StreamPanel, WordsOfOutputs
from .base import STREAMS, Attribution
from .image import ImageAttribution
from .pictures import PicturesAttribution
from .sound import SoundAttribution
from .tensor import TensorAttribution
from .text import TextAttribution

MOST_CHARTS = 100  # of one input on a page


def called(name: str) -> str:
    """What people call an input, with the name of the model's argument: "image (pixel_values)"."""
    usual = {"input_ids": "source", "pixel_values_videos": "video"}
    word = usual.get(name) or next((k for k, names in STREAMS.items() if name in names), "")
    return f"{word} ({name})" if word else name


def panel_of(name: str, part: Attribution) -> StreamPanel:
    """One input for each of the outputs that a result is of."""
    shares = part.all_scores.detach().flatten(1).double().sum(1).tolist()
    pictures: PicturesOfOutputs | None = None
    words: WordsOfOutputs | None = None
    charts: list[bytes] = []
    if isinstance(part, ImageAttribution):
        pictures = PicturesOfOutputs(
            [("", _image(part, 0).picture)], ([_image(part, i).heat] for i in range(len(part)))
        )
    elif isinstance(part, PicturesAttribution):
        named = [(frame.name, frame.picture) for frame in part.frames[0]]
        pictures = PicturesOfOutputs(named, _heats(part)) if named else None
    elif isinstance(part, TextAttribution):
        words = _words(part)
    elif isinstance(part, (SoundAttribution, TensorAttribution)):
        charts = [part.chart(i) for i in range(min(len(part), MOST_CHARTS))]
    return StreamPanel(called(name), shares, pictures, words, charts)


def _image(part: ImageAttribution, output: int) -> Any:
    return part[output].panels()[0]


def _heats(part: PicturesAttribution) -> Iterator[list[Any]]:
    for i in range(len(part)):
        yield [panel.heat for panel in part.panels(i)]


def _words(part: TextAttribution) -> WordsOfOutputs:
    """The words of a text, which is the same for all outputs."""
    pieces = part.pieces(len(part) - 1)
    scores = part.all_scores.detach().double().cpu().numpy()
    columns = [scores[:, list(piece.columns)].sum(1) for piece in pieces]
    return WordsOfOutputs(pieces, np.stack(columns, 1) if columns else np.zeros((len(part), 0)))


def whole_answer(part: Attribution) -> Attribution:
    """What an input got from all outputs together, as the result of one."""
    first = part[:1]

    def total(name: str) -> Any:
        value = getattr(part, name, None)
        return value.sum(0, keepdim=True) if isinstance(value, Tensor) else value

    summed = {name: total(name) for name in ("all_scores", "pixels", "bands") if name in part.tensors}
    return replace(first, target=["the whole answer"], **summed)


def cell_of(title: str, parts: dict[str, Attribution], example: int = 0) -> TextCell:
    """Inputs of one example for a page: words, and charts of the others."""
    pieces: list[Piece] = []
    charts: list[tuple[str, bytes]] = []
    for name, part in parts.items():
        if isinstance(part, TextAttribution):
            pieces += [Piece(f"{name}: "), *part.pieces(example), Piece("\n")]
        elif isinstance(part, ImageAttribution):
            charts.append((name, panels_png([part[example].panels()])))
        elif isinstance(part, (TensorAttribution, PicturesAttribution, SoundAttribution)):
            charts.append((name, part.chart(example)))
    first = next(iter(parts.values()))
    return TextCell(title, first.name_of_target(example), pieces, {}, charts)


def drawn_below(parts: Mapping[str, Attribution], first: Sequence[bytes] = ()) -> bytes:
    """What belongs to one example as PNG: other pictures, and each input below, named."""
    named = [replace(part, method=f"{part.method}, {called(name)}") for name, part in parts.items()]
    return below([*first, *(part.writers()[".png"]() for part in named)])


def on_terminal(part: Attribution, example: int) -> list[Any]:
    """What `rich` prints of one input of one example."""
    if isinstance(part, ImageAttribution):
        grid = part.scores[example].detach().float().cpu().view(part.patch_grid).numpy()
        return [blocks(grid, float(np.abs(np.nan_to_num(grid)).max(initial=0.0)))]
    if isinstance(part, (TextAttribution, TensorAttribution, PicturesAttribution, SoundAttribution)):
        return [part.to_rich(example)]
    return []
