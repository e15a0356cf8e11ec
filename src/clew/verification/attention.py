"""Checks what methods use, on the data of a result: attention, its gradient, the readout, the product of blocks.

Each is asked for as methods ask for it, on a few rows, and compared with the model's own output, with what autograd
handed by, or with a product that is written out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..seam import Attention, autocast_to, owning_model, take
from ..shapes import at_least_float32
from ..subject import Discrepancy, Subject, Trace, cache_rows, cached_rows, mean_heads, tolerance

_chains, _projections = itertools.count(), itertools.count()  # one block is checked per result, in turn


def check_attention(subject: Subject) -> Iterator[Discrepancy]:
    """Attention of every block that was kept, on a few rows: `A V` against the model's own output, what padding got,
    and `Σ_j A_ij ∂s/∂A_ij = o_i · ∂s/∂o_i` for each head. Where a pass wrote attention out, one block's output against
    torch's kernel."""
    for trace in subject.traces:
        outputs, gradients, padded = _LargestDifferences(), _LargestDifferences(), list[Tensor]()
        for layer, attention in trace.layers.items():
            probe = attention.gradient_probe
            if probe is None or not _is_shown(attention):
                continue
            rows, real, words = _rows_of(attention), trace.real_keys(layer), None
            real = None if real is None else real[:: trace.each]
            if real is not None and real.shape[1] == attention.o.shape[2]:  # what padding attends to does not matter
                words = real[:, None, rows.to(real.device), None]
            A, o, seen = _at_rows(attention)
            if words is not None:
                o, seen = o * words, seen * words
            outputs.add(o - seen, o)
            if real is not None and real.shape[1] == A.shape[3]:
                got = A if words is None else A * words
                padded.append(got.masked_fill(real[:, None, None].to(A.device), 0.0).amax())
            if attention.mixed is not None:  # of which no gradient is asked
                continue
            # Where no gradient came by, any numbers do, in one block: the identity holds for all of them.
            for g in probe.at_rows or ([o] if probe.last else []):
                terms = o * at_least_float32(g).to(o.device)
                found = (A * attention.attention_gradient(g)).sum(-1, keepdim=True).to(terms)
                gradients.add(terms.sum(-1, keepdim=True) - (found if words is None else found * words), terms)
        dtype = trace.layers[subject.last].o.dtype
        said = "attention of a block times its values, against what the model made of them"
        yield from outputs.measured("attention", said, dtype)
        said = "attention of a block times its gradient, against output times gradient, for each head"
        yield from gradients.measured("attention gradient", said, dtype, scale=attention_width(trace))
        if padded:
            got = torch.stack(padded).amax()
            yield Discrepancy("padding", got, 1e-6, "what padding got of the attention of a block")


def _is_shown(attention: Attention) -> bool:
    """Whether a few rows of it are there to be looked at."""
    return attention.gradient_probe is not None and (attention.mixed is None or attention.mixed.few is not None)


def _rows_of(attention: Attention) -> Tensor:
    """The numbers of these rows."""
    if attention.mixed is not None and attention.mixed.few is not None:
        return attention.mixed.few.rows
    assert attention.gradient_probe is not None
    return attention.gradient_probe.rows


