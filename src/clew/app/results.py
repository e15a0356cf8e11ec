"""Runs of `clew bench` to look through: examples sorted by a metric, and what every method says about one of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset, fingerprint, open_dataset
from ..errors import ClewError, InputError
from ..evaluation import Run, Shown, classifier_of
from .maps import message
from .page_requests import OfferedModels

logger = logging.getLogger("clew")


class RunBrowser:
    """The runs below a folder. Only they can be opened: the page names them by what `names` holds.

    Pictures and words are drawn where the run's model is offered and its data can be had: `data`, or the bundled set
    that the run is of.
    """

    def __init__(self, folder: str | Path, models: OfferedModels, data: str | Path | None = None) -> None:
        """Raises `InputError` where there is no run."""
        self._models, self._data = models, data
        paths = sorted(path.parent for path in Path(folder).glob("**/manifest.json"))
        self._runs: dict[str, Run] = {}
        for path in paths:
            try:
                run = Run(path)
                if run.table.num_rows:
                    self._runs[str(path.relative_to(folder)) if path != Path(folder) else path.name] = run
            except ClewError as error:
                logger.warning("%s is left out: %s", path, error)
        if not self._runs:
            raise InputError(
                f"no runs in {folder}",
                expected="folders that clew bench wrote",
                got="none",
                todo="clew bench NAME --out FOLDER, or leave out --runs",
            )
        self._shown = lru_cache(4)(self._shows)

    @property
    def names(self) -> list[str]:
        """What the runs are called."""
        return list(self._runs)

    def metrics(self, name: str) -> list[str]:
        """The metrics that examples can be sorted by."""
        return [metric.name for metric in self._runs[name].metrics]

    def methods(self, name: str) -> list[str]:
        """The methods of a run."""
        return list(self._runs[name].manifest["methods"])

    def order(self, name: str, metric: str, method: str, worst: bool) -> list[str]:
        """Examples from the best to the worst by a method's metric, or the other way; those without a value last."""
        values, higher = self._values(name, metric)
        better = -1 if higher is False else 1
        sign = better if worst else -better

        def key(example: str) -> tuple[bool, float]:
            value = values[example].get(method, nan)
            return not isfinite(value), sign * value if isfinite(value) else 0.0

        return sorted(values, key=key)

    def table(self, name: str, metric: str, method: str, worst: bool) -> dict[str, Any]:
        """Examples and the metric of each method, as Gradio's table takes them."""
        values, _ = self._values(name, metric)
        of = self.methods(name)
        of.sort(key=lambda one: one != method)
        rows = [
            [example, *(_number(values[example].get(one, nan)) for one in of)]
            for example in self.order(name, metric, method, worst)
        ]
        return {"headers": ["example", *of], "data": rows}

    def example(self, name: str, example: str) -> str:
        """All methods on one example."""
        run = self._runs[name]
        show = self._shown(name)
        rows = {row["method"]: row for row in run.table.to_pylist() if row["example"] == example}
        cards: list[str] = []
        for method, row in rows.items():
            drawn = "" if isinstance(show, str) or row["error"] else show(example, method)
            numbers = "".join(
                f"<dt>{escape(metric.name)}</dt><dd>{_number(_value(metric, row))}</dd>" for metric in run.metrics
            )
            failed = message(row["error"]) if row["error"] else ""
            cards.append(
                f'<section class="clew-card"><h3>{escape(method)}</h3><p class="clew-sub">{escape(row["target"] or "")}'
                f"</p>{drawn}{failed}<dl>{numbers}</dl></section>"
            )
        note = message(show, "note") if isinstance(show, str) else ""
        return f'<h3>{escape(example)}</h3>{note}<div class="clew-row clew-results">{"".join(cards)}</div>'

    def _values(self, name: str, metric: str) -> tuple[dict[str, dict[str, float]], bool | None]:
        """By example and method a metric's value, and whether higher is better."""
        run = self._runs[name]
        wanted = next(one for one in run.metrics if one.name == metric)
        found: dict[str, dict[str, float]] = {}
        for row in run.table.to_pylist():
            found.setdefault(row["example"], {})[row["method"]] = _value(wanted, row)
        return found, wanted.higher

    def _shows(self, name: str) -> Shown | str:
        """What draws a run's examples, or why they are not drawn."""
        run = self._runs[name]
        model, data = run.manifest["model"]["name"], run.manifest["data"]["name"]
        source = self._data if self._data is not None else data if str(data).startswith("mini:") else None
        if model not in self._models.names or source is None:
            return f"To see pictures and words, start with --model {model} and --data (the run is of {data})."
        try:
            opened: Dataset = open_dataset(source)
            at = {example: i for i, example in enumerate(opened.ids)}
            wanted: Sequence[str] = list(dict.fromkeys(run.table.column("example").to_pylist()))
            known = all(example in at for example in wanted)
            used = opened.subset([at[example] for example in wanted]) if known else opened
            if not known or run.manifest["data"]["hash"] not in (fingerprint(opened), fingerprint(used)):
                return f"The data is not that of the run ({data}), so nothing is drawn."
            return Shown(run, classifier_of(self._models[model], opened, None), opened)
        except ClewError as error:
            return f"Nothing is drawn: {error}"


def _value(metric: Any, row: dict[str, Any]) -> float:
    """A metric of one example: its number of means that are one example's values."""
    columns = [row.get(column) for column in metric.columns]
    if row["error"] or any(value is None for value in columns):
        return nan
    return float(np.asarray(metric.of(*(np.asarray([value], dtype=float) for value in columns)))[0])


def _number(value: float) -> str:
    return f"{value:.4f}" if isfinite(value) else "–"
