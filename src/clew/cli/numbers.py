"""Numbers of runs on the terminal."""

from __future__ import annotations

from math import isfinite

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..evaluation.report.groups import Column as Numbers
from ..evaluation.report.parts import CORRECTIONS
from ..evaluation.report.report import report_groups
from ..evaluation.report.rows import RunLike
from ..evaluation.report.tables import heading
from ..evaluation.report.words import verdicts, warnings
from ..statistics import Correction


def print_numbers(console: Console, *runs: RunLike, correction: Correction | None = "holm") -> None:
    """Tables of headline numbers: methods downwards, metrics across; what the columns are, and what follows."""
    caption = (
        "95 % bootstrap intervals over examples; ↑ higher is better, ↓ lower. Methods that share a letter are not "
    )
    caption += f"told apart (paired permutation test, {CORRECTIONS[correction]})."
    for title, group in (groups := report_groups(runs, correction=correction, examples=0, curves=False)):
        tested = [column for column in group.columns if column.letters] or list(group.columns[:1])
        head = (Column(_breakable(heading(one)), justify="right", overflow="fold") for one in tested)
        name = escape(title) if len(groups) > 1 else None
        table = Table(Column("method", overflow="fold"), *head, title=name, caption=caption, caption_justify="left")
        for row in group.rows:
            table.add_row(escape(row.label), *(_number(one, row.label) for one in tested))
        console.print(table)
        for one in tested:
            if one.metric.what:
                console.print(f"[bold]{escape(heading(one))}[/bold]  {escape(one.metric.what)}", highlight=False)
        for words in verdicts(group):
            console.print(escape(words), highlight=False)
        for words in warnings(group):
            console.print(f"[yellow]{escape(words)}[/yellow]", highlight=False)


def _breakable(name: str) -> str:
    """A heading that a narrow table can break between words."""
    return escape(name.replace("/", " / "))


def _number(column: Numbers, label: str) -> str:
    number = column.numbers[label]
    if not isfinite(number.value):
        return "–"
    interval = "" if not isfinite(number.low) else rf" \[{number.low:.3f}, {number.high:.3f}]"
    return f"{number.value:.3f}{interval} {column.letters.get(label, '')}".rstrip()
