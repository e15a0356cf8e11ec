"""Recurrent layers, cell by cell, from their equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, W: Tensor, U: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """`c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')`."""
    i, f, g, o = (x @ W.T + b + (h @ U.T + d)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor]:
    """`n = tanh(x_n + σ(r) h_n)`, `h' = (1 - σ(z)) n + σ(z) h`."""
    (r, z, n), (s, t, m) = (x @ W.T + b).chunk(3, -1), (h @ U.T + d).chunk(3, -1)
    z = torch.sigmoid(z + t)
    return ((1 - z) * torch.tanh(n + torch.sigmoid(r + s) * m) + z * h,)


def layers(cell: Callable[..., Any], states: Sequence[Tensor], x: Tensor, given: Sequence[Any]) -> tuple[Tensor, ...]:
    """All layers and directions of one call of torch's own."""
    weights, _, count, _, _, both_ways, batch_first = given
    ways = 2 if both_ways else 1
    sequence = x.transpose(0, 1) if batch_first else x
    ends: list[list[Tensor]] = []
    for layer in range(count):
        out: list[Tensor] = []
        for way in range(ways):
            place = layer * ways + way
            state = [s[place] for s in states]
            steps: list[Tensor] = []
            for t in range(len(sequence)):
                state = list(cell(sequence[-1 - t if way else t], *state, *weights[4 * place : 4 * place + 4]))
                steps.append(state[0])
            out.append(torch.stack(steps[::-1] if way else steps))
            ends.append(state)
        sequence = torch.cat(out, -1)
    last = [torch.stack(one) for one in zip(*ends, strict=True)]
    return (sequence.transpose(0, 1) if batch_first else sequence, *last)


RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm": lambda x, states, *given: layers(lstm_cell, states, x, given),
    "gru": lambda x, state, *given: layers(gru_cell, [state], x, given),
}
