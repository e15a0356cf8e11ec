"""Recurrent layers, which torch computes in one call, step by step: gates are held fixed, cells are sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..tape import Tape
from . import Args, Call, Kwargs, handles


@handles("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`(input, state, weights, bias, layers, dropout, train, bidirectional, batch_first)`, as torch calls it."""
    name = getattr(func, "__name__", "")
    if isinstance(args[1], Tensor) and isinstance(args[2], (tuple, list, Tensor)) and not isinstance(args[3], bool):
        return tape.without_rule(name, func, args, kwargs, "packed sequences")
    x, state, weights, has_bias, layers, _, _, both_ways, batch_first = args
    states = list(state) if name == "lstm" else [state]
    each = len(weights) // (layers * (2 if both_ways else 1))

    def run() -> Any:
        found = x.transpose(0, 1) if batch_first else x
        last: list[list[Tensor]] = [[] for _ in states]
        for layer in range(layers):
            ways: list[Tensor] = []
            for way in range(2 if both_ways else 1):
                place = layer * (2 if both_ways else 1) + way
                own = weights[place * each : (place + 1) * each]
                begin = [s[place] for s in states]
                steps = list(found.unbind(0))
                out, end = _layer(name, steps[::-1] if way else steps, begin, own, has_bias)
                ways.append(torch.stack(out[::-1] if way else out))
                for into, one in zip(last, end, strict=True):
                    into.append(one)
            found = ways[0] if len(ways) == 1 else torch.cat(ways, -1)
        ends = [torch.stack(one) for one in last]
        return (found.transpose(0, 1) if batch_first else found, *ends)

    return tape.seen(run, (), {})


def _layer(
    name: str, steps: list[Tensor], state: list[Tensor], weights: Sequence[Tensor], has_bias: bool
) -> tuple[list[Tensor], list[Tensor]]:
    W, U, *more = weights
    b, c = (more[0], more[1]) if has_bias else (None, None)
    project = more[2 if has_bias else 0] if len(more) > (2 if has_bias else 0) else None
    linear, out = torch.nn.functional.linear, list[Tensor]()
    h, *cell = state
    for x in steps:
        a, u = linear(x, W, b), linear(h, U, c)
        if name == "lstm":
            i, f, g, o = (a + u).chunk(4, -1)
            cell = [torch.sigmoid(f) * cell[0] + torch.sigmoid(i) * torch.tanh(g)]
            h = torch.sigmoid(o) * torch.tanh(cell[0])
            h = h if project is None else linear(h, project)
        elif name == "gru":
            (r, z, n), (s, t, m) = a.chunk(3, -1), u.chunk(3, -1)
            keep = torch.sigmoid(z + t)
            new = torch.tanh(n + torch.sigmoid(r + s) * m)
            h = (1 - keep) * new + keep * h
        else:
            h = torch.tanh(a + u) if name == "rnn_tanh" else torch.relu(a + u)
        out.append(h)
    return out, [h, *cell]


@handles("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def recurrent_cell(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    name = getattr(func, "__name__", "").removesuffix("_cell")
    given: tuple[Any, ...] = (*args, None, None)
    x, state, W, U, b, c = given[:6]

    def run() -> Any:
        weights = [W, U] if b is None else [W, U, b, c]
        begin = list(state) if name == "lstm" else [state]
        _, end = _layer(name, [x], begin, weights, b is not None)
        return tuple(end) if name == "lstm" else end[0]

    return tape.seen(run, (), {})
