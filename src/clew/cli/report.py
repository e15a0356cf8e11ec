"""`clew report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptionError
from ..evaluation import Run
from ..evaluation.report.report import report as write_report
from ..files import slug
from ..metrics import eraser_scores
from .numbers import print_numbers

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders that clew bench wrote.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A page, or a folder. Default: the run's.")] = None,
    latex: Annotated[bool, typer.Option(help="Print the LaTeX tables.")] = False,
    correction: Annotated[str, typer.Option(help="Of many comparisons: holm, fdr or none.")] = "holm",
    predictions: Annotated[
        Path | None, typer.Option(help="Of rationale runs: write identifier_results_k.json of each method there.")
    ] = None,
    eraser: Annotated[Path | None, typer.Option(help="Score a predictions file in ERASER's format instead.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="With --eraser: the annotations (test.jsonl).")] = None,
    documents: Annotated[Path | None, typer.Option(help="With --eraser: docs/ or docs.zip.")] = None,
    variant: Annotated[
        str, typer.Option(help="With --eraser: paper, or beyond_intuition, which counts characters.")
    ] = "paper",
) -> None:
    """Write a page with tables, intervals, significance and curves of one or several runs, and CSV, Markdown, LaTeX.

    clew report clew-runs/segmentation-vit-davis clew-runs/segmentation-deit-davis --out compared.html

    clew report --eraser identifier_results_40.json --annotations movies/test.jsonl
    """
    if eraser is not None:
        if annotations is None:
            raise OptionError("what are the predictions of?", expected="--annotations movies/test.jsonl", got="none")
        scores = eraser_scores(eraser, annotations, documents or annotations.parent, variant=variant)
        console.print_json(json.dumps(scores))
        return
    opened = [Run(path) for path in runs or []]
    if not opened:
        raise OptionError("nothing to report", expected="folders of runs", got="none", todo="clew bench NAME first")
    chosen_correction: Any = None if correction == "none" else correction
    written = write_report(*opened, out=out or opened[0].path, correction=chosen_correction)
    if latex:
        typer.echo(next(path for path in written if path.suffix == ".tex").read_text())
    for run in opened if predictions is not None else ():
        for method in run.manifest["methods"]:
            folder = Path(predictions or "") / (run.path.name if len(opened) > 1 else "") / slug(method)
            written += run.predictions(folder, method)[:1]
    print_numbers(console, *opened, correction=chosen_correction)
    console.print(f"written: {', '.join(escape(str(p)) for p in written)}")
