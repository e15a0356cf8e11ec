"""`clew models`."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from ..loading import MINIS
from ..models import pairs
from ..models.architectures import architectures

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def models() -> None:
    """List the bundled models and the families that can be explained as they are."""
    bundled = Table("bundled", "what it is")
    for name, what in MINIS.items():
        bundled.add_row(f"mini:{name}", what)
    families = Table("declaration", "classes")
    for architecture in [*architectures().values(), *pairs().values()]:
        families.add_row(architecture.name, "\n".join(architecture.classes))
    console.print(bundled, families)
    console.print("Any other model: pass architecture=clew.Architecture(…) to clew.explain; `clew doctor` tries it.")
