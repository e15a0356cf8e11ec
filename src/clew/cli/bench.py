"""`clew bench NAME`, for each registered benchmark."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..datasets import open_dataset
from ..datasets.bundled import data_of
from ..errors import OptionError
from ..evaluation import Benchmark, Run, Shown, chosen, classifier_of
from ..evaluation.benchmarks import benchmarks
from ..evaluation.evaluate import evaluate
from ..files import slug
from ..loading.load import load
from ..requests import helps, literal_or_word, numbers, parse_assignments, reader_options
from .numbers import print_numbers

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Evaluate methods by a published protocol: resumable, with confidence intervals. `clew bench NAME --help` "
    "explains its options.",
)
console = Console()

# What every benchmark takes: name, type, default, help.
_COMMON: list[tuple[str, Any, Any, str]] = [
    ("model", Annotated[str, typer.Option("--model", "-m")], inspect.Parameter.empty, "As for clew explain."),
    (
        "data",
        str | None,
        None,
        "A folder, a file, mini:NAME or hf:ORG/NAME. Default: of a bundled model what ships with it.",
    ),
    (
        "method",
        list[str] | None,
        None,
        "NAME or 'NAME(option=value, …)'; repeat; 'all' for all others that work. Default: those. One of your own: "
        "clew --plugin FILE.py bench … --method NAME.",
    ),
    ("out", Path | None, None, "Folder to write to, or to go on in. Default: clew-runs/BENCHMARK-MODEL-DATA."),
    ("limit", int | None, None, "At most so many examples."),
    ("kind", str | None, None, "What the data is, where its files do not show it."),
    ("subset", Path | None, None, "Positions of examples, a .npy file (pert_index.npy)."),
    ("fraction", float | None, None, "A random fraction of the examples, 0 to 1."),
    ("sample", int | None, None, "So many random examples."),
    ("data_seed", int | None, None, "Seed of --fraction and --sample."),
    (
        "data_option",
        list[str] | None,
        None,
        "NAME=VALUE for the reader of the data (split, classes, …); repeat.",
    ),
    ("zero_shot", str | None, None, "Image–text models: 'a photo of a {}', or imagenet for that."),
    ("grid", list[str] | None, None, "OPTION=V1,V2,…: try these values; chosen on one half, reported on the other."),
    ("batch_size", int, 8, "Examples explained at a time."),
    ("shard_size", int | None, None, "Examples stored at a time. Default: 4 batches."),
    ("seed", int, 0, "Of what is drawn for each example."),
    ("engine", str, "local", "local, or ray for several processes or machines."),
    ("address", str | None, None, "Of a Ray cluster: auto, or HOST:PORT. Default: this machine."),
    ("workers", int | None, None, "Ray: how many hold the model. Default: as many as fit."),
    (
        "threads",
        int | None,
        None,
        "Of torch, for each example; they belong to the run. Default: as it began, or as here.",
    ),
    ("checkpoint", Path | None, None, "Weights to use instead (.safetensors or .pth, read as weights only)."),
    ("linear", Path | None, None, "Weights of a DINO linear head on a timm backbone."),
    ("mean", str | None, None, "Normalisation of pixels where a checkpoint's differs: R,G,B."),
    ("std", str | None, None, "The same: R,G,B."),
    ("device", str, "cpu", "cpu, cuda, mps."),
    ("dtype", str, "float32", "float32, bfloat16 or float16."),
    ("quantize", str | None, None, "4bit or 8bit, by bitsandbytes."),
]


def _command(cls: type[Benchmark]) -> Callable[..., None]:
    """The command of one benchmark, its options read from its fields."""
    hints = typing.get_type_hints(cls)
    own = {f.name: f for f in dataclasses.fields(cls)}
    help_of = helps(inspect.getdoc(cls) or "")

    def run(**given: Any) -> None:
        asked = {name: given.pop(name) for name in list(given) if name in own}
        options = {k: _value(v, hints[k]) for k, v in asked.items() if v is not None and v != []}
        _bench(cls.name, options, **given)

    parameters = [_parameter(name, kind, default, what) for name, kind, default, what in _COMMON]
    for name, field in own.items():
        kind = list[str] | None if _several(hints[name]) else hints[name]
        default = None if _several(hints[name]) else field.default
        text = help_of.get(name, f"One of {', '.join(cls.variants)}." if name == "variant" else "")
        if _several(hints[name]) and field.default is not None:
            text += f" Default: {','.join(map(str, field.default))}."  # pyright: ignore[reportArgumentType]
        names = ("--explain", "--class") if name == "explain" else ()
        parameters.append(_parameter(name, kind, default, text, *names))
    parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = f"{(inspect.getdoc(cls) or '').partition(chr(10) * 2)[0]}\n\n{cls.paper}."
    return run


def _parameter(name: str, kind: Any, default: Any, what: str, *names: str) -> inspect.Parameter:
    if typing.get_origin(kind) is Annotated:
        kind, option = typing.get_args(kind)
        option.help = what
    else:
        option = typer.Option(*(names or (f"--{name.replace('_', '-')}",)), help=what)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )  # fmt: skip


def _several(hint: Any) -> bool:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return any(typing.get_origin(kind) is tuple for kind in kinds)


def _value(given: Any, hint: Any) -> Any:
    if not _several(hint):
        return "given" if given == "target" else given
    words = [word.strip() for one in given for word in one.split(",") if word.strip()]
    return tuple({"target": "given"}.get(word, literal_or_word(word)) for word in words)


def _bench(
    name: str,
    options: Mapping[str, Any],
    *,
    model: str,
    data: str | None,
    method: list[str] | None,
    out: Path | None,
    kind: str | None,
    subset: Path | None,
    fraction: float | None,
    sample: int | None,
    data_seed: int | None,
    data_option: list[str] | None,
    grid: list[str] | None,
    checkpoint: Path | None,
    linear: Path | None,
    mean: str | None,
    std: str | None,
    device: str,
    dtype: str,
    quantize: str | None,
    **more: Any,
) -> None:
    drawn = {"kind": kind, "subset": subset, "fraction": fraction, "sample": sample, "seed": data_seed}
    reading: dict[str, Any] = {k: v for k, v in drawn.items() if v is not None}
    reading |= reader_options(data_option)
    tried = {
        key: [literal_or_word(v) for v in text.split(",")] for key, text in parse_assignments(grid, "--grid").items()
    }
    if dtype not in ("float32", "bfloat16", "float16"):
        raise OptionError("unknown --dtype", expected="float32, bfloat16 or float16", got=dtype)
    loaded = load(
        model, checkpoint=checkpoint, linear=linear, device=device, quantize=quantize, dtype=getattr(torch, dtype),
        mean=numbers(mean, "--mean"), std=numbers(std, "--std"),
    )  # fmt: skip
    data = data_of(loaded.name) if data is None else data
    folder = out or Path("clew-runs") / "-".join(map(slug, (name, loaded.name, Path(data).name or data)))
    asked: dict[str, Any] = {"methods": method or None, "grid": tried or None, "data_options": reading}
    found = evaluate(name, loaded, data, out=folder, **asked, **more, **options)
    opened = open_dataset(data, limit=more["limit"], **reading)
    searched = bool(found.manifest.get("grid"))
    if not searched:
        print_run(found)
    show = Shown(found, classifier_of(loaded, opened, more["zero_shot"]), opened)
    written = found.report(show=show)
    if searched:
        picked = chosen(found)
        table = Table("method", "chosen", "tried")
        for one in picked.choices:
            table.add_row(one.method, escape(one.chosen), escape(", ".join(f"{v:.4g}" for v in one.tried.values())))
        console.print(table)
        console.print(f"chosen by {picked.choices[0].metric} on {picked.choices[0].examples} examples; on the others:")
        print_numbers(console, picked)
        written = [*picked.report(), *written]
    console.print(f"written: {', '.join(escape(str(p)) for p in written)}")


def print_run(found: Run) -> None:
    """The headline numbers of a run on the terminal."""
    console.print(escape(repr(found)))
    print_numbers(console, found)
    if found.failed:
        console.print(f"[yellow]{found.failed} rows have no numbers; the first: {escape(found.errors[0])}[/yellow]")
    if found.left_out:
        console.print(f"{found.left_out} rows are of examples that the protocol leaves out")


for _cls in benchmarks().values():
    app.command(_cls.name, short_help=_cls.summary)(_command(_cls))
