"""Relevance of positional encodings inside the blocks as one number per token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import Scores, at_least_float32
from .special_modules import PositionalRelevance


@dataclass(frozen=True)
class PositionAggregation:
    """How the relevance of rotary tables is gathered; the options of `pa_lrp`."""

    aggregate: str = "positive"
    abs: bool = False
    clamp: bool = False
    per_part_norm: bool = False
    per_table_norm: bool = False
    per_head: bool = False
    first_head: bool = False


def add_positional_relevance(
    scores: Scores, inner: PositionalRelevance, how: PositionAggregation, mask: Tensor | None
) -> tuple[Scores, Tensor]:
    """Scores with what positions inside the blocks got added to them, and what gathering that lost, (batch,).

    What is lost is the signed relevance minus what was added for it.
    """
    gathered, signed = _gathered(inner, how, mask)
    gathered, signed = gathered.to(scores), signed.to(scores)
    if how.clamp and how.aggregate != "positive":
        gathered = gathered.clamp(min=0)
    if how.per_part_norm:
        gathered, scores = _by_largest(gathered, mask), _by_largest(scores, mask)
    return gathered + scores, (signed - gathered).sum(1)


def _gathered(inner: PositionalRelevance, how: PositionAggregation, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One number per token, added up over tables and blocks; and the signed relevance. (batch, token) both."""
    total: list[Tensor] = []
    signed: list[Tensor] = []
    for key, whole in inner.relevance.items():
        table, whole = at_least_float32(inner.tables[key].detach()), at_least_float32(whole)
        signed.append(whole.sum(-1))
        uses = [_heads(use, how) for use in inner.by_head.get(key, [])] if how.per_head else [[whole]]
        for one in (r for use in uses for r in use):
            total.append(_of_table(at_least_float32(one), table, how, mask))
    for sums, positive in inner.biases.values():
        signed.append(at_least_float32(sums))
        total.append(at_least_float32(positive if how.aggregate == "positive" else sums.abs() if how.abs else sums))
    first = total[0]
    return sum((t.to(first) for t in total[1:]), first), sum((t.to(first) for t in signed[1:]), signed[0])


def _heads(R: Tensor, how: PositionAggregation) -> list[Tensor]:
    """Relevance of a table by head, (batch, token, dim) each: of all heads, or as released of the first."""
    return [R[:, 0]] if how.first_head else list(R.unbind(1))


def _of_table(R: Tensor, table: Tensor, how: PositionAggregation, mask: Tensor | None) -> Tensor:
    if how.aggregate == "positive":
        values = R.clamp(min=0).sum(-1)
    elif how.aggregate == "outer":
        part = torch.abs if how.abs else torch.relu if how.clamp else torch.positive
        over = part(table) if mask is None else part(table) * mask[..., None].to(table)
        values = (part(R) * over.sum(1, keepdim=True)).sum(-1)  # the row sums of R tableᵀ
    else:
        values = R.sum(-1)
    values = _by_largest(values, mask) if how.per_table_norm else values
    return values.abs() if how.abs else values


def _by_largest(values: Tensor, mask: Tensor | None) -> Tensor:
    """Divided by the largest size of each example; zeros stay zeros."""
    real = values if mask is None else values * mask.to(values)
    largest = real.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, values / largest, 0.0)
