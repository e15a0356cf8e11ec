"""A pass that writes attention out, in place of torch's kernel, which hides it, and keeps what a mix makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import BLOCK, Attention, FewRows, Mix, Mixed, softmax_rows
from .capture import Capture, Leaf
from .fused_attention import FusedAttention
from .readout import take
from .row_sparse import linear_of, rows_read


class MixedPass(Capture):
    """A pass that keeps `mix(A)` (batch, query, key) of the attention of some blocks, of those that no graph reaches.

    What a kernel hides would have to be computed a second time; so attention that fits is computed in the open, a few
    rows of the block `shown` by torch's kernel, too. Of masks that are added, in half precision, and of more numbers
    than are made at a time the pass keeps what `Capture` does. `reads`: the rows of the `last` block that the head
    reads, where it is enough that these are right; linear layers behind its attention then leave the others zero.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        batch: int,
        mix: Mix,
        *,
        keep: frozenset[int],
        last: int,
        reads: Sequence[int] | None = None,
        leaf: Leaf | None = None,
        shown: int | None = None,
    ) -> None:
        super().__init__(blocks, attentions, batch, keep=keep, leaf=leaf, probe_gradients=shown is not None)
        self._mix, self._last, self._few, self._shown = mix, last, reads, shown
        self._nothing: dict[Any, Tensor] = {}

    def place_hooks(self) -> None:
        super().place_hooks()
        if self._few is not None:
            self.watch(self._blocks[self._last], after=self._after_block)

    def _after_attention(self, output: Any) -> None:
        # The mode stays for the linear layers behind it.
        stays = self._sparse_after is not None or (self._few is not None and self._layer == self._last)
        self.forget()
        if not stays:
            self.switch_off()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is F.linear and self._few is not None and self._last in self.records:
            return self._linear(*args, **kwargs)
        return super().call(func, args, kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen = self.records[self._last].o
        return linear_of(input, weight, bias, rows_read(input, seen.shape[0], seen.shape[2], self._few))

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        c = FusedAttention(query, key, value, *args, **kwargs).for_all_heads()
        if not _is_open(c):
            return super()._sdpa(query, key, value, *args, **kwargs)
        rows = self._rows_of(query)
        A = softmax_rows(query, c.key, rows, scale=c.scale, mask=c.attn_mask, causal=c.is_causal)
        o = A @ c.value
        few = self._shown_of(c, rows, A, o) if self._layer == self._shown else None
        mixed = Mixed(self._mix, rows, self._mix(A), few)
        if isinstance(rows, Tensor):
            o = o.new_zeros(*query.shape[:3], o.shape[-1]).index_copy_(2, rows, o)
        o = self._maybe_leaf("o", o)
        kept = o if o.requires_grad else self._nothing_like(o)
        self._record(Attention(self._nothing_like(c.value), kept, "sdpa", mixed=mixed))
        return o

    def _shown_of(self, c: FusedAttention, rows: Tensor | slice, A: Tensor, o: Tensor) -> FewRows:
        if isinstance(rows, Tensor):
            return FewRows(rows, A, o, _by_kernel(c, rows))
        few = self._few_of(c.query.shape[2], c.query.device)
        return FewRows(few, take(A, few), take(o, few), _by_kernel(c, few))

    def _nothing_like(self, tensor: Tensor) -> Tensor:
        """A tensor of a shape that holds no numbers: NaN, so that a use of them is noticed."""
        key = tensor.shape, tensor.dtype, tensor.device
        if key not in self._nothing:
            self._nothing[key] = tensor.new_full((), torch.nan).expand(tensor.shape)
        return self._nothing[key]

    def _rows_of(self, query: Tensor) -> Tensor | slice:
        """The rows of the block at hand that are needed: of the last those that the head reads, where they are few."""
        if self._few is None or self._layer != self._last or 2 * len(self._few) > query.shape[2]:
            return slice(None)
        return torch.tensor(self._few, device=query.device)


def _is_open(c: FusedAttention) -> bool:
    """Whether attention may be written out: it fits, rounds as the kernel does, and is in no graph."""
    fits = c.query.ndim == 4 and c.query.shape[:-1].numel() * c.key.shape[-2] <= BLOCK
    plain = (c.attn_mask is None or c.attn_mask.dtype == torch.bool) and c.query.dtype.itemsize >= 4
    graph = c.query.requires_grad or c.key.requires_grad or c.value.requires_grad
    return fits and plain and not graph and not c.dropout_p


def _by_kernel(c: FusedAttention, rows: Tensor) -> Tensor:
    """Some rows of the output, by torch's own kernel."""
    mask = c.attn_mask
    if c.is_causal:
        mask = torch.arange(c.key.shape[-2], device=rows.device) <= rows[:, None]
    elif mask is not None and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    return F.scaled_dot_product_attention(take(c.query, rows), c.key, c.value, attn_mask=mask, scale=c.scale)
