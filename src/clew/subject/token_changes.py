"""Scores of passes in which blocks get other tokens: some left out, or some of another pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..seam import Change, ChangedTokens, owning_model
from ..shapes import Hidden
from .trace import some_rows


def keep_tokens(places: Tensor) -> Change:
    """Only the tokens at `places` (input, token) enter a block, in their order there."""

    def change(states: Tensor) -> Tensor:
        return states.gather(1, places.to(states.device)[..., None].expand(-1, -1, states.shape[2]))

    return change


def put_tokens(places: Tensor, source: Hidden) -> Change:
    """The tokens at `places` (input, token) are those of other states (input, token, width)."""

    def change(states: Tensor) -> Tensor:
        index = places.to(states.device)[..., None].expand(-1, -1, states.shape[2])
        return states.scatter(1, index, source.to(states).gather(1, index))

    return change


@torch.no_grad()
def scores_where(
    subject: Any, changes: Mapping[int, Change], *, x: Tensor | None = None, rows: Tensor | None = None
) -> Tensor:
    """See `Subject.scores_where`. Raises `CaptureError` where blocks do not take fewer tokens."""
    scores = subject.clean_scores()  # the target is that of the model as it is
    batch = len(scores if rows is None else rows) // subject.each
    seam = ChangedTokens(subject.bound, changes, batch, token_first=subject.token_first(batch))
    name = type(owning_model(subject.model)).__name__
    try:
        with seam:
            output = subject.forward(x, rows)
    except Exception as error:
        if seam.expected in (None, subject.length) or seam.left is not None:
            raise  # not for want of tokens
        raise _refused(name, f"{seam.expected} of {subject.length} tokens: {error.__cause__ or error}") from error
    if seam.left != seam.expected:
        raise _refused(name, f"{seam.expected} tokens, of which its blocks made {seam.left}")
    return subject.score(output, some_rows(torch.arange(len(scores), device=scores.device), rows))


def _refused(name: str, got: str) -> CaptureError:
    return CaptureError(
        f"the blocks of {name} take all tokens or none: they are told where each of them is",
        expected="blocks that know of positions only what was added to the tokens",
        got=got,
        todo="choose a method that leaves no tokens out",
    )
