"""Numbers of runs on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table


def print_numbers(console: Console, rows: list[dict[str, Any]]) -> None:
    """A table of headline numbers: methods downwards, metrics across, letters for what does not differ."""
    tested = list(dict.fromkeys(row["metric"] for row in rows if row["letters"])) or [rows[0]["metric"]]
    table = Table("method", *(Column(name, justify="right") for name in tested), caption="95 % bootstrap intervals; "
                  "methods that share a letter do not differ (paired permutation test, Holm)")  # fmt: skip
    by = {(row["method"], row["metric"]): row for row in rows}
    for method in dict.fromkeys(row["method"] for row in rows):
        table.add_row(escape(method), *(_number(by.get((method, name))) for name in tested))
    console.print(table)


def _number(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else rf" \[{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval} {row['letters'] or ''}".rstrip()
