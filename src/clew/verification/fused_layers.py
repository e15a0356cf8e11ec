"""Torch's fused kernel of `nn.TransformerEncoderLayer`, which inference takes and an explanation cannot see.

On a GPU its GELU is the one of tanh, whatever the layer says, so that a model called without gradients says something
else, by about a thousandth, than when it is trained. Explained is what the layers say.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from ..traversal import modules_of

FUSED_ERROR = 5e-3  # of the largest logit: more is no other GELU


def has_fused_layers(model: nn.Module) -> bool:
    """Whether a model has layers that inference may fuse."""
    return any(isinstance(module, nn.TransformerEncoderLayer) for module in modules_of(model))


@contextmanager
def unfused_layers() -> Generator[None]:
    """Around a plain call whose layers run one after the other, as in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
