"""The tables of a report as CSV, Markdown and LaTeX, and how numbers are written in all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10
from statistics import median
from typing import Any

from ...statistics import Interval
from .groups import Column, Group
from .rows import MethodRow
from .words import verdicts, warnings

FIELDS = ("run", "model", "method", "metric", "value", "low", "high", "n", "letters", "forwards", "seconds", "cost")
_ARROWS = {True: "↑", False: "↓", None: ""}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "−": "$-$",
        "·": r"$\cdot$",
        "–": "--",
    }
    | {sign: "\\" + sign for sign in "{}&%$#_"}
)


def decimal_places(column: Column) -> int:
    """Decimals that give the middle one of the intervals' half widths two digits, or its values four."""
    known = [n for n in column.numbers.values() if isfinite(n.value)]
    widths = [(n.high - n.low) / 2 for n in known if isfinite(n.low) and n.high > n.low]
    size = median(widths) if widths else max((abs(n.value) for n in known), default=0.0) / 100
    return min(6, max(0, 1 - floor(log10(size)))) if size > 0 else 3


def format_number(value: float, decimals: int) -> str:
    """A number with a minus sign of its own width, and a dash for none."""
    if not isfinite(value):
        return "∞" if value == float("inf") else "–"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", "−")


def significant(value: float) -> str:
    """Three digits, for costs."""
    if not isfinite(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_interval(number: Interval, decimals: int) -> str:
    """The interval in brackets, empty where there is none."""
    if not isfinite(number.low):
        return ""
    return f"[{format_number(number.low, decimals)}, {format_number(number.high, decimals)}]"


def heading(column: Column) -> str:
    """The metric's name, and which way is better."""
    return f"{column.metric.name} {_ARROWS[column.metric.higher]}".strip()


def ordered(group: Group) -> list[str]:
    """The rows' labels, best first by the headline metric, those without numbers last."""
    ranked = list(group.headline.ranked) if group.headline else []
    return ranked + [row.label for row in group.rows if row.label not in ranked]


def table_records(group: Group) -> list[dict[str, Any]]:
    """One dictionary of `FIELDS` for each row and metric, unrounded; limits are None where there are none."""
    rows: list[dict[str, Any]] = []
    for row in group.rows:
        for column in group.columns:
            number = column.numbers[row.label]
            rows.append(
                {
                    "run": str(row.run.path),
                    "model": row.run.manifest.get("model", {}).get("name"),
                    "method": row.method,
                    "metric": column.metric.name,
                    "value": _known(number.value),
                    "low": _known(number.low),
                    "high": _known(number.high),
                    "n": number.n,
                    "letters": column.letters.get(row.label, ""),
                    "forwards": _known(row.forwards),
                    "seconds": _known(row.seconds),
                    "cost": _known(row.cost),
                }
            )
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `table_records` with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([row[field] for field in FIELDS] for row in rows)
    return buffer.getvalue()


def as_markdown(groups: Sequence[tuple[str, Group]]) -> str:
    """A table for each group under its title: value, interval, letters; the best in bold; and what follows from it."""
    parts: list[str] = []
    for title, group in groups:
        head = ["method", *map(heading, group.columns), *cost_names(group)]
        lines = [f"## {title}", "", _piped(head), _piped(["---", *["---:"] * (len(head) - 1)])]
        for label, cells, costs in _cells(group):
            shown = [
                " ".join(filter(None, [f"**{value}**" if best else value, interval, given]))
                for value, interval, given, best in cells
            ]
            lines.append(_piped([f"`{label}`", *shown, *costs]))
        said = [line for words in (*verdicts(group), *warnings(group)) for line in ("", words)]
        parts.append("\n".join([*lines, "", example_counts(group), *said, *_undefined(group)]))
    return "\n\n".join(parts) + "\n"


def as_latex(groups: Sequence[tuple[str, Group]]) -> str:
    r"""A `tabular` for each group, for `\usepackage{booktabs}`: intervals small, letters raised, the best in bold."""
    parts: list[str] = []
    for title, group in groups:
        head = ["method", *map(heading, group.columns), *cost_names(group)]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_escaped(title)}. {latex_escaped(example_counts(group))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(map(latex_escaped, head)) + r" \\",
            r"\midrule",
        ]
        for label, cells, costs in _cells(group):
            shown: list[str] = []
            for value, interval, given, best in cells:
                number = rf"\textbf{{{latex_escaped(value)}}}" if best else latex_escaped(value)
                raised = rf"\textsuperscript{{{given}}}" if given else ""
                shown.append(number + raised + (rf" {{\scriptsize {latex_escaped(interval)}}}" if interval else ""))
            lines.append(" & ".join([latex_escaped(label), *shown, *map(latex_escaped, costs)]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def latex_escaped(text: str) -> str:
    """Words as LaTeX sets them."""
    return text.translate(_LATEX)


def _cells(group: Group) -> list[tuple[str, list[tuple[str, str, str, bool]], list[str]]]:
    """For each row its label, (value, interval, letters, best) for each metric, and its costs."""
    by_label = {row.label: row for row in group.rows}
    decimals = {column.metric.name: decimal_places(column) for column in group.columns}
    result: list[tuple[str, list[tuple[str, str, str, bool]], list[str]]] = []
    for label in ordered(group):
        cells: list[tuple[str, str, str, bool]] = []
        for column in group.columns:
            number, digits = column.numbers[label], decimals[column.metric.name]
            given = column.letters.get(label, "")
            cells.append(
                (format_number(number.value, digits), format_interval(number, digits), given, label in column.best)
            )
        row = by_label[label]
        result.append((label, cells, costs_of(row)[: len(cost_names(group))]))
    return result


def cost_names(group: Group) -> list[str]:
    """What is said of the cost of each row; the time in passes of the model alone where a run compared them."""
    return ["forwards", "seconds", *(["cost"] if any(isfinite(row.cost) for row in group.rows) else [])]


def costs_of(row: MethodRow) -> list[str]:
    """What an example cost: forwards, seconds, and the time in passes of the model alone."""
    return [significant(row.forwards), significant(row.seconds), significant(row.cost)]


def _undefined(group: Group) -> list[str]:
    """Methods that were tried and are not defined on a run's model, with the reason."""
    found = {name: why for run in group.runs for name, why in run.manifest.get("undefined", {}).items()}
    return ["", "Not defined here:", "", *(f"- `{name}`: {why}" for name, why in found.items())] if found else []


def example_counts(group: Group) -> str:
    """How many examples the numbers are from, and how many were left out."""
    least, most = group.kept
    left = group.examples - least
    numbers = f"{least} examples" if least == most else f"{least} to {most} examples, by metric"
    return numbers + (f"; {left} left out, as not every method has a value for them" if left else "")


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _known(value: float) -> float | None:
    return value if isfinite(value) else None
