"""What the tape does with each torch operation: ask the rule set, and give the call the backward that the rule says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...rules import PlainGradient, Rule
from ...seam import torch_functions
from ..tape import CONSERVING_FUNCTIONS, HANDLERS, Handler, Tape

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Call = Callable[..., Any]

# Linear in the tensor that the input reaches, or mere bookkeeping: their own gradient conserves x · g.
CONSERVING_FUNCTIONS.update(torch_functions([
    "reshape", "view", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "t", "movedim",
    "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "broadcast_tensors", "repeat", "tile",
    "repeat_interleave", "contiguous", "clone", "chunk", "split", "split_with_sizes", "tensor_split", "unbind",
    "select", "narrow", "index_select", "gather", "take_along_dim", "take", "masked_select", "diagonal", "tril", "triu",
    "roll", "flip", "fliplr", "flipud", "rot90", "to", "type_as", "float", "double", "half", "bfloat16", "type", "cpu",
    "cuda", "view_as", "reshape_as", "ravel", "__getitem__", "as_strided", "unfold", "fold", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "atleast_1d", "atleast_2d", "atleast_3d", "squeeze_", "unsqueeze_",
    "transpose_", "t_", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout",
    # sums and means of numbers
    "sum", "nansum", "cumsum", "diff", "trace", "neg", "__neg__", "negative", "positive", "interpolate", "upsample",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    # a choice of some of them
    "amax", "amin", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d_with_indices", "adaptive_max_pool3d_with_indices",
    "max_unpool1d", "max_unpool2d", "max_unpool3d", "sort", "msort", "median", "nanmedian", "kthvalue", "mode",
    "nan_to_num",
    # complex numbers
    "view_as_real", "view_as_complex", "resolve_conj", "resolve_neg", "conj", "conj_physical", "real", "imag",
    # bookkeeping
    "requires_grad_", "is_floating_point", "is_complex", "numel", "nelement", "size", "dim", "ndimension", "stride",
    "data_ptr", "register_hook", "retain_grad", "is_contiguous", "untyped_storage", "storage_offset", "element_size",
    "detach", "item", "tolist", "numpy", "get_device", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor",
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "__len__", "__bool__",
    "isnan", "isinf", "isfinite", "eq", "ne", "lt", "le", "gt", "ge", "__eq__", "__ne__", "__lt__", "__le__", "__gt__",
    "__ge__", "argmax", "argmin", "argsort", "any", "all", "logical_not", "nonzero", "allclose", "equal",
    "bool", "long", "int", "byte", "isclose", "count_nonzero", "__contains__", "__format__", "__repr__", "is_nonzero",
    "bucketize", "searchsorted", "one_hot", "is_same_size", "__hash__", "signbit", "multinomial", "__array__",
]))  # fmt: skip
for _fft in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):  # linear
    CONSERVING_FUNCTIONS.update(
        getattr(torch.fft, found) for n in ("", "2", "n") if hasattr(torch.fft, found := f"{_fft}{n}")
    )
CONSERVING_FUNCTIONS.update({torch.fft.fftshift, torch.fft.ifftshift})
CONSERVING_FUNCTIONS.update(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag"))


def handles(*names: str, where: tuple[Any, ...] = ()) -> Callable[[Handler], Handler]:
    """Make a function the handler of torch functions of these names."""

    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(torch_functions(names) | set(where), handler))
        return handler

    return add


def in_place(name: str, handler: Handler) -> None:
    """Make a handler that of the functions of a name that change their first argument: computed anew, then copied."""
    functions = torch_functions([f"{name}_", f"__i{name}__", f"__i{name.strip('_')}__"])
    other: Any = next(iter(torch_functions([name])))

    def changed(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
        x = args[0]
        old = x.clone() if x.requires_grad else x
        tape.moved(x, old)
        tape.gates.pop(id(x), None)
        y = handler(tape, other, (old, *args[1:]), kwargs)
        if y.requires_grad or x.requires_grad:
            return tape.moved(y, Tensor.copy_(x, y))
        return func(*args, **kwargs)

    HANDLERS.update(dict.fromkeys(functions, changed))


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
