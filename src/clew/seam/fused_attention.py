"""A call of `F.scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FusedAttention:
    """The arguments, in torch's order and with torch's names and defaults."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def for_all_heads(self, repeat: Callable[..., Any] = torch.repeat_interleave) -> FusedAttention:
        """The same call with keys and values repeated, where groups of heads share them."""
        more = self.query.shape[-3] // self.key.shape[-3] if self.enable_gqa else 1
        if more == 1:
            return replace(self, enable_gqa=False) if self.enable_gqa else self
        key, value = (repeat(t, more, dim=-3) for t in (self.key, self.value))
        return replace(self, key=key, value=value, enable_gqa=False)
