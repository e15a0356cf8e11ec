"""What a model's head makes of states other than those that leave its last block."""

from __future__ import annotations

from typing import Any

import torch

from ..seam import Capture, SkippedBlocks
from ..shapes import Hidden
from .trace import Trace


def head_of(subject: Any, states: Hidden, like: Trace, *, at_pool: bool = False) -> Trace:
    """The score, in the graph of `states` (input, token, width), were these what leaves the last block: a pass in which
    no block computes. `like` is a trace with a block's output, which tells its form.

    Of an attention pool the trace has its attention, from whose `o` the graph starts then; `at_pool`: `states` are what
    the pool gets, and not what the model makes of them before (a norm).
    """
    bound, keep = subject.bound, frozenset({subject.last} if subject.bound.pooled else ())
    leaf = (subject.last, "o") if keep else None
    seam = Capture(bound.blocks, bound.attentions, len(states), keep=keep, leaf=leaf)
    first = any(attention.token_first for attention in like.layers.values())
    beside = next(a.beside for a in like.layers.values() if a.output is not None)
    with torch.enable_grad(), SkippedBlocks(bound, states, beside, token_first=first, at_pool=at_pool), seam:
        output = subject.forward()
        score = subject.score(output)
    return Trace(bound, seam.records, output, score, subject.read, like.mask, subject.each, subject.length)
