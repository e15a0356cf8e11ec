"""A pass for the gradient of the input alone, which leaves out what the head does not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CaptureError
from ..models import BoundArchitecture
from .attention import Attention
from .capture import Capture
from .fused_attention import FusedAttention
from .patch_convolution import patch_convolution


class SparsePass(Capture):
    """A pass of which the rows that the head `reads` of the last block are right, and the gradient of the input.

    Behind the last attention only these are computed (all for None), and a convolution of patches is pulled back by a
    matrix product. Where attention is not understood everything is computed.
    """

    def __init__(self, bound: BoundArchitecture, batch: int, reads: Sequence[int] | None) -> None:
        keep = frozenset[int]() if reads is None else frozenset({bound.last})
        super().__init__(bound.blocks, bound.attentions, batch, keep=keep, reads=reads)
        self._patches = None if bound.is_text else bound.patches

    def place_hooks(self) -> None:
        super().place_hooks()
        if self._patches is not None:
            self.watch(
                self._patches, before=lambda args, kwargs: self.switch_on(), after=lambda output: self.switch_off()
            )

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.conv2d:
            return patch_convolution(*args, **kwargs)
        return super().call(func, args, kwargs)

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attention of the queries that are read, where none is masked."""
        c = FusedAttention(query, key, value, *args, **kwargs)
        masked = c.attn_mask is not None or c.is_causal
        if masked or self._reads is None or 2 * len(self._reads) > query.shape[2]:
            return super()._sdpa(query, key, value, *args, **kwargs)
        rows = torch.tensor(self._reads, device=query.device)
        few = F.scaled_dot_product_attention(query[:, :, rows], key, value, *args, **kwargs)
        output = few.new_zeros(*query.shape[:3], value.shape[-1]).index_copy(2, rows, few)
        self._record(Attention(output, output, "sdpa"))  # of which the shape of the output is asked for
        return output

    def _record(self, attention: Attention) -> None:
        try:
            super()._record(attention)
        except CaptureError:
            self._sparse_after = None
