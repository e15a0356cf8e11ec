"""`evaluate`: methods, a model and data through a published protocol, to a run that can be resumed and reported."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .architectures import find as find_architecture
from .benchmarks import Benchmark, make
from .datasets import Dataset, fingerprint, open_dataset
from .engines import Engine, local, ray_engine
from .explain import explain
from .loaded import LoadedModel
from .methods import Method, find, methods, parse, written
from .pair_model import LoadedPair
from .run import Run
from .shapes import ClewError, InputError, OptionError, close_matches
from .store import FORMAT, Store
from .work import Asked, Item, Work

logger = logging.getLogger("clew")

Asking = str | Callable[..., Any] | Method | tuple[str | Callable[..., Any] | Method, Mapping[str, Any]]
Grid = Mapping[str, Sequence[Any]]


def evaluate(
    benchmark: str | Benchmark,
    model: LoadedModel,
    data: str | Path | Dataset,
    *,
    methods: Sequence[Asking] | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    data_options: Mapping[str, Any] | None = None,
    zero_shot: str | None = None,
    grid: Grid | None = None,
    batch_size: int = 8,
    shard_size: int | None = None,
    seed: int = 0,
    engine: str | Engine = "local",
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    show_progress: bool = True,
    **options: Any,
) -> Run:
    """Explain each example by each method, measure, and store; what was stored before is not computed again.

    Args:
        benchmark: "segmentation", "perturbation", "flipping", "rationale" or "sanity", see `clew.benchmarks()`.
        model: what `clew.load` returned.
        data: a folder, a file or a name that `clew.open_dataset` opens, or what it returned.
        methods: names, "NAME(option=value, …)", (name, options), or functions. Default: all that work on the model.
        out: the folder to write to, or to go on in. Default: a temporary one, gone with the `Run`.
        limit: at most so many examples.
        data_options: further arguments of `clew.open_dataset`: kind, subset, sample, fraction, seed, …
        zero_shot: makes a classifier of an image–text model, whose classes are the data's: a template such as
            "a photo of a {}", or "imagenet" for that one.
        grid: values of options to try, {"gamma_linear": (0.01, 0.05)}: each method that has them is run with all
            combinations; `clew.chosen(run)` chooses on one half of the examples and reports on the other.
        batch_size: examples explained at a time. `shard_size`: examples stored at a time (default: 4 batches).
        seed: of what is drawn for each example.
        engine: "local"; or "ray", with the `address` of a cluster, so many `workers` and `threads` for each.
        show_progress: a bar on the error stream.
        **options: of the benchmark, `variant` among them.

    Raises:
        InputError: data that cannot be read or used; a folder with another run, with the differences.
        OptionError: unknown benchmarks, methods or options. Examples that fail are rows with an `error` instead.
    """
    protocol = make(benchmark, options) if isinstance(benchmark, str) else benchmark
    if batch_size < 1 or (shard_size is not None and shard_size < 1):
        raise OptionError("sizes of batches and shards", expected="1 or more", got=(batch_size, shard_size))
    dataset = open_dataset(data, limit=limit, **(data_options or {}))
    if not len(dataset):
        raise InputError("the data has no examples", expected="at least one", got=dataset.name)
    loaded = _classifier(model, dataset, zero_shot)
    _fits(protocol, loaded)
    protocol = protocol.fitted(loaded, dataset)
    numbering = numbers_of(dataset.classes, loaded.labels)
    asked = expanded(_asked(methods), grid) if methods is not None else None
    work = Work(protocol, asked or {}, batch_size, seed, numbering)
    if asked is None:
        asked = expanded(_working(work, loaded, dataset), grid)
        work = Work(protocol, asked, batch_size, seed, numbering)
    size = shard_size or 4 * batch_size
    with _bar(show_progress) as bar:
        bar("hashing model and data", 1)
        manifest = {
            "format": FORMAT,
            "benchmark": protocol.name,
            "version": protocol.version,
            "protocol": protocol.options(),
            "model": {"name": loaded.name, "hash": model_hash(loaded.model)},
            "data": {"name": dataset.name, "hash": fingerprint(dataset), "examples": len(dataset)},
            "methods": list(asked),
            "grid": {k: [repr(v) for v in values] for k, values in grid.items()} if grid else None,
            "seed": seed,
            "batch_size": batch_size,
            "shard_size": size,
            "versions": {name: metadata.version(name) for name in ("clew", "torch", "transformers", "numpy")},
        }
        folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="clew-"))
        store = Store(folder, manifest)
        try:
            _fill(store, work, loaded, dataset, size, _engine(engine, address, workers, threads), bar)
        finally:
            store.close()
    run = Run(folder)
    if out is None:
        weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
    failed = run.failed
    if failed:
        known = run.table.column("error").drop_null().to_pylist()
        logger.warning("%d of %d rows have no numbers; the first: %s", failed, run.table.num_rows, known[0])
    return run


def _fill(
    store: Store, work: Work, loaded: LoadedModel, dataset: Dataset, size: int, engine: Engine, bar: Callable[..., Any]
) -> None:
    """Compute the shards that are not there."""
    starts = list(range(0, len(dataset), size))
    there = store.done()
    wanted = [k for k in range(len(starts)) if k not in there]
    done = bar(work.benchmark.name, len(dataset))
    done(sum(min(size, len(dataset) - starts[k]) for k in there))

    def tasks() -> Generator[tuple[int, list[Item]]]:
        for k in wanted:
            yield k, [_item(dataset, i) for i in range(starts[k], min(starts[k] + size, len(dataset)))]

    for index, shard in engine(work, loaded, tasks(), done):
        more = [what for what in _targets(work.benchmark) if what]
        store.add(index, shard, work.benchmark.columns, more)
    store.finish()


def _targets(benchmark: Benchmark) -> list[str]:
    """Names of the targets beyond the first one."""
    several: Any = getattr(benchmark, "explain", ())
    return [str(one) for one in several[1:]] if isinstance(several, tuple) else []


def _item(dataset: Dataset, position: int) -> Item:
    try:
        return Item(position, dataset.ids[position], dataset.read(position))
    except (InputError, OSError) as error:
        return Item(position, dataset.ids[position], None, str(error))


def _engine(engine: str | Engine, address: str | None, workers: int | None, threads: int | None) -> Engine:
    if not isinstance(engine, str):
        return engine
    if engine not in ("local", "ray"):
        raise OptionError(f"no engine {engine!r}", got=engine, todo=close_matches(engine, ("local", "ray")))
    if engine == "local":
        if any(v is not None for v in (address, workers, threads)):
            raise OptionError("the local engine is one process", expected="engine='ray' for workers", got="local")
        return local
    return ray_engine(address=address, workers=workers, threads=threads)


# What is evaluated


def _classifier(model: LoadedModel, dataset: Dataset, zero_shot: str | None) -> LoadedModel:
    if not isinstance(model, LoadedModel):  # pyright: ignore[reportUnnecessaryIsInstance]
        todo = "LoadedModel(module, preprocess=…, tokenizer=…)"
        raise InputError(
            "a benchmark needs a loaded model", expected="clew.load(…)", got=type(model).__name__, todo=todo
        )
    if zero_shot is None:
        if isinstance(model, LoadedPair):
            raise OptionError(
                "an image–text model has no classes of its own", expected="zero_shot='a photo of a {}'", got="none"
            )
        return model
    if not isinstance(model, LoadedPair) or dataset.classes is None:
        got = model.name if not isinstance(model, LoadedPair) else f"{dataset.name} without names of classes"
        raise OptionError("zero-shot needs an image–text model and data with classes", expected="CLIP", got=got)
    if all(re.fullmatch(r"n\d{8}", name) for name in dataset.classes):
        todo = "name them in the data's order: data_options={'classes': 'names.txt'}"
        raise OptionError(
            "texts are made of words, not of WordNet ids", got=dataset.classes[0], expected="names", todo=todo
        )
    template = "a photo of a {}" if zero_shot == "imagenet" else zero_shot
    return model.zero_shot(list(dataset.classes), template)


def _fits(protocol: Benchmark, loaded: LoadedModel) -> None:
    has = find_architecture(loaded.model).modality
    if protocol.modality and protocol.modality != has:
        raise InputError(
            f"{protocol.name} is for models of {protocol.modality}s",
            expected=protocol.modality,
            got=f"{loaded.name}: {has}",
        )


def numbers_of(classes: Sequence[str] | None, labels: Sequence[str] | None) -> dict[Any, Any] | None:
    """From a data set's labels to the model's classes: by name, else by place where both have as many.

    None leaves labels as they are; a label that the model does not have becomes None.
    """
    if labels is None:
        return None

    def plain(name: str) -> str:
        return name.strip().lower().replace("_", " ")

    place = {plain(name): i for i, name in reversed(list(enumerate(labels)))}
    if classes is None:
        return {name: i for i, name in enumerate(labels)}
    named = {i: place.get(plain(name)) for i, name in enumerate(classes)}
    if all(i is None for i in named.values()) and len(classes) == len(labels):
        return None
    return named


def _asked(wanted: Sequence[Asking]) -> dict[str, Asked]:
    if isinstance(wanted, str):
        wanted = [wanted]
    found: dict[str, Asked] = {}
    for one in wanted:
        name, options = parse(one) if isinstance(one, str) else one if isinstance(one, tuple) else (one, {})
        method = find(name)
        for option in options:
            if option not in method.options:
                known = close_matches(option, method.options) if method.options else "it has no options"
                raise OptionError(f"{method.name} has no option {option!r}", got=option, todo=known)
        label = written(method.name, options)
        if label in found:
            raise OptionError("a method is asked for twice", expected="each once", got=label)
        found[label] = Asked(method, dict(options))
    if not found:
        raise OptionError("no method to evaluate", expected="names, see clew.methods()", got="none")
    return found


def expanded(asked: dict[str, Asked], grid: Grid | None) -> dict[str, Asked]:
    """Every method that has an option of the grid, once for each combination. Raises `OptionError` where none has."""
    if not grid:
        return asked
    found: dict[str, Asked] = {}
    used: set[str] = set()
    for label, one in asked.items():
        names = [name for name in grid if name in one.method.options and name not in one.options]
        used |= set(names)
        for values in product(*(grid[name] for name in names)):
            options = {**one.options, **dict(zip(names, values, strict=True))}
            found[written(one.method.name, options) if names else label] = Asked(one.method, options)
    if unused := [name for name in grid if name not in used]:
        every = {option for one in asked.values() for option in one.method.options}
        raise OptionError(f"no method has the option {unused[0]!r}", got=unused, todo=close_matches(unused[0], every))
    return found


def _working(work: Work, loaded: LoadedModel, dataset: Dataset) -> dict[str, Asked]:
    """All registered methods that the model can be explained by, tried on the first example that can be read."""
    items = (_item(dataset, i) for i in range(len(dataset)))
    example = next((item.example for item in items if item.example is not None), None)
    if example is None:
        raise InputError("no example of the data can be read", expected="at least one", got=_item(dataset, 0).error)
    found: dict[str, Asked] = {}
    batch = work.benchmark.batch(loaded, [example])
    for name, method in methods().items():
        try:
            explain(loaded, batch.inputs, method=method, **batch.more)
        except ClewError as error:
            logger.warning("%s is left out: %s", name, str(error).partition("\n")[0])
        else:
            found[name] = Asked(method, {})
    return found


def model_hash(module: nn.Module) -> str:
    """SHA-256 (hexadecimal) over a model's class and all its weights."""
    found = hashlib.sha256(type(module).__qualname__.encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def _bar(show: bool) -> Generator[Callable[[str, int], Callable[[int], None]]]:
    """A bar whose task can be set anew: `bar(what, total)` gives a function that is told how many more are done."""
    if not show:
        yield lambda what, total: lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def begin(what: str, total: int) -> Callable[[int], None]:
            progress.reset(task, description=what, total=total)
            return lambda more: progress.advance(task, more)

        yield begin
