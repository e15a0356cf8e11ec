"""The one place that intercepts torch.

A `Seam` is entered around one forward pass of one model. Temporary hooks on declared modules tell it where the pass is;
being a `TorchFunctionMode` it sees every torch call made there. What it does with them is its subclasses': `Capture`
keeps what attention computed, `Tape` replaces the backward of operations by LRP rules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .torch_modes import depth

# Products, which autocast makes in its dtype.
AUTOCAST: frozenset[Any] = frozenset({
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.scaled_dot_product_attention, torch.matmul, torch.mm, torch.bmm,
    torch.addmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm,
    Tensor.__matmul__, Tensor.__rmatmul__,
})  # fmt: skip

# What is asked of a tensor without computing anything.
_ASKED: frozenset[Any] = frozenset(
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout", "is_cuda")
)

Before = Callable[[tuple[Any, ...], dict[str, Any]], Any]
After = Callable[[Any], Any]


def unseen() -> AbstractContextManager[None]:
    """Around torch calls of clew's own, which no seam is to see."""
    return torch._C.DisableTorchFunction()  # pyright: ignore[reportPrivateUsage]


class Seam(TorchFunctionMode):
    """Hooks and torch calls of one forward pass, of one thread. Use with `with`; nothing is left, exception or not."""

    def __init__(self) -> None:
        super().__init__()
        self._on = False
        self._stack = ExitStack()
        self._thread = self._within = 0
        self.shorter: torch.dtype | None = None  # the dtype in which autocast computed products

    def __enter__(self) -> Seam:
        self._thread, self._within = threading.get_ident(), depth()
        try:
            self.place_hooks()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.switch_off()
        finally:
            self._stack.close()
            self.forget()

    def place_hooks(self) -> None:
        """Say with `watch` where the pass is to be seen."""
        raise NotImplementedError

    def forget(self) -> None:
        """Let go of everything that is needed only while the pass runs."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One torch call made by the model. The mode is off in here; `seen` switches it on again."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ASKED or self._within != depth():  # or another model is explained in the middle of this pass
            return func(*args, **(kwargs or {}))
        if func in AUTOCAST:
            args, kwargs = self._cast(args, kwargs or {})
        return self.call(func, args, kwargs or {})

    def _cast(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as autocast will cast them, where it is on: products have one dtype, forward and backward."""
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        if not torch.is_autocast_enabled(device):
            return args, kwargs
        dtype = self.shorter = torch.get_autocast_dtype(device)

        def cast(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype in (dtype, torch.float64):
                return value
            return self.seen(Tensor.to, (value, dtype), {})

        return tuple(map(cast, args)), {k: cast(v) for k, v in kwargs.items()}

    def seen(self, steps: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call whose torch calls are seen too; a mode is off inside its own handler."""
        super().__enter__()
        try:
            return steps(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def switch_on(self) -> None:
        """See torch calls from here on."""
        if not self._on:
            super().__enter__()
            self._on = True

    def switch_off(self) -> None:
        """See no torch calls any more."""
        if self._on:
            self._on = False
            super().__exit__(None, None, None)

    def watch(self, module: nn.Module, *, before: Before | None = None, after: After | None = None) -> None:
        """Call `before(args, kwargs)` and `after(output)` around a module, in this thread; their results replace."""

        def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return before(args, kwargs) if before is not None and threading.get_ident() == self._thread else None

        def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return after(output) if after is not None and threading.get_ident() == self._thread else None

        if before is not None:
            self._stack.callback(module.register_forward_pre_hook(entering, with_kwargs=True).remove)
        if after is not None:
            self._stack.callback(module.register_forward_hook(leaving, always_call=True).remove)
