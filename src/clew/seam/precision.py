"""Double precision all the way: a model's own casts to shorter floats become no-ops while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .interception import Seam


class DoublePrecision(Seam):
    """Around a forward pass of a float64 model: `x.float()`, `x.to(float32)` and `softmax(x, dtype=float32)` keep
    float64 values as they are; a product of float32 and float64 is made in float64. Tables of rotary positions are made
    as ever, in the model's own float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._tables = [m for m in model.modules() if "Rotary" in type(m).__name__]
        self._paused = 0

    def place_hooks(self) -> None:
        def pause(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._paused += 1

        def go_on(output: Any) -> None:
            self._paused -= 1

        for module in self._tables:
            self.watch(module, before=pause, after=go_on)
        self.switch_on()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.full and "dtype" not in kwargs and _is_beyond_float32(kwargs.get("fill_value", args[-1:])):
            return func(*args, **kwargs, dtype=torch.float64)  # transformers 4 masks with its least number
        if func in _PRODUCTS and len({a.dtype for a in args if isinstance(a, Tensor)}) > 1:
            args = tuple(a.double() if isinstance(a, Tensor) and _is_shorter(a.dtype) else a for a in args)
        if func not in _CASTS or self._paused or not args or not _is_double(args[0]):
            return func(*args, **kwargs)
        x, *rest = args
        if func in _PLAIN_CASTS or any(isinstance(a, Tensor) and _is_shorter(a.dtype) for a in rest):
            return x
        kept = [a for a in rest if not _is_shorter(a)]
        named = {k: v for k, v in kwargs.items() if not _is_shorter(v)}
        return func(x, *kept, **named) if kept or named else x


def _is_beyond_float32(value: Any) -> bool:
    value = value[0] if isinstance(value, tuple) and value else value
    return isinstance(value, (int, float)) and abs(value) > torch.finfo(torch.float32).max


def _is_double(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float64


def _is_shorter(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value.is_floating_point and value != torch.float64


# What the model made in float32 meets what would have been cast to it.
_PRODUCTS: frozenset[Any] = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm})
_PLAIN_CASTS: frozenset[Any] = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})
_SOFTMAX: frozenset[Any] = frozenset({torch.softmax, F.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax})
_CASTS = _PLAIN_CASTS | _SOFTMAX | frozenset({Tensor.to, Tensor.type, Tensor.type_as})
