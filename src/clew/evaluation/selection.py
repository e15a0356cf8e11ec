"""Parameter search without fooling oneself: options are chosen on one half of the examples, reported on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..errors import InputError, OptionError, close_matches
from ..statistics import split_half
from .benchmarks import Curve, Metric
from .report.report import report as write_report
from .report.report import summary
from .report.rows import ColumnArrays, ids_of, rows_of
from .run import Run


@dataclass(frozen=True)
class Choice:
    """Of one method the options that were best on the half of `examples` that chose, with all that were tried."""

    method: str
    chosen: str
    tried: dict[str, float]
    metric: str
    examples: int


@dataclass(frozen=True)
class Chosen:
    """The methods that were chosen, on the examples that did not choose: what `clew.report` takes."""

    choices: Sequence[Choice]
    manifest: dict[str, Any]
    table: Any
    metrics: Sequence[Metric]
    curves: Sequence[Curve]
    path: Path
    run: Run  # whose folder may last no longer than it

    def report(self, out: str | Path | None = None, **options: Any) -> list[Path]:
        """Write the report (default: chosen.html in the run's folder), see `clew.report`."""
        return write_report(self, out=self.path / "chosen.html" if out is None else out, **options)

    def summary(self, **options: Any) -> list[dict[str, Any]]:
        """Every number with its interval, see `clew.evaluation.report.report.summary`."""
        return summary(self, **options)


def chosen(run: Run, metric: str | None = None, *, seed: int = 0) -> Chosen:
    """Of each method of a run with a `grid` the best options on one half of the examples, and the run on the other.

    `metric`: what is best, by default the first headline metric. `seed`: of the split. Raises `InputError` for a run
    without a grid or with fewer than two examples, `OptionError` for a metric that is unknown or has no best.
    """
    grid = run.manifest.get("grid")
    ids = ids_of(run)
    if not grid or len(ids) < 2:
        got = f"{len(ids)} examples, grid {grid}"
        raise InputError(f"{run.path} has nothing to choose", expected="a run with a grid", got=got)
    by_name = {m.name: m for m in run.metrics}
    if metric is not None and metric not in by_name:
        raise OptionError(f"no metric {metric!r}", got=metric, todo=close_matches(metric, by_name))
    wanted = by_name[metric] if metric else next((m for m in run.metrics if m.headline), run.metrics[0])
    if wanted.higher is None:
        raise OptionError(f"{wanted.name} has no best", expected="a metric that should be high or low", got=wanted.name)
    choosing, reporting = ([ids[i] for i in half] for half in split_half(ids, seed))
    numbers = _numbers(run, wanted, choosing)
    groups: dict[str, list[str]] = {}
    for label in run.manifest["methods"]:
        groups.setdefault(grid[label]["base"], []).append(label)
    choices: list[Choice] = []
    for base, labels in groups.items():
        tried = {label: numbers[label] for label in labels if np.isfinite(numbers[label])}
        if tried:
            best = (max if wanted.higher else min)(tried, key=lambda label: tried[label])
            choices.append(Choice(base, best, tried, wanted.name, len(choosing)))
    if not choices:
        raise InputError("nothing could be chosen", expected=f"values of {wanted.name}", got="none on that half")
    return _view(run, choices, set(reporting))


def _numbers(run: Run, metric: Metric, ids: Sequence[str]) -> dict[str, float]:
    """The metric of each method, over the examples of `ids` that all methods have a value for."""
    cells = ColumnArrays(rows_of([run]), list(ids))
    values, _ = cells.values(metric.columns)
    means = {label: [column.mean(0) for column in columns] for label, columns in values.items()}
    found = {label: float(metric.of(*columns)) for label, columns in means.items()}
    return {row.label: found.get(row.label, float("nan")) for row in cells.rows}


def _view(run: Run, choices: Sequence[Choice], ids: set[str]) -> Chosen:
    labels = [choice.chosen for choice in choices]
    rows = zip(run.table.column("example").to_pylist(), run.table.column("method").to_pylist(), strict=True)
    kept = [example in ids and method in labels for example, method in rows]
    share = len(ids) / len(ids_of(run))
    shards = run.manifest["shards"].values()
    cost = {
        kind: {label: share * sum(shard[kind].get(label, 0) for shard in shards) for label in labels}
        for kind in ("seconds", "forwards")
    }
    known = {label: [s["cost"][label] for s in shards if label in s.get("cost", {})] for label in labels}
    cost["cost"] = {label: median(each) for label, each in known.items() if each}
    manifest = {**run.manifest, "methods": labels, "shards": {"chosen": cost}}
    return Chosen(choices, manifest, run.table.filter(kept), run.metrics, run.curves, run.path, run)
