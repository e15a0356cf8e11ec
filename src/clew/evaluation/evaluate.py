"""`evaluate`: methods, a model and data through a published protocol, to a run that can be resumed and reported."""

from __future__ import annotations

import logging
import re
import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from ..datasets import Dataset, fingerprint, open_dataset
from ..datasets.bundled import data_of
from ..errors import InputError, MissingDependency, OptionError, close_matches, short_repr
from ..explaining import LoadedPair
from ..files import refuse_names, temporary_folder
from ..models import LoadedModel, find_architecture
from ..seam import cpu_by_default
from ..validation import validate_arguments, validate_call, validate_integer, validate_seed, validate_size
from .benchmarks import Batch, Benchmark, make_benchmark
from .engines import Engine, local, ray_engine
from .identity import model_identity, versions
from .manifest import FORMAT, MANIFEST, read_manifest
from .method_specs import (
    ALL,
    Grid,
    GridPoint,
    MethodSpec,
    expand_grid,
    method_hashes,
    not_named,
    registered_methods,
    resolve_methods,
    supported_methods,
    usable_batch,
)
from .progress import Begin, run_progress
from .run import Run
from .shard import ConfiguredMethod, IndexedExample, ShardProcessor, in_words, with_threads
from .store import Store

logger = logging.getLogger("clew")
MOST_WORKERS = 10_000


