"""Options that several commands share, as Typer reads them."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ..errors import OptionError

WRITTEN = (".html", ".png", ".csv", ".json", ".npy", ".safetensors")  # what every result is written as

ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="mini:digits, timm:NAME, hf:ORG/NAME, open_clip:NAME/TAG, or a folder with config.json."
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Weights to use instead (.safetensors or .pth, read as weights only).")
]
Linear = Annotated[Path | None, typer.Option(help="Weights of a DINO linear head on a timm backbone.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps.")]
Quantize = Annotated[str | None, typer.Option(help="4bit or 8bit, by bitsandbytes.")]
Score = Annotated[str, typer.Option(help="logit, probability or log_probability.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Write the result to standard output as JSON, a line for each method, and all else to standard error; no "
        "file, unless --out names one. docs/exports.md has its schema.",
    ),
]


def refuse_suffix(out: Path, suffixes: tuple[str, ...] = WRITTEN) -> None:
    """Raise `OptionError` for a file that no result is written as, before anything takes long."""
    if out.suffix.lower() not in suffixes:
        raise OptionError("cannot write that file", expected=", ".join(suffixes), got=str(out))


@contextmanager
def standard_output(json: bool) -> Generator[TextIO]:
    """Standard output; what else is written to it goes to standard error where only JSON is to be there."""
    out = sys.stdout
    with redirect_stdout(sys.stderr if json else out):
        yield out
