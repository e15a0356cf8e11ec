"""`clew explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from ..attributions import Attribution, PairAttribution, TextAttribution, compare
from ..attributions.names import predicted
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

LONGEST = 800  # characters of a text on the terminal; files have all of it
ALONE = (".csv", ".json", ".npy", ".safetensors")  # files of one result


@app.command()
def explain(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures or text files, folders of them; for models of text also words, and tables "
            "(.csv, .tsv, .jsonl, .json, .parquet), whose rows are texts."
        ),
    ] = None,
    model: ModelName = "",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="NAME or 'NAME(option=value, …)', see clew methods; repeat to compare. One of your own: "
            "clew --plugin FILE.py explain … --method NAME.",
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

    The method is beyond_intuition_token, of models of several inputs attn_lrp, where --method names no other.

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
    if out is not None:
        _refuse_file(out, len(chosen))
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
        names = [item.name for item in items for _ in range(each)]
        if json:
            for result in results:
                stdout.write(result.to_json(inputs=names, ascii_only=True))
        if out is not None:
            files = ", ".join(item.name for item in items[:3]) + (", …" if len(items) > 3 else "")
            title = None if words_only else f"clew: {files}"  # of texts the words are there to be read
            alone = out.suffix.lower() in ALONE
            written = results[0].save(out, inputs=names) if alone else compare(results, out, title=title)
            console.print(f"written: {escape(str(written))}")
    if found.errors:
        raise typer.Exit(1)


def _refuse_file(out: Path, methods: int) -> None:
    """Raise `OptionError`, before a model is loaded, for a file that no result of so many methods is written as."""
    refuse_suffix(out, (*WRITTEN, ".tex"))
    if methods > 1 and out.suffix.lower() in ALONE:
        expected = ".html, .png or .tex (texts) for several methods; " + ", ".join(ALONE) + " for one"
        todo = (
            "--json writes a line for each method" if out.suffix.lower() == ".json" else "run it once for each method"
        )
        raise OptionError("cannot write that file", expected=expected, got=str(out), todo=todo)


def _show(items: Sequence[NamedInput], results: Sequence[Attribution], each: int) -> None:
    """Results on the terminal, input by input."""
    for i, item in enumerate(items):
        console.print(f"[bold]{escape(item.name)}[/bold]")
        for result in results:
            words = result.text if isinstance(result, PairAttribution) else result
            for j in range(i * each, (i + 1) * each):
                console.print("  " + escape(_line(result, j)))
                if isinstance(words, TextAttribution) and len(items) <= 20:
                    console.print(_shortened(words.to_rich(j)))
    for result in results:
        if "advice" in result.checks:
            console.print(f"[yellow]{escape(result.method)}: {escape(result.checks['advice'])}[/yellow]")


def _shortened(shown: Text) -> Text:
    """As much of a text as a terminal shows at a look."""
    half = LONGEST // 2
    return shown if len(shown) <= LONGEST else Text.assemble(shown[:half], " … ", shown[-half:])


def _line(result: Attribution, example: int) -> str:
    """What was explained, what the model says where that is something else, and what was verified."""
    facts, said = result.facts(example), list[str]()
    likeliest = predicted(result, example)
    if likeliest is not None and likeliest != result.name_of_target(example):
        said.append(f"predicted: {likeliest}")
    if "integration error" in facts:
        said.append(f"integration error {facts['integration error']}")
    if facts.get("non finite", "0") != "0":
        said.append(f"scores that are not finite: {facts['non finite']}")
    if "special share" in facts:
        said.append(f"on tokens that the tokenizer added: {float(facts['special share']):.0%} of the scores")
    if facts.get("characters cut", "0") != "0":
        said.append(f"characters cut: {facts['characters cut']}")
    if "windows" in facts:
        said.append(f"windows: {facts['windows']}, of {facts['window']}")
    return f"{result.method}: {facts['target']}" + (f" ({'; '.join(said)})" if said else "")
