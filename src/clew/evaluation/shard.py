"""Computes the result rows of one shard of examples, and handles examples or methods that fail."""

from __future__ import annotations

import gc
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..attributions import Attribution
from ..datasets import Example
from ..errors import CaptureError, ClewError, InputError, MissingDependency, OptionError, UnknownArchitecture
from ..explainers import Method
from ..explaining.explain import explain
from ..models import LoadedModel
from ..seam import in_callers_modes
from ..verification.thread_state import is_verifying
from .benchmarks import Batch, Benchmark, Values

# Errors that every batch would raise: they end the run at once.
FATAL = (OptionError, UnknownArchitecture, MissingDependency, CaptureError)

Row = dict[str, Any]
_PASSES = 3  # of the model alone, of whose times the median counts
LEFT_OUT = "left out: "  # begins the error of a row whose example the protocol leaves out


@dataclass(frozen=True)
class IndexedExample:
    """An example with its place and name in the data; `example` is None where it could not be read, see `error`."""

    position: int
    id: str
    example: Example | None = None
    error: str = ""


@dataclass(frozen=True)
class ConfiguredMethod:
    """A method with options."""

    method: Method
    options: Mapping[str, Any]

    def options_for(self, seed: int, positions: Sequence[int]) -> dict[str, Any]:
        """The options for a batch; what is drawn is drawn for each example by its place in the data."""
        if not self.method.seeds:
            return dict(self.options)
        own = int(self.options.get("seed", 0)) + seed * 7_919
        return {**self.options, "seed": tuple((own * 1_000_003 + p) % 2**63 for p in positions)}


@dataclass
class Shard:
    """Rows of some examples, example by example and method by method; what that cost each method; and what happened."""

    rows: list[Row]
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    forwards: dict[str, int] = field(default_factory=dict[str, int])
    cost: dict[str, float] = field(
        default_factory=dict[str, float]
    )  # time in that of the model alone, median of batches
    measuring: float = 0.0
    notes: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class ShardProcessor:
    """What is done with each shard of examples; it can be sent to other machines."""

    benchmark: Benchmark
    methods: Mapping[str, ConfiguredMethod]
    batch_size: int
    seed: int = 0
    numbering: Mapping[Any, int] | None = None  # from the data's classes to the model's
    threads: int | None = None  # of torch, which decide how sums are rounded; None: those that the process has

    def numbered(self, example: Example) -> Example:
        """The example with the model's number of its class."""
        if self.numbering is None:
            return example
        return replace(example, label=self.numbering.get(example.label, example.label))

    def __call__(
        self, loaded: LoadedModel, items: Sequence[IndexedExample], done: Callable[[int], None] | None = None
    ) -> Shard:
        """The rows of a shard. `done` is told how many examples are finished."""
        shard = Shard([], dict.fromkeys(self.methods, 0.0), dict.fromkeys(self.methods, 0))
        run = _ShardRun(self, loaded, shard)
        with with_threads(self.threads):
            for start in range(0, len(items), self.batch_size):
                batch = items[start : start + self.batch_size]
                found = run.rows(batch)
                shard.cost = {name: median(times) for name, times in run.costs.items()}
                shard.rows += [found[item.position, name] for item in batch for name in self.methods]
                if done is not None:
                    done(len(batch))
        return shard


