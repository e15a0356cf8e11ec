"""What the layers of one block make of something else than they were given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .architectures import Bound
from .borrow import borrowed
from .capture import Attention, Capture
from .shapes import Values


def project(model: nn.Module, bound: Bound, layer: int, values: Values, *, bias: bool = False) -> Tensor:
    """`γ ⊙ (V W_O)` (batch, token, width) of values (batch, head, token, dim): what the block's own output projection
    makes of them, less what it makes of zeros (its bias), times LayerScale; with `bias` all that it makes."""
    projection, scale = bound.projections[layer], bound.scales[layer]
    merged = values.detach().transpose(1, 2).flatten(2)
    with torch.no_grad(), borrowed(model):
        if bias:
            return projection(merged)
        projected = projection(merged) - projection(torch.zeros_like(merged[:1, :1]))
        return projected if scale is None else scale(projected)


def attend(model: nn.Module, bound: Bound, layer: int, hidden: Tensor) -> Attention:
    """What the attention of a block computes, without a mask, of another input (batch, token, width), normed first."""
    module, norm = bound.attentions[layer], bound.norms[layer]
    seam = Capture([module], [module], len(hidden), keep=frozenset({0}))
    with torch.no_grad(), borrowed(model):
        x = hidden if norm is None else norm(hidden)
        with seam:
            module(*[x] * (3 if isinstance(module, nn.MultiheadAttention) else 1))
    return seam.records[0]
