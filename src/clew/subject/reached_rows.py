"""A cache of the rows of the last attention that a score depends on; finding them takes a backward pass."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..models import BoundArchitecture
from ..seam import Capture, owning_model
from .trace import gradients_of

_KEPT = 64  # of one model
_AGAIN = 64  # determined again every so many results
_reached: WeakKeyDictionary[nn.Module, OrderedDict[Any, Tensor]] = WeakKeyDictionary()
_asked: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def cache_key(bound: BoundArchitecture, given: Tensor, mask: Tensor | None, target_rows: Tensor | None) -> Any:
    """What decides the rows that a score reaches: the readout, and what it goes by. None where that is not known."""
    readout = bound.readout
    if readout.by_target and target_rows is None:
        return None
    rows = None if target_rows is None else str(target_rows.tolist())
    lengths = None if mask is None else str(mask.sum(1).tolist())
    numbers = str(given.tolist()) if readout.last or readout.end else None
    return bound.architecture.name, readout, tuple(given.shape), rows, lengths, numbers


def cached_rows(model: nn.Module, key: Any) -> Tensor | None:
    """The rows (input, row) that a score reached before."""
    found = _reached.get(model)
    return None if found is None or key is None else found.get(key)


def should_refresh(model: nn.Module, key: Any) -> bool:
    """Whether the rows are to be seen: where they are not known, and now and then."""
    _asked[model] = _asked.get(model, 0) + 1
    return cached_rows(model, key) is None or _asked[model] % _AGAIN == 0


def see_rows(subject: Any) -> None:
    """See which rows the score reaches, in a pass that leaves none out; nothing where no gradient leads there."""
    last, bound = subject.last, subject.bound
    seam = Capture(bound.blocks, bound.attentions, len(subject.given), keep=frozenset({last}), leaf=(last, "o"))
    with seam, torch.enable_grad():
        score = subject.score(subject.forward())
    if score.requires_grad:
        gradient = gradients_of(score, [seam.records[last].o], subject.each)[0]
        reached = (gradient.abs().amax((1, 3)) > 0).unflatten(0, (-1, subject.each)).any(1)
        cache_rows(owning_model(subject.model), subject.reach_key, reached)


def cache_rows(model: nn.Module, key: Any, rows: Tensor) -> None:
    """Keep what was seen."""
    if key is not None:
        found = _reached.setdefault(model, OrderedDict())
        found[key] = rows
        while len(found) > _KEPT:
            found.popitem(last=False)
