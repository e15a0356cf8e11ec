"""Ranges of blocks, and a block's own output projection and attention applied to other tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..models import BoundArchitecture
from ..shapes import Values
from .attention import Attention
from .capture import Capture


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


def project_by_head(
    bound: BoundArchitecture, layer: int, like: Values, *, autocast: torch.dtype | None = None
) -> Tensor:
    """`γ ⊙ W_O` by heads, (head, dim, width): what the block's own output projection makes of single entries of values
    like those, as in `project`."""
    _, heads, _, dim = like.shape
    units = torch.eye(heads * dim, dtype=like.dtype, device=like.device).unflatten(1, (heads, dim))
    return project(bound, layer, units.transpose(0, 1)[None], autocast=autocast)[0].unflatten(0, (heads, dim))


def value_bias(bound: BoundArchitecture, layer: int, seen: Attention, *, autocast: torch.dtype | None = None) -> Values:
    """What the attention of a block makes values of where it is called with zeros, and else as it was."""
    assert seen.call is not None
    args, kwargs = seen.call
    x = next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
    nothing = torch.zeros_like(x)

    def zeroed(value: Any) -> Any:
        return nothing if value is x else value

    module = bound.attentions[layer]
    seam = Capture([module], [module], seen.v.shape[0], keep=frozenset({0}))
    with torch.no_grad(), autocast_to(x, autocast), seam:
        module(*map(zeroed, args), **{name: zeroed(value) for name, value in kwargs.items()})
    return seam.records[0].v


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
