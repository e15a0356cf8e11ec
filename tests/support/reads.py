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
})  # fmt: skip


class _Reads(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.found[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def reads_of(call: Callable[..., object], *given: object) -> Counter[str]:
    """How often numbers are read in a call, which was made once before."""
    call(*given)
    with _Reads() as reads:
        call(*given)
    return reads.found
