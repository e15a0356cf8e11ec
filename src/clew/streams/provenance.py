"""Where token numbers come from: each whole number of an argument is followed to the table where it is looked up.

Beside every tensor that was made of an argument's numbers goes a shadow of the same shape, which says for each entry
which number of the argument it is (-1: none). What moves numbers is done to the shadow too, so padding, shifts,
transposes, placeholders and joined texts need no special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..seam import tensors_in, torch_functions

NOT_GIVEN = -1  # of entries that come from nowhere in the input


# Functions that move the numbers of their first argument.
_MOVES = torch_functions([
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "t", "squeeze",
    "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "clone", "contiguous", "to", "long",
    "int", "type", "chunk", "split", "tensor_split", "unbind", "narrow", "select", "index_select", "gather", "roll",
    "flip", "__getitem__", "detach", "view_as", "reshape_as", "cpu", "cuda", "masked_select", "take", "ravel",
    "take_along_dim", "as_strided", "unfold", "type_as", "requires_grad_", "alias_copy", "squeeze_", "unsqueeze_",
])  # fmt: skip
_JOINS = torch_functions(["cat", "concat", "concatenate", "stack", "hstack", "vstack"])
_CHOICES = torch_functions(["where", "masked_fill", "masked_scatter", "index_put", "scatter", "index_copy"])
_IN_PLACE = torch_functions([
    "__setitem__", "copy_", "masked_fill_", "masked_scatter_", "index_put_", "scatter_", "index_copy_", "fill_",
    "zero_", "index_fill_",
])  # fmt: skip
# Whole numbers that are made of others, but are not these.
_OTHERS = torch_functions([
    "cumsum", "argmax", "argmin", "argsort", "sort", "sum", "max", "min", "amax", "amin", "nonzero", "bincount",
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like",
    "empty_like", "rand_like", "randint_like", "unique", "topk", "searchsorted", "bucketize", "cumprod", "diff",
    "count_nonzero", "prod",
])  # fmt: skip
_PAD = torch_functions(["pad"])
_EMBEDDING = frozenset({F.embedding})
_TABLE_FIRST = torch_functions(["__getitem__", "index_select"]) | {torch.embedding}


class Provenance:
    """Follows the whole numbers of some arguments through torch calls."""

    def __init__(self, numbers: Mapping[str, Tensor]) -> None:
        self._names, self._starts, self._shapes = list(numbers), list[int](), [t.shape for t in numbers.values()]
        self._shadows: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the tensor, kept alive, and its shadow
        start = 0
        for value in numbers.values():
            self._starts.append(start)
            shadow = torch.arange(start, start + value.numel(), device=value.device).view(value.shape)
            self._shadows[id(value)] = value, shadow
            start += value.numel()
        self.count = start

    def of(self, value: Any) -> Tensor | None:
        """The shadow of a tensor, where it holds numbers that are followed."""
        found = self._shadows.get(id(value))
        return None if found is None else found[1]

    def argument(self, places: Tensor) -> str:
        """The argument that the first of these numbers is in."""
        first = int(places[places >= 0].flatten()[0])
        return self._names[max(i for i, start in enumerate(self._starts) if start <= first)]

    def arguments(self, places: Tensor) -> list[str]:
        """All arguments that any of these numbers is in."""
        known = places[places >= 0]
        ends = [start + shape.numel() for start, shape in zip(self._starts, self._shapes, strict=True)]
        inside = [(known >= start) & (known < end) for start, end in zip(self._starts, ends, strict=True)]
        return [name for name, some in zip(self._names, inside, strict=True) if bool(some.any())]

    def spread(self, values: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Values (…, one for each of `places`) added up where the numbers stand in the arguments, by argument."""
        known = places.flatten() >= 0
        total = values.new_zeros(self.count)
        total.index_add_(0, places.flatten()[known], values.flatten()[known])
        return {
            name: total[start : start + shape.numel()].view(shape)
            for name, start, shape in zip(self._names, self._starts, self._shapes, strict=True)
        }

    def looked_up(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any] | None:
        """The shadow of what is looked up by this call, and the table; None where it is no look-up of numbers."""
        if func in _EMBEDDING:
            index, table = (*args, kwargs.get("input"), kwargs.get("weight"))[:2]
        elif func in _TABLE_FIRST:
            table, index = args[0], args[-1] if len(args) > 1 else None
        else:
            return None
        shadow = self.of(index)
        if shadow is None or not isinstance(table, Tensor) or not table.is_floating_point():
            return None
        return (shadow, table) if bool((shadow >= 0).any()) else None

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what a call made of numbers that are followed."""
        try:
            shadow = self._shadow(func, args, kwargs, result)
        except (RuntimeError, TypeError, IndexError, ValueError):  # a form that shadows cannot take
            return
        results: Any = result if isinstance(result, (list, tuple)) else [result]
        shadows: Any = shadow if isinstance(shadow, (list, tuple)) else [shadow]
        for value, one in zip(results, shadows, strict=False):
            if isinstance(one, Tensor) and _is_whole(value) and value.shape == one.shape:
                self._shadows[id(value)] = value, one

    def _shadow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        name = getattr(func, "__name__", "")
        if func in _OTHERS or (name == "__get__" and not isinstance(result, Tensor)):
            return None
        if func in _JOINS:
            parts = args[0] if args else kwargs["tensors"]
            more = {k: v for k, v in kwargs.items() if k != "tensors"}
            return func([self._or_none(part) for part in parts], *args[1:], **more)
        if func in _IN_PLACE:
            target = args[0]
            own = self.of(target)
            own = self._or_none(target) if own is None else own
            values = [self._or_none(args[-1])] if len(args) > 1 else []
            called = func if name not in ("fill_", "zero_") else Tensor.fill_
            called(own, *args[1:-1], *(values or [NOT_GIVEN]))
            self._shadows[id(target)] = target, own
            return None
        if func in _CHOICES:
            if name == "where":
                condition, one, other = (args[1], args[0], args[2]) if func is Tensor.where else args
                return torch.where(condition, self._or_none(one), self._or_none(other))
            return func(self._or_none(args[0]), *args[1:-1], self._or_none(args[-1]))
        if func in _PAD:
            padded = self.of(args[0] if args else kwargs["input"])
            sides = args[1] if len(args) > 1 else kwargs["pad"]
            return None if padded is None else F.pad(padded, sides, value=NOT_GIVEN)
        own = self.of(args[0]) if args else None
        if func in _MOVES or name == "__get__":
            moved = func(own, *args[1:], **kwargs) if own is not None else None
            return moved.long() if isinstance(moved, Tensor) else moved
        if isinstance(result, Tensor):  # arithmetic, entry by entry
            return next((s for v in args if (s := self.of(v)) is not None and s.shape == result.shape), None)
        return None

    def _or_none(self, value: Any) -> Any:
        shadow = self.of(value)
        if shadow is not None:
            return shadow
        return torch.full_like(value, NOT_GIVEN, dtype=torch.long) if isinstance(value, Tensor) else NOT_GIVEN

    def touches(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether any tensor among arguments is followed."""
        return bool(self._shadows) and any(id(t) in self._shadows for t in tensors_in(args, kwargs))


def _is_whole(value: Any) -> bool:
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return isinstance(value, Tensor) and value.dtype in whole
