"""The command line: `clew explain`, `generate`, `bench`, `report`, `finetune`, `methods`, `models`, …"""

from __future__ import annotations

import inspect
import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..attributions.base import Attribution
from ..attributions.comparison import compare
from ..attributions.pair import PairAttribution
from ..attributions.text import TextAttribution
from ..datasets.labels import class_names
from ..demo import show
from ..diagnosis import doctor as examine
from ..errors import ClewError, OptionError
from ..explainers import find, methods, parse
from ..explaining.generation import explain_generation
from ..files.atomic import NO_ROOM
from ..loading.load import MINIS, load
from ..models.architectures import architectures
from ..models.pair import pairs
from ..requests.options import numbers, tell_left_out
from ..requests.results import explained, items_for, kind_of
from ..rules.rule_sets import RULE_SETS
from .bench import bench, report_command
from .figure import figure_command
from .finetune import command as finetune_command
from .ui import ui

app = typer.Typer(
    name="clew",
    help="What did this transformer look at? Explain models of images and texts, and check the explanation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.command("report")(report_command)
app.command("figure")(figure_command)
app.command("finetune")(finetune_command())
app.command("ui")(ui)
console = Console()
errors = Console(stderr=True)

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


@app.command()
def explain(
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Pictures or text files, folders of them; for models of text also words.")
    ] = None,
    model: ModelName = "",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="NAME or 'NAME(option=value, …)'; repeat to compare. Default: beyond_intuition_token."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="A class label or index, or a next token; 'A / B' for A rather than B. Default: predicted.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Words to explain, whatever files there are; what an image–text model compares pictures with; repeat."
        ),
    ] = None,
    span: Annotated[
        str | None, typer.Option(help="Words of the text that a language model is to have written, or an answer in it.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help=".html, .png, .tex or .safetensors (one method).")] = Path(
        "clew.html"
    ),
    side: Annotated[
        str | None, typer.Option(help="Of image–text models: image, text or both. Default: both on a page, else image.")
    ] = None,
    score: Score = "logit",
    truncate: Annotated[bool, typer.Option(help="Cut texts to the model's positions.")] = False,
    window: Annotated[int | None, typer.Option(help="Explain long texts in windows of so many tokens.")] = None,
    stride: Annotated[int | None, typer.Option(help="A window every so many tokens. Default: half a window.")] = None,
    checkpoint: Checkpoint = None,
    linear: Linear = None,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one on each line of a text file.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of the checkpoint's pixels: R,G,B.")] = None,
    std: Annotated[str | None, typer.Option(help="The same: R,G,B.")] = None,
    device: Device = "cpu",
    quantize: Quantize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs explained at a time.")] = 16,
) -> None:
    """Explain what a model saw in pictures, or read in texts. What cannot be read is left out, with exit status 1.

    clew explain cat.jpg --model timm:deit_tiny_patch16_224 --method raw_attention --method beyond_intuition_token

    clew explain "a quiet, brilliant film" --model hf:distilbert-base-uncased-finetuned-sst-2-english

    clew explain park.jpg --model hf:openai/clip-vit-base-patch32 --text "a photo of a dog" --text "a photo of a cat"
    """
    if not model:
        raise OptionError("no model to explain", expected="--model NAME", got="none", todo="see `clew models`")
    chosen = [parse(words) for words in method or ["beyond_intuition_token"]]
    for name, _ in chosen:
        find(name)
    if out.suffix == ".safetensors" and len(chosen) > 1:
        raise OptionError("cannot write that file", expected=".html for several methods", got=str(out))
    loaded = load(
        model, checkpoint=checkpoint, linear=linear, device=device, quantize=quantize, labels=class_names(labels),
        mean=numbers(mean, "--mean"), std=numbers(std, "--std"),
    )  # fmt: skip
    kind = kind_of(loaded)
    words_only = kind == "text" or (kind == "pair" and side == "text")
    suffixes = (".html", ".tex", ".safetensors") if words_only else (".html", ".png", ".safetensors")
    if out.suffix not in suffixes:
        raise OptionError("cannot write that file", expected=f"{', '.join(suffixes)} (one method)", got=str(out))
    found = items_for(loaded, inputs or [], text or [])
    tell_left_out(found.errors)
    items = found.items
    more: dict[str, Any] = {"truncate": True} if truncate else {}
    more |= {k: v for k, v in (("window", window), ("stride", stride), ("side", side)) if v is not None}
    results = explained(
        loaded, items, chosen, target=target, text=text or [], span=span, score=score, batch_size=batch_size, more=more,
        both_sides=out.suffix == ".html", tell=lambda words: console.print(f"[yellow]{escape(words)}[/yellow]"),
    )  # fmt: skip
    each = len(results[0]) // len(items)
    for i, item in enumerate(items):
        console.print(f"[bold]{escape(item.name)}[/bold]")
        for result in results:
            words = result.text if isinstance(result, PairAttribution) else result
            for j in range(i * each, (i + 1) * each):
                console.print("  " + escape(_line(result, j)))
                if isinstance(words, TextAttribution) and len(items) <= 20:
                    console.print(words.to_rich(j))
    for result in results:
        if "advice" in result.checks:
            console.print(f"[yellow]{escape(result.method)}: {escape(result.checks['advice'])}[/yellow]")
    written = results[0].save(out) if out.suffix == ".safetensors" else compare(results, out)
    console.print(f"written: {escape(str(written))}")
    if found.errors:
        raise typer.Exit(1)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Words that the model goes on from.")],
    model: ModelName,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write at most.")] = 50,
    answer: Annotated[str | None, typer.Option(help="Explain these words instead of what the model writes.")] = None,
    chat: Annotated[
        bool, typer.Option(help="The prompt is a message to an assistant, by the model's template.")
    ] = False,
    method: Annotated[str, typer.Option(help="NAME or 'NAME(option=value, …)'.")] = "attn_lrp",
    out: Annotated[Path, typer.Option("--out", "-o", help=".html, .png or .safetensors.")] = Path("clew.html"),
    score: Score = "logit",
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    quantize: Quantize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Tokens explained at a time.")] = 8,
) -> None:
    """Let a language model write, and show which earlier tokens each of its tokens goes back to.

    clew generate "Once upon a time" --model hf:ORG/NAME --max-new-tokens 100 --out story.html
    """
    name, options = parse(method)
    find(name)
    if out.suffix not in (".html", ".png", ".safetensors"):
        raise OptionError("cannot write that file", expected=".html, .png or .safetensors", got=str(out))
    loaded = load(model, checkpoint=checkpoint, device=device, quantize=quantize)
    result = explain_generation(
        loaded,
        [{"role": "user", "content": prompt}] if chat else prompt,
        max_new_tokens=max_new_tokens,
        answer=answer,
        method=name,
        score=score,
        batch_size=batch_size,
        show_progress=True,
        **options,
    )
    console.print(escape("".join(result.tokens)))
    console.print(f"written: {escape(str(result.save(out)))}")


