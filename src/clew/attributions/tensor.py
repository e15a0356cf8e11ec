"""Attributions of tensors of any shape: tables, time series, features, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from ..draw import Bars, TextCell, bars_png, layers_png, text_fragment, text_page
from ..files import Number
from . import tables
from .base import Attribution
from .saved_fields import SavedFields

_SHOWN = 24  # entries of one example in a chart


class RankedEntry(NamedTuple):
    """An entry with its score: its place, its name, its score."""

    place: tuple[int, ...]
    name: str
    score: float


@dataclass(frozen=True, kw_only=True, repr=False)
class TensorAttribution(Attribution):
    """Scores of one method for a batch of tensors: one number for each entry, `scores` (batch, *shape).

    `columns` are names along the last axis, such as those of a table.
    """

    shape: tuple[int, ...]
    columns: Sequence[str] = ()

    kind: ClassVar[str] = "tensor"
    same: ClassVar[tuple[str, ...]] = ("method", "shape", "columns")

    @property
    def scores(self) -> Tensor:
        """(batch, *shape): one number for each entry of the input."""
        return self.all_scores.view(len(self), *self.shape)

    def top(self, k: int = 10, *, absolute: bool = False) -> list[list[RankedEntry]]:
        """The `k` entries of each example with the largest scores (or sizes)."""
        return [self._top(i, k, absolute=absolute) for i in range(len(self))]

    def _top(self, example: int, k: int, *, absolute: bool) -> list[RankedEntry]:
        scores = self.all_scores[example].detach().cpu()
        order = (scores.abs() if absolute else scores).sort(descending=True, stable=True).indices[:k].tolist()
        places = [tuple(map(int, np.unravel_index(i, self.shape))) for i in order]
        return [RankedEntry(p, self._name(p), float(scores[i])) for p, i in zip(places, order, strict=True)]

    def _name(self, place: tuple[int, ...]) -> str:
        names = [str(i) for i in place]
        if self.columns:
            names[-1] = self.columns[place[-1]]
        return ", ".join(names)

    def scored(self, example: int) -> tables.Columns:
        """The entries of one example with their scores: `axis_0`, `axis_1`, … and `name`, where columns have names."""
        places = np.indices(self.shape).reshape(len(self.shape), -1)
        found: tables.Columns = {f"axis_{k}": index.tolist() for k, index in enumerate(places)}
        if self.columns:
            found["name"] = [self.columns[i] for i in found[f"axis_{len(self.shape) - 1}"]]
        return {**found, "score": tables.numbers(self.all_scores[example])}

    def chart(self, example: int) -> bytes:
        """The scores of one example as PNG: bars, or of two axes a map."""
        scores = self.scores[example].detach().float().cpu()
        if scores.ndim == 2 and min(scores.shape) > 1:
            names = list(self.columns) or [str(i) for i in range(scores.shape[1])]
            return layers_png(scores.numpy(), names)
        ranked = sorted(self._top(example, _SHOWN, absolute=True), key=lambda one: one.place)
        return bars_png(Bars([one.name for one in ranked], [one.score for one in ranked], self.method))

    def to_png(self) -> bytes:
        """The chart of the first example."""
        return self.chart(0)

    def cells(self) -> list[TextCell]:
        """One cell per example, for a page."""
        return [
            TextCell(self.method, self.name_of_target(i), [], self.facts(i), [(self.stream_name, self.chart(i))])
            for i in range(len(self))
        ]

    def to_html(self) -> str:
        """One self-contained HTML page."""
        return text_page(f"clew: {self.method}", [[cell] for cell in self.cells()])

    def to_rich(self, example: int = 0) -> Any:
        """The largest scores of one example in lines, as `rich` prints them on a terminal."""
        from rich.text import Text

        return Text("\n".join(f"{one.name}  {one.score:+.4g}" for one in self._top(example, 10, absolute=True)))

    def _repr_html_(self) -> str:
        return text_fragment(self.cells(), charts=True)

    def shape_in_words(self) -> str:
        """How many entries one example has."""
        return " x ".join(map(str, self.shape)) + (" entries" if len(self.shape) > 1 else " columns")

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".html": self.to_html, ".png": self.to_png, **super().writers()}

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"shape": list(self.shape), "columns": list(self.columns)}

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        shape = tuple(saved.value("shape", [Number(0, 2**31, whole=True)]))
        columns = saved.value("columns", [str])
        if int(np.prod(shape, dtype=np.int64)) != tokens:
            raise saved.wrong("shape", f"{tokens} entries", shape)
        if len(columns) not in (0, shape[-1] if shape else 1):
            raise saved.wrong("columns", f"{shape[-1:]} names, or none", len(columns))
        return {"shape": shape, "columns": columns}
