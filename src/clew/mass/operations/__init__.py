"""What mass does at each torch operation.

Each operation hands on as much as it got, so that all mass of a pass can be accounted for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...seam import tensors_in, torch_functions
from ..mass_pass import OPERATIONS, Mark, MassPass

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Call = Callable[..., Any]
Operation = Callable[[MassPass, Call, Args, Kwargs], Any]


def at(*names: str, where: Sequence[Any] = ()) -> Callable[[Operation], Operation]:
    """Make a function what mass does at torch functions of these names."""

    def add(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(torch_functions(names) | set(where), function))
        return function

    return add


# Only shapes are kept for the way back, so that what the model made is let go of as in a plain pass.


def summed(g: Tensor, shape: torch.Size) -> Tensor:
    """Mass of a result as that of an argument of some shape that was broadcast to it."""
    return g if g.shape == shape else g.sum_to_size(shape)


def spread(g: Tensor, shape: torch.Size) -> Tensor:
    """The mass of each token, even over its channels, the last axis of an argument of some shape."""
    return (g.sum(-1, keepdim=True) / shape[-1]).expand(shape)


def each(tape: MassPass, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A function of each number, or of each token: it keeps its mass; several arguments get equal parts."""
    inputs = [t for t in tensors_in(args, kwargs) if tape.carries(t)]
    if "inplace" in kwargs:
        kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}
    y = tape.computed(func, args, kwargs)
    if not isinstance(y, Tensor):
        return tape.refused(y, f"the operation {name_of(func)!r}, which has several results", *inputs)
    if y is inputs[0]:  # dropout that drops nothing, say
        return y
    if not (y.is_floating_point() or y.is_complex()):
        return y
    if not all(_fits(x, y) for x in inputs):
        return tape.refused(y, f"the operation {name_of(func)!r}, of which nothing is known", *inputs)
    part, shapes = 1 / len(inputs), [x.shape for x in inputs]

    def back(g: Tensor) -> Sequence[Tensor | None]:
        return [summed(g if part == 1 else g * part, shape) for shape in shapes]

    made = tape.switched(y, back, *inputs)
    linear = tape.nodes is not None and func in LINEAR and not _on_itself(tape, inputs, args)
    return as_before(tape, made, inputs, same, moved=True, linear=linear)


def _on_itself(tape: MassPass, inputs: Sequence[Tensor], args: Args) -> bool:
    """Whether what comes straight from an attention meets something that was made of it, as in a norm."""
    sites = {site for mark in straight_from_attention(tape, inputs) for site in mark.sites}
    return bool(sites) and any(sites & tape.behind(t) for t in args if not any(t is x for x in inputs))


def _fits(x: Tensor, y: Tensor) -> bool:
    """Whether a tensor broadcasts to another."""
    return x.shape == y.shape or (
        x.ndim <= y.ndim and all(a in (1, b) for a, b in zip(x.shape[::-1], y.shape[::-1], strict=False))
    )


def as_before(
    tape: MassPass,
    y: Any,
    inputs: Sequence[Tensor],
    step: Call | None = None,
    *,
    moved: bool = False,
    layer: bool = False,
    linear: bool = True,
) -> Any:
    """A result that comes straight from attention, if an argument does, with the `step` by which its rows went on.
    `moved`: the same numbers, which count as made when those were; `layer`: what a linear layer makes of tokens;
    `linear`: whether it is linear in the argument."""
    order = tape.order_of(inputs[0]) if moved and len(inputs) == 1 else None
    fresh = straight_from_attention(tape, inputs)
    known: dict[str, Any] = {}
    if tape.nodes is not None and len(inputs) == 1:
        before = tape.mark_of(inputs[0]) or Mark(-1)
        known["origin"] = inputs[0] if before.origin is None else before.origin
        known["read"] = inputs[0] if layer else before.read if moved else None
        if fresh:
            known["linear"] = before.linear if linear or before.linear is not None else inputs[0]
            if layer:
                tape.keep(fresh[0].site, "projected", y)
    if not fresh:
        return tape.marked(y, order, **known)
    rows = fresh[0].rows if len(fresh) == 1 and step is not None else None
    laid_out = None if rows is None else lambda values: cast(Call, step)(rows(values))
    sites = dict.fromkeys(site for mark in fresh for site in mark.sites)
    return tape.marked(y, order, sites=tuple(sites), rows=laid_out, **known)


def straight_from_attention(tape: MassPass, inputs: Iterable[Any]) -> list[Mark]:
    """Marks of what comes straight from attention."""
    return [mark for x in inputs if (mark := tape.mark_of(x)) is not None and mark.sites]


def same(rows: Tensor) -> Tensor:
    """Rows of what keeps its channels."""
    return rows


def through(width: int) -> Call:
    """Rows through a linear layer: the mean over channels, which holds all heads."""
    return lambda rows: rows.mean(-1, keepdim=True).expand(*rows.shape[:-1], width)


def name_of(func: Call) -> str:
    """The name of a torch function."""
    return getattr(func, "__name__", str(func))


LINEAR = torch_functions(["add", "__add__", "__radd__", "sub", "__sub__", "mul", "__mul__", "__rmul__", "multiply"])
OPERATIONS[None] = each


def discover() -> None:
    """Read the files of this folder, which fill the table."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


discover()
