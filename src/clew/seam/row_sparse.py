"""Linear layers computed only for the tokens that matter: after the last attention, those that the head reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Products of so few numbers take less time than to look for rows of zeros.
_SMALL = 2**22
_PULLS = 4  # layers whose gradient is written out in one row


def linear_of(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None) -> Tensor:
    """`F.linear` of the tokens `rows`, zero for the others; of all tokens for None."""
    if rows is None:
        return F.linear(x, weight, bias)
    whole = x.new_zeros(*x.shape[:-1], weight.shape[0])
    return whole.index_copy_(1, rows, F.linear(x[:, rows], weight, bias))


def input_gradient(g: Tensor, weight: Tensor, rows: Tensor | None = None) -> Tensor:
    """`g @ weight`, computed only for tokens that `g` (batch, token, width) reaches: `rows`, or those it is seen to.

    Exact for any `g`.
    """
    if g.ndim != 3 or (rows is None and g.shape[:-1].numel() * weight.numel() < _SMALL):
        return g @ weight
    if rows is None and not g[:, -1].any():  # looking costs a pass: not where the last token says it is dense
        rows = g.ne(0).any(-1).any(0).nonzero().squeeze(1)
    if rows is None or 2 * len(rows) > g.shape[1]:
        return g @ weight
    whole = g.new_zeros(*g.shape[:-1], weight.shape[1])
    return whole.index_copy_(1, rows, g[:, rows] @ weight)


def rows_read(x: Tensor, batch: int, tokens: int, reads: Sequence[int] | None) -> Tensor | None:
    """The few rows that the head reads, if `x` is (batch, token, width) beyond doubt and they are few."""
    if reads is None or 2 * len(reads) > tokens or x.shape[:-1] != (batch, tokens) or batch == tokens:
        return None
    return torch.tensor(reads, device=x.device)


class SparseLinear(torch.autograd.Function):
    """`F.linear` with frozen weights, computed only for tokens that matter: `rows`, and those a gradient reaches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, pulls: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.rows, ctx.pulls = rows, pulls
        return linear_of(x, weight, bias, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (g,), (weight,) = gradients, ctx.saved_tensors
        found = input_gradient(g, weight, ctx.rows)
        if ctx.pulls is not None and len(ctx.pulls) < _PULLS:
            row = g[..., 0].abs().flatten().argmax()  # one that the gradient reaches
            ctx.pulls.append((g.flatten(0, 1)[row] @ weight, found.flatten(0, 1)[row]))
        return found, None, None, None, None
