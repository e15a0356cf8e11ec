"""The command line. A command's file, and what it needs, is imported when the command is called."""

from __future__ import annotations

import importlib
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from ..errors import ClewError
from ..version import __version__

errors = Console(stderr=True)

# Each is a file of this folder; here is what a list says of it, which is the first paragraph of its help.
COMMANDS = {
    "explain": "Explain what a model saw in pictures, or read in texts. What cannot be read is left out, with exit "
    "status 1.",
    "generate": "Let a model write, and show what in words, pictures or sound each of its tokens goes back to.",
    "figure": "A figure for a paper: inputs downwards, methods across, with a bar of colours and a caption.",
    "methods": "List the methods with their papers and options, or show one in full.",
    "models": "List the bundled models and the families that can be explained as they are.",
    "doctor": "Try on a model everything that the explanations rely on, and list the operations that LRP meets with "
    "their rules.",
    "bench": "Evaluate methods by a published protocol: resumable, with confidence intervals. `clew bench NAME --help` "
    "explains its options.",
    "report": "Write a page with tables, intervals, significance and curves of one or several runs, and CSV, Markdown, "
    "LaTeX.",
    "finetune": "Train a model on labelled texts or pictures, with the papers' recipes or your own data.",
    "ui": "A web page to look at explanations, and to look through results of clew bench.",
    "demo": "Explain the bundled scenes by several methods, and measure which method finds the digit, or the digit "
    "that a caption names.",
}


class Command(TyperCommand):
    """A command by its name and summary; where it is called, the command of its file takes over."""

    def command(self) -> Any:
        """The command itself."""
        return typer.main.get_command(importlib.import_module(f"{__package__}.{self.name}").app)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.command().make_context(info_name, args, parent=parent, **extra)


class _Commands(TyperGroup):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: Command(name, help=summary) for name, summary in COMMANDS.items()}


app = typer.Typer(
    name="clew",
    cls=_Commands,
    help="What did this transformer look at? Explain models of images and texts, and check the explanation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"clew {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def clew(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            help="A Python file of your own, which is run first, with all that is in it: the methods (@clew.method), "
            "protocols and data that it registers have names in every command, explain, bench and ui alike; repeat.",
        ),
    ] = None,
) -> None:
    """Called before each command."""
    if plugin:
        from .plugins import run_plugin

        for file in plugin:
            run_plugin(file)


def main() -> None:
    """Run the command line; an error of ours, and a disk that is full, is shown without its traceback."""
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text, and terminals may lack letters
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except ClewError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1)
    except OSError as error:
        from ..files import NO_ROOM  # which takes a tenth of the time of --help

        if error.errno not in NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or what is left would be tried again
        errors.print(f"[red]error:[/red] what was to be written is not complete: {escape(str(error))}; make room there")
        sys.exit(1)


if __name__ == "__main__":
    main()
