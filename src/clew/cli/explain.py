"""`clew explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..attributions import Attribution, PairAttribution, TextAttribution, compare
from ..datasets.stored import class_names
from ..errors import OptionError
from ..explainers import find_method, parse_method
from ..loading.load import load
from ..requests import NamedInput, explain_items, items_for, kind_of, numbers, tell_left_out
from .parameters import (
    WRITTEN,
    Checkpoint,
    Device,
    Json,
    Linear,
    ModelName,
    Quantize,
    Score,
    refuse_suffix,
    standard_output,
)
from .several import explain_several, several_inputs

app = typer.Typer(add_completion=False)
console = Console()

ALONE = (".csv", ".json", ".npy", ".safetensors")  # files of one result


@app.command()
def explain(
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Pictures or text files, folders of them; for models of text also words.")
    ] = None,
    model: ModelName = "",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="NAME or 'NAME(option=value, …)'; repeat to compare. Default: beyond_intuition_token.",
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
    image: Annotated[
        list[Path] | None, typer.Option(help="Of chat models: a picture that --text asks about; repeat.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Of an encoder with a decoder: the text that it reads.")] = None,
    answer: Annotated[str | None, typer.Option(help="What its decoder has written so far.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A .wav file, for models that hear.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="A .json file with the messages of a chat: [{role: …, content: …}].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help=".html, .png or .tex (texts); of one method also .csv, .json, .npy, .safetensors. Default: clew.html.",
        ),
    ] = None,
    json: Json = False,
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

    clew explain cat.jpg --model timm:deit_tiny_patch16_224 --json | jq '.examples[].target'

    clew explain --image cat.jpg --text "what is this?" --model hf:llava-hf/llava-interleave-qwen-0.5b-hf

    clew explain --source "a quiet street" --answer "eine" --model hf:Helsinki-NLP/opus-mt-en-de --method attn_lrp
    """
    if not model:
        raise OptionError("no model to explain", expected="--model NAME", got="none", todo="see `clew models`")
    chosen = [parse_method(words) for words in method or ["beyond_intuition_token"]]
    for name, _ in chosen:
        find_method(name)
    out = out or (None if json else Path("clew.html"))
    if out is not None and out.suffix in ALONE and len(chosen) > 1:
        todo = "--json writes a line for each method" if out.suffix == ".json" else None
        raise OptionError("cannot write that file", expected=".html for several methods", got=str(out), todo=todo)
    with standard_output(json) as stdout:
        loaded = load(
            model, checkpoint=checkpoint, linear=linear, device=device, quantize=quantize, labels=class_names(labels),
            mean=numbers(mean, "--mean"), std=numbers(std, "--std"),
        )  # fmt: skip
        more_inputs = {"source": source, "answer": answer, "audio": audio, "messages": messages}
        given = several_inputs(image or [], text or [], **more_inputs)
        if given is not None:
            found = explain_several(
                console, loaded, given, chosen if method else [("attn_lrp", {})], target, score, out
            )
            if json:
                stdout.write(found.to_json(ascii_only=True))
            return
        kind = kind_of(loaded)
        words_only = kind == "text" or (kind == "pair" and side == "text")
        if out is not None:
            refuse_suffix(out, (*WRITTEN, ".tex") if words_only else WRITTEN)
        found = items_for(loaded, inputs or [], text or [])
        tell_left_out(found.errors)
        items = found.items
        more: dict[str, Any] = {"truncate": True} if truncate else {}
        more |= {k: v for k, v in (("window", window), ("stride", stride), ("side", side)) if v is not None}
        results = explain_items(
            loaded, items, chosen, target=target, text=text or [], span=span, score=score, batch_size=batch_size,
            more=more, both_sides=out is None or out.suffix in (".html", ".csv", ".json"),
            tell=lambda words: console.print(f"[yellow]{escape(words)}[/yellow]"),
        )  # fmt: skip
        each = len(results[0]) // len(items)
        _show(items, results, each)
        if json:
            names = [item.name for item in items for _ in range(each)]
            for result in results:
                stdout.write(result.to_json(inputs=names, ascii_only=True))
        if out is not None:
            files = ", ".join(item.name for item in items[:3]) + (", …" if len(items) > 3 else "")
            title = None if words_only else f"clew: {files}"  # of texts the words are there to be read
            written = results[0].save(out) if out.suffix in ALONE else compare(results, out, title=title)
            console.print(f"written: {escape(str(written))}")
    if found.errors:
        raise typer.Exit(1)


def _show(items: Sequence[NamedInput], results: Sequence[Attribution], each: int) -> None:
    """Results on the terminal, input by input."""
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


def _line(result: Attribution, example: int) -> str:
    facts = result.facts(example)
    shown = ("integration error", "non finite", "special share", "characters cut", "windows")
    checks = ", ".join(f"{k} {facts[k]}" for k in shown if k in facts)
    return f"{result.method}: {facts['target']}" + (f" ({checks})" if checks else "")
