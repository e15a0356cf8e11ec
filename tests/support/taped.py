"""A function under the rules of AttnLRP, whatever model it may be of: its relevance and its account."""

from __future__ import annotations

import torch

from clew.lrp import operations as operations
from clew.lrp.tape import Tape
from clew.rules import rule_sets

CLOSE = {"rtol": 0, "atol": 1e-12}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relevance(function, *inputs, copies=False):
    """Input times gradient, under the rules, of each input of `function`, whose output gets a gradient `g`.

    Returns these, the output, `g`, and what leaked; relevance of each example is all accounted for.
    """
    leaves = [x.clone().requires_grad_() for x in inputs]
    tape = Tape(None, rule_sets.ATTN_LRP, len(inputs[0]), level="stream")
    tape.place, tape.copies = "", copies  # copies: of what is kept, for functions that change it in place
    with tape:
        y = function(*(x.clone() for x in leaves))
    g = random(*y.shape, seed=99)
    tape.open()
    gradients = torch.autograd.grad(y, leaves, g, allow_unused=True, materialize_grads=True)
    tape.close()
    found = [(x * d).detach() for x, d in zip(leaves, gradients, strict=True)]
    leaks = torch.zeros(len(y), dtype=torch.float64)
    causes: dict[str, torch.Tensor] = {}
    for entry in tape.entries:
        leaks = leaks + entry.values
        causes[entry.cause] = causes.get(entry.cause, 0) + entry.values
    kept = sum(R.flatten(1).sum(1) for R in found)
    torch.testing.assert_close((y.detach() * g).reshape(len(y), -1).sum(1), kept + leaks, **CLOSE)
    return found, y.detach(), g, causes


def close(found, expected):
    torch.testing.assert_close(found, expected, **CLOSE)