def _at_rows(attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities of a few rows; the output there; and what that is to be."""
    if attention.mixed is not None and (few := attention.mixed.few) is not None:
        return few.A, few.o, few.by_kernel
    rows = _rows_of(attention)
    A, o = attention.probabilities(rows), at_least_float32(take(attention.o.detach(), rows))
    v = at_least_float32(attention.v.detach())
    return A, o, (A.to(v.dtype) @ v).to(o.device)


def attention_width(trace: Trace) -> float:
    """How many terms a sum over the values of a head has."""
    return float(trace.layers[trace.bound.last].v.shape[3])


class _LargestDifferences:
    """The largest difference in each head of each example, relative to the largest size there."""

    def __init__(self) -> None:
        self._differences: list[Tensor] = []
        self._sizes: list[Tensor] = []

    def add(self, difference: Tensor, size: Tensor) -> None:
        self._differences.append(torch.linalg.vector_norm(difference, torch.inf, (2, 3)).flatten())
        self._sizes.append(torch.linalg.vector_norm(size, torch.inf, (2, 3)).flatten())

    def measured(self, name: str, words: str, dtype: torch.dtype, scale: float = 1.0) -> Iterator[Discrepancy]:
        """The worst of all blocks; sizes times `scale`."""
        if self._sizes:
            sizes = torch.cat(self._sizes).clamp(min=torch.finfo(self._sizes[0].dtype).tiny) * scale
            yield Discrepancy(name, (torch.cat(self._differences) / sizes).amax(), tolerance(dtype), words)


def check_readout(subject: Subject) -> Iterator[Discrepancy]:
    """Rows of the last attention that the score reaches, against those that the declaration says, and their weights."""
    last, bound = subject.last, subject.bound
    for trace in subject.traces[:1]:
        record = trace.layers.get(last)
        if record is None or record.gradient_probe is None:
            continue
        key, owner = subject.reach_key, owning_model(subject.model)
        reached = cached_rows(owner, key)
        if not record.gradient_probe.reached and record.o.requires_grad and trace.score.requires_grad:
            torch.autograd.grad(trace.score.sum(), record.o, retain_graph=True)
        if record.gradient_probe.reached:
            reached = torch.stack(record.gradient_probe.reached).any(0)
            cache_rows(owner, key, reached)
        if reached is None:
            continue
        of_each = _weights(trace, trace.read())
        said = _of_all_targets(bound, of_each, len(reached))
        moved = reached.any(1, keepdim=True)  # a probability of exactly 1 has no gradient at all
        missed = reached & (said == 0)
        if record.o.dtype.itemsize >= 4:  # in half precision small gradients vanish
            missed = missed | (moved & ~reached & (said != 0))
        words = "rows of the last attention that the score reaches, against those that the head is said to read"
        yield Discrepancy("readout", missed.sum().double(), 0.5, words)
        expected = _expected_weights(bound, layer_is_pool=bound.pooled, reached=reached)
        words = "how the rows that the head reads are weighted"
        yield Discrepancy.of("readout weights", expected * moved, said.to(expected) * moved, words, allowed=1e-3)
        start = trace.start()[:, 0]
        yield Discrepancy.of(
            "readout weights", of_each.to(start), start, "the rows that methods start from", allowed=1e-5
        )
        few = subject.rows_read
        if few is not None:
            left_out = said.ne(0).any(0)
            left_out[torch.tensor(few, dtype=torch.long, device=left_out.device)] = False
            words = "rows that the head reads and that a pass which computes only these leaves out"
            yield Discrepancy("readout", left_out.sum().double(), 0.5, words)


def _weights(trace: Trace, read: Any) -> Tensor:
    """A readout as weights of every row, (batch, row)."""
    queries = trace.layers[trace.bound.last].o.shape[2]
    rows, weights = read.rows.expand(read.weights.shape), read.weights
    whole = weights.new_zeros(len(weights), queries)
    return whole.scatter_add(1, rows, weights)


def _of_all_targets(bound: Any, weights: Tensor, inputs: int) -> Tensor:
    """Weights of rows for each input, (input, row): of several targets that read rows of their own, all of these."""
    whole = weights.view(inputs, -1, weights.shape[1]) if len(weights) > inputs else weights[:inputs, None]
    if not bound.readout.by_target or whole.shape[1] == 1:
        return whole[:, 0]
    read = whole.ne(0).any(1).to(whole)
    return read / read.sum(1, keepdim=True).clamp(min=1)


def _expected_weights(bound: Any, *, layer_is_pool: bool, reached: Tensor) -> Tensor:
    """Weights of rows from what the declaration says of sums, and the rows that the score was seen to reach."""
    readout, found = bound.readout, torch.zeros(reached.shape, dtype=torch.float64, device=reached.device)
    shared = 1.0 if layer_is_pool or readout.by_target or readout.last or readout.end else readout.patches_weight
    rest = reached.clone()
    if not layer_is_pool:
        for row, weight in zip(readout.rows, readout.weights, strict=True):
            found[:, row] = weight
            if not shared or readout.rows:
                rest[:, row] = False
    if not shared:
        return found
    return found + shared * rest / rest.sum(1, keepdim=True).clamp(min=1)


def check_chain(subject: Subject) -> Iterator[Discrepancy]:
    """`r (I + C)` of one block, for a few rows, against the sums written out; with rows normalised where the method's
    were."""
    for trace in subject.traces[:1]:
        layers = [layer for layer, attention in sorted(trace.layers.items()) if _is_shown(attention)]
        if not layers:
            continue
        layer = layers[next(_chains) % len(layers)]
        attention = trace.layers[layer]
        rows, pool = _rows_of(attention), trace.bound.pooled and layer == trace.bound.last
        batch, queries = attention.o.shape[0] * trace.each, attention.o.shape[2]
        A = _at_rows(attention)[0].repeat_interleave(trace.each, 0)
        weights = torch.arange(1.0, len(rows) + 1, dtype=A.dtype, device=A.device)
        r = A.new_zeros(batch, 1, queries)
        r[:, 0, rows] = weights
        normalize = trace.normalized
        mix = mean_heads if attention.mixed is None else attention.mixed.mix
        found = trace.chain(r, layer, mix, normalize=normalize)
        C, kept = A.mean(1) if mix is mean_heads else mix(A), 0.0 if pool else 1.0
        total = C.sum(-1, keepdim=True) + kept if normalize else torch.ones_like(C[..., :1])
        expected = trace.over_tokens((weights[:, None] * C / total).sum(1, keepdim=True), layer)
        if not pool:
            own = torch.zeros_like(r)
            own[:, 0, rows] = weights / total[..., 0]
            expected = expected + own
        yield Discrepancy.of("chain", expected, found, f"a few rows through block {layer}, written out", allowed=1e-4)


def check_gradients(subject: Subject) -> Iterator[Discrepancy]:
    """`∂s/∂o` as methods get it, of a score whose gradient is known: a sum with weights."""
    for trace in subject.traces[:1]:
        if all(attention.mixed is not None for attention in trace.layers.values()):  # of which no gradient is asked
            continue
        o = torch.arange(16.0).view(2, 2, 2, 2).requires_grad_()
        weights = torch.linspace(-2.0, 3.0, 16).view(2, 2, 2, 2)
        score = (weights * o).sum((1, 2, 3))
        made = Trace(trace.bound, {0: Attention(o, o, "sdpa")}, None, score, trace.reader)
        words = "the gradient of a sum with known weights"
        yield Discrepancy.of("gradient", weights, made.gradients([(0, "o")])[0, "o"], words)
    words = "the gradient that a linear layer pulled back, in one row, written out"
    for expected, found in subject.pulls:
        yield Discrepancy.of("gradient", expected, found, words)


def check_projection(subject: Subject) -> Iterator[Discrepancy]:
    """Values of one block as methods get them projected, against the block's own layers called on them."""
    for trace in subject.traces[:1]:
        layers = [k for k, a in trace.layers.items() if a.hidden is not None and a.gradient_probe is not None]
        if not layers:
            continue
        layer = layers[next(_projections) % len(layers)]
        attention = trace.layers[layer]
        assert attention.gradient_probe is not None
        v = take(attention.v.detach(), attention.gradient_probe.rows % attention.v.shape[2])
        found = subject.project(layer, v)
        projection, scale = subject.bound.projections[layer], subject.bound.scales[layer]
        with torch.no_grad(), autocast_to(v, subject.shorter):
            merged = torch.stack([v[:, :, i].flatten(1) for i in range(v.shape[2])], 1)
            own = projection(merged) - projection(torch.zeros_like(merged))
            own = own if scale is None else scale(own)
        yield Discrepancy.of("projection", own, found, f"values of block {layer} through its output projection")
