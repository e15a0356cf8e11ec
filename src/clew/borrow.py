"""Borrow a model: what has to change while it is explained changes here, and is put back, exception or not."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()
frozen: set[int] = set()  # ids of parameters that are frozen just now


@contextmanager
def borrowed(model: nn.Module) -> Generator[None]:
    """Freeze a model's parameters, give it kernels the seam can see, and put everything back, exception or not.

    One thread borrows a model at a time. Switched inside: `requires_grad` of parameters; checkpointing, whose
    recomputation the seam would not see; and attention packages that bypass torch functions (to SDPA).
    """
    with _locks_guard:
        lock = _locks.setdefault(model, threading.RLock())
    with lock, ExitStack() as restore, torch.inference_mode(False):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                restore.callback(parameter.requires_grad_, True)
                frozen.add(id(parameter))
                restore.callback(frozen.discard, id(parameter))
        for module in model.modules():
            for name in ("grad_checkpointing", "gradient_checkpointing"):
                if getattr(module, name, False):
                    setattr(module, name, False)
                    restore.callback(setattr, module, name, True)
            compiled: Any = getattr(module, "_compiled_call_impl", None)
            if compiled is not None:  # compiled in place: run it as it was written
                setattr(module, "_compiled_call_impl", None)  # noqa: B010
                restore.callback(setattr, module, "_compiled_call_impl", compiled)
        config: Any = getattr(model, "config", None)
        kernel = getattr(config, "_attn_implementation", None)
        if isinstance(kernel, str) and kernel not in ("sdpa", "eager"):
            config._attn_implementation = "sdpa"
            restore.callback(setattr, config, "_attn_implementation", kernel)
        yield
