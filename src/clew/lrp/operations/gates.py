"""Functions that scale what they multiply: gates, lengths, temperatures, the weights of routers.

In a product with something else that depends on the input they are held fixed, as the deviation of a norm is. Where a
score is made of them themselves they hand on their own gradient, and what that leaves out is booked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...rules import Identity
from ..tape import Tape
from . import Args, Call, Kwargs, handles, plain


@handles("sigmoid", "hardsigmoid", "exp", "exp2", "softplus", "logsigmoid", "log", "log2", "log10", "cos", "cosh",
         "sin", "reciprocal", "var", "std", "expit", "cumprod", "prod", "logit", "acos", "arccos", "atan2",
         where=(torch.special.expit, torch.special.logit))  # fmt: skip
def gate(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    rule = tape.rule("activation")
    if not isinstance(rule, Identity):
        y = plain(tape, "activation", rule, func, args, kwargs)
    else:
        y = tape.bracket(getattr(func, "__name__", "gate"), "nonlinearity", func, args, kwargs)
    tape.gate(y)
    return y


@handles("norm", "vector_norm", where=(torch.linalg.vector_norm, torch.linalg.norm, torch.linalg.matrix_norm))
def length(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A length is linear along its input, so that its own gradient conserves."""
    y = func(*args, **kwargs)
    tape.gate(y)
    return y


@handles("topk")
def topk(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """The best few, as routers choose them: how loudly the chosen speak is held fixed."""
    found = func(*args, **kwargs)
    tape.gate(found[0])
    return found


@handles("floor", "ceil", "round", "trunc", "sign", "sgn", "heaviside", "fix", "floor_divide", "__floordiv__", "histc")
def step(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """Steps are constant between their jumps."""
    return func(*args, **kwargs).detach()


@handles("log_softmax", "logsumexp", "softmin", "logaddexp", "cummax", "cummin", where=(torch.special.log_softmax,))
def log_probabilities(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """As the softmax: its own gradient, and the rest of the first-order expansion is booked."""
    return tape.bracket("softmax", "softmax", func, args, kwargs)


@handles("cosine_similarity")
def cosine_similarity(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """A product of two vectors of length 1; the lengths are held fixed."""

    def call(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
        a, b = (x / torch.linalg.vector_norm(x.detach(), dim=dim, keepdim=True).clamp(min=eps) for x in (x1, x2))
        return tape.seen(torch.mul, (a, b), {}).sum(dim)

    return call(*args, **kwargs)


@handles("pairwise_distance")
def pairwise_distance(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
        difference = tape.seen(torch.add, (tape.seen(torch.sub, (x1, x2), {}), eps), {})
        return torch.linalg.vector_norm(difference, p, dim=-1, keepdim=keepdim)

    return call(*args, **kwargs)
