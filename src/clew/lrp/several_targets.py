"""Backward passes of several targets over one graph: some at a time by `torch.vmap`, where a pass allows that.

Of short inputs a backward pass costs what calling its operations costs, and that is paid once for all of its targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..errors import ClewError
from ..seam import owning_model

T = TypeVar("T")

_AT_MOST = 16  # targets at a time, and with all their tokens:
_TOKENS = 2048

# Models with operations that ask what numbers a gradient holds, which cannot be answered for several at once.
_one_by_one: WeakSet[nn.Module] = WeakSet()


def back_through(model: nn.Module, seeds: Tensor, tokens: int, back: Callable[[Tensor, bool], T]) -> list[T]:
    """`back(seed, last)` of each of `seeds` (target, score): what goes back from the scores for each target.

    `tokens` are those of one pass, which decide how many go at a time.
    """
    size = min(_AT_MOST, max(1, _TOKENS // max(1, tokens)))
    if size == 1 or len(seeds) == 1 or owning_model(model) in _one_by_one:
        return [back(seed, i == len(seeds) - 1) for i, seed in enumerate(seeds)]
    found: list[T] = []
    for chunk in seeds.split(size):
        try:
            found += _together(chunk, lambda seed: back(seed, False))
        except RuntimeError as error:
            if isinstance(error, ClewError) or "inplace operation" in str(error):
                raise
            _one_by_one.add(owning_model(model))
            return [*found, *(back(seed, False) for seed in seeds[len(found) :])]
    return found


def _together(seeds: Tensor, back: Callable[[Tensor], T]) -> list[T]:
    made: list[T] = []

    def tensors(seed: Tensor) -> list[Tensor]:
        made.append(back(seed))
        return list(_tensors(made[0]))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # of operations without a batch
        found = torch.vmap(tensors)(seeds)
    return [_with_tensors(made[0], iter([t[i] for t in found])) for i in range(len(seeds))]


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of what a pass gave, in order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for part in _parts(value):
            yield from _tensors(part)


def _parts(value: Any) -> list[Any]:
    if is_dataclass(value):
        return [getattr(value, f.name) for f in fields(value) if not f.name.startswith("_")]
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).values())
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else []


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same with other tensors in their places."""
    if isinstance(value, Tensor):
        return next(tensors)
    if is_dataclass(value):
        names = [f.name for f in fields(value) if not f.name.startswith("_")]
        return replace(cast(Any, value), **{name: _with_tensors(getattr(value, name), tensors) for name in names})
    if isinstance(value, dict):
        return {k: _with_tensors(v, tensors) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_tensors(one, tensors) for one in cast("list[Any]", value))
    return value
