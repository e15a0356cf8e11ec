"""The command line of figures: `clew figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..attributions.figure import figure as write_figure
from ..attributions.names import rows_of
from ..errors import OptionError
from ..explainers import find_method, parse_method
from ..loading.load import load
from ..requests import explain_items, items_for, kind_of, tell_left_out

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def figure(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures or text files, folders of them; for models of text also words, and tables "
            "(.csv, .tsv, .jsonl, .json, .parquet), whose rows are texts."
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="As for clew explain.")] = "",
    method: Annotated[
        list[str] | None, typer.Option("--method", help="NAME or 'NAME(option=value, …)': a column; repeat.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="As for clew explain. Default: what the model predicts.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Words to explain, or what pictures are compared with; repeat."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help=".pdf, .svg or .png.")] = Path("figure.pdf"),
    scale: Annotated[
        str,
        typer.Option(help="each: every map by its largest score; method: maps of a method share a scale; all: all do."),
    ] = "each",
    caption: Annotated[bool, typer.Option(help="Write below what is shown.")] = True,
    heading: Annotated[list[str] | None, typer.Option(help="Name of a column; repeat.")] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="Name of a row, in place of its file and target; repeat.")
    ] = None,
    width: Annotated[float | None, typer.Option(help="Of the whole in inches; its height follows.")] = None,
    dpi: Annotated[int, typer.Option(help="Dots per inch of .png.")] = 300,
    cmap: Annotated[str | None, typer.Option(help="matplotlib's name of a colour map for heatmaps.")] = None,
    truncate: Annotated[bool, typer.Option(help="Cut texts to the model's positions.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to use instead.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs explained at a time.")] = 16,
) -> None:
    """A figure for a paper: inputs downwards, methods across, with a bar of colours and a caption.

    clew figure photos/ --model timm:deit_tiny_patch16_224 --method attn_lrp --method raw_attention --out fig.pdf
    """
    if not model:
        raise OptionError("no model to explain", expected="--model NAME", got="none", todo="see `clew models`")
    if out.suffix.lower() not in (".pdf", ".svg", ".png"):
        raise OptionError("cannot write that figure", expected=".pdf, .svg or .png", got=str(out))
    chosen = [parse_method(words) for words in method or ["beyond_intuition_token", "attn_lrp", "raw_attention"]]
    for name, _ in chosen:
        find_method(name)
    loaded = load(model, checkpoint=checkpoint, device=device)
    found = items_for(loaded, inputs or [], text or [])
    tell_left_out(found.errors)
    captions = text or [] if kind_of(loaded) == "pair" else []
    more = {"truncate": True} if truncate else {}
    results = explain_items(
        loaded, found.items, chosen, target=target, text=captions, batch_size=batch_size, more=more, both_sides=False
    )
    headings = heading or [_heading(words) for words in method or [name for name, _ in chosen]]
    rows = row or None
    if rows is None and kind_of(loaded) != "text":  # words say themselves which row is theirs
        names = rows_of(results)
        each = len(names) // len(found.items)  # maps of one picture, of several targets
        rows = [f"{found.items[i // each].name}\n{name}" for i, name in enumerate(names)]
    look: dict[str, Any] = {"width": width, "dpi": dpi, "cmap": cmap}
    written = write_figure(results, out, inputs=rows, methods=headings, scale=scale, caption=caption, **look)
    console.print(f"written: {escape(str(written))}")
    if found.errors:
        raise typer.Exit(1)


def _heading(words: str) -> str:
    return words.replace("_", " ").replace("'", "")
