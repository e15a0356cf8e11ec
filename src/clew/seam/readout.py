"""Which rows of a sequence a head reads, example by example, and how it weights them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import BoundArchitecture, Readout

Rows = Tensor | slice


def take(maps: Tensor, rows: Rows) -> Tensor:
    """Some rows of `maps` (batch, head, row, …): a slice, numbers (row,) for all examples, or (batch, row) for each."""
    if isinstance(rows, Tensor) and rows.ndim == 2:
        index = rows[:, None, :, None].expand(-1, maps.shape[1], -1, maps.shape[3])
        return maps.gather(2, index.to(maps.device))
    if isinstance(rows, slice):
        return maps if rows == slice(None) else maps[:, :, rows]
    return maps.index_select(2, rows.to(maps.device))


@dataclass(frozen=True)
class ReadoutRows:
    """The query rows that the head reads: `rows` (row,) for all examples, or (batch, row), and `weights` (batch, row).

    Weights are float32 or more, and 0 for rows that only fill up.
    """

    rows: Tensor
    weights: Tensor

    def of(self, maps: Tensor) -> Tensor:
        """The rows of `maps` (batch, head, row, …)."""
        return take(maps, self.rows)

    def mean(self, maps: Tensor) -> Tensor:
        """The weighted sum of `maps` (batch, row, …) over the rows."""
        return torch.einsum("br,br...->b...", self.weights.to(maps.dtype).to(maps.device), maps)

    def start(self, queries: int, *, separate: bool = False) -> Tensor:
        """The readout as rows over queries: one weighted row (batch, 1, query), or every row by itself."""
        batch, count = self.weights.shape
        rows = self.rows.expand(batch, count)
        r = self.weights.new_zeros(batch, count, queries)
        r.scatter_(2, rows[:, :, None], 1.0)
        if separate:
            return r
        return (r * self.weights[:, :, None]).sum(1, keepdim=True)


def readout_rows(
    bound: BoundArchitecture,
    layer: int,
    batch: int,
    queries: int,
    like: Tensor,
    *,
    mask: Tensor | None = None,
    input_ids: Tensor | None = None,
    target_rows: Tensor | None = None,
) -> ReadoutRows:
    """The rows of a layer's attention that the head reads, on the device and in the dtype (float32 or more) of `like`.

    `mask` (batch, token) says which tokens are no padding, `target_rows` (batch, row) which rows the target explains.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if bound.pooled and layer == bound.last:  # an attention pool: all its queries
        rows = list(bound.readout.queries or range(queries))
        weights = [1.0 / len(rows)] * len(rows)
    elif bound.readout.by_target and target_rows is not None:
        counted = target_rows >= 0
        weights = counted.to(dtype) / counted.sum(1, keepdim=True)
        return ReadoutRows(target_rows.clamp(min=0).to(like.device), weights.to(like.device))
    elif (bound.readout.last or bound.readout.end) and input_ids is not None:
        only = only_rows(bound.readout, input_ids).to(like.device)
        return ReadoutRows(only[:, None], torch.ones(batch, 1, dtype=dtype, device=like.device))
    elif bound.readout.patches_weight and mask is not None:
        rows = torch.arange(queries, device=like.device)
        weights = mask.to(dtype).to(like.device)
        return ReadoutRows(rows, bound.readout.patches_weight * weights / weights.sum(1, keepdim=True))
    else:
        rows, weights = _positions(bound.readout, queries, bound.prefix)
    fixed = torch.tensor(weights, dtype=dtype, device=like.device)
    return ReadoutRows(torch.tensor(rows, device=like.device), fixed.expand(batch, -1))


def few_rows(bound: BoundArchitecture, target_rows: Tensor | None, input_ids: Tensor | None) -> Sequence[int] | None:
    """All rows of the last block's output that the head reads for any example, where they are few; else None."""
    readout = bound.readout
    if bound.pooled or readout.patches_weight:
        return None
    if readout.by_target:
        return None if target_rows is None else sorted({row for row in target_rows.flatten().tolist() if row >= 0})
    if readout.last or readout.end:
        return None if input_ids is None else sorted(set(only_rows(readout, input_ids).tolist()))
    return readout.rows


def only_rows(readout: Readout, input_ids: Tensor) -> Tensor:
    """The one token of each text that the head reads: its end, or the last that is not the padding token, as sequence
    classifiers of transformers find it."""
    if readout.end:
        found = input_ids if readout.end_token_id is None else (input_ids == readout.end_token_id).int()
        return found.argmax(-1)
    if readout.pad_token_id is None:
        return torch.full((len(input_ids),), input_ids.shape[1] - 1, device=input_ids.device)
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    return (places * (input_ids != readout.pad_token_id)).argmax(-1)


def _positions(readout: Readout, tokens: int, prefix: int) -> tuple[list[int], list[float]]:
    """Row numbers and their weights in a sequence of `tokens`, of which the first `prefix` are no patches."""
    rows, weights = list(readout.rows), list(readout.weights)
    if readout.patches_weight:
        spread = range(0 if readout.with_prefix else prefix, tokens)
        rows += spread
        weights += [readout.patches_weight / len(spread)] * len(spread)
    return rows, weights
