"""A tape that knows which streams tensors are made of, for rules that are those of one stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..seam import tensors_in
from .tape import Tape

_STREAMS = "_clew_streams"
_NONE = frozenset[str]()


class StreamTape(Tape):
    """A tape whose place is "@image" in calls whose tensors are made of the stream "image" and of no other."""

    def entered(self, leaf: Tensor, copy: Tensor, stream: str) -> None:
        """Remember the copy of a leaf that the model gets, and its stream."""
        super().entered(leaf, copy, stream)
        setattr(copy, _STREAMS, frozenset({stream}))

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call, at the place of its streams."""
        given = tensors_in(args, kwargs)
        streams = _NONE.union(*(getattr(t, _STREAMS, _NONE) for t in given))
        if not streams:
            return super().call(func, args, kwargs)
        around, self.place = self.place, f"@{next(iter(streams))}" if len(streams) == 1 else ""
        try:
            result = super().call(func, args, kwargs)
        finally:
            self.place = around
        name = getattr(func, "__name__", "")
        changed = args[:1] if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) else ()
        for one in (*(result if isinstance(result, (tuple, list)) else (result,)), *changed):
            if isinstance(one, Tensor):
                setattr(one, _STREAMS, streams)
        return result
