"""Attributions of several streams: each input of a model with scores of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..draw import TextCell, below, text_fragment, text_page
from .base import Attribution
from .output_panels import cell_of, drawn_below, on_terminal
from .saved_fields import SavedFields

_MOST = 24  # examples in a picture


@dataclass(frozen=True, kw_only=True, repr=False)
class StreamsAttribution(Attribution):
    """Scores of one method for several inputs of a model at once: `a["image"].heatmap()`, `a["prompt"].top(3)`.

    `parts` are the streams' own results, by name; `scores` (batch, entry) those of all streams in a row.
    """

    parts: Mapping[str, Attribution]

    kind: ClassVar[str] = "streams"

    @staticmethod
    def of(parts: Mapping[str, Attribution]) -> StreamsAttribution:
        """The results of all streams of the same examples, as one."""
        first = next(iter(parts.values()))
        whole = torch.cat([part.all_scores.flatten(1).to(first.all_scores) for part in parts.values()], 1)
        fields_of_all: dict[str, Any] = {f.name: getattr(first, f.name) for f in fields(Attribution)}
        fields_of_all |= {"all_scores": whole, "stream": None}
        return StreamsAttribution(parts=dict(parts), **fields_of_all)

    @property
    def streams(self) -> dict[str, Attribution]:
        """The results of the streams, by name."""
        return dict(self.parts)

    def inner(self) -> dict[str, Attribution]:
        """Results within this one."""
        return dict(self.parts)

    @classmethod
    def inner_fields(cls, inner: Mapping[str, Attribution]) -> dict[str, Any]:
        """Fields that hold results within this one."""
        return {"parts": dict(inner)}

    def cells(self) -> list[TextCell]:
        """One cell per example: words, and charts of the other streams."""
        found: list[TextCell] = []
        for i in range(len(self)):
            shares = {f"share of {k}": f"{float(v[i]):.4g}" for k, v in self.shares().items()}
            cell = cell_of(self.method, self.streams, i)
            found.append(replace(cell, subtitle=self.name_of_target(i), facts=shares | self.facts(i)))
        return found

    def to_html(self) -> str:
        """One self-contained HTML page."""
        return text_page(f"clew: {self.method}", [[cell] for cell in self.cells()])

    def to_png(self) -> bytes:
        """The streams of each example below one another; of very many examples the first."""
        return below([drawn_below(self[i].streams) for i in range(min(len(self), _MOST))])

    def to_rich(self, example: int = 0) -> Any:
        """The streams of one example, as `rich` prints them on a terminal."""
        from rich.console import Group
        from rich.text import Text

        shown: list[Any] = []
        for name, part in self.parts.items():
            share = float(self.shares()[name][example])
            shown.append(Text(f"{name} ({share:+.4g})", style="bold"))
            shown += on_terminal(part, example)
        return Group(*shown)

    def _repr_html_(self) -> str:
        return text_fragment(self.cells(), charts=True)

    def shape_in_words(self) -> str:
        """The streams, and how much there is of each."""
        return "; ".join(f"{name}: {part.shape_in_words()}" for name, part in self.parts.items())

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".html": self.to_html, ".png": self.to_png, **super().writers()}

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"names": list(self.parts)}

    @classmethod
    def inner_names(cls, saved: SavedFields) -> Sequence[str]:
        """The names of results within a saved one."""
        names = saved.value("names", [str])
        if not names or len(set(names)) != len(names):
            raise saved.wrong("names", "the names of the streams, each once", names)
        return names
