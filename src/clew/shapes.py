"""Tensors by the names of their axes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Scores = Float[Tensor, "batch token"]
Rows = Float[Tensor, "batch row token"]
QueryRows = Float[Tensor, "batch row query"]
Attn = Float[Tensor, "batch head query key"]
Queries = Float[Tensor, "batch head query dim"]
Keys = Float[Tensor, "batch head key dim"]
Values = Float[Tensor, "batch head key value"]
Outputs = Float[Tensor, "batch head query value"]
Hidden = Float[Tensor, "batch token width"]
Pixels = Float[Tensor, "batch height width"]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32, everything else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
