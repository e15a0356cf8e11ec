"""Operations whose backward is a function of ours: the identity, and any function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Back = Callable[[Tensor, Tensor | None], Tensor | None]
RuledBack = Callable[[Tensor, tuple[Tensor, ...] | None, Tensor | None], tuple[Tensor | None, ...]]


class IdentityWithBackward(torch.autograd.Function):
    """The identity, whose backward may look at relevance and change it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, back: Back, keep: bool) -> Tensor:
        ctx.back = back
        ctx.save_for_backward(*([x] if keep else []))
        return x.detach()  # no view, which a model could not change in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (g,), kept = gradients, ctx.saved_tensors
        changed = ctx.back(g, kept[0] if kept else None)
        return g if changed is None else changed, None, None


class OperationWithBackward(torch.autograd.Function):
    """An operation whose backward is a rule; inputs and output are kept only where the rule asks for them."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Any], back: RuledBack, saves: frozenset[str], *inputs: Tensor
    ) -> Tensor:
        y, *beside = found if isinstance(found := compute(*inputs), tuple) else (found,)
        ctx.back, ctx.saves, ctx.count = back, saves | ({"y"} if beside else set()), len(inputs)
        # Kept by autograd, which lets go of it as the backward pass moves on; a closure would not.
        ctx.save_for_backward(*(inputs if "x" in saves else ()), *(beside or ([y] if "y" in saves else [])))
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        inputs = kept[: ctx.count] if "x" in ctx.saves else None
        y = kept[-1] if "y" in ctx.saves else None
        return (None, None, None, *ctx.back(gradients[0], inputs, y))
