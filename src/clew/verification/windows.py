"""Windows put together: every token of the text once, each with the mean of its scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import CheckFailed
from ..subject import Discrepancy


def verify_windows(
    windows: Sequence[tuple[int, int]], parts: Tensor, scores: Tensor, ids: Sequence[int], own: Sequence[int]
) -> None:
    """`parts` (window, token) are scores of windows (where they start, how many tokens), `scores` (token,) of all.

    `own` are the text's token numbers, `ids` those that came out. Raises `CheckFailed` where they disagree.
    """
    if list(ids) != list(own):
        raise CheckFailed(
            "windows lost tokens of the text", expected=f"{len(own)} tokens", got=f"{len(ids)}, or others"
        )
    per_token: list[list[float]] = [[] for _ in own]
    for (start, length), row in zip(windows, parts.tolist(), strict=True):
        for k in range(length):
            per_token[start + k].append(row[k])
    expected = torch.tensor([sum(values) / len(values) for values in per_token], dtype=torch.float64)
    found = Discrepancy.of("windows", expected, scores.double().cpu(), "scores of windows", allowed=1e-4)
    if float(found.error) > found.allowed:
        raise CheckFailed(
            "scores of windows were not put together as their means", expected="agreement to rounding", got=found.error
        )
