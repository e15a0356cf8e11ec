"""`clew generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptionError
from ..explainers import find_method, parse_method
from ..explaining import Sources, explain_generation
from ..explaining.ablations import BY_ABLATION
from ..loading.load import load
from .parameters import Checkpoint, Device, Json, ModelName, Quantize, Score, refuse_suffix, standard_output
from .several import several_inputs

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Words that the model goes on from; with --image what is asked about it.")
    ] = None,
    model: ModelName = "",
    image: Annotated[
        list[Path] | None, typer.Option(help="Of chat models: a picture that the words are about; repeat.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The words, as the prompt.")] = None,
    source: Annotated[str | None, typer.Option(help="Of an encoder with a decoder: the text that it reads.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A .wav file, for models that hear.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="A .json file with the messages of a chat: [{role: …, content: …}].")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write at most.")] = 50,
    answer: Annotated[str | None, typer.Option(help="Explain these words instead of what the model writes.")] = None,
    chat: Annotated[
        bool, typer.Option(help="The prompt is a message to an assistant, by the model's template.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="NAME or 'NAME(option=value, …)'; of sentences also context_cite and leave_one_out.")
    ] = "attn_lrp",
    context: Annotated[
        list[str] | None,
        typer.Option(help="Explain by sources, which are in these words of the prompt (default: all); repeat."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Explain by sources: each a sentence (default), line, paragraph, word, or none: a --context."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=".html, .png, .csv, .json, .npy or .safetensors. Default: clew.html."),
    ] = None,
    json: Json = False,
    score: Score = "logit",
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    quantize: Quantize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Tokens or ablations of one forward pass.")] = 32,
) -> None:
    """Let a model write, and show what in words, pictures or sound each of its tokens goes back to.

    clew generate "Once upon a time" --model hf:ORG/NAME --max-new-tokens 100 --out story.html

    clew generate --image cat.jpg --text "what is this?" --model hf:llava-hf/llava-interleave-qwen-0.5b-hf

    clew generate "Once upon a time" --model hf:ORG/NAME --json > story.json

    clew generate --source "a quiet street" --model hf:Helsinki-NLP/opus-mt-en-de

    clew generate "$(cat notes.txt) Who was late?" --model hf:ORG/NAME --method context_cite
    """
    if not model:
        raise OptionError("no model that writes", expected="--model NAME", got="none", todo="see `clew models`")
    name, options = parse_method(method)
    of_sources = name in BY_ABLATION or bool(context) or split is not None
    if name not in BY_ABLATION:
        find_method(name)
        options.setdefault("score", score)
    elif score != "logit":
        raise OptionError(f"{name} explains log odds", expected="no --score", got=score)
    out = out or (None if json else Path("clew.html"))
    if out is not None:
        refuse_suffix(out)
    given = _given(prompt, text, image or [], chat, source=source, audio=audio, messages=messages)
    with standard_output(json) as stdout:
        loaded = load(model, checkpoint=checkpoint, device=device, quantize=quantize)
        answered: dict[str, Any] = {"answer": answer, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
        if of_sources:
            how = None if split == "none" else split or "sentence"
            sources = Sources(loaded, given, context=context or None, split=how, **answered)
            result = sources.explain(name, show_progress=True, **options)
            console.print(escape(sources.answer))
            for source, value in zip(sources.texts, result.scores[0].tolist(), strict=True):
                console.print(escape(f"{value:+.4g}  {source}"))
        else:
            result = explain_generation(loaded, given, method=name, show_progress=True, **answered, **options)
            console.print(escape("".join(result.tokens)))
            if result.inputs:
                shares = {k: float(values.sum()) for k, values in result.shares().items() if k in result.streams}
                rest = float(result.score.sum()) - sum(shares.values())
                said = ", ".join(f"{k} {value:+.4g}" for k, value in [*shares.items(), ("the rest", rest)])
                console.print(escape(f"shares of the whole answer's {float(result.score.sum()):+.4g}: {said}"))
        if "advice" in result.checks:
            console.print(f"[yellow]{escape(str(result.checks['advice']))}[/yellow]")
        if json:
            stdout.write(result.to_json(ascii_only=True))
        if out is not None:
            console.print(f"written: {escape(str(result.save(out)))}")


def _given(prompt: str | None, text: str | None, image: Sequence[Path], chat: bool, **more: Any) -> Any:
    """What the model goes on from. Raises `OptionError` for nothing, and for more than goes together."""
    if prompt is not None and text is not None:
        raise OptionError("the words are given twice", expected="PROMPT or --text", got="both")
    words = prompt if text is None else text
    several = several_inputs(image, [], **more)
    if several is None:
        if words is None:
            expected = "PROMPT, --image with --text, --source, --audio or --messages"
            raise OptionError("there is nothing to go on from", expected=expected, got="none")
        return [{"role": "user", "content": words}] if chat else words
    if words is not None and "source" in several:
        got = "PROMPT or --text, and --source"
        raise OptionError("what the model reads is given twice", expected="--source, or a prompt", got=got)
    if chat:
        raise OptionError("--chat is for words alone", expected="words", got=", ".join(several), todo="--messages FILE")
    return several if words is None else {**several, "text": words}
