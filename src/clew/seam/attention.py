"""What a pass keeps of attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import CaptureError
from ..shapes import Attn, Hidden, Keys, Outputs, Queries, Values, at_least_float32
from .readout import Rows, take

Mix = Callable[..., Tensor]

# Numbers of attention that are made at a time: 2**23 in float32 are 32 MB.
BLOCK = 2**23


def few_of(queries: int, device: torch.device) -> Tensor:
    """The numbers of the few rows by which an attention is verified."""
    return torch.tensor(sorted({0, queries // 3, 2 * queries // 3, queries - 1}), device=device)


@dataclass(frozen=True)
class FewRows:
    """A few `rows` of an attention that was written out: its probabilities, its output, and that of torch's kernel."""

    rows: Tensor
    A: Attn
    o: Outputs
    by_kernel: Outputs


@dataclass(frozen=True)
class Mixed:
    """What is kept of an attention that was written out in the pass: what `mix` made of the probabilities of `rows`,
    `maps` (batch, row, key), and, to verify these by, a `few` of them."""

    mix: Mix
    rows: Rows
    maps: Tensor
    few: FewRows | None

    def repeated(self, each: int) -> Mixed:
        """The same with every example so often."""
        return replace(self, maps=self.maps.repeat_interleave(each, 0))


@dataclass
class GradientProbe:
    """What autograd itself said of `∂score/∂o`, seen by a hook: at a few `rows` (row,), (batch, head, row, dim) for
    each backward pass; and of the `last` attention which rows it `reached` at all, (batch, query) each."""

    rows: Tensor
    last: bool
    at_rows: list[Tensor] = field(default_factory=list[Tensor])
    reached: list[Tensor] = field(default_factory=list[Tensor])

    def record(self, g: Tensor) -> None:
        """A gradient that comes by."""
        self.at_rows.append(g.detach()[:, :, self.rows.to(g.device)])
        if self.last:
            self.reached.append(g.detach().abs().amax((1, 3)) > 0)


@dataclass
class Attention:
    """What the seam saw of one attention call; `v` and `o` are nodes of the graph where there is one, and so are the
    block's `output` and, where the graph starts at one, its input `hidden`. `beside` is what a block returns beside its
    output, `token_first` whether that is (token, batch, width). `call` is what the attention module was called with,
    where the block's input is kept. Where only a mix of the attention was kept, it is `mixed`, and `v` and `o` have
    their shapes, but no numbers (NaN)."""

    v: Values
    o: Outputs
    backend: Literal["sdpa", "eager"]
    q: Queries | None = None
    k: Keys | None = None
    scale: float | None = None
    mask: Tensor | None = None
    causal: bool = False
    probs: Attn | None = None
    hidden: Hidden | None = None
    output: Hidden | None = None
    beside: tuple[Any, ...] | None = None
    token_first: bool = False
    gradient_probe: GradientProbe | None = None
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    mixed: Mixed | None = None

    def repeated(self, each: int) -> Attention:
        """The same attention with every example so often, without a graph."""

        def more(t: Tensor | None) -> Any:
            # A mask of one entry broadcasts.
            if t is None or t.ndim < 4 or t.shape[0] == 1 != self.v.shape[0]:
                return t
            return t.detach().repeat_interleave(each, 0)

        tensors = {name: more(getattr(self, name)) for name in ("v", "o", "q", "k", "mask", "probs")}
        for name in ("hidden", "output"):
            value: Tensor | None = getattr(self, name)
            tensors[name] = None if value is None else value.detach().repeat_interleave(each, 0)
        return replace(self, **tensors, mixed=None if self.mixed is None else self.mixed.repeated(each))

    @torch.no_grad()
    def probabilities(self, rows: Rows = slice(None)) -> Attn:
        """`A[:, :, rows]`, softmax over keys: as the model computed it, or again from `q` and `k` (SDPA).

        `rows` are a slice, the same numbers for all examples (row,), or numbers for each (batch, row).
        """
        if self.probs is not None:
            return take(self.probs.detach(), rows)
        if self.q is None or self.k is None:
            raise CaptureError(
                "of this attention only what a mix makes of it was kept",
                expected="the mix that the pass was asked to keep",
                todo="run the pass without `mix`, or give the same function to `chain`",
            )
        mask = None if self.mask is None else self.mask.detach()
        return softmax_rows(self.q.detach(), self.k.detach(), rows, scale=self.scale, mask=mask, causal=self.causal)

    def attention_gradient(self, g_o: Tensor, rows: Rows = slice(None)) -> Attn:
        """`∂score/∂A[:, :, rows] = g_O Vᵀ`, exact for `O = A V`, from `g_O = ∂score/∂O`."""
        return at_least_float32(take(g_o, rows)) @ at_least_float32(self.v.detach()).mT


def softmax_rows(q: Queries, k: Keys, rows: Rows, *, scale: float | None, mask: Tensor | None, causal: bool) -> Tensor:
    """`softmax(q kᵀ · scale + mask)[:, :, rows]` (batch, head, row, key), in float32 or more; `scale`: or `1/√dim`."""
    queries, keys = q.shape[-2], k.shape[-2]
    # In half precision the product itself would round, and could overflow.
    q, k = at_least_float32(take(q, rows)), at_least_float32(k)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if q.shape[:2] == k.shape[:2]:  # the factor costs no pass of its own; what is added to is not read
        pairs = q.flatten(0, 1), k.flatten(0, 1).mT
        logits = torch.baddbmm(q.new_empty(1, 1, 1), *pairs, beta=0, alpha=scale).view(*q.shape[:3], keys)
    else:
        logits = (q * scale) @ k.mT
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
        mask = take(mask.expand(len(q) if isinstance(rows, Tensor) else -1, -1, queries, keys), rows)
        if mask.dtype == torch.bool:  # a query that sees nothing gets nothing, as from torch's own kernels
            A = logits.masked_fill(~mask, -math.inf).softmax(-1)
            return A.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        logits = logits + mask
    if causal:
        places = torch.arange(queries, device=q.device)[rows]
        later = torch.arange(keys, device=q.device) > places[..., None]
        logits.masked_fill_(later[:, None] if later.ndim == 3 else later, -math.inf)
    return logits.softmax(-1)
