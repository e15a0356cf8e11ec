"""Ranges of blocks, and a block's own output projection and attention applied to other tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..models import BoundArchitecture
from ..shapes import Values
from .capture import Attention, Capture


def layers_from(start_layer: int | None, default: int, depth: int, last: int) -> range:
    """Layers `start_layer` (counted from 0) to the `last`. Raises `OptionError` when out of range."""
    start: Any = default if start_layer is None else start_layer
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start < depth:
        raise OptionError(
            "start_layer is out of range",
            expected=f"0 to {depth - 1}, for this model's {depth} blocks (counted from 0)",
            got=repr(start),
            todo="leave it out for the default of the method",
        )
    return range(start, last + 1)


def project(
    bound: BoundArchitecture, layer: int, values: Values, *, bias: bool = False, autocast: torch.dtype | None = None
) -> Tensor:
    """`γ ⊙ (V W_O)` (batch, token, width) of values (batch, head, token, dim): what the block's own output projection
    makes of them, less what it makes of zeros (its bias), times LayerScale; with `bias` all that it makes. `autocast`
    is the dtype of products, where the model's own pass was seen to make them in a shorter one."""
    projection, scale = bound.projections[layer], bound.scales[layer]
    merged = values.detach().transpose(1, 2).flatten(2)
    with torch.no_grad(), autocast_to(values, autocast):
        if bias:
            return projection(merged)
        projected = projection(merged) - projection(torch.zeros_like(merged[:1, :1]))
        return projected if scale is None else scale(projected)


def attend(bound: BoundArchitecture, layer: int, hidden: Tensor, *, autocast: torch.dtype | None = None) -> Attention:
    """What the attention of a block computes, without a mask, of another input (batch, token, width), normed first."""
    module, norm = bound.attentions[layer], bound.norms[layer]
    seam = Capture([module], [module], len(hidden), keep=frozenset({0}))
    with torch.no_grad(), autocast_to(hidden, autocast):
        x = hidden if norm is None else norm(hidden)
        with seam:
            module(*[x] * (3 if isinstance(module, nn.MultiheadAttention) else 1))
    return seam.records[0]


def autocast_to(like: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Around layers of a model whose own pass was seen to make products in a shorter dtype, if it was."""
    return nullcontext() if dtype is None else torch.autocast(like.device.type, dtype)
