"""A report of benchmark runs: one page, and its tables as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, OptionError
from ...files import write_all
from ...statistics import Correction
from .groups import Group, build_group, group_runs
from .page import Show, report_page
from .rows import RunLike
from .tables import as_csv, as_latex, as_markdown, table_records

_SUFFIXES = (".html", ".csv", ".md", ".tex")


def report(
    *runs: RunLike,
    out: str | Path,
    show: Show | Mapping[str, Show] | None = None,
    title: str | None = None,
    level: float = 0.95,
    correction: Correction | None = "holm",
    examples: int = 3,
    seed: int = 0,
) -> list[Path]:
    """Write what runs found: `out`, a page, and beside it the same tables with the suffixes .csv, .md and .tex.

    Runs share a table where benchmark, version, protocol and data hash are the same; others stand one after another.

    Args:
        runs: one or several, each once.
        out: a file ending in .html, or a folder for report.html.
        show: gives HTML, shown as it is, for (example id, method); for several runs by the run's path.
        title: of the page.
        level: of intervals and tests, between 0 and 1.
        correction: of the tests of all pairs of a table: "holm", "fdr" or None, see `clew.statistics.compare`.
        examples: how many best and worst ones to name for each method.
        seed: of what is drawn for intervals and tests.

    Raises:
        InputError, OptionError: no run, one run twice, a run without a column that its metrics need; a file that is
            no .html, a level out of range.
        WriteError: a file that cannot be written; then none is.
    """
    out = Path(out)
    out = out / "report.html" if out.is_dir() or not out.suffix else out
    if out.suffix.lower() != ".html":
        raise OptionError("a report is a page", expected="a file ending in .html, or a folder", got=str(out))
    groups = report_groups(runs, level=level, correction=correction, examples=examples, seed=seed)
    shows = _shows(runs, show)
    page = report_page(groups, title=title or _title(runs), level=level, correction=correction, shows=shows)
    rows = [row for _, each in groups for row in table_records(each)]
    texts = page, as_csv(rows), as_markdown(groups), as_latex(groups)
    return write_all({out.with_suffix(suffix): text for suffix, text in zip(_SUFFIXES, texts, strict=True)})


def summary(
    *runs: RunLike, level: float = 0.95, correction: Correction | None = "holm", seed: int = 0
) -> list[dict[str, Any]]:
    """The numbers of the report, one dictionary for each run, method and metric, in the order of the runs' tables.

    Keys: run, model, method, metric, value, low, high (None where there is none), n, letters (of headline metrics),
    forwards and seconds per example, cost in passes of the model alone (None where no run compared them). Raises as
    `report`.
    """
    groups = report_groups(runs, level=level, correction=correction, examples=0, curves=False, seed=seed)
    return [row for _, each in groups for row in table_records(each)]


def report_groups(runs: Sequence[RunLike], *, level: float = 0.95, **options: Any) -> list[tuple[str, Group]]:
    """The tables of runs under their titles; `options` are those of `build_group`. Raises as `report`."""
    paths = [Path(run.path).resolve() for run in runs]
    if not runs or len(set(paths)) != len(runs):
        got = "none" if not runs else ", ".join(str(run.path) for run in runs)
        raise InputError("nothing to report" if not runs else "one run twice", expected="runs, each once", got=got)
    if not 0 < level < 1:
        raise OptionError("a level is a probability", expected="between 0 and 1, such as 0.95", got=level)
    found = [build_group(together, level=level, **options) for together in group_runs(runs)]
    titles = [_title(each.runs) for each in found]
    return [
        (title if titles.count(title) == 1 else f"{title} ({i})", each)
        for i, (title, each) in enumerate(zip(titles, found, strict=True), 1)
    ]


def _title(runs: Sequence[RunLike]) -> str:
    """Benchmark, model and data, where they are the same."""
    parts = [
        {str(run.manifest.get("benchmark", "")) for run in runs},
        {str(run.manifest.get("model", {}).get("name", "")) for run in runs},
        {str(run.manifest.get("data", {}).get("name", "")) for run in runs},
    ]
    return " · ".join(next(iter(part)) for part in parts if len(part) == 1 and "" not in part) or "benchmarks"


def _shows(runs: Sequence[RunLike], show: Show | Mapping[str, Show] | None) -> dict[int, Show]:
    if show is None:
        return {}
    if isinstance(show, Mapping):
        by_path = {str(run.path): id(run) for run in runs}
        if unknown := set(show) - set(by_path):
            raise OptionError("no such run to show", expected=", ".join(by_path), got=", ".join(sorted(unknown)))
        return {by_path[path]: each for path, each in show.items()}
    if len(runs) > 1:
        raise OptionError("several runs to show", expected="a mapping from each run's path", got="one function")
    return {id(runs[0]): show}
