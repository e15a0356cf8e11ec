"""What rounding explains of a difference between the pass that was explained and the model's own call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..seam import callers_autocast, is_quantized
from ..traversal import floats_in, modules_of

ALWAYS_ALLOWED = 1e-5
_ALLOWED = {torch.float64: ALWAYS_ALLOWED, torch.float32: 3e-4}
_SHORT = 0.1  # half precision, and kernels of quantised layers
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def allowed_difference(model: nn.Module, device: torch.device, *, precise: bool) -> float:
    """The largest difference, relative to the largest logit, that a model's dtypes and kernels explain.

    `precise`: what was explained was computed in float64.
    """
    modules = modules_of(model)
    floats = {p.dtype for p in floats_in(modules)}
    if not floats or any(map(is_quantized, modules)) or callers_autocast():
        return _SHORT
    tf32 = tf32_error(modules, device, alike=not precise) if torch.float32 in floats else 0.0
    return max(tf32, *(_ALLOWED.get(dtype, _SHORT) for dtype in floats))


def tf32_error(modules: Sequence[nn.Module], device: torch.device, *, alike: bool = False) -> float:
    """What TF32 explains on a GPU, where float32 is rounded to it; 0 where it is not.

    Torch rounds convolutions and recurrent layers so unless it is told not to; products only where it is told to.
    `alike`: two passes by the same convolutions are compared, but recurrent layers of an explained one are not rounded.
    """
    if device.type != "cuda":
        return 0.0
    if _is_tf32(torch.backends.cuda.matmul):
        return 2e-2
    cudnn, kinds = torch.backends.cudnn, list[type[nn.Module]]()
    if not alike and _is_tf32(getattr(cudnn, "conv", cudnn)):
        kinds += _CONVOLUTIONS
    if _is_tf32(getattr(cudnn, "rnn", cudnn)):
        kinds.append(nn.RNNBase)
    return 5e-3 if any(isinstance(module, tuple(kinds)) for module in modules) else 0.0


def _is_tf32(backend: Any) -> bool:
    """By the switch of torch 2.9 and later where there is one: reading the older after that was set raises."""
    said = getattr(backend, "fp32_precision", None)
    return bool(backend.allow_tf32) if said is None else said == "tf32"
