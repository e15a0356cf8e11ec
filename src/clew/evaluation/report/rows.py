"""The rows of runs as arrays: what a benchmark's numbers are made of, and what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...errors import InputError, optional_import
from ...statistics import Statistic


@dataclass(frozen=True)
class Metric:
    """A number of a data set: `of` the means of its `columns` over examples.

    `of` takes one array for each column, with any leading axes (bootstrap samples), and gives 0 where nothing is to
    divide by. `higher` is better, lower (False), or neither (None); `headline` metrics are tested for differences.
    """

    name: str
    columns: tuple[str, ...]
    of: Statistic
    higher: bool | None = None
    headline: bool = False
    what: str = ""


@dataclass(frozen=True)
class Curve:
    """A curve of a data set, `of` the means of its `columns`; `x` is fixed, or made of the means too."""

    name: str
    columns: tuple[str, ...]
    of: Statistic
    x: tuple[float, ...] | Statistic
    x_label: str
    y_label: str


@runtime_checkable
class RunLike(Protocol):
    """A run directory: its manifest, its rows (example × method), and what its benchmark makes of them."""

    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def table(self) -> Any: ...
    @property
    def metrics(self) -> Sequence[Metric]: ...
    @property
    def curves(self) -> Sequence[Curve]: ...
    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class MethodRow:
    """A line of a table: a method of a run, what it is called there, and what it cost for an example (NaN: unknown).

    `cost` is its time in forward passes of the model alone, the median over shards.
    """

    label: str
    run: RunLike
    method: str
    forwards: float
    seconds: float
    cost: float = nan


class ColumnArrays:
    """The runs' columns as arrays (row, example, …), NaN where there is no value."""

    def __init__(self, rows: Sequence[MethodRow], ids: Sequence[str]) -> None:
        self.rows, self.ids = rows, ids
        self._known: dict[str, np.ndarray] = {}

    def column(self, name: str) -> np.ndarray:
        """(row, example, …); raises `InputError` where runs have no such column, or lists of several lengths in it."""
        if name not in self._known:
            runs = list({id(row.run): row.run for row in self.rows}.values())
            each = [_array(run, name, self.ids) for run in runs]
            shapes = {array.shape[2:] for array in each if np.isfinite(array).any()}
            if len(shapes) > 1:
                raise InputError(f"runs hold values of several lengths in {name!r}", got=[a.shape[2:] for a in each])
            wide = next(iter(shapes), each[0].shape[2:])
            # A run in which all failed does not know whether its values are lists.
            each = [a if a.shape[2:] == wide else np.full((*a.shape[:2], *wide), nan) for a in each]
            self._known[name] = np.concatenate(each)
        return self._known[name]

    def common(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Which rows have values in all of the columns at all, and which examples all of those have (bool)."""
        known = np.ones((len(self.rows), len(self.ids)), dtype=bool)
        for name in names:
            known &= np.isfinite(self.column(name)).reshape(*known.shape, -1).all(-1)
        some = np.asarray(known.any(1))
        return some, np.asarray(known[some].all(0) & some.any())

    def values(self, names: Sequence[str]) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
        """By label the columns (example, …) of rows that have values, at the examples `common`, and their positions."""
        some, kept = self.common(names)
        rows = np.flatnonzero(some).tolist() if kept.any() else []
        return {self.rows[i].label: [self.column(name)[i][kept] for name in names] for i in rows}, np.flatnonzero(kept)


def _array(run: RunLike, name: str, ids: Sequence[str]) -> np.ndarray:
    """(method, example, …) of one run."""
    arrow: Any = optional_import("pyarrow", extra="bench", purpose="read runs")
    compute: Any = optional_import("pyarrow.compute", extra="bench", purpose="read runs")
    if name not in run.table.column_names:
        raise InputError(
            f"{run.path} has no column {name!r}",
            expected=f"the columns of {run.manifest.get('benchmark')!r}",
            got=", ".join(run.table.column_names),
            todo="run the benchmark again with this version of clew",
        )
    column = run.table.column(name).combine_chunks()
    valid = ~_null(column)
    if arrow.types.is_list(column.type) or arrow.types.is_large_list(column.type):
        lengths = set(compute.list_value_length(column).drop_null().to_pylist())
        if len(lengths) > 1:
            raise InputError(f"{run.path}: {name!r} holds lists of several lengths", got=sorted(lengths)[:5])
        width = next(iter(lengths), 1)
        values = np.full((len(column), width), nan)
        values[valid] = _numbers(compute.list_flatten(column)).reshape(int(valid.sum()), width)
    else:
        values = _numbers(column)
    values[~_null(run.table.column("error").combine_chunks())] = nan
    method_at = {method: i for i, method in enumerate(run.manifest["methods"])}
    example_at = {example: i for i, example in enumerate(ids)}
    methods = np.array([method_at.get(m, -1) for m in run.table.column("method").to_pylist()], dtype=int)
    examples = np.array([example_at.get(e, -1) for e in run.table.column("example").to_pylist()], dtype=int)
    placed = (methods >= 0) & (examples >= 0)
    result = np.full((len(method_at), len(ids), *values.shape[1:]), nan)
    result[methods[placed], examples[placed]] = values[placed]
    return result


def _numbers(array: Any) -> np.ndarray:
    return np.array(array.cast("float64").to_numpy(zero_copy_only=False), dtype=float)


def _null(array: Any) -> np.ndarray:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False), dtype=bool)


def ids_of(run: RunLike) -> list[str]:
    """The examples that a run has rows of, in its order."""
    return list(dict.fromkeys(run.table.column("example").to_pylist()))


def rows_of(runs: Sequence[RunLike]) -> list[MethodRow]:
    """The methods of all runs; where there are several, named after the model, or else after the folder too."""
    models = [str(run.manifest.get("model", {}).get("name", "")) for run in runs]
    paths = [Path(run.path).name for run in runs]
    if len(runs) == 1:
        names = [""]
    elif len(set(models)) == len(runs):
        names = [f"{model} · " for model in models]
    elif len(set(paths)) == len(runs):
        names = [f"{path} · " for path in paths]
    else:
        names = [f"{run.path} · " for run in runs]
    rows: list[MethodRow] = []
    for run, name in zip(runs, names, strict=True):
        count = len(ids_of(run)) or nan
        shards = run.manifest.get("shards", {}).values()
        for method in run.manifest["methods"]:
            forwards, seconds = (
                sum(shard[kind][method] for shard in shards) / count
                if shards and all(method in shard.get(kind, {}) for shard in shards)
                else nan
                for kind in ("forwards", "seconds")
            )
            costs = [shard["cost"][method] for shard in shards if method in shard.get("cost", {})]
            cost = median(costs) if costs else nan
            rows.append(MethodRow(name + method, run, method, forwards, seconds, cost))
    return rows


def flat(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """What was run, as words by dotted name: all of the manifest but its methods and shards."""
    found: dict[str, str] = {}
    for key, value in manifest.items():
        if not prefix and key in ("methods", "shards", "format"):
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            found[prefix + key] = ", ".join(map(str, value))
        else:
            found[prefix + key] = "none" if value is None else str(value)
    return found


def differing(runs: Sequence[RunLike]) -> dict[str, list[str]]:
    """By dotted name what runs were given, where not all were given the same."""
    each = [flat(run.manifest) for run in runs]
    names = list(dict.fromkeys(name for words in each for name in words))
    table = {name: [words.get(name, "–") for words in each] for name in names}
    return {name: words for name, words in table.items() if len(set(words)) > 1}
