"""Operations that put tensors together, in place or anew: linear in them, and what constants put in is booked."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...seam import torch_functions
from ..tape import HANDLERS, Tape
from . import Args, Call, Kwargs, handles


def constant_part(func: Call, args: Args, kwargs: Kwargs) -> Tensor:
    """What a function that is linear in its tensors of floats makes of the constant ones alone."""

    def constant(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.zeros_like(value) if value.requires_grad else value.clone()
        if isinstance(value, (list, tuple)):
            return type(value)(map(constant, cast("list[Any]", value)))
        return value

    with torch.no_grad():
        fixed = [constant(value) for value in args]
        made = func(*fixed, **{k: constant(v) for k, v in kwargs.items()})
        return fixed[0] if made is None else made


def book_constants(tape: Tape, y: Any, constants: Tensor, name: str) -> Any:
    """`y`, of whose relevance that of `constants`, which are a part of it, is booked."""
    page = tape.page(name)

    def back(g: Tensor, _: Tensor | None) -> None:
        page.leak("constant", torch.where(g == 0, 0.0, constants * g))

    return tape.hook_backward(y, back)


def _has_constants(values: Any) -> bool:
    """Whether one of the tensors that are put together is none that depends on the input, or a number is not 0."""
    return any(
        v != 0
        if isinstance(v, (int, float))
        else isinstance(v, Tensor) and v.is_floating_point() and not v.requires_grad
        for v in values
    )


@handles("hstack", "vstack", "dstack", "column_stack", "row_stack", "block_diag", "pad_sequence")
def joined(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    y = func(*args, **kwargs)
    parts: Any = args[0] if args and isinstance(args[0], (list, tuple)) else args or kwargs.get("tensors", ())
    if not _has_constants((*parts, *args[1:], *kwargs.values())):
        return y
    return book_constants(tape, y, constant_part(func, args, kwargs), "cat")


@handles("pad")
def pad(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    y = func(*args, **kwargs)
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    value = kwargs.get("value", args[3] if len(args) > 3 else None)
    if mode != "constant" or not value:
        return y
    return book_constants(tape, y, constant_part(func, args, kwargs), "pad")


@handles("masked_scatter", "index_put", "scatter", "index_copy", "scatter_add", "index_add", "slice_scatter",
         "select_scatter", "diagonal_scatter", "index_fill")  # fmt: skip
def put(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Values at other places than they were: image features in the place of placeholders, experts' sums."""
    y = func(*args, **kwargs)
    if not _has_constants((args[0], *args[1:], *kwargs.values())):
        return y
    return book_constants(tape, y, constant_part(func, args, kwargs), "put")


def put_in_place(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The same in place: relevance of what stood there before comes by what comes after."""
    x = args[0]
    tape.gates.pop(id(x), None)
    if not _has_constants((*args, *kwargs.values())):
        return func(*args, **kwargs)
    constants, new = constant_part(func, args, kwargs), x.clone()
    func(new, *args[1:], **kwargs)
    return Tensor.copy_(x, book_constants(tape, new, constants, "put"))  # by a copy: x may be a view


HANDLERS.update(
    dict.fromkeys(
        torch_functions([
            "__setitem__", "copy_", "masked_scatter_", "masked_fill_", "index_put_", "scatter_", "index_copy_",
            "scatter_add_", "index_add_", "fill_", "zero_", "index_fill_", "fill_diagonal_",
        ]),
        put_in_place,
    )
)  # fmt: skip
