"""Options that several commands share, as Typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
