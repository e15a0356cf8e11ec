"""Linear layers held in 4 or 8 bits by bitsandbytes: while a model is explained they compute with floats.

Their own kernels are no torch functions, which a rule would need, and round gradients. Here a weight is put back into
floats for each use, forward and backward, and not kept in between: what fits in 4 bits is explained in little more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .shapes import optional_import

_PACKED = ("Params4bit", "Int8Params")


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer's weight is packed."""
    return type(vars(module)["_parameters"].get("weight")).__name__ in _PACKED


def float_weight(module: Any) -> Tensor:
    """The weight (out, in) of any linear layer in floats."""
    if not is_quantized(module):
        return module.weight.detach()
    packed: Any = module.weight
    functional = optional_import("bitsandbytes.functional", extra="quantize", purpose="read quantised weights")
    if type(packed).__name__ == "Params4bit":
        return functional.dequantize_4bit(packed.data, packed.quant_state).detach()
    scale = packed.SCB if packed.SCB is not None else module.state.SCB  # moved there at the first use
    return functional.int8_vectorwise_dequant(packed.data, scale).detach()


def float_forward(module: Any) -> Callable[[Tensor], Tensor]:
    """What a quantised layer computes meanwhile: `x Wᵀ + b`, with `W` made again when the backward pass needs it."""

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            W = float_weight(module).to(x.dtype)
        place, dtype = W.data_ptr(), x.dtype
        bias = None if module.bias is None else module.bias.to(dtype)

        def pack(t: Tensor) -> Any:
            return (t.shape, t.stride()) if t.data_ptr() == place else t  # the weight, or its transpose

        def unpack(kept: Any) -> Tensor:
            return kept if isinstance(kept, Tensor) else float_weight(module).to(dtype).as_strided(*kept)

        with saved_tensors_hooks(pack, unpack):
            return F.linear(x, W, bias)

    return forward