@contextmanager
def with_threads(count: int | None) -> Generator[None]:
    """Compute with so many threads of torch, also where they are more than the machine has cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Found = dict[tuple[int, str], Row]


class _ShardRun:
    def __init__(self, work: ShardProcessor, loaded: LoadedModel, shard: Shard) -> None:
        self.work, self.loaded, self.shard, self.notes = work, loaded, shard, Counter[str]()
        self.costs: dict[str, list[float]] = {}  # of each batch
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # how a method called the model with a batch

    def rows(self, items: Sequence[IndexedExample]) -> Found:
        """Rows of a batch of examples by all methods; of those that cannot be read or are left out, why."""
        names = list(self.work.methods)
        found = {(i.position, n): self._failed(i, n, i.error) for i in items if i.example is None for n in names}
        kept = [replace(i, example=self.work.numbered(i.example)) for i in items if i.example is not None]
        kept = self._left(kept, names, found)
        found |= self.attempt(kept, names) if kept else {}
        self.shard.notes = dict(self.notes)
        return found

    def _left(self, items: list[IndexedExample], names: list[str], found: Found) -> list[IndexedExample]:
        """Items that the protocol takes; the others get their rows."""
        try:
            reasons = self.work.benchmark.left_out(self.loaded, [i.example for i in items if i.example is not None])
        except Exception as error:
            if isinstance(error, FATAL):
                raise
            self._made_room(error)
            if len(items) > 1:
                return [one for item in items for one in self._left([item], names, found)]
            reasons = [in_words(error)]
        else:
            reasons = [None if reason is None else f"{LEFT_OUT}{reason}" for reason in reasons]
        for item, reason in zip(items, reasons, strict=True):
            if reason is not None:
                found |= {(item.position, name): self._failed(item, name, reason) for name in names}
        return [item for item, reason in zip(items, reasons, strict=True) if reason is None]

    def attempt(self, items: Sequence[IndexedExample], names: Sequence[str]) -> Found:
        """Rows of a batch; what fails is tried again in halves, until it is known which example it is."""
        examples = [item.example for item in items if item.example is not None]
        try:
            batch = self.work.benchmark.batch(self.loaded, examples)
        except Exception as error:
            return self._divide(items, names, error)
        found: Found = {}
        results: dict[str, dict[str, Attribution]] = {}
        positions = [item.position for item in items]
        place = {id(item.example): item.position for item in items}
        self._call, seconds = None, dict[str, float]()
        for name in names:
            before = self.shard.seconds[name]
            try:
                with self._counted(name, len(items)):
                    results[name] = self._explained(self.loaded, batch, name, positions)
            except Exception as error:
                found |= self._divide(items, [name], error)
            else:
                seconds[name] = self.shard.seconds[name] - before
        self._compare(seconds)
        if not results:
            return found
        began = time.perf_counter()
        try:

            def again(loaded: LoadedModel, other: Batch, name: str) -> dict[str, Attribution]:
                return self._explained(loaded, other, name, [place[id(one)] for one in other.examples])

            values = self.work.benchmark.measure(self.loaded, batch, results, again)
        except Exception as error:
            explained = list(results)
            del batch, results  # room for the halves
            return found | self._divide(items, explained, error)
        finally:
            self.shard.measuring += time.perf_counter() - began
        for name, result in results.items():
            for i, item in enumerate(items):
                found[item.position, name] = self._row(item, name, result, i, values[name][i])
        return found

    def _divide(self, items: Sequence[IndexedExample], names: Sequence[str], error: Exception) -> Found:
        if isinstance(error, FATAL):
            raise error
        memory = self._made_room(error)
        if len(items) > 1:
            self.notes["batches halved: out of memory" if memory else "batches divided: an example failed"] += 1
            half = len(items) // 2
            return self.attempt(items[:half], names) | self.attempt(items[half:], names)
        if len(names) > 1:
            found: Found = {}
            for name in names:
                found |= self.attempt(items, [name])
            return found
        return {(items[0].position, names[0]): self._failed(items[0], names[0], in_words(error))}

    def _made_room(self, error: Exception) -> bool:
        """Whether memory ran out; then what the error holds is let go of."""
        memory = _out_of_memory(error)
        chain: BaseException | None = error
        while chain is not None:
            chain.__traceback__ = None
            chain = chain.__cause__ or chain.__context__
        if memory:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return memory

    def _explained(
        self, loaded: LoadedModel, batch: Batch, name: str, positions: Sequence[int]
    ) -> dict[str, Attribution]:
        asked = self.work.methods[name]
        options = asked.options_for(self.work.seed, positions)
        found = {
            what: explain(loaded, batch.inputs, method=asked.method, target=target, **batch.more, **options)
            for what, target in batch.targets.items()
        }
        for what, result in found.items():
            finite = torch.isfinite(result.scores)
            if not bool(finite.all()):
                of = f" for {what!r}" if what else ""
                bad, whole = int((~finite).sum()), finite.numel()
                raise InputError(f"scores{of} are not finite", expected="numbers", got=f"{bad} of {whole} are not")
        return found

    def _compare(self, seconds: Mapping[str, float]) -> None:
        """Note what methods took, in forward passes of the model as one of them called it with this batch."""
        call, self._call = self._call, None
        if call is None or not self.work.benchmark.costs:
            return
        args, more = call
        taken: list[float] = []
        with torch.no_grad(), in_callers_modes():
            for _ in range(_PASSES):
                start = _now()
                self.loaded.model(*args, **more)
                taken.append(_now() - start)
        for name, value in seconds.items():
            self.costs.setdefault(name, []).append(value / median(taken))

    @contextmanager
    def _counted(self, name: str, count: int) -> Generator[None]:
        """Seconds, and examples that ran through the whole model.

        A process calls the model once by itself to check what was explained, and once to see a shape, which ends
        midway: these are not the method's, and a run that goes on would count them twice.
        """
        module: nn.Module = self.loaded.model
        began: list[float] = []  # of checks
        checks = 0.0

        def enters(_module: nn.Module, given: tuple[Any, ...], more: dict[str, Any]) -> None:
            if is_verifying():
                began.append(_now())
            elif self._call is None and self.work.benchmark.costs and _examples(given, more) == count:
                self._call = given, more

        def leaves(_module: nn.Module, given: tuple[Any, ...], more: dict[str, Any], output: Any) -> None:
            nonlocal checks
            if is_verifying():
                checks += _now() - began.pop()
            elif output is not None:
                self.shard.forwards[name] += _examples(given, more)

        handles = [
            module.register_forward_pre_hook(enters, with_kwargs=True),
            module.register_forward_hook(leaves, with_kwargs=True, always_call=True),
        ]
        start = time.perf_counter()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.shard.seconds[name] += time.perf_counter() - start - checks

    def _row(self, item: IndexedExample, name: str, result: Mapping[str, Attribution], i: int, values: Values) -> Row:
        whats = list(result)
        first = result[whats[0]]
        row: Row = {"example": item.id, "method": name, "error": None, "target": first.name_of_target(i)}
        row["scores"] = _scores(first, i)
        facts = first.facts(i)
        # Facts that depend on the process or the batch would make equal runs differ.
        for own in _DECIDED:
            facts.pop(own, None)
        row["checks"] = json.dumps(facts, ensure_ascii=False)
        for what in whats[1:]:
            row[f"target ({what})"] = result[what].name_of_target(i)
            row[f"scores ({what})"] = _scores(result[what], i)
        wrong = [column for column, value in values.items() if not _finite(value)]
        if wrong:
            return self._failed(item, name, f"not a number: {', '.join(wrong)}")
        return row | values

    def _failed(self, item: IndexedExample, name: str, why: str) -> Row:
        # Memory addresses would make equal runs differ.
        return {"example": item.id, "method": name, "error": re.sub(r" at 0x[0-9a-fA-F]+", "", why)}


def _examples(given: tuple[Any, ...], more: Mapping[str, Any]) -> int:
    """How many examples a call of a model is of."""
    named = [more[key] for key in ("pixel_values", "input_ids", "inputs_embeds") if more.get(key) is not None]
    first = next((v for v in (*named, *given) if isinstance(v, Tensor)), None)
    return 1 if first is None else len(first)


# Facts that the process or the other examples of a batch decide.
_DECIDED = (
    "options", "clew", "torch", "transformers", "model", "advice", "verified", "forward difference", "as called",
    "padding changes", "attention error", "attention gradient error", "path error",
)  # fmt: skip


def _scores(result: Attribution, i: int) -> list[float]:
    scores, mask = result.scores[i].detach().float().cpu(), getattr(result, "mask", None)
    return (scores if mask is None else scores[mask[i].cpu()]).tolist()


def _finite(value: float | list[float] | None) -> bool:
    return value is None or bool(torch.isfinite(torch.as_tensor(value, dtype=torch.float64)).all())


def in_words(error: Exception) -> str:
    """What an error says, the same in every run."""
    if _out_of_memory(error):
        return "out of memory"
    words = str(error).strip() or type(error).__name__
    return words if isinstance(error, ClewError) else f"{type(error).__name__}: {words}"


def _now() -> float:
    """The time at which all that was asked of the devices is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _out_of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError) if hasattr(torch, "OutOfMemoryError") else (MemoryError,)
    said = str(error).lower()
    return isinstance(error, kinds) or "out of memory" in said or "can't allocate memory" in said
