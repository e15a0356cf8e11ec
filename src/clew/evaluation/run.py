"""A run that is done, or under way: its rows, its numbers, its report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError, close_matches
from ..metrics import write_top_k
from .benchmarks import Benchmark, Curve, Metric, make_benchmark
from .manifest import read_manifest
from .report.report import report as write_report
from .report.report import summary
from .shard import LEFT_OUT
from .store import read_table


class Run:
    """What `evaluate` found, read from its folder: `table` (a row per example and method), `summary()`, `report()`."""

    def __init__(self, path: str | Path) -> None:
        """Open a run's folder; one that is not complete has the rows that are there.

        Raises `InputError` for a folder without a run, and for one of another version of its benchmark.
        """
        self.path = Path(path)
        self.temporary = False  # whether its folder goes with it, as `evaluate` was told no other
        self.manifest: dict[str, Any] = read_manifest(self.path)
        self.benchmark: Benchmark = make_benchmark(self.manifest["benchmark"], self.manifest["protocol"])
        if self.benchmark.version != self.manifest["version"]:
            raise InputError(
                f"{path} was made by another version of {self.benchmark.name!r}",
                expected=self.benchmark.version, got=self.manifest["version"], todo="run it again, into another folder",
            )  # fmt: skip

    @property
    def metrics(self) -> Sequence[Metric]:
        """What its benchmark reports."""
        return self.benchmark.metrics

    @property
    def curves(self) -> Sequence[Curve]:
        """What its benchmark draws."""
        return self.benchmark.curves

    @cached_property
    def table(self) -> Any:
        """All rows as a `pyarrow.Table`: example, method, error, target, scores, checks, and the protocol's columns."""
        return read_table(self.path, self.manifest, self.benchmark.columns)

    @property
    def errors(self) -> list[str]:
        """What rows say that have no numbers because something failed, not because the protocol leaves them out."""
        said: list[str] = self.table.column("error").drop_null().to_pylist()
        return [words for words in said if not words.startswith(LEFT_OUT)]

    @property
    def failed(self) -> int:
        """How many rows have an error instead of numbers."""
        return len(self.errors)

    @property
    def left_out(self) -> int:
        """How many rows have no numbers because the protocol leaves their example out."""
        return self.table.num_rows - self.table.column("error").null_count - self.failed

    def summary(self, **options: Any) -> list[dict[str, Any]]:
        """Every number with its interval, see `clew.evaluation.report.report.summary`."""
        return summary(self, **options)

    def report(self, out: str | Path | None = None, **options: Any) -> list[Path]:
        """Write the report (default: into the run's folder), see `clew.report`."""
        return write_report(self, out=self.path / "report.html" if out is None else out, **options)

    def predictions(self, folder: str | Path, method: str, counts: Sequence[int] = range(5, 81, 5)) -> list[Path]:
        """Of a rationale run: write the best words of a method as `identifier_results_{k}.json`, ERASER's format.

        Raises `InputError` for other runs, `OptionError` for a method that was not run.
        """
        if "word_scores" not in self.table.column_names:
            raise InputError(f"{self.path} has no scores of words", expected="rationale", got=self.benchmark.name)
        if method not in self.manifest["methods"]:
            raise OptionError(f"no method {method!r}", got=method, todo=close_matches(method, self.manifest["methods"]))
        rows = self.table.select(["example", "method", "word_scores"]).to_pylist()
        scores = {row["example"]: row["word_scores"] for row in rows if row["method"] == method and row["word_scores"]}
        return write_top_k(folder, scores, counts)

    def __repr__(self) -> str:
        m = self.manifest
        state = "" if m["complete"] else ", not complete"
        what = f"{m['benchmark']}, {m['model']['name']}, {m['data']['name']}"
        where = f"{self.path}, gone with this object: out=… keeps a run" if self.temporary else str(self.path)
        return f"Run({what}: {len(m['methods'])} methods, {m['data']['examples']} examples{state}; {where})"
