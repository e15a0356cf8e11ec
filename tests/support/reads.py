"""Numbers that are read of tensors: at each of them a GPU is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

READS = frozenset({
    Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.tolist, Tensor.cpu,
    Tensor.numpy, Tensor.nonzero, Tensor.unique, Tensor.equal, torch.nonzero, torch.unique, torch.equal,
    Tensor.__array__, Tensor.__contains__, Tensor.__format__, Tensor.masked_select, torch.masked_select, torch.argwhere,
})  # fmt: skip


def _reads(func: Any, args: Any) -> bool:
    """Whether a call reads numbers, moves a tensor to the CPU, or selects by truth values, which have to be counted."""
    if func is torch.where:
        return len(args) == 1
    if func is Tensor.to:
        return "cpu" in args[1:2]
    by = args[1] if func is Tensor.__getitem__ else ()
    chosen = by if isinstance(by, tuple) else (by,)
    return func in READS or any(isinstance(one, Tensor) and one.dtype == torch.bool for one in chosen)


class _Reads(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _reads(func, args):
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def reads_of(call: Callable[..., object], *given: object) -> Counter[str]:
    """How often numbers are read in a call, which was made once before."""
    call(*given)
    with _Reads() as reads:
        call(*given)
    return reads.found
