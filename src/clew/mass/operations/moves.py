"""What moves numbers, anew or in place."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...lrp import CONSERVING_FUNCTIONS
from ...seam import tensors_in, torch_functions
from ..mass_pass import OPERATIONS, Mark, MassPass
from . import Args, Call, Kwargs, Operation, as_before, at, each, name_of, same, straight_from_attention

_CASTS = torch_functions(["to", "type_as", "type", "float", "double", "half", "bfloat16", "contiguous", "clone"])


def move(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Autograd's own backward."""
    if not (args and tape.carries(args[0])):  # something that is brought to the dtype of another, say
        return tape.without_mass(func, args, kwargs)
    result, rest = func(*args, **kwargs), args[1:]  # what it was made of is let go of
    if func in _CASTS:
        return as_before(tape, result, [args[0]], same, moved=True)
    if isinstance(result, Tensor):
        return as_before(tape, result, [args[0]], lambda r: func(r.contiguous(), *rest, **kwargs), moved=True)
    if isinstance(result, (tuple, list)):
        for i, one in enumerate(cast("list[Any]", result)):
            if isinstance(one, Tensor):
                as_before(tape, one, [args[0]], lambda r, i=i: func(r.contiguous(), *rest, **kwargs)[i], moved=True)
    return result


def joined(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Several tensors, put together."""
    return _together(tape, tape.counted(func, args, kwargs), func, args, kwargs)


def _together(tape: MassPass, y: Any, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A result that comes straight from attention, if all parts do that carry mass."""
    given = tensors_in(args, kwargs)
    inputs = [t for t in given if tape.carries(t)]
    if len(inputs) == 1 and y.shape == inputs[0].shape and all(t is inputs[0] or not t.numel() for t in given):
        return as_before(tape, y, inputs, same, moved=True)  # joined to nothing: an empty cache
    fresh = straight_from_attention(tape, inputs)
    if len(fresh) < len(inputs):
        return tape.marked(y)
    marks = {id(t): mark.rows for t, mark in zip(inputs, fresh, strict=True)}

    def rows(values: Any) -> Tensor:
        def laid_out(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(laid_out, cast("list[Any]", value)))
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            known = marks.get(id(value))
            return torch.zeros_like(value) if known is None else known(values).contiguous()

        return func(*map(laid_out, args), **{k: laid_out(v) for k, v in kwargs.items()})

    known = all(mark.rows is not None for mark in fresh)
    sites = dict.fromkeys(site for mark in fresh for site in mark.sites)
    return tape.marked(y, sites=tuple(sites), rows=rows if known else None)


@at("maximum", "minimum", "fmax", "fmin", "max", "min")
def extreme(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    values = [*args, *kwargs.values()]
    if len(values) < 2 or not isinstance(values[1], Tensor):
        return tape.marked(func(*args, **kwargs))
    a, b = values[:2]
    larger = name_of(func).startswith(("max", "fmax"))
    return tape.seen(torch.where, (a >= b if larger else a <= b, a, b), {})


def in_place(out: Call) -> Operation:
    """A function that changes its first argument: computed anew, then copied."""

    def changed(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
        x = args[0]
        old = tape.seen(Tensor.clone, (x,), {}) if x.requires_grad else x.detach().clone()
        y = tape.seen(out, (old, *args[1:]), kwargs)
        x.copy_(y)
        if (mark := tape.mark_of(y)) is not None:
            tape.known_as(x, mark)
        return x

    return changed


def _set(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`x[index] = value`, and other functions that put values into a tensor."""
    x, *rest = args
    if isinstance(x, Tensor) and not x.is_floating_point():
        return func(*args, **kwargs)

    def put(old: Tensor, *values: Any, **more: Any) -> Tensor:
        new = old.clone()
        func(new, *values, **more)
        return new

    old = x if x.requires_grad else x.detach().clone()
    y = tape.counted(put, (old, *rest), kwargs)
    known = tape.mark_of(_together(tape, y, put, (old, *rest), kwargs))
    x.copy_(y)
    tape.known_as(x, cast(Mark, known))
    return x


def _register() -> None:
    OPERATIONS.update(dict.fromkeys(CONSERVING_FUNCTIONS - OPERATIONS.keys() | torch_functions(["topk"]), move))
    OPERATIONS.update(dict.fromkeys(torch_functions(["neg", "__neg__", "negative", "abs", "positive"]), each))
    mixed = ["cat", "concat", "concatenate", "stack", "hstack", "vstack", "where", "masked_fill", "pad", "index_put",
             "scatter", "masked_scatter", "index_copy", "unfold", "fold", "index_fill", "slice_scatter",
             "select_scatter", "block_diag", "dstack", "column_stack", "pad_sequence", "triu", "tril"]  # fmt: skip
    OPERATIONS.update(dict.fromkeys(torch_functions(mixed), joined))
    sets = ["__setitem__", "copy_", "masked_fill_", "index_put_", "scatter_", "index_copy_", "masked_scatter_", "fill_",
            "zero_", "index_fill_", "fill_diagonal_"]  # fmt: skip
    OPERATIONS.update(dict.fromkeys(torch_functions(sets), _set))
    for name in dir(Tensor):  # relu_ and __iadd__ by what relu and __add__ do
        out = None
        if name.endswith("_") and not name.startswith("_"):
            out = next((f for f in torch_functions([name[:-1]]) if callable(f)), None)
        elif name.startswith("__i") and name.endswith("__"):
            out = getattr(Tensor, f"__{name[3:]}", None)
        if out is not None:
            new = torch_functions([name]) - OPERATIONS.keys()
            OPERATIONS.update(dict.fromkeys(new, in_place(out)))


_register()
