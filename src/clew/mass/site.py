"""An attention call that was found while a model ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..seam import BLOCK, Attention
from ..shapes import at_least_float32
from ..subject import Discrepancy, tolerance


@dataclass(frozen=True)
class Seen:
    """What an attention was made of: `probs`, or `q`, `k`, `mask` and what the kernel was told."""

    probs: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    scale: float | None = None
    mask: Tensor | None = None
    causal: bool = False


@dataclass(eq=False)
class Site:
    """One attention call: its `number` in the order of the pass, the `module` it was made in, its values `v` (…, head,
    key, dim) and output `o` (…, head, query, dim), all sites that its queries, keys and values are made of (`behind`),
    `∂score/∂o` once a `gradient` came by, and the mass that was `asked` of it, for each query (…, head, query)."""

    number: int
    module: str
    seen: Seen
    v: Tensor
    o: Tensor
    order: int
    behind: frozenset[Site] = frozenset()
    gradient: Tensor | None = None
    asked: Tensor | None = None

    def __post_init__(self) -> None:
        last = self.o.shape[-2] - 1
        self._rows = torch.tensor(sorted({0, last // 3, 2 * last // 3, last}), device=self.o.device)
        self._few = self.o[..., self._rows, :].clone()  # models may go on to add to their output in place

    @property
    def reached(self) -> bool:
        """Whether mass came to it."""
        return self.asked is not None

    def gave(self, shape: torch.Size, ends: Tensor) -> bool:
        """Whether an output of this shape, with these first and last rows, is its output, up to rounding."""
        if self.o.shape != shape:
            return False
        own, size = self._few[..., [0, -1], :], tolerance(self.o.dtype, ends.dtype)
        return float((own - ends.to(own)).abs().amax()) <= size * float(own.abs().amax())

    def blocks(self) -> Iterator[slice]:
        """Rows of queries, some at a time, so that no whole map is kept."""
        queries = self.o.shape[-2]
        step = max(1, BLOCK // max(1, self.o.shape[:-2].numel() * self.v.shape[-2]))
        for first in range(0, queries, step):
            yield slice(first, first + step)

    def probabilities(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """`A` (…, head, query, key) of some queries."""
        a = self.seen
        if a.probs is not None:
            return a.probs[..., rows, :]
        assert a.q is not None and a.k is not None
        mask = a.mask
        if mask is not None and a.q.ndim != 4:
            mask = mask.expand(*a.q.shape[:-1], a.k.shape[-2])
        lead = self.o.shape[:-2]  # keys may be shared by all heads
        k, v = (t.expand(*lead, *t.shape[-2:]) for t in (a.k, self.v))
        parts: dict[str, Any] = {"v": v, "o": self.o, "q": a.q, "k": k, "mask": mask}
        if a.q.ndim != 4:  # heads on the axis of examples, or windows beside it
            parts = {name: None if t is None else t.reshape(-1, 1, *t.shape[-2:]) for name, t in parts.items()}
        found = Attention(**parts, backend="sdpa", scale=a.scale, causal=a.causal).probabilities(rows)
        return found.reshape(*a.q.shape[:-2], *found.shape[-2:])

    def measured(self) -> Discrepancy:
        """`A V` of a few queries that something is asked of, against what the model's own kernel made of them."""
        assert self.asked is not None
        matters = self.asked[..., self._rows].ne(0)[..., None]  # of padding nothing is asked
        o, v = at_least_float32(self._few), at_least_float32(self.v)
        found = self.probabilities(self._rows).to(v) @ v
        words = f"attention in {self.module} times its values, against what the model made of them"
        size = tolerance(self.o.dtype)
        return Discrepancy.of("attention", o.where(matters, 0.0), found.where(matters, 0.0), words, allowed=size)

    def attention_gradient(self, rows: slice = slice(None)) -> Tensor:
        """`∂score/∂A = (∂score/∂o) Vᵀ` of some queries; 0 where the score does not depend on this attention."""
        if self.gradient is None:
            nothing = at_least_float32(self.o.new_zeros(()))
            return nothing.expand(*self.o.shape[:-1], self.v.shape[-2])[..., rows, :]
        return at_least_float32(self.gradient[..., rows, :]) @ at_least_float32(self.v).mT