@app.command("methods")
def list_methods(name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None) -> None:
    """List the methods with their papers and options, or show one in full."""
    if name is not None:
        method = find(name)
        console.print(f"[bold]{method.name}[/bold]  ({escape(method.paper)})\n")
        console.print(escape(inspect.getdoc(method.function) or method.summary))
        console.print("\noptions: " + escape(_options(method.options) or "none"))
        return
    table = Table(Column("method", no_wrap=True), "what it is", "paper")
    for method in methods().values():
        table.add_row(method.name, escape(method.summary), escape(method.paper))
    console.print(table)
    console.print("`clew methods NAME` shows a method's equation and options.")


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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("clew-demo.html"),
    limit: Annotated[int, typer.Option(min=1, help="Scenes on the page.")] = 6,
) -> None:
    """Explain the bundled scenes by several methods, and measure which method finds the digit, or the digit that a
    caption names."""
    began = time.perf_counter()
    tables, written = show(out, limit)
    for table in tables:
        console.print(table)
    console.print(f"written: {escape(str(written.resolve()))}  ({time.perf_counter() - began:.0f} s)")


def _line(result: Attribution, example: int) -> str:
    facts = result.facts(example)
    shown = ("integration error", "non finite", "special share", "characters cut", "windows")
    checks = ", ".join(f"{k} {facts[k]}" for k in shown if k in facts)
    return f"{result.method}: {facts['target']}" + (f" ({checks})" if checks else "")


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={default!r}" for name, default in options.items())


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
        if error.errno not in NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or what is left would be tried again
        errors.print(f"[red]error:[/red] what was to be written is not complete: {escape(str(error))}; make room there")
        sys.exit(1)


if __name__ == "__main__":
    main()
