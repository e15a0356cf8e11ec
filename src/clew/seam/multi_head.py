"""`nn.MultiheadAttention` in steps that the seam sees; torch's own call hides them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CaptureError
from .twin import wanted_gradient

_packed: Callable[..., list[Tensor]] = getattr(F, "_in_projection_packed")  # noqa: B009
_MHA_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


def multi_head_attention(*args: Any, batch_first: bool = False, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward` in steps that the seam sees; the same operations in the same order.

    `batch_first` makes them on (batch, token, width), for those who need examples first; the result is as ever.
    """
    bound = _MHA_SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    a: Mapping[str, Any] = bound.arguments
    query: Tensor = a["query"]
    unusual = [name for name in ("bias_k", "bias_v", "static_k", "static_v") if a[name] is not None]
    if unusual or a["add_zero_attn"] or query.ndim != 3:
        raise CaptureError(
            "this nn.MultiheadAttention adds keys of its own, or its input has no batch axis",
            expected="bias_k, bias_v, static_k, static_v unused, add_zero_attn=False, a three-axis input",
            got=", ".join(unusual) or f"add_zero_attn={a['add_zero_attn']}, input {tuple(query.shape)}",
            todo="build the module without them",
        )
    inputs: list[Tensor] = [query, a["key"], a["value"]]
    if batch_first:
        same = a["key"] is query and a["value"] is query  # one packed product, as torch makes it
        query = query.transpose(0, 1)
        inputs = [query] * 3 if same else [t.transpose(0, 1) for t in inputs]
    # Rules tell tensors that depend on the input by asking for a gradient: weights must not.
    as_found: Callable[[Tensor], Tensor] = Tensor.detach if batch_first else _as_found
    with torch.set_grad_enabled(torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        if a["use_separate_proj_weight"]:
            weights = [as_found(a[f"{name}_proj_weight"]) for name in "qkv"]
            biases = a["in_proj_bias"].chunk(3) if a["in_proj_bias"] is not None else [None] * 3
            projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
        else:
            projected = _packed(*inputs, as_found(a["in_proj_weight"]), a["in_proj_bias"])
    heads: int = a["num_heads"]
    length, batch, width = query.shape
    if batch_first:
        length, batch = batch, length
        q, k, v = (t.unflatten(-1, (heads, width // heads)).transpose(1, 2) for t in projected)
    else:  # (token, batch, width) -> (batch, head, token, dim)
        q, k, v = (t.view(t.shape[0], batch * heads, width // heads).transpose(0, 1) for t in projected)
        q, k, v = (t.view(batch, heads, t.shape[1], t.shape[2]) for t in (q, k, v))

    causal = a["is_causal"] and a["key_padding_mask"] is None and not a["need_weights"]
    mask = None if causal else _merge_masks(a["attn_mask"], a["key_padding_mask"], batch, heads, q.dtype)
    dropout = a["dropout_p"] if a["training"] else 0.0
    probs: Tensor | None = None
    if a["need_weights"]:
        logits = (q * math.sqrt(1.0 / q.shape[-1])) @ k.mT
        probs = F.dropout(F.softmax(logits if mask is None else mask + logits, dim=-1), dropout)
        output = probs @ v
        probs = probs.mean(1) if a["average_attn_weights"] else probs
    else:
        output = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    if batch_first:
        merged = output.transpose(1, 2).flatten(2)
        return F.linear(merged, a["out_proj_weight"], a["out_proj_bias"]).transpose(0, 1), probs
    merged = output.permute(2, 0, 1, 3).contiguous().view(batch * length, width)
    result = F.linear(merged, a["out_proj_weight"], a["out_proj_bias"])
    return result.view(length, batch, result.shape[1]), probs


def _as_found(weight: Tensor) -> Tensor:
    """A weight that asks for its gradient if the model's own does.

    On inputs that are not contiguous, whether it asks decides how torch folds the matrix product, and so the last bit.
    """
    return weight.detach().requires_grad_() if wanted_gradient(weight) else weight


def _merge_masks(
    attn_mask: Tensor | None, padding: Tensor | None, batch: int, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """One additive mask that broadcasts to (batch, head, query, key), or none. In `nn` masks, True means masked."""
    merged: Tensor | None = None
    if attn_mask is not None:
        shape = (1, 1, *attn_mask.shape) if attn_mask.ndim == 2 else (batch, heads, *attn_mask.shape[-2:])
        merged = _additive(attn_mask, dtype).view(shape)
    if padding is not None:
        columns = _additive(padding, dtype).view(batch, 1, 1, -1)
        merged = columns if merged is None else merged + columns
    return merged


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -math.inf)
