"""Which methods a run is asked for: names, options and functions as labels; grids; all that work on a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..datasets import Example
from ..errors import InputError, OptionError, close_matches, short_repr
from ..explainers import Method, find_method, methods, parse_method
from ..explaining.attempts import attempts
from ..explaining.explain import explain
from ..literals import parse_literal
from ..models import LoadedModel
from .benchmarks import Batch, Benchmark
from .controls import CONTROLS
from .identity import content_hash
from .shard import FATAL, ConfiguredMethod, IndexedExample, ShardProcessor, in_words

logger = logging.getLogger("clew")

MethodSpec = str | Callable[..., Any] | Method | tuple[str | Callable[..., Any] | Method, Mapping[str, Any]]
Grid = Mapping[str, Sequence[Any]]
ALL = "all"  # all methods that work on the model


def resolve_methods(wanted: Sequence[MethodSpec]) -> dict[str, ConfiguredMethod]:
    """Methods by what they are called in a run. Raises `OptionError` for unknown ones, and for one asked for twice."""
    if isinstance(wanted, str):
        wanted = [wanted]
    found: dict[str, ConfiguredMethod] = {}
    for one in wanted:
        if isinstance(one, tuple) and not (len(one) == 2 and isinstance(one[1], Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError("a method with its options", expected="(name, {option: value})", got=short_repr(one))
        name, options = parse_method(one) if isinstance(one, str) else one if isinstance(one, tuple) else (one, {})
        method = CONTROLS.get(name) if isinstance(name, str) else None
        method = method or find_method(name)
        for option in options:
            if option not in method.options:
                known = close_matches(option, method.options) if method.options else "it has no options"
                raise OptionError(f"{method.name} has no option {option!r}", got=option, todo=known)
        label = method_label(method.name, options)
        if label in found:
            raise OptionError("a method is asked for twice", expected="each once", got=label)
        found[label] = ConfiguredMethod(method, dict(options))
    if not found:
        raise OptionError("no method to evaluate", expected="names, see clew.methods()", got="none")
    return found


def method_label(name: str, options: Mapping[str, Any]) -> str:
    """`NAME(option=value, …)`; a value that is no literal as its type and the beginning of its hash."""
    return f"{name}({', '.join(f'{k}={_short(v)}' for k, v in options.items())})" if options else name


def _short(value: Any) -> str:
    try:
        text = repr(value)
        if len(text) <= 60 and parse_literal(text) == value:
            return text
    except (ValueError, TypeError, RecursionError):
        pass
    return f"<{type(value).__name__} {content_hash(value)[:8]}>"


def method_hashes(asked: Mapping[str, ConfiguredMethod]) -> dict[str, str]:
    """What each method is, by content: a label says only what it is called."""
    return {label: content_hash([one.method.function, dict(one.options)]) for label, one in asked.items()}


@dataclass(frozen=True)
class GridPoint:
    """A method of a grid: what it is called without the grid's values, and those."""

    base: str
    values: Mapping[str, str]


def expand_grid(
    asked: dict[str, ConfiguredMethod], grid: Grid | None
) -> tuple[dict[str, ConfiguredMethod], dict[str, GridPoint]]:
    """Every method that has an option of the grid, once for each combination, and where each comes from.

    An option that was given stays as it was given. Raises `OptionError` where no method has an option, and for an
    option without values.
    """
    if not grid:
        return asked, {}
    wrong = [
        name
        for name, values in grid.items()
        if isinstance(values, str) or not (hasattr(values, "__len__") and len(values))
    ]
    if wrong:
        raise OptionError(
            "a grid has values to try", expected="a list for each option", got=f"{wrong[0]}={grid[wrong[0]]!r}"
        )
    found: dict[str, ConfiguredMethod] = {}
    origin: dict[str, GridPoint] = {}
    used: set[str] = set()
    for label, one in asked.items():
        names = [name for name in grid if name in one.method.options and name not in one.options]
        used |= set(names)
        for values in product(*(grid[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            options = {**one.options, **chosen}
            made = method_label(one.method.name, options) if names else label
            found[made] = ConfiguredMethod(one.method, options)
            origin[made] = GridPoint(label, {name: _short(value) for name, value in chosen.items()})
    if unused := [name for name in grid if name not in used]:
        every = {option for one in asked.values() for option in one.method.options}
        raise OptionError(f"no method has the option {unused[0]!r}", got=unused, todo=close_matches(unused[0], every))
    return found, origin


def registered_methods(benchmark: Benchmark) -> dict[str, ConfiguredMethod]:
    """All registered methods but those that run only where they are named, and the benchmark's controls."""
    every = {**methods(), **{name: CONTROLS[name] for name in benchmark.controls}}
    return {name: ConfiguredMethod(method, {}) for name, method in every.items() if not method.only_named}


def not_named(asked: Mapping[str, ConfiguredMethod]) -> dict[str, str]:
    """The methods that a run of all leaves out, as they are not among those that are asked for, with the reason."""
    named = {one.method.name for one in asked.values()}
    why = "takes hundreds of passes, so that it runs only where it is named"
    return {name: why for name, method in methods().items() if method.only_named and name not in named}


def usable_batch(
    work: ShardProcessor, loaded: LoadedModel, items: Iterable[Callable[[], IndexedExample]]
) -> Batch | None:
    """The first example that makes a batch, as one; None where the protocol leaves out all that it could measure.

    Raises `InputError` where none can be measured, with the last reason.
    """
    why, left_out = "no examples", False
    for item in (make() for make in items):
        if item.example is None:
            why = item.error
            continue
        example: Example = work.numbered(item.example)
        try:
            reason = work.benchmark.left_out(loaded, [example])[0]
            if reason is None:
                return work.benchmark.batch(loaded, [example])
            left_out = True
        except FATAL:
            raise
        except Exception as error:
            why = in_words(error)
    if left_out:
        return None
    raise InputError("no example of the data can be used, none would have a number", expected="at least one", got=why)


def supported_methods(
    loaded: LoadedModel, batch: Batch | None, asked: Mapping[str, ConfiguredMethod]
) -> tuple[dict[str, ConfiguredMethod], dict[str, str]]:
    """The methods that explain the model, tried on one batch; of the others why not.

    Raises `InputError` where none does, or where there is nothing to try them on.
    """
    if batch is None:
        raise InputError("no example of the data can be used", expected="at least one", got="all are left out")

    def explained(name: str) -> object:
        return explain(loaded, batch.inputs, method=asked[name].method, **batch.more, **asked[name].options)

    tried = dict(attempts(asked, explained))
    found = {name: one for name, one in asked.items() if tried[name] is None}
    undefined = {name: reason for name, reason in tried.items() if reason is not None}
    for name, reason in undefined.items():
        logger.warning("%s is left out: %s", name, reason)
    if not found:
        raise InputError("no method works on this model", expected="at least one", todo="clew doctor MODEL")
    return found, undefined
