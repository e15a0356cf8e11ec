"""What rounding explains of a difference between the pass that was explained and the model's own call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..seam import callers_autocast, is_quantized
from ..traversal import floats_in, modules_of

ALWAYS_ALLOWED = 1e-5
_ALLOWED = {torch.float64: ALWAYS_ALLOWED, torch.float32: 3e-4}
_SHORT = 0.1  # half precision, and kernels of quantised layers
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def allowed_difference(model: nn.Module, device: torch.device) -> float:
    """The largest difference, relative to the largest logit, that a model's dtypes and kernels explain."""
    modules = modules_of(model)
    floats = {p.dtype for p in floats_in(modules)}
    if not floats or any(map(is_quantized, modules)) or callers_autocast():
        return _SHORT
    if torch.float32 in floats and device.type == "cuda" and _is_tf32(torch.backends.cuda.matmul):
        return max(2e-2, *(_ALLOWED.get(dtype, _SHORT) for dtype in floats))
    return max(_ALLOWED.get(dtype, _SHORT) for dtype in floats)


def rounds_to_tf32(model: nn.Module, device: torch.device) -> bool:
    """Whether a GPU rounds float32 to TF32 here: convolutions unless torch is told not to, products where it is."""
    if device.type != "cuda":
        return False
    cudnn, convolved = torch.backends.cudnn, any(isinstance(module, _CONVOLUTIONS) for module in modules_of(model))
    return _is_tf32(torch.backends.cuda.matmul) or (convolved and _is_tf32(getattr(cudnn, "conv", cudnn)))


def _is_tf32(backend: Any) -> bool:
    """By the switch of torch 2.9 and later where there is one: reading the older after that was set raises."""
    said = getattr(backend, "fp32_precision", None)
    return bool(backend.allow_tf32) if said is None else said == "tf32"
