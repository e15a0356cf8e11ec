"""What moves numbers, anew or in place."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...lrp import CONSERVING_FUNCTIONS
from ...seam import tensors_in, torch_functions
from ..mass_pass import OPERATIONS, MassPass
from . import Args, Call, Kwargs, Operation, as_before, at, each, name_of, same

_CASTS = torch_functions(["to", "type_as", "type", "float", "double", "half", "bfloat16", "contiguous", "clone"])


def move(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Autograd's own backward."""
    if not (args and tape.carries(args[0])):  # something that is brought to the dtype of another, say
        return tape.without_mass(func, args, kwargs)
    result = func(*args, **kwargs)
    if func in _CASTS:
        return as_before(tape, result, [args[0]], same, moved=True)
    if isinstance(result, Tensor):
        return as_before(tape, result, [args[0]], lambda r: func(r.contiguous(), *args[1:], **kwargs), moved=True)
    if isinstance(result, (tuple, list)):
        for i, one in enumerate(cast("list[Any]", result)):
            if isinstance(one, Tensor):
                as_before(tape, one, [args[0]], lambda r, i=i: func(r.contiguous(), *args[1:], **kwargs)[i], moved=True)
    return result


def joined(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Several tensors, put together."""
    inputs = [t for t in tensors_in(args, kwargs) if tape.carries(t)]
    y = tape.counted(func, args, kwargs)
    return as_before(tape, y, inputs) if len(inputs) == 1 else tape.marked(y)


@at("maximum", "minimum", "fmax", "fmin", "max", "min")
def extreme(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    values = [*args, *kwargs.values()]
    if len(values) < 2 or not isinstance(values[1], Tensor):
        return tape.marked(func(*args, **kwargs))
    a, b = values[:2]
    larger = name_of(func).startswith(("max", "fmax"))
    return tape.seen(torch.where, (a >= b if larger else a <= b, a, b), {})


def in_place(name: str, out: Call) -> Operation:
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

    y = tape.counted(put, (x.detach() if not x.requires_grad else x, *rest), kwargs)
    x.copy_(y)
    tape.marked(x)
    return x


def _register() -> None:
    moved = [f for f in CONSERVING_FUNCTIONS if f not in OPERATIONS]
    OPERATIONS.update(dict.fromkeys(moved, move))
    kept = torch_functions(["topk"])
    OPERATIONS.update(dict.fromkeys(kept, move))
    neg = torch_functions(["neg", "__neg__", "negative", "abs", "positive"])
    OPERATIONS.update(dict.fromkeys(neg, each))
    mixed = ["cat", "concat", "concatenate", "stack", "hstack", "vstack", "where", "masked_fill", "pad", "index_put",
             "scatter", "masked_scatter", "index_copy", "unfold", "fold", "index_fill", "slice_scatter",
             "select_scatter", "block_diag", "dstack", "column_stack", "pad_sequence", "triu", "tril"]  # fmt: skip
    OPERATIONS.update(dict.fromkeys(torch_functions(mixed), joined))
    sets = ["__setitem__", "copy_", "masked_fill_", "index_put_", "scatter_", "index_copy_", "masked_scatter_", "fill_",
            "zero_", "index_fill_", "fill_diagonal_"]  # fmt: skip
    OPERATIONS.update(dict.fromkeys(torch_functions(sets), _set))
    for name in ("add", "sub", "mul", "div", "pow", "relu", "gelu", "silu", "sigmoid", "tanh", "exp", "clamp", "neg",
                 "index_add", "scatter_add", "leaky_relu", "elu", "hardtanh", "sqrt", "square", "abs", "mul", "clip",
                 "clamp_min", "clamp_max", "floor_divide", "truediv"):  # fmt: skip
        for out in list(torch_functions([name, f"__{name}__"]))[:1]:
            found = torch_functions([f"{name}_", f"__i{name}__"])
            OPERATIONS.update(dict.fromkeys(found, in_place(name, out)))


_register()
