"""The difference between a computed value and an independent reference, with its tolerance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import at_least_float32

# What rounding may explain of a relative difference between two ways to compute the same.
_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-4}

# A logit is a sum of numbers about as large as 1: where it comes out near 0, rounding is measured by these.
LEAST_LOGIT = 0.1


def tolerance(*dtypes: torch.dtype) -> float:
    """What rounding may explain of a relative difference, by the shortest dtype that was computed in."""
    return max(_ALLOWED.get(dtype, 3e-2) for dtype in dtypes)


@dataclass(frozen=True)
class Discrepancy:
    """Something that was verified: its `error`, one number, what is `allowed`, and in `words` what was compared."""

    name: str
    error: Tensor
    allowed: float
    words: str

    @staticmethod
    def of(
        name: str, expected: Tensor, found: Tensor, words: str, *, allowed: float | None = None, least: float = 0.0
    ) -> Discrepancy:
        """The largest difference, relative to the largest size expected, or to `least`; `allowed` by the dtypes."""
        if allowed is None:
            allowed = tolerance(expected.dtype, found.dtype)
        if expected.shape != found.shape:
            return Discrepancy(name, torch.tensor(torch.inf), allowed, words)
        expected, found = at_least_float32(expected.detach()), at_least_float32(found.detach())
        if not expected.numel():
            return Discrepancy(name, torch.zeros(()), allowed, words)
        size = expected.abs().amax().clamp(min=max(least, torch.finfo(expected.dtype).tiny))
        return Discrepancy(name, (expected - found.to(expected)).abs().amax() / size, allowed, words)
