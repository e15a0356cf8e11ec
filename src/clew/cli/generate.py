"""`clew generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptionError
from ..explainers import find_method, parse_method
from ..explaining import explain_generation
from ..loading.load import load
from .parameters import Checkpoint, Device, ModelName, Quantize, Score

app = typer.Typer(add_completion=False)
console = Console()


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
    batch_size: Annotated[int, typer.Option(min=1, help="Tokens explained by one forward pass.")] = 32,
) -> None:
    """Let a language model write, and show which earlier tokens each of its tokens goes back to.

    clew generate "Once upon a time" --model hf:ORG/NAME --max-new-tokens 100 --out story.html
    """
    name, options = parse_method(method)
    find_method(name)
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
