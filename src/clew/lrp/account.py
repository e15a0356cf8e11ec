"""The relevance of a score, where it went, and the account of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..shapes import Outputs, Pixels, Scores, at_least_float32
from ..subject import Trace
from .ledger import ByToken, Flow, Leak, OperationRule
from .residual import ResidualSums
from .special_modules import PositionalRelevance

# Above this, rounding of float32 sums may be seen in a heatmap.
_ILL = 1e-3


@dataclass(frozen=True)
class Relevance:
    """Where the relevance of a score went. Vectors are (batch, token, width); sums over tokens and width conserve.

    `semantic` is what the content of each token got (patches; for prefix tokens their embedding), `position` what its
    positional encoding got, `entering` both together before they were told apart. `channels` (batch, channel, height,
    width) on the level of pixels. `total` is what was handed out at the output, `flow` what was left at each stage from
    input to output, `entries` what each operation leaked. `attention[l]`: `A_l ⊙ (S Vᵀ)` is the relevance of attention
    `A_l`. `inner` is what positional encodings inside the blocks got: rotary tables, biases of attention. `asked` are
    the rules as they were asked for, `dtype` is the shortest that was computed in; `at_leaf` (batch, patch) is input
    times gradient where relevance ends, by autograd. `trace` is what was asked to be kept of the pass, `gradients` of
    each attention in it what `∂score/∂o` is under the rules.
    """

    rules: str
    prefix: int
    total: Tensor
    semantic: Tensor
    position: Tensor
    entering: Tensor
    channels: Tensor | None
    flow: Mapping[str, Flow]
    entries: list[Leak]
    met: Mapping[OperationRule, int]
    attention: Mapping[int, Tensor]
    inner: PositionalRelevance
    depth: int
    dtype: torch.dtype
    asked: str | Mapping[str, Any] = ""
    at_leaf: Tensor | None = None
    sums: ResidualSums | None = None
    by_token: ByToken | None = None
    gradients: Mapping[int, Outputs] = field(default_factory=dict[int, Outputs])
    trace: Trace | None = None

    @property
    def pixels(self) -> Pixels | None:
        """What pixels got, channels together."""
        return None if self.channels is None else self.channels.sum(1)

    def by_layer(self) -> Tensor | None:
        """Relevance of positions inside the blocks, signed, (batch, layer, token); None where there are none."""
        tables, biases = self.inner.relevance, self.inner.biases
        if not tables and not biases:
            return None
        layers: list[Tensor] = []
        for layer in range(self.depth):
            parts = [at_least_float32(R).sum(-1) for (l, _), R in tables.items() if l == layer]
            parts += [at_least_float32(biases[layer][0])] if layer in biases else []
            layers.append(sum(parts[1:], parts[0]).to(self.total.device) if parts else self.semantic.new_zeros(()))
        shape = next(t for t in layers if t.ndim).shape
        return torch.stack([t.to(self.total.dtype).expand(shape) for t in layers], 1)

    def leaks(self) -> dict[str, Tensor]:
        """Relevance that was not handed on, by cause, each summed from its own operations: (batch,) each."""
        causes: dict[str, Tensor] = {}
        for entry in self.entries:
            values = entry.values.to(self.total.dtype)
            causes[entry.cause] = causes[entry.cause] + values if entry.cause in causes else values
        return causes

    def account(self, part: str) -> dict[str, Tensor]:
        """What became of `total`: `relevance` in the result, each `leak_…` by cause, and `unexplained`, the rest.

        What a result leaves out counts as a leak too: `leak_position`, `leak_semantic`, `leak_prefix`.
        """
        leaks = {f"leak_{cause}": values for cause, values in self.leaks().items()}
        semantic, position = ({"prefix": v[:, : self.prefix], "patches": v[:, self.prefix :]} for v in self._both())
        kept = torch.zeros_like(self.total)
        inner = self.by_layer()
        inside = torch.zeros_like(kept) if inner is None else inner.flatten(1).sum(1)
        for name, vectors, wanted in (
            ("semantic", semantic, part in ("all", "semantic")),
            ("position", position, part in ("all", "position")),
        ):
            sums = {place: v.flatten(1).sum(1).to(self.total.dtype) for place, v in vectors.items()}
            if self.pixels is not None and name == "semantic":
                sums["patches"] = self.pixels.flatten(1).sum(1).to(self.total.dtype)
            if name == "position":
                sums["patches"] = sums["patches"] + inside
            if not wanted:
                leaks[f"leak_{name}"] = sums["patches"] + sums["prefix"]
            elif self.pixels is not None:  # prefix tokens have no pixels
                kept = kept + sums["patches"]
                leaks["leak_prefix"] = leaks.get("leak_prefix", 0) + sums["prefix"]
            else:
                kept = kept + sums["patches"] + sums["prefix"]
        unexplained = self.total - kept - sum(leaks.values(), torch.zeros_like(kept))
        return {"explained": self.total, "relevance": kept, **leaks, "unexplained": unexplained}

    def _both(self) -> tuple[Tensor, Tensor]:
        return at_least_float32(self.semantic), at_least_float32(self.position)

    def stages(self) -> dict[str, Tensor]:
        """Sums of relevance, (batch,) each, from the input to the output: parts of the input, then what enters each
        block, what leaves the last, and the head's norm, pooled tokens and classifier as far as there are any."""
        parts = {} if self.pixels is None else {"pixels": self.pixels.flatten(1).sum(1)}
        inner, position = self.by_layer(), at_least_float32(self.position).flatten(1).sum(1)
        position = position if inner is None else position + inner.flatten(1).sum(1).to(position)
        parts |= {"position": position, "semantic": at_least_float32(self.semantic).flatten(1).sum(1)}
        return {k: at_least_float32(v).to(self.total.dtype) for k, v in parts.items()} | {
            k: f.total for k, f in self.flow.items()
        }

    def conditioning(self) -> Tensor:
        """Rounding of sums against the total: unit round-off × largest `Σ|R|` of a stage / `|total|`, (batch,)."""
        largest = torch.stack([f.size for f in self.flow.values()]).amax(0)
        return torch.finfo(self.dtype).eps * largest / self.total.abs()

    def checks(self, part: str) -> dict[str, Any]:
        """The account, relevance by stage, and a word of advice where the numbers are not to be trusted."""
        found: dict[str, Any] = dict(self.account(part))
        stages = self.stages()
        found["relevance_by_stage"] = torch.stack(list(stages.values()), 1)
        found["stages"] = ", ".join(stages)
        found["conditioning"] = conditioning = self.conditioning()
        finite = all(bool(v.isfinite().all()) for v in (self.semantic, self.position, found["unexplained"]))
        if not finite or bool((conditioning > _ILL).any()):
            found["advice"] = (
                f"relevance is {'ill-conditioned' if finite else 'not finite'} in {self.dtype} under these "
                "rules: explain again with compute_dtype=torch.float64"
            )
        return found


def reduced(vectors: Tensor, reduction: str) -> Scores:
    """Relevance vectors as one number per token: their "sum", which conserves, or their "l2" norm, without a sign."""
    vectors = at_least_float32(vectors)
    return vectors.sum(-1) if reduction == "sum" else vectors.norm(dim=-1)
