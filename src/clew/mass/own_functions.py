"""Layers that make something by functions of their own, which no torch call shows: they are looked for where mass is
missing, as to look costs time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from torch import nn

from ..errors import OptionError
from ..lrp.changes import with_copies
from ..seam import owning_model
from ..subject import StreamSubject

T = TypeVar("T")

_having: WeakSet[nn.Module] = WeakSet()


def with_own_functions(subject: StreamSubject, once: Callable[[bool, bool], tuple[T, bool]]) -> T:
    """What `once(copies, own_functions)` gives beside whether all mass arrived.

    Once more with `own_functions` where mass is missing; whether that helped is remembered. `copies` as `with_copies`.
    """
    owner = owning_model(subject.model)

    def run(copies: bool) -> T:
        if owner in _having:
            return once(copies, True)[0]
        before, refusal = len(subject.measured), None
        try:
            found, arrived = once(copies, False)
            if arrived:
                return found
        except OptionError as error:  # tokens that lose their mass do not stay apart
            refusal = error
        between = len(subject.measured)
        try:
            again, arrived = once(copies, True)
        except OptionError as error:
            raise (refusal or error) from None
        del subject.measured[before:between]
        if arrived:
            _having.add(owner)
        return again

    return with_copies(subject.model, run)
