"""Noise that is the same whatever else is in a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def noise_of(seed: int, sample: int, like: Tensor, *, by_token: bool) -> Tensor:
    """Noise of one copy; `by_token` drawn for one token after the other: what is behind them changes nothing."""
    generator = torch.Generator("cpu").manual_seed(seed * 1_000_003 + sample)
    if not by_token:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like)
    rows = [torch.randn(like.shape[1:], generator=generator, dtype=torch.float32, device="cpu") for _ in like]
    return torch.stack(rows).to(like)
