"""Where the shards of an evaluation are computed: here, one after the other, or on a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch

from ..errors import ClewError, OptionError, optional_import
from ..models import LoadedModel
from .shard import IndexedExample, Shard, ShardProcessor

Tasks = Iterator[tuple[int, Sequence[IndexedExample]]]
Done = Callable[[int], None]
Engine = Callable[[ShardProcessor, LoadedModel, Tasks, Done], Generator[tuple[int, Shard]]]


def local(work: ShardProcessor, loaded: LoadedModel, tasks: Tasks, done: Done) -> Generator[tuple[int, Shard]]:
    """One shard after the other, in this process."""
    for index, items in tasks:
        yield index, work(loaded, items, done)


def ray_engine(
    *, address: str | None = None, workers: int | None = None, threads: int | None = None, gpus: float | None = None
) -> Engine:
    """Shards on Ray: on the cluster at `address`, on the one that Ray is connected to, or on this machine.

    Each of `workers` actors (default: as many as fit) holds the model, on `gpus` of a GPU (default: one if the model is
    on one), and has `threads` CPUs of the cluster (default: the run's threads, at most the largest machine's CPUs).
    Each example is computed with the run's threads wherever it is, so that results are those of the local engine.
    Examples are read, and shards written, by this process alone. A worker that is killed is started anew, and its shard
    with it, up to three times.
    """

    def engine(work: ShardProcessor, loaded: LoadedModel, tasks: Tasks, done: Done) -> Generator[tuple[int, Shard]]:
        ray: Any = optional_import("ray", extra="ray", purpose="evaluate on several machines")
        own = not ray.is_initialized()
        if own:
            try:
                ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ClewError(
                    "Ray cannot be reached",
                    expected="a cluster that runs",
                    got=error,
                    todo="ray start --head; address=…",
                ) from error
        try:
            yield from _on_ray(ray, work, loaded, tasks, done, workers, threads, gpus)
        finally:
            if own:
                ray.shutdown()

    return engine


def _on_ray(
    ray: Any,
    work: ShardProcessor,
    loaded: LoadedModel,
    tasks: Tasks,
    done: Done,
    workers: int | None,
    threads: int | None,
    gpus: float | None,
) -> Generator[tuple[int, Shard]]:
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max(int(node.get("CPU", 1)) for node in nodes)  # a worker is on one of them
    cpus = int(threads or min(work.threads or torch.get_num_threads(), max(1, largest)))
    if gpus is None:  # the device of the model, on which results depend, is the caller's choice
        gpus = 1.0 if next(loaded.model.parameters()).device.type == "cuda" else 0.0
    fit = 0
    for node in nodes:
        room = int(node.get("CPU", 0)) // cpus
        fit += min(room, int(node.get("GPU", 0) // gpus)) if gpus else room
    if fit < 1:
        got = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise OptionError("no worker fits a machine of the cluster", expected=f"{cpus} CPUs and {gpus:g} GPUs", got=got)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=3)(_Worker)
    for method in work.methods.values():
        module = sys.modules.get(method.method.function.__module__)
        if module is not None and module.__name__.startswith("plugin_"):  # a file that workers cannot import
            ray.cloudpickle.register_pickle_by_value(module)
    shared = ray.put((work, loaded))
    actors = [remote.remote(shared, bool(gpus)) for _ in range(min(workers or fit, fit))]
    running: dict[Any, tuple[int, Any, int]] = {}
    free = list(actors)
    try:
        while True:
            while free and (task := next(tasks, None)) is not None:
                index, items = task
                actor = free.pop()
                running[actor.shard.remote(items)] = index, actor, len(items)
            if not running:
                return
            finished, _ = ray.wait(list(running), num_returns=1)
            index, actor, count = running.pop(finished[0])
            try:
                found = ray.get(finished[0])
            except ray.exceptions.RayError as error:
                todo = "see that all nodes have the same clew, torch and transformers; what is stored is kept"
                raise ClewError("a worker cannot go on", expected="a shard", got=error, todo=todo) from error
            if isinstance(found, Exception):
                raise found
            free.append(actor)
            done(count)
            yield index, found
    finally:
        for actor in actors:
            ray.kill(actor)


class _Worker:
    """An actor: the model, on this worker's device."""

    def __init__(self, shared: tuple[ShardProcessor, LoadedModel], gpu: bool) -> None:
        self.work, loaded = shared
        self.loaded = loaded.to("cuda") if gpu else loaded

    def shard(self, items: Sequence[IndexedExample]) -> Shard | Exception:
        try:
            return self.work(self.loaded, items)
        except ClewError as error:
            return error
