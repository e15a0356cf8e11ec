"""Chefer, Gur & Wolf 2021 (ICCV), equations 5 to 11: relevance matrices between streams of tokens.

Letters: `s` the stream whose tokens ask, `q` the stream whose tokens are asked, `R^xy` what tokens of `x` have of `y`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import OptionError
from ..mass import Step, TokenStream, TokenStreams, with_token_streams
from ..subject import Result, StreamSubject, stream_result
from .mass import positive_gradient, refuse_number

Matrices = dict[TokenStream, Tensor]


def by_equations(subject: StreamSubject, start_layer: int | None = None) -> Result:
    """Rows of `R` that the score reads, with attentions from number `start_layer` on."""
    start, count = start_layer or 0, 0

    def read(found: TokenStreams) -> Sequence[Tensor]:
        nonlocal count
        found.find()
        count = len(found.tape.sites)
        refuse_number(start, count)
        last = relevance(found, start)
        masses = {stream: torch.zeros_like(part) for stream, part in zip(found.streams, found.readout, strict=True)}
        for stream, part in zip(found.streams, found.readout, strict=True):
            for other, R in last[stream].items():
                masses[other] = masses[other] + (part.to(R)[:, None] @ R)[:, 0].to(part)
        return list(masses.values())

    got = with_token_streams(subject, read)
    return replace(stream_result(subject, got.leaves, checks=got.checks()), options={"start_layer": start})


def relevance(found: TokenStreams, start: int = 0) -> dict[TokenStream, Matrices]:
    """`R^xy` of all streams, behind the last attention."""
    # What tokens were made of after so many attentions: the two sides of a co-attention ask what the other was before.
    states = {stream: [{stream: _identity(found, stream)}] for stream in found.streams}
    for step in found.steps:
        before, asked = states[step.queries][-1], states[step.keys][step.state]
        after = dict(before)
        if step.site.number >= start:
            for other, more in _added(_mixed(found, step), step, before, asked).items():
                after[other] = after[other] + more if other in after else more
        states[step.queries].append(after)
    return {stream: several[-1] for stream, several in states.items()}


def _added(A: Tensor, step: Step, before: Matrices, asked: Matrices) -> Matrices:
    """What an attention adds to the matrices of the stream that asks."""
    s, q = step.queries, step.keys
    added = {other: A @ R for other, R in asked.items()}  # eq. 6 and 7; in a cross attention eq. 11
    if s is not q:
        added[q] = normalised(before[s]).mT @ A @ normalised(asked[q])  # eq. 10
    return added


def normalised(R: Tensor) -> Tensor:
    """Eq. 8 and 9: `R = Î + I`, with rows of `Î` divided by their sums; those that sum to 0 stay 0."""
    I = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    rest = R - I
    sums = rest.sum(-1, keepdim=True)
    return torch.where(sums == 0, 0.0, rest / sums) + I


def _mixed(found: TokenStreams, step: Step) -> Tensor:
    """Eq. 5: `mean_h max(∂s/∂A ⊙ A, 0)`, (batch, query, key)."""
    rows: list[Tensor] = []
    heads = step.site.o.shape[:-2].numel() // len(found.score)
    for some in step.site.blocks():
        rows.append(found.over_heads(positive_gradient(step.site, some), -2) / heads)
    return torch.cat(rows, 1)


def _identity(found: TokenStreams, stream: TokenStream) -> Tensor:
    like = found.readout[found.streams.index(stream)]
    return torch.eye(stream.count, dtype=like.dtype, device=like.device).expand(len(like), -1, -1)


def refuse_variants(variant: str) -> bool:
    """Whether equations 8 to 11 are asked for. Raises `OptionError` for a variant that needs a declared model."""
    if variant not in ("paper", "chefer"):
        raise OptionError(
            f"variant={variant!r} needs a declared model",
            expected="variant='paper' or 'chefer'",
            got=variant,
            todo="leave variant out",
        )
    return variant == "chefer"
