"""Borrow a model: what has to change while it is explained changes here, and is put back, exception or not."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .quantized import float_forward, is_quantized

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()
frozen: set[int] = set()  # ids of parameters that are frozen just now


def lender(model: nn.Module) -> nn.Module:
    """The model that is lent: towers of an image–text model are made anew for each call, and share it."""
    name = getattr(type(model), "lends", None)
    return model if name is None else getattr(model, name)


class _Depth(threading.local):
    value = 0


_depth = _Depth()


def depth() -> int:
    """How many models this thread has borrowed, nested; a seam sees only what is done at its own depth."""
    return _depth.value


@contextmanager
def borrowed(model: nn.Module) -> Generator[None]:
    """Freeze a model's parameters, give it kernels the seam can see, and put everything back, exception or not.

    One thread borrows a model at a time. Switched inside: `requires_grad` of parameters; checkpointing, whose
    recomputation the seam would not see; attention packages that bypass torch functions (to SDPA); and the layers of
    quantised models (to floats).
    """
    with _locks_guard:
        lock = _locks.setdefault(lender(model), threading.RLock())
    with lock, ExitStack() as restore, torch.inference_mode(False):
        _depth.value += 1
        restore.callback(_leave)
        configs: dict[int, Any] = {}
        for module in model.modules():
            # Read what is set on the instance: asking a module for an attribute it lacks is slow.
            own = vars(module)
            for parameter in own["_parameters"].values():
                if parameter is not None and parameter.requires_grad:
                    parameter.requires_grad_(False)
                    restore.callback(_thaw, parameter)
                    frozen.add(id(parameter))
            for name in ("grad_checkpointing", "gradient_checkpointing"):
                if own.get(name, False):
                    setattr(module, name, False)
                    restore.callback(setattr, module, name, True)
            if is_quantized(module):
                # Inside what accelerate wrapped around it, where it did.
                name = "_old_forward" if "_old_forward" in own else "forward"
                restore.callback(_put_back, module, name, own.get(name))
                setattr(module, name, float_forward(module))
            compiled: Any = own.get("_compiled_call_impl")
            if compiled is not None:  # compiled in place: run it as it was written
                setattr(module, "_compiled_call_impl", None)  # noqa: B010
                restore.callback(setattr, module, "_compiled_call_impl", compiled)
            if own.get("config") is not None:
                configs[id(own["config"])] = own["config"]
        _switch_kernels(list(configs.values()), restore)
        for config in configs.values():
            if getattr(config, "use_cache", False):  # what it keeps is for generating
                config.use_cache = False
                restore.callback(setattr, config, "use_cache", True)
            experts = getattr(config, "_experts_implementation", None)
            if isinstance(experts, str) and experts != "eager":  # grouped kernels are no torch functions of their parts
                config._experts_implementation = "eager"
                restore.callback(setattr, config, "_experts_implementation", experts)
        yield


def _switch_kernels(configs: list[Any], restore: ExitStack) -> None:
    """Attention packages to SDPA; what a whole model's configuration is told, those of its parts are told too."""
    kernels = [(c, k) for c in configs if isinstance(k := getattr(c, "_attn_implementation", None), str)]
    if all(kernel in ("sdpa", "eager") for _, kernel in kernels):
        return
    for config, kernel in reversed(kernels):  # put back from the whole to its parts
        restore.callback(setattr, config, "_attn_implementation", kernel)
    for config, kernel in kernels:
        config._attn_implementation = kernel if kernel in ("sdpa", "eager") else "sdpa"


def _thaw(parameter: nn.Parameter) -> None:
    parameter.requires_grad_(True)
    frozen.discard(id(parameter))


def _put_back(module: nn.Module, name: str, value: Any) -> None:
    delattr(module, name)
    if value is not None:
        setattr(module, name, value)


def _leave() -> None:
    _depth.value -= 1
