"""The page of a report: one self-contained HTML file, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from .curves import colour_of, dash_of
from .groups import Group
from .parts import CORRECTIONS, SHADED, Show, curve, extremes, head, pair_table, table_rows
from .rows import RunLike, differing, flat
from .tables import cost_names, heading, ordered
from .words import verdicts, warnings

_COSTS = {"forwards": "per example", "seconds": "per example", "cost": "passes of the model alone"}


def report_page(
    groups: Sequence[tuple[str, Group]],
    *,
    title: str,
    level: float,
    correction: str | None,
    shows: Mapping[int, Show],
) -> str:
    """The page; `groups` under their titles, `shows` by the id() of a run what draws its examples."""
    runs = [run for _, group in groups for run in group.runs]
    percent = f"{100 * level:g} %"
    tables = [
        _table(name if len(groups) > 1 else "Results", group, f"curve-{i}", percent, 1 - level, correction, shows)
        for i, (name, group) in enumerate(groups)
    ]
    return _template().render(
        title=title,
        subtitle=f"{len(runs)} run{'s' * (len(runs) > 1)}: " + ", ".join(str(run.path) for run in runs),
        runs=[str(run.path) for run in runs],
        differing=[(name, [_brief(w, 60) for w in words]) for name, words in differing(runs).items()],
        together=_together(groups),
        tables=tables,
        level=percent,
        caveats=_caveats(percent, correction),
    )


def _together(groups: Sequence[tuple[str, Group]]) -> str:
    if len(groups) == 1:
        return "Benchmark, version, protocol and data are the same, so that these runs share a table."
    return (
        "Runs share a table where benchmark, version, protocol and data are the same. "
        "Numbers of different tables are not compared, as they do not measure the same thing."
    )


def _caveats(percent: str, correction: str | None) -> list[str]:
    return [
        f"Intervals ({percent}, percentile bootstrap) and tests (paired, by permutation) are over examples. They say "
        "what other examples of the same kind would change, not what another model, seed or data set would.",
        "Only headline metrics are tested, each by itself: p of all pairs of a table are "
        f"{CORRECTIONS[correction]}, but not for the number of metrics or tables.",
        "Methods that share a letter were not told apart. That does not show that they are equal.",
        "Numbers of a column are from the examples that all of its methods have a value for; "
        "if the examples that fail are special, so are those that are left.",
        "A method whose options were chosen on these very examples looks better here than it is.",
        "Seconds are what the run recorded on its machine, and say little about another.",
    ]


def _table(
    title: str,
    group: Group,
    name: str,
    percent: str,
    alpha: float,
    correction: str | None,
    shows: Mapping[int, Show],
) -> dict[str, Any]:
    labels = ordered(group)
    headline = group.headline
    curves = [curve(drawn, labels, f"{name}-{i}") for i, drawn in enumerate(group.curves)]
    failed = sum(failure.rows for failure in group.failures)
    return {
        "title": title,
        "warnings": warnings(group),
        "verdicts": verdicts(group),
        "facts": _facts(group, failed),
        "caption": _caption(group, percent),
        "columns": [head(column, group) for column in group.columns],
        "costs": [(name, _COSTS[name]) for name in cost_names(group)],
        "rows": table_rows(group, labels),
        "what": [(heading(c), c.metric.what) for c in group.columns if c.metric.what],
        "curves": curves,
        "legend": [
            {"label": label, "style": i, "colour": colour_of(i), "dash": dash_of(i)} for i, label in enumerate(labels)
        ],
        "curves_note": _curves_note([c["shaded"] for c in curves], len(labels), percent),
        "pairs": [pair_table(c, alpha, correction) for c in group.columns if c.comparisons],
        "extremes": extremes(group, labels, shows),
        "extremes_shown": any(id(run) in shows for run in group.runs),
        "extremes_by": headline.metric.name if headline else "",
        "failures": [
            {
                "message": failure.message,
                "rows": failure.rows,
                "methods": _some(failure.methods),
                "examples": _some(failure.examples),
            }
            for failure in group.failures[:50]
        ],
        "failed": f"{failed} rows" + (", the 50 most frequent messages" if len(group.failures) > 50 else ""),
        "given": _given(group.runs),
        "files": [
            {
                "name": file if len(group.runs) == 1 else f"{Path(run.path).name}/{file}",
                "rows": shard.get("rows", "–"),
                "hash": shard.get("sha256", "–"),
                "notes": "; ".join(map(str, shard.get("notes", []))),
            }
            for run in group.runs
            for file, shard in run.manifest.get("shards", {}).items()
        ],
    }


def _facts(group: Group, failed: int) -> list[tuple[str, str]]:
    first = group.runs[0].manifest
    models = dict.fromkeys(str(run.manifest.get("model", {}).get("name", "–")) for run in group.runs)
    least, most = group.kept
    used = str(least) if least == most else f"{least} to {most}"
    return [
        ("benchmark", f"{first.get('benchmark')}, v{first.get('version')}"),
        ("model" if len(models) == 1 else "models", ", ".join(models)),
        ("data", str(first.get("data", {}).get("name", "–"))),
        ("examples", used if least == most == group.examples else f"{used} of {group.examples}"),
        ("methods", str(len({row.method for row in group.rows}))),
        ("failed rows", str(failed)),
    ]


def _curves_note(shaded: Sequence[bool], lines: int, percent: str) -> str:
    whose = f" for the first {SHADED}" if lines > SHADED else ""
    said = f" Shaded{whose}: {percent} intervals, point by point." if any(shaded) else ""
    return "Point at a name to see its line alone." + said


def _caption(group: Group, percent: str) -> str:
    tested = [c.metric.name for c in group.columns if c.letters]
    best = f"Best first by {group.headline.metric.name}. " if group.headline else ""
    said = f"{best}In brackets {percent} intervals over examples; ★ the best value."
    if tested:
        said += f" Methods that share a letter beside {' or '.join(tested)} were not told apart by it."
    return said


def _given(runs: Sequence[RunLike]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """What was run by part of the manifest; where runs differ, what each was given."""
    each = [flat(run.manifest) for run in runs]
    parts: dict[str, list[tuple[str, list[str]]]] = {}
    for name in dict.fromkeys(name for words in each for name in words):
        given = [_brief(words.get(name, "–")) for words in each]
        if len(set(given)) == 1:
            given = given[:1]
        else:
            given = [f"{words} ({Path(run.path).name})" for words, run in zip(given, runs, strict=True)]
        part, _, rest = name.partition(".")
        parts.setdefault(part if rest else "run", []).append((rest or part, given))
    return list(parts.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", … ({len(names)} in all)" if len(names) > 3 else "")


def _brief(words: str, most: int = 200) -> str:
    if len(words) <= most:
        return words
    parts = words.split(", ")
    return f"{', '.join(parts[:3])}, … ({len(parts)} in all)" if len(parts) > 3 else f"{words[: most // 3]}…"


@cache
def _template() -> Any:
    from jinja2 import Environment

    source = resources.files("clew.draw").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
