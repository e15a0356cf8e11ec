"""`clew doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..diagnosis import doctor as examine
from ..loading.load import load
from ..rules.rule_sets import RULE_SETS
from .parameters import Checkpoint, Device, Linear

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="mini:digits, timm:NAME, hf:ORG/NAME, or a folder.")],
    checkpoint: Checkpoint = None,
    linear: Linear = None,
    device: Device = "cpu",
    rules: Annotated[str, typer.Option(help=f"Rule set for LRP: {', '.join(RULE_SETS)}.")] = "attn_lrp",
) -> None:
    """Try on a model everything that the explanations rely on, and list the operations that LRP meets with their rules.

    Exit status 1 if something does not hold.
    """
    findings = examine(load(model, checkpoint=checkpoint, linear=linear, device=device), rules=rules)
    table = Table("", "tried", "seen", show_lines=True)
    for finding in findings:
        mark = "[green]ok[/green]" if finding.ok else "[red]FAIL[/red]"
        table.add_row(mark, finding.name, escape(finding.seen))
    console.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
