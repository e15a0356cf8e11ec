"""Torch's modes: explaining runs with gradients on, autocast off and tensors on the CPU where nothing else is said.

The user's model is called in the caller's autocast and default device; the caller's modes are always restored.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _len_torch_function_stack as len_torch_function_stack,  # pyright: ignore[reportPrivateUsage]
)
from torch._C import (
    _pop_torch_function_stack as pop_torch_function_stack,  # pyright: ignore[reportPrivateUsage]
)

_DEVICES = ("cpu", "cuda", "mps", "xpu")


class _State(threading.local):
    """What a thread is doing."""

    depth = 0
    autocast: tuple[tuple[str, torch.dtype], ...] = ()  # of the caller,
    device: torch.device | None = None  # and the default device, if not the CPU


_state = _State()


def depth() -> int:
    """How many explanations this thread is in, nested; a seam sees only what is done at its own depth."""
    return _state.depth


@contextmanager
def cpu_by_default() -> Generator[None]:
    """Around clew's own code: tensors are made on the CPU unless it says where, whatever the caller's default is."""
    device = torch.empty(0).device  # `torch.get_default_device` knows of `with torch.device(…)` from torch 2.8 on
    if device.type == "cpu":
        yield
        return
    found, _state.device = _state.device, device
    try:
        with torch.device("cpu"):
            yield
    finally:
        _state.device = found


@contextmanager
def isolated_modes() -> Generator[None]:
    """Around everything that explains: gradients are made whatever mode the caller is in, and outside of autocast.

    Used as a decorator: then an interrupt at any line of clew still comes by the code that puts back.
    """
    modes, grad = len_torch_function_stack(), torch.is_grad_enabled()
    found = _state.depth, _state.autocast, _state.device
    autocast = tuple((d, torch.get_autocast_dtype(d)) for d in _DEVICES if torch.is_autocast_enabled(d))
    try:
        _state.depth, _state.autocast = found[0] + 1, autocast
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            for device, dtype in autocast:
                stack.enter_context(torch.autocast(device, dtype, enabled=False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(cpu_by_default())
            yield
    finally:  # also after an interrupt inside the block above; harmless when already restored
        while len_torch_function_stack() > modes:
            pop_torch_function_stack()
        for device, _ in autocast:
            torch.set_autocast_enabled(device, True)
        torch.set_grad_enabled(grad)
        _state.depth, _state.autocast, _state.device = found


def callers_autocast() -> tuple[tuple[str, torch.dtype], ...]:
    """Devices and dtypes of the caller's autocast."""
    return _state.autocast


@contextmanager
def in_callers_modes() -> Generator[None]:
    """Around a call of the user's model: in the caller's autocast and default device, if there are such."""
    with ExitStack() as stack:
        for device, dtype in _state.autocast:
            stack.enter_context(torch.autocast(device, dtype))
        stack.enter_context(_callers_device())
        yield


def in_callers_device(function: Any) -> Any:
    """A user's own function as one that makes its tensors where the caller's are made; anything else as it is."""
    if _state.device is None or not callable(function) or isinstance(function, Tensor):
        return function

    @wraps(function, updated=())
    def called(*args: Any, **kwargs: Any) -> Any:
        with _callers_device():
            return function(*args, **kwargs)

    return called


@contextmanager
def _callers_device() -> Generator[None]:
    """Around code of the user: what it explains in turn has this default device for its caller's."""
    device = _state.device
    if device is None:
        yield
        return
    _state.device = None
    try:
        with device:
            yield
    finally:
        _state.device = device
