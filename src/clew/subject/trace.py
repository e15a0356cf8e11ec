"""The trace of one forward pass: attention and values of the requested blocks, the score, and `chain`.

Most attention methods are made of `chain`, which multiplies readout rows by `I + C_l`, a block of queries at a time, so
that no n × n map outlives the block of queries it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from ..models import BoundArchitecture
from ..seam import BLOCK, Attention, Mix, ReadoutRows
from ..shapes import Attn, Outputs, Pixels, QueryRows, Rows, Scores, at_least_float32


@dataclass
class Trace:
    """What one forward pass left: `layers` (attention by layer number), the model's `output`, the `score` (batch,).

    `reader` tells which rows of a layer the head reads, `mask` (batch, token) which tokens are no padding, `length` how
    many tokens enter the blocks. Where `each` input has several targets, `layers` hold every input once, `trace[layer]`
    and all else once for each target.
    """

    bound: BoundArchitecture
    layers: dict[int, Attention]
    output: Any
    score: Tensor
    reader: Callable[[int, Tensor], ReadoutRows]
    mask: Tensor | None = None
    each: int = 1
    length: int = 0
    normalized: bool = field(default=False, init=False)  # whether a chain divided rows by their sums
    _repeated: dict[int, Attention] = field(default_factory=dict[int, Attention], init=False)

    def __getitem__(self, layer: int) -> Attention:
        if self.each == 1:
            return self.layers[layer]
        if layer not in self._repeated:
            self._repeated[layer] = self.layers[layer].repeated(self.each)
        return self._repeated[layer]

    @property
    def tokens(self) -> int:
        """Length of the sequence, prefix tokens included."""
        layer = next(reversed(self.layers))
        return self.layers[layer].v.shape[2] + (self.bound.prefix if self._pool_skips_prefix(layer) else 0)

    def _pool_skips_prefix(self, layer: int) -> bool:
        """Whether an attention pool was given the patches alone, as its keys show."""
        pool = self.bound.pooled and layer == self.bound.last
        return pool and self.layers[layer].v.shape[2] + self.bound.prefix == self.length

    def gradients(
        self, wanted: Iterable[tuple[int, str]], *, of: Tensor | None = None
    ) -> dict[tuple[int, str], Tensor]:
        """`∂score/∂v`, `∂score/∂o`, or of what enters or leaves a block `∂score/∂hidden` or `∂score/∂output`, for some
        (layer, name): in one backward pass for each target of an input.

        `of`: gradients of other scores over the same graph, which stays; they say nothing of what the score reads.
        """
        names = list(wanted)
        tensors: list[Tensor] = [getattr(self.layers[layer], name) for layer, name in names]
        probe = self.layers[last].gradient_probe if (last := self.bound.last) in self.layers else None
        with torch.enable_grad():
            if of is None:
                return dict(zip(names, gradients_of(self.score, tensors, self.each), strict=True))
            reached = [] if probe is None else list(probe.reached)
            found = dict(zip(names, gradients_of(of, tensors, self.each, retain=True), strict=True))
        if probe is not None:
            probe.reached[:] = reached
        return found

    # Readout

    def mean_token(self, states: Tensor) -> Tensor:
        """The mean of each input's tokens that are no padding, in place of all: (input, token, width), in the graph."""
        if self.mask is None:
            return states.mean(1, keepdim=True).expand_as(states)
        real = self.mask[:: self.each, :, None].to(states)
        return ((states * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)).expand_as(states)

    def read(self, layer: int | None = None) -> ReadoutRows:
        """Query rows of an attention (default: the last) that the head reads, and their weights."""
        layer = self.bound.last if layer is None else layer
        return self.reader(layer, self[layer].o)

    def start(self, *, separate: bool = False) -> QueryRows:
        """The readout as rows over the last attention's queries: one weighted row, or every row by itself."""
        return self.read().start(self.layers[self.bound.last].o.shape[2], separate=separate)

    def real_keys(self, layer: int) -> Tensor | None:
        """Which keys of a layer are no padding, (batch, key); None where all are real."""
        return None if self.mask is None else self.mask.to(self.layers[layer].v.device)

    def over_tokens(self, maps: Tensor, layer: int) -> Tensor:
        """Keys of a layer as tokens of the sequence: pooling may leave prefix tokens out, whose share is then 0."""
        if self._pool_skips_prefix(layer):
            return nn.functional.pad(maps, (self.bound.prefix, 0))
        return maps

    def attended(self, layer: int, weights: Rows) -> Tensor:
        """`Σ_i w_i A_l[h, i, j]` for rows of weights of the queries, each input once: (input, head, row, key)."""
        attention = self.layers[layer]
        per_row = attention.v.shape[0] * attention.v.shape[1] * attention.v.shape[2]
        found = weights.new_zeros(*attention.v.shape[:2], weights.shape[1], attention.v.shape[2])
        for rows in _reached(weights, max(1, BLOCK // per_row)):
            A = attention.probabilities(_on(rows, attention.v)).to(weights)
            found += torch.einsum("brq,bhqk->bhrk", weights[..., rows], A)
        return found

    def received(self, layer: int, mix: Mix, *, gradient: Outputs | Sequence[Outputs] = ()) -> Scores:
        """`mean_i C_l[i, j]`: what tokens get from the queries `i` of a layer that are no padding, `C_l` as in `chain`.

        Of an attention pool from those that are read.
        """
        if self.bound.pooled and layer == self.bound.last:
            r = self.start()
        else:
            real, like = self.real_keys(layer), at_least_float32(self[layer].o.detach())
            r = like.new_ones(like.shape[0], 1, like.shape[2]) if real is None else real[:, None].to(like)
            r = r / r.sum(-1, keepdim=True)
        found = [r[..., rows] @ C for rows, C in self._mixed(r, layer, mix, gradient)]
        return self.over_tokens(sum(found[1:], found[0]), layer).squeeze(1)

    def chain(
        self,
        r: QueryRows,
        layer: int,
        mix: Mix,
        *,
        gradient: Outputs | Sequence[Outputs] = (),
        normalize: bool = False,
        kept: Scores | None = None,
    ) -> Rows:
        """`r (I + C_l)`, with `C_l = mix(A)`, or `mix(A, ∂score/∂A, …)` where gradients of `o` are given.

        `mix` maps a block of query rows `(batch, head, query, key)` to `(batch, query, key)`. `normalize` divides each
        row of `I + C_l` by its sum. `kept` (batch, token) is what the diagonal has in place of `I`. An attention pool
        has no residual, so there it is `r C_l`.
        """
        self.normalized |= normalize
        attention = self[layer]
        pool = self.bound.pooled and layer == self.bound.last
        out = r.new_zeros(*r.shape[:2], attention.v.shape[2])
        for rows, C in self._mixed(r, layer, mix, gradient):
            weight, here = r[..., rows], 1.0 if kept is None else kept.to(r)[:, None, rows]
            if normalize:
                sums = C.sum(-1)[:, None]
                sums = sums if pool else sums + here
                weight = (weight / sums).masked_fill_(sums == 0, 0.0)
            out = torch.baddbmm(out, weight, C)
            if pool:
                continue
            stays = weight if kept is None else weight * here
            if isinstance(rows, slice):
                out[..., rows].add_(stays)
            else:
                out.index_add_(-1, rows, stays)
        return self.over_tokens(out, layer)

    def _mixed(
        self, r: QueryRows, layer: int, mix: Mix, gradient: Outputs | Sequence[Outputs]
    ) -> Iterable[tuple[slice | Tensor, Tensor]]:
        """`C_l` for the queries that `r` reaches, a block of them at a time; as the pass kept it, where it did."""
        attention = self[layer]
        if attention.mixed is not None and attention.mixed.mix is mix and not len(gradient):
            yield _kept_for(r, _on(attention.mixed.rows, r)), attention.mixed.maps.to(r)
            return
        gradients = [gradient] if isinstance(gradient, Tensor) else list(gradient)
        per_row = attention.v.shape[0] * attention.v.shape[1] * attention.v.shape[2]
        for rows in _reached(r, max(1, BLOCK // per_row)):
            A = attention.probabilities(_on(rows, attention.v)).to(r.dtype)
            yield rows, mix(A, *(attention.attention_gradient(g, _on(rows, g)).to(A) for g in gradients)).to(r.device)


def _reached(r: QueryRows, most: int) -> Iterable[slice | Tensor]:
    """The queries that `r` reaches, so many at a time: slices, which cost no copy, where it reaches all."""
    support = r.ne(0).any(0).any(0).nonzero().squeeze(1)
    if len(support) == r.shape[-1]:
        return [slice(first, first + most) for first in range(0, len(support), most)]
    return support.split(most)


def _kept_for(r: QueryRows, rows: slice | Tensor) -> slice | Tensor:
    """The rows that a pass kept a mix of. Raises `CaptureError` where `r` reaches others."""
    if isinstance(rows, Tensor) and bool(r.index_fill(-1, rows, 0).any()):
        raise CaptureError(
            "of the last attention only the rows that the head reads were kept",
            expected=f"what starts from trace.start(): rows {rows.tolist()[:8]}",
            got="rows that reach other queries",
            todo="run the pass without `readout_only`",
        )
    return rows


def _on(rows: slice | Tensor, like: Tensor) -> slice | Tensor:
    """Rows where a tensor is."""
    return rows.to(like.device) if isinstance(rows, Tensor) else rows


@dataclass(frozen=True)
class Result:
    """What a method returns: `scores` of all tokens, or `pixels` `(batch, height, width)` of which they are sums; of a
    model that is not declared `streams`, one number per token or entry of each stream, (batch, *axes) by name.

    `options` are those that were resolved (a default that depends on the model); `checks` and `details` are tensors or
    numbers of the method's own.
    """

    scores: Scores | None = None
    pixels: Pixels | None = None
    streams: dict[str, Tensor] | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    checks: dict[str, Any] = field(default_factory=dict[str, Any])
    details: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def repeated(values: Tensor, each: int) -> Tensor:
    """Every example so often, one after the other."""
    return values if each == 1 else values.repeat_interleave(each, 0)


def gradients_of(score: Tensor, tensors: Sequence[Tensor], each: int, *, retain: bool = False) -> list[Tensor]:
    """Gradients of scores (input · each,) by tensors that hold every input once: (input · each, …) of each tensor.

    The forward pass is shared; each target costs one backward pass, over all inputs.
    """
    found: list[tuple[Tensor, ...]] = []
    for target, values in enumerate(score.view(-1, each).unbind(1)):
        last = target == each - 1 and not retain
        found.append(
            torch.autograd.grad(values.sum(), tensors, allow_unused=True, materialize_grads=True, retain_graph=not last)
        )
    return list(found[0]) if each == 1 else [torch.stack(g, 1).flatten(0, 1) for g in zip(*found, strict=True)]


def mean_heads(A: Attn) -> Tensor:
    """The mean over heads."""
    return A.mean(1)


def some_rows(values: Tensor | None, rows: Tensor | None) -> Tensor | None:
    """The values of some rows, or of all."""
    return values if values is None or rows is None else values[rows.to(values.device)]
