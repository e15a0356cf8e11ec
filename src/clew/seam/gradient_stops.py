"""Finds the module at which gradients stop, for the error about a model that computes under `torch.no_grad()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError


def no_gradient_error(model: nn.Module, call: Callable[[], Any]) -> CaptureError:
    """The error for a score that no gradient leads to, with the module where it stops, seen in one more pass: `call`
    calls `model`, a twin, with an input that asks for its gradient."""
    name = _stop(model, call)
    return CaptureError(
        f"no gradient comes from the score: {name}",
        expected="a model that computes its output from its input in one graph",
        got="an output without a gradient",
        todo="leave torch.no_grad(), torch.inference_mode() and detach() out of the model's forward (weights are kept "
        "out of the graph anyway), or take a method without gradients, such as attention_rollout",
    )


def _stop(model: nn.Module, call: Callable[[], Any]) -> str:
    inside: list[nn.Module] = []  # modules that the pass is in and that gradients came into
    off: list[nn.Module] = []  # modules that were called without gradients, the outermost first
    stops: list[nn.Module] = []  # modules that gradients enter and do not leave, the innermost first

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            off.append(module)
        elif any(_asks(value) for value in (*args, *kwargs.values())):
            inside.append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if inside and inside[-1] is module:
            inside.pop()
            if not _asks(output):
                stops.append(module)

    for module in model.modules():
        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave)
    with torch.enable_grad():
        call()
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    if off:
        return f"{names[id(off[0])]!r} is called under torch.no_grad() or torch.inference_mode()"
    if stops:
        return f"it stops inside {names[id(stops[0])]!r}, where a tensor is detached"
    return "the score does not depend on the model's input"


def _asks(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(_asks(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(_asks(v) for v in value)
