"""Scores and maps stretched to a range."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError
from ..shapes import Pixels


def require_range(how: str | None) -> None:
    """Raise `OptionError` for a range that there is not."""
    if how not in (None, "minmax", "max"):
        raise OptionError("unknown normalize", expected="minmax or max", got=how)


def normalized(scores: Tensor, over: Tensor, how: str | None) -> Tensor:
    """Scores divided by the largest size, or stretched to 0 to 1, `over` some of them (NaN does not count)."""
    if how is None:
        return scores
    known = over.isfinite()
    high = over.masked_fill(~known, -torch.inf).amax(-1, keepdim=True)
    low = over.masked_fill(~known, torch.inf).amin(-1, keepdim=True)
    if how == "max":
        low, high = torch.zeros_like(low), torch.maximum(high.abs(), low.abs())
    span = high - low
    return torch.where(span > 0, (scores - low) / span, 0.0)  # a constant map becomes zeros


def normalized_pixels(pixels: Pixels, how: str | None) -> Pixels:
    """Each map over its own pixels: what is drawn then has the range that `normalize` promises."""
    flat = pixels.flatten(1)
    return normalized(flat, flat, how).view_as(pixels)
