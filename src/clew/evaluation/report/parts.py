"""The parts of a report's page: rows of its tables, curves, pairs of methods, and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from ...statistics import Comparison, Interval
from .curves import Line, curves_svg
from .groups import Column, CurveBands, Group
from .tables import cost_names, costs_of, decimal_places, format_interval, format_number

Show = Callable[[str, str], str]  # (example, method) to HTML

SHADED = 3  # limits of more lines than these would hide one another
CORRECTIONS = {
    "holm": "corrected by Holm's method",
    "fdr": "corrected for the false discovery rate by Benjamini and Yekutieli's method",
    None: "not corrected for the number of pairs",
}
_BETTER = {True: ("↑", "higher is better"), False: ("↓", "lower is better"), None: ("", "")}


def head(column: Column, group: Group) -> dict[str, Any]:
    """A metric's heading, which way is better, and how many examples where metrics differ in that."""
    arrow, better = _BETTER[column.metric.higher]
    least, most = group.kept
    return {
        "name": column.metric.name,
        "arrow": arrow,
        "better": better,
        "what": column.metric.what,
        "headline": bool(column.letters),
        "n": f"{column.n} examples" if least != most else "",
    }


def table_rows(group: Group, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the main table."""
    by_label = {row.label: row for row in group.rows}
    cells = {column.metric.name: _cells(column) for column in group.columns}
    return [
        {
            "label": label,
            "cells": [cells[column.metric.name][label] for column in group.columns],
            "costs": costs_of(by_label[label])[: len(cost_names(group))],
        }
        for label in labels
    ]


def _cells(column: Column) -> dict[str, dict[str, Any]]:
    digits = decimal_places(column)
    ends = [v for n in column.numbers.values() for v in (n.low, n.value, n.high) if isfinite(v)]
    aligned = not any("aa" in given for given in column.letters.values())  # up to 26 of them: each has its place
    every = sorted(set("".join(column.letters.values()))) if aligned else []
    found: dict[str, dict[str, Any]] = {}
    for label, number in column.numbers.items():
        given = column.letters.get(label, "")
        found[label] = {
            "value": format_number(number.value, digits),
            "limits": format_interval(number, digits),
            "best": label in column.best,
            "headline": bool(column.letters),
            "letters": "".join(x if x in given else " " for x in every).rstrip() if every else given,
            "bar": _bar(number, min(ends), max(ends)) if column.letters and ends else None,
        }
    return found


def _bar(number: Interval, low: float, high: float) -> list[str] | None:
    """Lower limit, value and upper limit in percent of the column's range."""
    if not isfinite(number.low) or high <= low:
        return None
    return [f"{1 + 98 * (v - low) / (high - low):.2f}" for v in (number.low, number.value, number.high)]


def curve(drawn: CurveBands, labels: Sequence[str], name: str) -> dict[str, Any]:
    """One picture of all rows' lines, the limits of the first few shaded."""
    from markupsafe import Markup

    lines: list[Line] = []
    for style, label in enumerate(labels):
        if label in drawn.lines:
            x, (y, low, high) = drawn.lines[label]
            shaded = drawn.limits and style < SHADED and bool(isfinite(float(low.sum())))
            lines.append(Line(label, x, y, (low, high) if shaded else None, style))
    svg = curves_svg(lines, drawn.curve.x_label, drawn.curve.y_label, name)
    return {"name": drawn.curve.name, "svg": Markup(svg), "shaded": any(line.limits for line in lines)}


def pair_table(column: Column, alpha: float, correction: str | None) -> dict[str, Any]:
    """The table of all pairs by one metric."""
    digits = decimal_places(column)
    rows = [_pair(c, digits, alpha) for c in column.comparisons]
    note = (
        f"Paired on {column.n} examples. The second p is {CORRECTIONS[correction]}; intervals are not corrected. "
        "How often rows were swapped limits how small p can be. "
        "Examples needed: to tell this pair, tested alone, apart with 80 % power, if it differs as much as it did here."
    )
    return {"name": column.metric.name, "rows": rows, "different": sum(r["different"] for r in rows), "note": note}


def _pair(c: Comparison, digits: int, alpha: float) -> dict[str, Any]:
    return {
        "a": c.a,
        "b": c.b,
        "difference": format_number(c.difference, digits),
        "limits": format_interval(Interval(c.difference, c.low, c.high, 0), digits),
        "p": _probability(c.p),
        "corrected": _probability(c.corrected),
        "different": c.corrected <= alpha,
        "needed": f"{c.needed:,.0f}" if isfinite(c.needed) else format_number(c.needed, 0),
    }


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def extremes(group: Group, labels: Sequence[str], shows: Mapping[int, Show]) -> list[dict[str, Any]]:
    """The best and worst examples of each row, drawn where there is what draws them."""
    from markupsafe import Markup

    by_label = {row.label: row for row in group.rows}
    digits = decimal_places(group.headline) if group.headline else 3
    found: list[dict[str, Any]] = []
    for label in (label for label in labels if label in group.extremes):
        row, sides = by_label[label], group.extremes[label]
        show = shows.get(id(row.run))
        found.append({"label": label})
        for kind, side in zip(("best", "worst"), sides, strict=True):
            found[-1][kind] = [
                {
                    "kind": kind,
                    "id": example,
                    "value": format_number(value, digits),
                    "html": Markup(show(example, row.method)) if show else "",
                }
                for example, value in side
            ]
    return found
