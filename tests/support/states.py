"""All states that modules within blocks get and give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def states_within(blocks: list[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """By block, while a model runs."""
    seen: list[list[Tensor]] = [[] for _ in blocks]
    hooks = []
    for block, states in zip(blocks, seen, strict=True):

        def note(module, args, kwargs, output=None, states=states):
            states += [t.detach() for t in (*args, *kwargs.values(), output) if isinstance(t, Tensor)]

        for module in block.modules():
            hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
            hooks.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def assert_adds_up(parts, seen: list[Tensor]) -> None:
    """`parts.mid` is among the states that were seen, or they with tokens first, and is what its parts add up to, but
    for the same at all tokens."""
    states = [t.transpose(0, 1) if t.shape != parts.mid.shape and t.ndim == 3 else t for t in seen]
    assert min(float((t - parts.mid).abs().max()) for t in states if t.shape == parts.mid.shape) < 1e-10
    A = parts.attention.probabilities()
    brought = sum(A[:, h] @ parts.of_head(h) for h in range(A.shape[1]))
    brought = brought if parts.rows is None else brought * parts.rows[..., None]
    rest = parts.mid - parts.before - brought
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest), rtol=0, atol=1e-10)
