"""What the tape does with each torch operation: ask the rule set, and give the call the backward that the rule says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from ...rules import PlainGradient, Rule
from ..tape import CONSERVING_FUNCTIONS, HANDLERS, Handler, Tape, torch_functions

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Call = Callable[..., Any]

# Linear in the tensor that the input reaches, or mere bookkeeping: their own gradient conserves x · g.
CONSERVING_FUNCTIONS.update(torch_functions([
    "reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "t", "movedim",
    "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "contiguous", "clone", "chunk",
    "split", "tensor_split", "unbind", "select", "narrow", "index_select", "gather", "roll", "flip", "pad", "to",
    "type_as", "float", "double", "view_as", "reshape_as", "__getitem__", "dropout", "feature_dropout", "sum", "neg",
    "__neg__", "interpolate", "amax", "requires_grad_", "is_floating_point", "numel", "size", "dim", "stride",
    "data_ptr", "register_hook", "retain_grad", "is_contiguous", "type", "half", "bfloat16", "index_add",
    "index_add_", "untyped_storage",
]))  # fmt: skip


def handles(*names: str, where: tuple[Any, ...] = ()) -> Callable[[Handler], Handler]:
    """Make a function the handler of torch functions of these names."""

    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(torch_functions(names) | set(where), handler))
        return handler

    return add


def plain(tape: Tape, operation: str, rule: Rule | None, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The call with its own gradient where the rule says so; else it is one without a rule."""
    if isinstance(rule, PlainGradient):
        return tape.bracket(operation, "nonlinearity", func, args, kwargs)
    return tape.without_rule(getattr(func, "__name__", operation), func, args, kwargs, operation)


def discover() -> None:
    """Read the files of this folder, which fill the tape's table."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


discover()
