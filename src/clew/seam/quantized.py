"""Linear layers held in 4 or 8 bits by bitsandbytes: while a model is explained they compute with floats.

Their own kernels are no torch functions, which a rule would need, and round gradients. Here a weight is put back into
floats for each use, forward and backward, and not kept in between: what fits in 4 bits is explained in little more.

On processors with AVX512-BF16, bitsandbytes packs 4-bit weights anew at the first plain call in evaluation mode, in
another order and with scales rounded to bfloat16. Both orders are read here, and the scales are rounded beforehand
where that will happen: a model is explained as its user's calls compute, whether it has been called before or not.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..errors import optional_import

_PACKED = ("Params4bit", "Int8Params")
_ROWS = 32  # bitsandbytes packs so many rows of a weight together


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer's weight is packed."""
    return type(vars(module)["_parameters"].get("weight")).__name__ in _PACKED


def float_weight(module: Any) -> Tensor:
    """The weight (out, in) of a quantised layer in floats."""
    packed: Any = module.weight
    functional = optional_import("bitsandbytes.functional", extra="quantize", purpose="read quantised weights")
    if type(packed).__name__ == "Params4bit":
        state = packed.quant_state
        if getattr(state, "packing_format_for_cpu", False):
            return _repacked_weight(packed.data, state).detach()
        if _is_repacked_when_called(module):
            state = _with_rounded_scales(functional, state)
        return functional.dequantize_4bit(packed.data, state).detach()
    scale = packed.SCB
    scale = module.state.SCB if scale is None else scale  # moved there at the first use
    return functional.int8_vectorwise_dequant(packed.data, scale).detach()


def _is_repacked_when_called(module: Any) -> bool:
    """Whether a plain call would pack the weight anew: on such a processor, where its sizes fit."""
    able = bool(getattr(module, "support_avx512bf16_for_cpu", False))
    return able and module.weight.device.type == "cpu" and _fits(module)


def never_repacked(model: nn.Module) -> None:
    """Keep 4-bit layers as they are whose sizes do not fit what bitsandbytes would pack anew: its call would raise."""
    for module in model.modules():
        if type(vars(module)["_parameters"].get("weight")).__name__ == "Params4bit" and not _fits(module):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def _fits(module: Any) -> bool:
    """Whether bitsandbytes can pack a 4-bit weight anew."""
    state = module.weight.quant_state
    rows, columns = state.shape
    return rows % _ROWS == 0 and columns % 2 == 0 and columns % state.blocksize == 0


def _with_rounded_scales(functional: Any, state: Any) -> Any:
    """The state of a 4-bit weight with its scales in bfloat16, as packing them anew rounds them."""
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    rounded = copy.copy(state)
    rounded.absmax, rounded.nested = absmax.float().bfloat16().float(), False
    return rounded


def _repacked_weight(data: Tensor, state: Any) -> Tensor:
    """A 4-bit weight from the order that bitsandbytes' kernel for AVX512-BF16 wants.

    Of each block of 32 rows, bytes hold column pairs (columns 2k and 2k + 1 of row 0, of row 1, …); numbers of the
    first 32 of 64 are in the low halves of 32 bytes, the others in the high halves. Scales are (block, row).
    """
    rows, columns = state.shape
    bytes_ = data.reshape(-1, _ROWS)
    numbers = torch.cat([bytes_ & 0xF, bytes_ >> 4], 1).view(rows // _ROWS, columns // 2, _ROWS, 2)
    numbers = numbers.transpose(1, 2).reshape(rows, columns)
    scales = state.absmax.float().T.repeat_interleave(state.blocksize, 1)
    values = state.code.float()[numbers.long()] * scales
    return values.to(getattr(state, "original_dtype", state.dtype))


def float_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    """What a quantised layer computes meanwhile: `x Wᵀ + b`, with `W` made again when the backward pass needs it."""
    layer_of = weakref.ref(layer)  # of which the function will be a part

    def forward(x: Tensor) -> Tensor:
        module: Any = layer_of()
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


def apart(weight: Any) -> Any:
    """A packed weight as an object of its own, in the same memory: what a plain call makes of it stays there."""
    found: Any = torch.Tensor._make_subclass(type(weight), weight.data, False)
    vars(found).update(vars(weight))
    if getattr(weight, "quant_state", None) is not None:
        found.quant_state = copy.copy(weight.quant_state)
    return found


def kernel_difference(module: Any) -> Tensor:
    """How far a quantised layer in floats is from its own kernel, on two rows of random numbers: relative, one number.

    Kernels round: those of 8 bits the input too, that for AVX512-BF16 all it gets, so that 0.02 is no fault.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    eight = type(module.weight).__name__ == "Int8Params"  # which warn when they are not given half precision
    dtype = torch.float16 if eight else getattr(module, "compute_dtype", None) or torch.float32
    x = torch.randn(2, module.in_features, generator=generator, device="cpu").to(module.weight.device, dtype)
    # An input with a gradient is not packed for. Warnings of bitsandbytes are of its kernel, which is only tried here.
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="bitsandbytes")
        own = type(module).forward(module, x.requires_grad_()).detach().float()
    found = F.linear(x.detach().float(), float_weight(module).float())
    own = own if module.bias is None else own - module.bias.float()
    return (own - found).norm() / own.norm().clamp(min=torch.finfo(torch.float32).tiny)
