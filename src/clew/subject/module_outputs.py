"""What a module puts out, or gets, in a pass that is left there."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..seam import activation_at, original
from .input_errors import not_shown

# Whether blocks get (token, batch, width), by the first of them.
_token_first: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
# Patch grids by patch embedding and input shape.
_grids: WeakKeyDictionary[nn.Module, dict[torch.Size, tuple[int, int]]] = WeakKeyDictionary()


def grid(subject: Any) -> tuple[int, int]:
    """Patches down and across. Raises `CaptureError` where the embedding shows no grid."""
    bound, given = subject.bound, subject.given
    if bound.grid is not None:
        return bound.grid((given.shape[-2], given.shape[-1]))
    known, shape = _grids.setdefault(original(bound.patches), {}), given.shape[1:]
    if shape not in known:
        seen = _output_of(subject, bound.patches, torch.zeros(1, dtype=torch.long, device=given.device))
        if seen is None or seen.ndim != 4:
            raise not_shown("patch embedding", "a grid", "four axes: (batch, width, grid height, grid width)", seen)
        known[shape] = seen.shape[-2], seen.shape[-1]
    return known[shape]


def sequence(subject: Any, module: nn.Module) -> Tensor:
    """What an embedding puts out, (batch, token, width). Raises `CaptureError` where that is none."""
    seen = _output_of(subject, module, None)
    if seen is None or seen.ndim != 3:
        raise not_shown(f"embedding {type(module).__name__}", "a sequence", "three axes: (batch, token, width)", seen)
    return seen


def token_first(subject: Any, batch: int) -> bool:
    """Whether blocks get (token, batch, width), where a pass of `batch` examples cannot show it: seen on one."""
    if batch != subject.length:
        return False
    block, key = subject.bound.blocks[0], original(subject.bound.blocks[0])
    if key not in _token_first:
        one = torch.zeros(1, dtype=torch.long, device=subject.given.device)
        seen = _output_of(subject, block, one, entering=True)
        _token_first[key] = seen is not None and seen.ndim == 3 and seen.shape[0] != 1 == seen.shape[1]
    return _token_first[key]


def _output_of(subject: Any, module: nn.Module, rows: Tensor | None, *, entering: bool = False) -> Tensor | None:
    """Of all inputs, or of some `rows`."""

    def call() -> None:
        if rows is None or subject.bound.is_text:
            subject.forward(None, rows if rows is None else rows * subject.each)
        else:
            groups = (rows[:, None] * subject.each + torch.arange(subject.each, device=rows.device)).flatten()
            subject.forward(subject.x[groups], groups)

    with torch.no_grad():
        return activation_at(module, call, entering=entering)
