"""`clew demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..demo import run_demo

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("clew-demo.html"),
    limit: Annotated[int, typer.Option(min=1, help="Scenes on the page.")] = 6,
) -> None:
    """Explain the bundled scenes by several methods, and measure which method finds the digit, or the digit that a
    caption names."""
    began = time.perf_counter()
    tables, written = run_demo(out, limit)
    for table in tables:
        console.print(table)
    console.print(f"written: {escape(str(written.resolve()))}  ({time.perf_counter() - began:.0f} s)")
