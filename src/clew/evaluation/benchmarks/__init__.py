"""The register of benchmarks, and what one is made of.

A benchmark is a frozen dataclass whose fields are its options, all with defaults:

    @benchmark(name="mine", version=1, modality="image", paper="Me 2026", summary="…")
    @dataclass(frozen=True)
    class Mine(Benchmark):
        threshold: str = "mean"

It says how examples become a batch, which numbers each method gets for each example (`measure`), and what is made of
their means (`metrics`, `curves`). Everything else (explaining, halving, storing, resuming, Ray) is done for it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from ...attributions import Attribution
from ...datasets import Dataset, Example
from ...errors import ClewError, InputError, OptionError, close_matches
from ...models import LoadedModel
from ...registry import import_submodules
from ...targets import Target, head_of
from ..report.rows import Curve, Metric

Values = dict[str, float | list[float] | None]  # of one example, by column


@dataclass
class Batch:
    """Examples as the model takes them, and what is to be explained.

    `inputs` for `explain`, with `more` arguments. `targets` by name: most benchmarks explain one; the first one's
    scores are stored as `scores`. `held` is for the benchmark's own use.
    """

    examples: Sequence[Example]
    inputs: Any
    targets: Mapping[str, Target]
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    held: dict[str, Any] = field(default_factory=dict[str, Any])


Results = Mapping[str, Mapping[str, Attribution]]  # by method, by name of target
Again = Callable[[LoadedModel, Batch, str], Mapping[str, Attribution]]


@dataclass(frozen=True)
class Benchmark(ABC):
    """A protocol with its options; see the module."""

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    modality: ClassVar[str] = ""  # "image", "text" or "" for both
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    kept: ClassVar[tuple[str, ...]] = ()  # columns that no metric is made of
    later: ClassVar[tuple[str, ...]] = ()  # options that runs of before do not know: no part of runs that have none
    controls: ClassVar[tuple[str, ...]] = ()  # what is measured with all methods besides, see `controls.py`
    costs: ClassVar[bool] = False  # whether each method's time is compared with that of the model alone

    variant: str = "paper"

    @property
    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """What is reported, the most telling first."""

    @property
    def curves(self) -> Sequence[Curve]:
        """What is drawn."""
        return ()

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        """This protocol with what it takes from the model and the data filled in.

        Raises `InputError` or `OptionError` where the model or the data cannot be used.
        """
        return self

    def grid(self, loaded: LoadedModel) -> Mapping[str, Sequence[Any]]:
        """Values of options that are tried where nobody asks for others."""
        return {}

    def left_out(self, loaded: LoadedModel, examples: Sequence[Example]) -> list[str | None]:
        """Why an example is left out by the protocol, or None."""
        return [None] * len(examples)

    @abstractmethod
    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        """Examples as the model takes them. Raises `InputError` for one that cannot be used."""

    @abstractmethod
    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        """By method, the columns of each example; every method has the same columns, None where there is no value.

        `again` explains a batch, of these examples or some of them, by a method of that name with another model.
        """

    @property
    def columns(self) -> list[str]:
        """The names of all columns: what metrics and curves are made of, and what is `kept` besides."""
        return list(dict.fromkeys([*(c for one in (*self.metrics, *self.curves) for c in one.columns), *self.kept]))

    def options(self) -> dict[str, Any]:
        """The options as they are, for a manifest."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if value is not None or name not in self.later}


_B = TypeVar("_B", bound=type[Benchmark])
_registered: dict[str, type[Benchmark]] = {}


def benchmark(
    *, name: str, version: int, modality: str, paper: str, summary: str, variants: Sequence[str] = ()
) -> Callable[[_B], _B]:
    """Register a benchmark. Raises `ClewError` for a name that is taken."""

    def add(cls: _B) -> _B:
        own = cls.__module__.startswith(f"{__name__}.")  # one of these files may be the first to be imported
        if name in (_registered if own else benchmarks()):
            raise ClewError(f"a benchmark named {name!r} is registered already", todo="choose another name")
        cls.name, cls.version, cls.modality, cls.paper, cls.summary = name, version, modality, paper, summary
        cls.variants = ("paper", *variants)
        _registered[name] = cls
        return cls

    return add


def benchmarks() -> dict[str, type[Benchmark]]:
    """All benchmarks, by name. The files of this folder are read on first use."""
    import_submodules(__name__)
    return dict(_registered)


def find_benchmark(name: str) -> type[Benchmark]:
    """The benchmark of that name. Raises `OptionError` for an unknown one."""
    known = benchmarks()
    if name not in known:
        raise OptionError(f"no benchmark {name!r}", got=name, todo=close_matches(name, known))
    return known[name]


def make_benchmark(name: str, options: Mapping[str, Any]) -> Benchmark:
    """A benchmark with options; single values of options that take several are taken as one of them.

    Raises `OptionError` for an unknown benchmark, option or variant.
    """
    cls = find_benchmark(name)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for key, value in options.items():
        if key not in fields:
            raise OptionError(f"{name} has no option {key!r}", got=f"{key}={value!r}", todo=close_matches(key, fields))
        given[key] = _as_declared(value, hints[key])
    if given.get("variant", "paper") not in cls.variants:
        raise OptionError(f"{name} has no such variant", expected=", ".join(cls.variants), got=given["variant"])
    return cls(**given)


def _as_declared(value: Any, hint: Any) -> Any:
    """Lists as tuples, and a single value as a tuple where several are taken."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    several = next((kind for kind in kinds if typing.get_origin(kind) is tuple), None)
    if several is None or (value is None and type(None) in kinds):
        return value
    values = typing.cast("Sequence[Any]", value if isinstance(value, (list, tuple)) else [value])
    floats = typing.get_args(several)[0] is float
    return tuple(float(v) if floats and isinstance(v, int) else v for v in values)


def one_of(what: str, value: str, known: Sequence[str]) -> str:
    """The value. Raises `OptionError` where it is not known."""
    if value not in known:
        raise OptionError(f"unknown {what}", got=value, todo=close_matches(value, known))
    return value


def needs_probabilities(loaded: LoadedModel, task: str = "classification") -> None:
    """Raise `OptionError` for a model whose outputs have no probabilities."""
    kind = head_of(loaded.model, task).kind
    if kind in ("values", "embedding"):
        got = "a regression" if kind == "values" else "an embedding"
        raise OptionError("this protocol asks for probabilities of classes", expected="a classifier", got=got)


def label_of(example: Example, what: str = "this protocol") -> int:
    """The class of an example as the model numbers it. Raises `InputError` where there is none."""
    if not isinstance(example.label, int):
        raise InputError(
            f"{what} needs the class of each example",
            expected="a label that the model has, too",
            got=f"{example.label!r} for {example.id!r}",
            todo="pass data with labels; classes=[…] names them in the model's order",
        )
    return example.label


def mean_of_column(values: Any) -> np.ndarray:
    """The mean of one column is the number."""
    return np.asarray(values)