@validate_call
@cpu_by_default()
def evaluate(
    benchmark: str | Benchmark,
    model: LoadedModel,
    data: str | Path | Dataset | None = None,
    *,
    methods: Sequence[MethodSpec] | None = None,
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
        benchmark: "segmentation", "perturbation", "flipping", "rationale", "sanity", "planted", or "joint", which puts
            them together; `clew.benchmarks()`.
        model: what `clew.load` returned.
        data: a folder, a file or a name that `clew.open_dataset` opens, or what it returned. Default: of a bundled
            model what ships with it.
        methods: names, "NAME(option=value, …)", (name, options), or functions; "all" stands for all others that
            work on the model with their defaults, but for those of hundreds of passes (`tis`). Default: those.
        out: the folder to write to, or to go on in. Default: a temporary one, gone with the `Run`.
        limit: at most so many examples.
        data_options: further arguments of `clew.open_dataset`: kind, subset, sample, fraction, seed, …
        zero_shot: makes a classifier of an image–text model, whose classes are the data's: a template such as
            "a photo of a {}", or "imagenet" for that one.
        grid: values of options to try, {"gamma_linear": (0.01, 0.05)}: each method that has them is run with all
            combinations; `clew.chosen(run)` chooses on one half of the examples and reports on the other. Default: what
            the benchmark tries, most of them nothing.
        batch_size: examples explained at a time. `shard_size`: examples stored at a time (default: 4 batches).
        seed: of what is drawn for each example.
        engine: "local"; or "ray", with the `address` of a cluster and so many `workers`.
        threads: of torch, that each example is computed with: they decide how sums are rounded, so they belong to the
            run. Default: those that a run in `out` began with, else `torch.get_num_threads()`.
        show_progress: a bar on the error stream; where that is no terminal, a line now and then.
        **options: of the benchmark, `variant` among them.

    Raises:
        InputError: data that cannot be read or used, or of which no example can be measured; a folder with another run,
            with the differences.
        OptionError: unknown benchmarks, methods or options. Examples that fail are rows with an `error` instead.
    """
    validate_arguments({"benchmark": benchmark}, evaluate)
    if data is not None and not isinstance(data, (str, Path, Dataset)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            "these are no data that a benchmark takes",
            expected="a folder, a file, a name, or a clew.Dataset",
            got=f"{short_repr(data)} ({type(data).__name__})",
            todo="write a csv with the columns text,label; or a class of your own, a clew.Dataset with name, ids and "
            "read(index), which returns clew.Example(id=…, text=…, label=…), see docs/reference/data.md",
        )
    if out is not None:
        refuse_names(out)
    begun = read_manifest(Path(out)) if out is not None and (Path(out) / MANIFEST).exists() else {}
    batch_size, seed = validate_size("batch_size", batch_size), validate_seed("seed", seed)
    shard_size = None if shard_size is None else validate_size("shard_size", shard_size)
    workers = None if workers is None else validate_integer("workers", workers, 1, MOST_WORKERS)
    threads = None if threads is None else validate_integer("threads", threads, 1, MOST_WORKERS)
    count = threads if threads is not None else begun.get("threads") or torch.get_num_threads()
    protocol = make_benchmark(benchmark, options) if isinstance(benchmark, str) else benchmark
    chosen_engine = _engine(engine, address, workers, threads)
    with with_threads(count):
        source = data_of(getattr(model, "name", "the model")) if data is None else data
        dataset = _opened(source, limit=limit, **(data_options or {}))
        loaded = classifier_of(model, dataset, zero_shot)
        _fits(protocol, loaded)
        protocol = protocol.fitted(loaded, dataset)
        numbering = class_numbering(dataset.classes, loaded.labels)
        work = ShardProcessor(protocol, {}, batch_size, seed, numbering, count)
        items = [partial(_item, dataset, i) for i in range(len(dataset))]
        first = cache(partial(usable_batch, work, loaded, items))
        asked, origin, undefined = _asked(work, loaded, first, methods, grid, begun)
        if not begun:
            first()  # data of which no example can be measured are refused before anything is computed or written
        bases = list(dict.fromkeys(one.base for one in origin.values())) if origin else list(asked)
        work = replace(work, methods=asked)
        size = shard_size or 4 * batch_size
        with run_progress(show_progress) as begin:
            begin("hashing model and data", 1, 0)
            manifest = {
                "format": FORMAT,
                "benchmark": protocol.name,
                "version": protocol.version,
                "protocol": protocol.options(),
                "model": model_identity(loaded, numbering),
                "data": {"name": dataset.name, "hash": fingerprint(dataset), "examples": len(dataset)},
                "methods": list(asked),
                "asked": bases,
                "method_hashes": method_hashes(asked),
                "undefined": undefined,
                "grid": {k: {"base": one.base, "values": dict(one.values)} for k, one in origin.items()} or None,
                "seed": seed,
                "batch_size": batch_size,
                "shard_size": size,
                "threads": count,
                "versions": versions(),
            }
            folder = Path(out) if out is not None else temporary_folder("clew-")
            store = Store(folder, manifest)
            try:
                _fill(store, work, loaded, dataset, size, chosen_engine, begin)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    logger.warning("%s", _stopped(store, kept=out is not None))
                if out is None:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            finally:
                store.close()
    run = Run(folder)
    if out is None:
        run.temporary = True
        weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
    failed = run.errors
    if failed:
        logger.warning("%d of %d rows have no numbers; the first: %s", len(failed), run.table.num_rows, failed[0])
    return run


def _asked(
    work: ShardProcessor,
    loaded: LoadedModel,
    first: Callable[[], Batch | None],
    methods: Sequence[MethodSpec] | None,
    grid: Grid | None,
    begun: Mapping[str, Any],
) -> tuple[dict[str, ConfiguredMethod], dict[str, GridPoint], dict[str, str]]:
    """What is run, of a grid where each comes from, and what does not work on the model, with the reason.

    A run that was begun goes on with all that worked then.
    """
    named = [methods] if isinstance(methods, str) else list(methods or ())
    every = methods is None or any(one == ALL for one in named)
    named = [one for one in named if one != ALL]
    asked = resolve_methods(named) if named or not every else {}
    if every:
        own = {one.method.name for one in asked.values()}
        rest = resolve_methods(begun.get("asked") or begun["methods"]) if begun else registered_methods(work.benchmark)
        asked = {k: one for k, one in rest.items() if one.method.name not in own} | asked
    options = {option for one in asked.values() for option in one.method.options if option not in one.options}
    usual = {name: values for name, values in work.benchmark.grid(loaded).items() if name in options}
    expanded, origin = expand_grid(asked, usual if grid is None else grid)
    undefined: dict[str, str] = dict(begun.get("undefined") or {})
    if every or (usual and grid is None):  # what suits one method need not suit another
        if begun:
            expanded = {k: one for k, one in expanded.items() if k in begun["methods"]}
        else:
            expanded, undefined = supported_methods(loaded, first(), expanded)
            undefined |= not_named(asked) if every else {}
    return expanded, {k: one for k, one in origin.items() if k in expanded}, undefined


def _opened(data: str | Path | Dataset, **options: Any) -> Dataset:
    """The data, whose examples have ids of their own."""
    dataset = open_dataset(data, **options)
    if not len(dataset):
        raise InputError("the data has no examples", expected="at least one", got=dataset.name)
    if twice := [name for name, count in Counter(dataset.ids).items() if count > 1]:
        raise InputError("examples have ids of their own", expected="each once", got=f"twice: {twice[:3]}")
    return dataset


def _fill(
    store: Store,
    work: ShardProcessor,
    loaded: LoadedModel,
    dataset: Dataset,
    size: int,
    engine: Engine,
    begin: Begin,
) -> None:
    """Compute the shards that are not there."""
    starts = list(range(0, len(dataset), size))
    there = store.done([_name_of(dataset, i) for i in range(len(dataset))])
    wanted = [k for k in range(len(starts)) if k not in there]
    done = begin(work.benchmark.name, len(dataset), sum(min(size, len(dataset) - starts[k]) for k in there))

    def tasks() -> Generator[tuple[int, list[IndexedExample]]]:
        for k in wanted:
            yield k, [_item(dataset, i) for i in range(starts[k], min(starts[k] + size, len(dataset)))]

    for index, shard in engine(work, loaded, tasks(), done):
        more = [what for what in _targets(work.benchmark) if what]
        store.add(index, shard, work.benchmark.columns, more)
    store.finish()


def _stopped(store: Store, *, kept: bool) -> str:
    """What a run says that is interrupted."""
    count, size = store.manifest["data"]["examples"], store.manifest["shard_size"]
    if not kept:
        return "stopped; nothing is kept, as no folder was named: with out=… the same call goes on where it was"
    stored = sum(one["rows"] for one in store.manifest["shards"].values()) // len(store.manifest["methods"])
    at_a_time = "" if size == 1 else f" (they are stored {size} at a time, see shard_size)"
    return f"stopped after {stored} of {count} examples{at_a_time}; the same again goes on in {store.path}"


def _targets(benchmark: Benchmark) -> list[str]:
    """Names of the targets beyond the first one."""
    several: Any = getattr(benchmark, "explain", ())
    return [str(one) for one in several[1:]] if isinstance(several, tuple) else []


def _name_of(dataset: Dataset, position: int) -> str:
    """What an example is called in a run; file names may be no text."""
    return dataset.ids[position].encode("utf-8", "backslashreplace").decode()


def _item(dataset: Dataset, position: int) -> IndexedExample:
    name = _name_of(dataset, position)
    try:
        return IndexedExample(position, name, dataset.read(position))
    except (MissingDependency, OptionError):
        raise
    except Exception as error:
        return IndexedExample(position, name, None, in_words(error))


def _engine(engine: str | Engine, address: str | None, workers: int | None, threads: int | None) -> Engine:
    if not isinstance(engine, str):
        return engine
    if engine not in ("local", "ray"):
        raise OptionError(f"no engine {engine!r}", got=engine, todo=close_matches(engine, ("local", "ray")))
    if engine == "local":
        if any(v is not None for v in (address, workers)):
            raise OptionError("the local engine is one process", expected="engine='ray' for workers", got="local")
        return local
    return ray_engine(address=address, workers=workers, threads=threads)


# What is evaluated


def classifier_of(model: LoadedModel, dataset: Dataset, zero_shot: str | None) -> LoadedModel:
    """The model that is evaluated: of an image–text model the classifier of the data's classes."""
    if not isinstance(model, LoadedModel):  # pyright: ignore[reportUnnecessaryIsInstance]
        todo = "LoadedModel(module, preprocess=…, tokenizer=…)"
        got = type(model).__name__
        if isinstance(model, (str, Path)):  # what the shell takes
            got, todo = short_repr(str(model)), f"clew.evaluate(…, clew.load({short_repr(str(model))}), …)"
        raise InputError("a benchmark needs a loaded model", expected="clew.load(…)", got=got, todo=todo)
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
    if not protocol.modality or getattr(protocol, "stream", None) is not None:  # such models are not declared
        return
    has = find_architecture(loaded.model).modality
    if protocol.modality != has:
        raise InputError(
            f"{protocol.name} is for models of {protocol.modality}s",
            expected=protocol.modality,
            got=f"{loaded.name}: {has}",
        )


def class_numbering(classes: Sequence[str] | None, labels: Sequence[str] | None) -> dict[Any, Any] | None:
    """From a data set's labels to the model's classes: by name, else by place where both have as many.

    Names are compared without case, and up to their first comma where the whole differs. None leaves labels as they
    are; a label that the model does not have becomes None, of which the log warns.
    """
    if labels is None:
        return None
    have = [_spelled(label) for label in labels]
    if classes is None:
        return {name: i for i, label in enumerate(labels) for name in (label, label.lower())}
    wanted = [_spelled(one) for one in classes]
    if wanted == have:
        return None
    whole, short = _places(have), _places([name.partition(",")[0] for name in have])
    found = {i: whole.get(name, short.get(name.partition(",")[0])) for i, name in enumerate(wanted)}
    missing = [classes[i] for i, place in found.items() if place is None]
    if len(wanted) == len(have) and all(place in (None, i) for i, place in found.items()):
        return None
    if missing:
        some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        logger.warning("%d of %d classes of the data are no classes of the model: %s", len(missing), len(wanted), some)
    return found


def _spelled(label: str) -> str:
    return label.strip().lower().replace("_", " ")


def _places(names: Sequence[str]) -> dict[str, int]:
    """Where each name stands; one that stands in several places is none."""
    return {name: i for i, name in enumerate(names) if names.count(name) == 1}
