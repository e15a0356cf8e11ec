"""The stream of tokens before, inside and behind a block."""

from __future__ import annotations

from ..shapes import Hidden, at_least_float32
from ..subject import Subject, Trace, repeated


def stream_states(subject: Subject, trace: Trace, layer: int) -> tuple[Hidden, Hidden, Hidden]:
    """What enters a block, what is between attention and MLP, and what leaves, in float32 or more: of a trace that has
    `hidden` and `outputs`."""
    attention = trace[layer]
    assert attention.hidden is not None and attention.output is not None
    x, left = (at_least_float32(state.detach()) for state in (attention.hidden, attention.output))
    return x, repeated(subject.parts(trace, layer).mid, trace.each), left
