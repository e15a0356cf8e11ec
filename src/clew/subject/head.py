"""What a model's head makes of states other than those that leave its last block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..seam import Capture, SkippedBlocks, last_of_tokens
from ..shapes import Hidden
from .trace import Trace


def head_of(subject: Any, states: Hidden, like: Trace, *, at_pool: bool = False, mean: bool = False) -> Trace:
    """The score, in the graph of `states` (input, token, width), were these what leaves the last block: a pass in which
    no block computes. `like` is a trace with a block's output, which tells its form.

    Of an attention pool the trace has its attention, from whose `o` the graph starts then; `at_pool`: `states` are what
    the pool gets, and not what the model makes of them before (a norm). `mean`: tokens are replaced by their mean where
    the head would begin to pool them (behind the norm), so that all of them count alike; the graph starts at `states`.
    """
    bound, keep = subject.bound, frozenset({subject.last} if subject.bound.pooled and not mean else ())
    leaf = (subject.last, "o") if keep else None
    seam = Capture(bound.blocks, bound.attentions, len(states), keep=keep, leaf=leaf)
    first = any(attention.token_first for attention in like.layers.values())
    beside = next(a.beside for a in like.layers.values() if a.output is not None)

    def skipped(x: Tensor, behind: Any = None) -> SkippedBlocks:
        return SkippedBlocks(bound, x, beside, token_first=first, at_pool=at_pool, behind=behind)

    def averaged(x: Tensor) -> Tensor:
        found = like.mean_token(x.transpose(0, 1) if first else x)
        return found.transpose(0, 1) if first else found

    behind = None
    if mean:
        with torch.no_grad():
            module = last_of_tokens(subject.model, bound, skipped(states.detach()), states.shape, subject.forward)
        states = averaged(states) if module is None else states
        behind = None if module is None else (module, averaged)
    with torch.enable_grad(), skipped(states, behind), seam:
        output = subject.forward()
        score = subject.score(output)
    return Trace(bound, seam.records, output, score, subject.read, like.mask, subject.each, subject.length)
