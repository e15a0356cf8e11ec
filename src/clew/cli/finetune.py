"""The command line of fine-tuning: `clew finetune`, its options those of `finetune` and of a recipe."""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptionError
from ..requests import helps, reader_options
from ..training import TASKS, Recipe
from ..training.finetune import finetune

app = typer.Typer(add_completion=False)
console = Console()


def _share(text: str | None) -> str | float | None:
    """A number is a share to hold out, all else is data."""
    try:
        return float(text) if text is not None and text.isascii() else text
    except ValueError:
        return text


def _run(
    task: Annotated[
        str, typer.Argument(help=f"{', '.join(TASKS)}; or data of your own: a csv, jsonl, folder, hf:ORG/NAME.")
    ],
    folder: Annotated[str | None, typer.Argument(help="The data, as --data.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What to begin with, as for clew explain. Default: the paper's.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A folder, a file or hf:ORG/NAME. Default: the paper's.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to. Default: finetuned/TASK-MODEL.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(help="Data that decides when to stop, or a share to hold out. Default: its own."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Data that measures the result, or a share to hold out. Default: its own.")
    ] = None,
    data_option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the reader of the data (text, label, …); repeat.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many training examples.")] = None,
    lora: Annotated[int | None, typer.Option(help="Rank of LoRA matrices (PEFT); all else is frozen.")] = None,
    quantize: Annotated[str | None, typer.Option(help="With --lora: frozen weights in 4bit or 8bit (QLoRA).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, not to use a GPU.")] = None,
    bf16: Annotated[bool, typer.Option(help="Mixed precision.")] = False,
    micro_batch: Annotated[
        int | None, typer.Option(help="Examples that fit on a device at once; batches then come in pieces.")
    ] = None,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    eval_steps: Annotated[
        int | None, typer.Option(help="Evaluate and save each so many steps. Default: after each epoch.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that prepare examples.")] = 0,
    before: Annotated[bool, typer.Option(help="Measure the test part before training, too.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Begin anew where the folder holds another training.")] = False,
    **recipe: Any,
) -> None:
    given = {name: value for name, value in recipe.items() if value is not None}
    if folder is not None and data is not None:
        raise OptionError("the data is given twice", expected="TASK DATA, or TASK --data DATA", got=f"{folder}, {data}")
    try:
        done = finetune(
            task, model, data if folder is None else folder, out=out, validation=_share(validation), test=_share(test),
            data_options=reader_options(data_option), limit=limit, lora=lora, quantize=quantize, device=device,
            bf16=bf16,
            micro_batch=micro_batch, gradient_checkpointing=gradient_checkpointing, eval_steps=eval_steps,
            workers=workers, before=before, overwrite=overwrite, tell=lambda line: console.print(escape(line)), **given,
        )  # fmt: skip
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from the last evaluation")
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") == "0":
        was = "" if done.before is None else f" (before: {done.before['accuracy']:.1%})"
        console.print(
            f"accuracy on {done.after['examples']} test examples: [bold]{done.after['accuracy']:.1%}[/bold]{was}"
        )
        console.print(f"written: {escape(str(done.folder))}; clew explain … --model {escape(str(done.folder))}")


_HELP = """Train a model on labelled texts or pictures, with the papers' recipes or your own data.

clew finetune movies --data movies/ --model hf:bert-base-uncased

clew finetune reviews.csv --model hf:distilbert-base-uncased --epochs 3

clew finetune images FOLDER --model timm:deit_tiny_patch16_224 --train head

clew finetune imdb --model hf:meta-llama/Llama-2-7b-hf --lora 16 --quantize 4bit --epochs 3 --warmup-epochs 0.1

accelerate launch -m clew finetune 20newsgroups

The best weights on the validation part are kept and measured on the whole test part. The same command goes on where it
was stopped. The folder has the model, its card (README.md) and all numbers (finetune.json)."""


def _parameters() -> list[inspect.Parameter]:
    """The command's own parameters, and one for each field of a recipe, whose default is the task's."""
    hints = typing.get_type_hints(_run, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name]) for p in inspect.signature(_run).parameters.values() if p.name != "recipe"
    ]
    said = helps(inspect.getdoc(Recipe) or "")
    kinds = typing.get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        kind = kinds[field.name]
        if typing.get_origin(kind) is not None:  # one of some words, or a number
            kind = type(field.default)
        usual = ", ".join(f"{name} {getattr(task.recipe, field.name)}" for name, task in TASKS.items())
        same = {getattr(task.recipe, field.name) for task in TASKS.values()}
        usual = str(same.pop()) if len(same) == 1 else usual
        help = f"{said[field.name]} Default: {usual}."
        option = typer.Option(f"--{field.name.replace('_', '-')}", help=help, rich_help_panel="Recipe")
        own.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
            )
        )
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]


def command() -> Callable[..., None]:
    """The function of `clew finetune`."""

    def run(**given: Any) -> None:
        _run(**given)

    parameters = _parameters()
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = _HELP
    return run


app.command("finetune")(command())
