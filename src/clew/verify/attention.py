"""What methods are made of, tried on the data of a result: attention, its gradient, the readout, the chain of blocks.

Each is asked for as methods ask for it, on a few rows, and compared with the model's own output, with what autograd
handed by, or with a product that is written out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..borrow import borrowed
from ..capture import Attention
from ..measured import Measured, tolerance
from ..readout import take
from ..shapes import at_least_float32
from ..subject import Subject
from ..trace import Trace, mean_heads

_turn = itertools.count()  # what is tried on one block at a time is tried on another one next time


def of_attention(subject: Subject) -> Iterator[Measured]:
    """Attention of every block that was kept, on a few rows: `A V` against the model's own output, what padding got,
    and `Σ_j A_ij ∂s/∂A_ij = o_i · ∂s/∂o_i` for each head."""
    for trace in subject.traces:
        for layer, attention in trace.layers.items():
            if attention.witness is None:
                continue
            rows = attention.witness.rows
            A, o, v = attention.probabilities(rows), take(attention.o.detach(), rows), attention.v.detach()
            real = trace.real_keys(layer)
            of_words = torch.ones_like(o[:, :1, :, :1], dtype=torch.bool)  # what padding attends to does not matter
            if real is not None and real.shape[1] == attention.o.shape[2]:
                of_words = real[:, None, rows.to(real.device), None]
            words = f"attention of block {layer} times its values, against what the model made of them"
            seen = A.to(at_least_float32(v).dtype) @ at_least_float32(v)
            yield _over_heads("attention", o * of_words, seen.to(o.device) * of_words, words, o.dtype)
            if real is not None and real.shape[1] == A.shape[3]:
                got = (A * of_words).masked_fill(real[:, None, None].to(A.device), 0.0).amax()
                yield Measured("padding", got, 1e-6, f"what padding got of the attention of block {layer}")
            for g in attention.witness.at_rows:
                G = attention.attention_gradient(g)
                terms = at_least_float32(o) * at_least_float32(g).to(o.device) * of_words
                found = (A * G).sum(-1).to(terms) * of_words[..., 0]
                words = f"attention of block {layer} times its gradient, against output times gradient, for each head"
                size = terms.abs().sum(-1).amax((0, 2), keepdim=True)
                yield _relative("attention gradient", terms.sum(-1) - found, size, words, o.dtype)


def of_readout(subject: Subject) -> Iterator[Measured]:
    """Rows of the last attention that the score reaches, against those that the declaration says, and their weights."""
    last, bound = subject.last, subject.bound
    for trace in subject.traces[:1]:
        record = trace.layers.get(last)
        if record is None or record.witness is None:
            continue
        if not record.witness.reached and record.o.requires_grad and trace.score.requires_grad:
            torch.autograd.grad(trace.score.sum(), record.o, retain_graph=True)
        if not record.witness.reached:
            continue
        reached = torch.stack(record.witness.reached).any(0)
        said = _weights(trace, trace.read(), len(reached))
        known = reached.any(1, keepdim=True)  # a probability of exactly 1 has no gradient at all
        missed = reached & (said == 0)
        if record.o.dtype.itemsize >= 4:  # in half precision small gradients vanish
            missed = missed | (known & ~reached & (said != 0))
        words = "rows of the last attention that the score reaches, against those that the head is said to read"
        yield Measured("readout", missed.sum().double(), 0.5, words)
        expected = _expected_weights(bound, layer_is_pool=bound.pooled, reached=reached)
        words = "how the rows that the head reads are weighted"
        yield Measured.of("readout weights", expected * known, said.to(expected) * known, words, allowed=1e-3)
        start = trace.start()[:: trace.each, 0]
        yield Measured.of("readout weights", said.to(start), start, "the rows that methods start from", allowed=1e-5)
        few = subject.rows_read
        if few is not None:
            left_out = said.ne(0).any(0)
            left_out[torch.tensor(few, dtype=torch.long, device=left_out.device)] = False
            words = "rows that the head reads and that a pass which computes only these leaves out"
            yield Measured("readout", left_out.sum().double(), 0.5, words)


def _weights(trace: Trace, read: Any, batch: int) -> Tensor:
    """A readout as weights of every row, (input, row)."""
    queries = trace.layers[trace.bound.last].o.shape[2]
    rows, weights = read.rows.expand(read.weights.shape), read.weights
    whole = weights.new_zeros(len(weights), queries).scatter_add(1, rows, weights)
    return whole[:: trace.each][:batch]


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
    return found + shared * rest / rest.sum(1, keepdim=True).clamp(min=1)


def of_chain(subject: Subject) -> Iterator[Measured]:
    """`r (I + C)` of one block, for a few rows, against the sums written out; and gradients of a sum that is known."""
    for trace in subject.traces[:1]:
        layer = sorted(trace.layers)[next(_turn) % len(trace.layers)]
        attention = trace.layers[layer]
        if attention.witness is None:
            continue
        rows, pool = attention.witness.rows, trace.bound.pooled and layer == trace.bound.last
        batch, queries = attention.o.shape[0] * trace.each, attention.o.shape[2]
        A = attention.probabilities(rows).repeat_interleave(trace.each, 0)
        weights = torch.arange(1.0, len(rows) + 1, dtype=A.dtype, device=A.device)
        r = A.new_zeros(batch, 1, queries)
        r[:, 0, rows] = weights
        for normalize in (False, True):
            found = trace.chain(r, layer, mean_heads, normalize=normalize)
            C, kept = A.mean(1), 0.0 if pool else 1.0
            total = C.sum(-1, keepdim=True) + kept if normalize else torch.ones_like(C[..., :1])
            expected = trace.over_tokens((weights[:, None] * C / total).sum(1, keepdim=True), layer)
            if not pool:
                own = torch.zeros_like(r)
                own[:, 0, rows] = weights / total[..., 0]
                expected = expected + own
            yield Measured.of("chain", expected, found, f"a few rows through block {layer}, written out", allowed=1e-4)


def of_gradients(subject: Subject) -> Iterator[Measured]:
    """`∂s/∂o` as methods get it, of a score whose gradient is known: a sum with weights."""
    for trace in subject.traces[:1]:
        o = torch.arange(16.0).view(2, 2, 2, 2).requires_grad_()
        weights = torch.linspace(-2.0, 3.0, 16).view(2, 2, 2, 2)
        score = (weights * o).sum((1, 2, 3))
        made = Trace(trace.bound, {0: Attention(o, o, "sdpa")}, None, score, trace.reader)
        words = "the gradient of a sum with known weights"
        yield Measured.of("gradient", weights, made.gradients([(0, "o")])[0, "o"], words)
    words = "the gradient that a linear layer pulled back, in one row, written out"
    for trace in subject.traces:
        for expected, found in trace.pulls:
            yield Measured.of("gradient", expected, found, words)


def of_projection(subject: Subject) -> Iterator[Measured]:
    """Values of one block as methods get them projected, against the block's own layers called on them."""
    for trace in subject.traces[:1]:
        layers = [k for k, a in trace.layers.items() if a.hidden is not None and a.witness is not None]
        if not layers:
            continue
        layer = layers[next(_turn) % len(layers)]
        attention = trace.layers[layer]
        assert attention.witness is not None
        v = take(attention.v.detach(), attention.witness.rows % attention.v.shape[2])
        found = subject.project(layer, v)
        projection, scale = subject.bound.projections[layer], subject.bound.scales[layer]
        with torch.no_grad(), borrowed(subject.model):
            merged = torch.stack([v[:, :, i].flatten(1) for i in range(v.shape[2])], 1)
            own = projection(merged) - projection(torch.zeros_like(merged))
            own = own if scale is None else scale(own)
        yield Measured.of("projection", own, found, f"values of block {layer} through its output projection")


def _over_heads(name: str, expected: Tensor, found: Tensor, words: str, dtype: torch.dtype) -> Measured:
    """The largest difference, relative to the largest size in each head of each example."""
    size = at_least_float32(expected).abs().amax((2, 3), keepdim=True)
    return _relative(name, at_least_float32(expected) - found, size, words, dtype)


def _relative(name: str, difference: Tensor, size: Tensor, words: str, dtype: torch.dtype) -> Measured:
    tiny = torch.finfo(difference.dtype).tiny
    return Measured(name, (difference.abs() / size.clamp(min=tiny)).amax(), tolerance(dtype), words)
