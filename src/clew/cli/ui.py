"""The command line of the web page: `clew ui`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..app.access import PASSWORD, login_of
from ..app.page_requests import OfferedModels
from ..app.results import RunBrowser
from ..app.serve import serve

app = typer.Typer(add_completion=False)


@app.command()
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
        str,
        typer.Option(
            help="Where it listens. 127.0.0.1: this machine alone can reach it. 0.0.0.0: all who can reach this "
            "machine on that port, so that a password is asked for (--auth)."
        ),
    ] = "127.0.0.1",
    share: Annotated[
        bool,
        typer.Option(
            "--share", help="Let anyone on the internet reach it, through Gradio's servers; asks for a password too."
        ),
    ] = False,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:PASSWORD",
            envvar=PASSWORD,
            show_envvar=False,
            help="Who may use it. Other users of this machine see what is typed here (ps): rather set "
            f"{PASSWORD}=user:password.",
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="No password, though others can reach it: they may use your models too.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """A web page to look at explanations, and to look through results of clew bench.

    clew ui --model timm:deit_tiny_patch16_224 --model hf:distilbert-base-uncased-finetuned-sst-2-english

    clew ui --runs clew-runs/ --data photographs/

    CLEW_UI_AUTH=me:secret clew ui --host 0.0.0.0        # for others; what is sent is not encrypted

    It listens on this machine alone, needs no internet, and sends nothing anywhere. To see it from elsewhere, safest is
    ssh: with ssh -L 7860:localhost:7860 MACHINE it is at http://localhost:7860. Ctrl-C or SIGTERM ends it, with status
    0; nothing is left in the temporary folder.
    """
    login = login_of(auth) if auth is not None else None
    given = {"checkpoint": checkpoint} if checkpoint is not None else {}
    models = OfferedModels(model or [], device=device, **given)
    usual = Path("clew-runs")
    folder = runs if runs is not None else usual if any(usual.glob("**/manifest.json")) else None
    results = RunBrowser(folder, models, data) if folder is not None else None
    serve(
        models, results, host=host, port=port, share=share, login=login, no_auth=no_auth, open_browser=open_browser,
        tell=typer.echo,
    )  # fmt: skip
    sys.stdout.flush()
    os._exit(0)  # at once: threads that still explain would be waited for
