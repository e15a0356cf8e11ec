"""The command line of the web page: `clew ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app.asking import Models
from .app.results import Results
from .app.serve import serve


def ui(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="What to offer beside the bundled models, as for clew explain; repeat."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder with runs of clew bench to look through. Default: clew-runs, if there.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The data that the runs are of, to see pictures and words.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for --model to use instead.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: the first free one from 7860.")] = None,
    host: Annotated[
        str, typer.Option(help="Who can reach it: 127.0.0.1 this machine alone, 0.0.0.0 every machine of the network.")
    ] = "127.0.0.1",
    share: Annotated[
        bool, typer.Option("--share", help="Let anyone on the internet reach it, through Gradio's servers.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """A web page to look at explanations, and to look through results of clew bench.

    clew ui --model timm:deit_tiny_patch16_224 --model hf:distilbert-base-uncased-finetuned-sst-2-english

    clew ui --runs clew-runs/ --data photographs/

    It listens on this machine alone, needs no internet, and sends nothing anywhere.
    """
    given = {"checkpoint": checkpoint} if checkpoint is not None else {}
    models = Models(model or [], device=device, **given)
    usual = Path("clew-runs")
    folder = runs if runs is not None else usual if any(usual.glob("**/manifest.json")) else None
    results = Results(folder, models, data) if folder is not None else None
    serve(models, results, host=host, port=port, share=share, open_browser=open_browser)
