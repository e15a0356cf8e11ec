"""The numbers of a report: which runs share a table, and the table's metrics, curves and failures.

A method's numbers are of the examples that every method of its table has a value for, so that all of a column compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from ...statistics import Comparison, Correction, Interval, bands, compare, intervals, letters
from .rows import ColumnArrays, Curve, MethodRow, Metric, RunLike, ids_of, rows_of


@dataclass(frozen=True)
class Column:
    """One metric of a table: a number for each row, and for headline metrics which of them differ.

    `n` examples are those of every row with any value at all; rows without one have n = 0. `ranked` are labels from
    the best, `best` those of the best value.
    """

    metric: Metric
    numbers: Mapping[str, Interval]
    n: int
    ranked: Sequence[str]
    best: Sequence[str]
    comparisons: Sequence[Comparison]
    letters: Mapping[str, str]


@dataclass(frozen=True)
class CurveBands:
    """A curve of each row: (3, point) value, lower and upper limit; and its x."""

    curve: Curve
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]
    limits: bool


@dataclass(frozen=True)
class Failure:
    """One message of rows that failed, how many there are, and whose they are."""

    message: str
    rows: int
    methods: Sequence[str]
    examples: Sequence[str]


@dataclass(frozen=True)
class Group:
    """Runs that share a table, from how many `examples`, and what failed.

    `extremes` are the best and the worst examples of each row by the headline metric, with their values.
    """

    runs: Sequence[RunLike]
    rows: Sequence[MethodRow]
    examples: int
    columns: Sequence[Column]
    curves: Sequence[CurveBands]
    failures: Sequence[Failure]
    extremes: Mapping[str, tuple[Sequence[tuple[str, float]], Sequence[tuple[str, float]]]]

    @property
    def kept(self) -> tuple[int, int]:
        """The fewest and the most examples that a metric's numbers are from."""
        counts = [column.n for column in self.columns] or [self.examples]
        return min(counts), max(counts)

    @property
    def headline(self) -> Column | None:
        """The first headline metric, or the first of all: what rows are ordered by."""
        return next((c for c in self.columns if c.metric.headline), next(iter(self.columns), None))


def group_runs(runs: Iterable[RunLike]) -> list[list[RunLike]]:
    """Runs that may share a table: one benchmark, version, protocol and data hash. Unknown data match nothing."""
    groups: dict[str, list[RunLike]] = {}
    for i, run in enumerate(runs):
        manifest = run.manifest
        data = manifest.get("data", {}).get("hash") or f"run {i}"
        parts = [manifest.get("benchmark"), manifest.get("version"), manifest.get("protocol"), data]
        groups.setdefault(json.dumps(parts, sort_keys=True, default=str), []).append(run)
    return list(groups.values())


def build_group(
    runs: Sequence[RunLike],
    *,
    level: float = 0.95,
    correction: Correction | None = "holm",
    examples: int = 3,
    curves: bool = True,
    seed: int = 0,
) -> Group:
    """The table of runs that share one, the `examples` best and worst of each method by the headline metric.

    Raises `InputError` for a run without a column that its metrics need, and for columns of several lengths.
    """
    rows = rows_of(runs)
    ids = list(dict.fromkeys(name for run in runs for name in ids_of(run)))
    cells = ColumnArrays(rows, ids)
    columns = [_column(cells, metric, level, correction, seed) for metric in runs[0].metrics]
    drawn = [_drawn(cells, curve, level, seed) for curve in runs[0].curves] if curves else []
    headline = next((m for m in runs[0].metrics if m.headline), next(iter(runs[0].metrics), None))
    return Group(
        runs=runs,
        rows=rows,
        examples=len(ids),
        columns=columns,
        curves=drawn,
        failures=_failures(rows),
        extremes={} if headline is None else _extremes(cells, headline, examples),
    )


# What is made of them


def _column(cells: ColumnArrays, metric: Metric, level: float, correction: Correction | None, seed: int) -> Column:
    values, kept = cells.values(metric.columns)
    numbers = {row.label: Interval(nan, nan, nan, 0) for row in cells.rows}
    if values:
        numbers |= intervals(values, metric.of, level=level, seed=seed)
    ranked = sorted(values, key=lambda label: numbers[label].value, reverse=metric.higher is not False)
    best = [v for v in ranked if numbers[v].value == numbers[ranked[0]].value] if metric.higher is not None else []
    comparisons: list[Comparison] = []
    if metric.headline and values:
        ordered = {label: values[label] for label in ranked}
        comparisons = compare(ordered, metric.of, correction=correction, level=level, seed=seed)
    given = letters(ranked, comparisons, level) if metric.headline else {}
    return Column(metric, numbers, len(kept), ranked, best, comparisons, given)


def _drawn(cells: ColumnArrays, curve: Curve, level: float, seed: int) -> CurveBands:
    values, _ = cells.values(curve.columns)
    limits = bands(values, curve.of, level=level, seed=seed) if values else {}
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for label, columns in values.items():
        x = curve.x(*(column.mean(0) for column in columns)) if callable(curve.x) else curve.x
        lines[label] = np.asarray(x, dtype=float), limits[label]
    return CurveBands(curve, lines, limits=not callable(curve.x))


def _extremes(
    cells: ColumnArrays, metric: Metric, count: int
) -> dict[str, tuple[Sequence[tuple[str, float]], Sequence[tuple[str, float]]]]:
    values, kept = cells.values(metric.columns)
    found: dict[str, tuple[Sequence[tuple[str, float]], Sequence[tuple[str, float]]]] = {}
    for label, columns in values.items():
        each = np.asarray(metric.of(*columns), dtype=float)
        order = np.argsort(each if metric.higher is False else -each, kind="stable")
        named = [(cells.ids[int(kept[i])], float(each[i])) for i in order.tolist()]
        found[label] = named[:count], named[::-1][:count]
    return found


def _failures(rows: Sequence[MethodRow]) -> list[Failure]:
    labels = {(id(row.run), row.method): row.label for row in rows}
    found: dict[str, list[tuple[str, str]]] = {}
    for run in {id(row.run): row.run for row in rows}.values():
        table = run.table.select(["example", "method", "error"])
        failed: list[dict[str, str]] = table.filter(table.column("error").is_valid()).to_pylist()
        for row in failed:
            where = labels.get((id(run), row["method"]), row["method"]), row["example"]
            found.setdefault(row["error"], []).append(where)
    failures = [
        Failure(message, len(where), list(dict.fromkeys(m for m, _ in where)), list(dict.fromkeys(e for _, e in where)))
        for message, where in found.items()
    ]
    return sorted(failures, key=lambda failure: -failure.rows)
