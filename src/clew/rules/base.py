"""What rules are made of: the book of leaks, stabilised division, and the border between the two currencies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import OptionError, short_repr


@runtime_checkable
class Book(Protocol):
    """Where rules write down relevance that they do not hand on: a `cause`, and values with the batch axis first.

    The values are relevance, in the unit of the score.
    """

    def leak(self, cause: str, values: Tensor, factor: float = 1.0) -> None:
        """Sum `values` per example under `cause`, times `factor`."""
        ...


@dataclass(slots=True)
class Affine:
    """One linear layer or convolution `y = apply(x, W, b)`; `pull(S, W)` is the transpose of `apply`.

    `x` (batch, …, in) and `y` (batch, …, out), of convolutions (batch, in, …) and (batch, out, …), as far as the rule
    `saves` them, else None; `S` is shaped as `y`. `weight` (out, in, …), `bias` (out,) or None.
    """

    x: Tensor | None
    y: Tensor | None
    weight: Tensor
    bias: Tensor | None
    apply: Callable[..., Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]

    @property
    def input(self) -> Tensor:
        """`x`, for rules that asked for it, as one does whose `saves` has "x"."""
        assert self.x is not None
        return self.x

    @property
    def output(self) -> Tensor:
        """`y`, for rules that asked for it, as one does whose `saves` has "y"."""
        assert self.y is not None
        return self.y

    def shift(self, *, absolute: bool = False) -> Tensor | float:
        """The bias, or its size, shaped to be added to `y`."""
        if self.bias is None:
            return 0.0
        bias = self.bias.abs() if absolute else self.bias
        return bias if self.weight.ndim == 2 else bias.view(-1, *[1] * (self.weight.ndim - 2))


def stabilised(z: Tensor, epsilon: float, signed: bool) -> Tensor:
    """`z + ε sign(z)` with `sign(0) = 1`, or, not `signed`, `z + ε`; of the shape of `z`, whatever it is."""
    return z + (_towards(z, epsilon) if signed else epsilon)


def _towards(z: Tensor, epsilon: float) -> Tensor:
    return torch.full_like(z, epsilon).copysign_(z)


def per_unit(R: Tensor, z: Tensor, epsilon: float, signed: bool) -> Tensor:
    """`R / stabilised(z)`, and 0 where `z = 0`: relevance per unit of a denominator of the same shape."""
    return torch.where(z == 0, 0.0, R / stabilised(z, epsilon, signed))


def share(R: Tensor, z: Tensor, epsilon: float, signed: bool, book: Book, factor: float = 1.0) -> Tensor:
    """`S = per_unit(R, z)`, of their shape, the batch axis first; what that loses, times `factor`, is booked as
    "stabiliser"."""
    S = per_unit(R, z, epsilon, signed)
    book.leak("stabiliser", torch.where(z == 0, R, S * (_towards(z, epsilon) if signed else epsilon)), factor)
    return S


def as_gradient(R: Tensor, x: Tensor, book: Book, epsilon: float = 0.0) -> Tensor:
    """`R / (x + ε)`, where the currencies meet: the gradient of a tensor, from its relevance of the same shape.

    Zeros of `x` get nothing; what is lost is booked as "stabiliser".
    """
    zero = x.abs() < torch.finfo(x.dtype).tiny
    S = torch.where(zero, 0.0, R / torch.where(zero, 1.0, x + epsilon))
    book.leak("stabiliser", torch.where(zero, R, S * epsilon))
    return S


@dataclass(frozen=True)
class Rule:
    """What all rules share. `operations` it fits ("*": any); `currency` it is written in, "gradient" or "relevance";
    `saves` what it needs of the forward."""

    operations: ClassVar[tuple[str, ...]] = ()
    currency: ClassVar[str] = "gradient"

    @property
    def saves(self) -> frozenset[str]:
        """The tensors to keep for the backward pass: "x", "y"."""
        return frozenset({"x", "y"})


class AffineRule(Rule, ABC):
    """A rule for linear layers and convolutions."""

    operations: ClassVar[tuple[str, ...]] = ("linear", "conv")

    @abstractmethod
    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        """`g_x` from `g_y`, or, in the currency of relevance, `R_x`; `g` is shaped as `y`, what is given as `x`."""


def fits(rule: Any, operation: str) -> Rule:
    """The rule, if it fits an operation. Raises `OptionError` otherwise."""
    if isinstance(rule, Rule) and ({operation, "*"} & set(rule.operations)):
        return rule
    got = f"{type(rule).__name__}, for {', '.join(rule.operations)}" if isinstance(rule, Rule) else short_repr(rule)
    raise OptionError(f"this rule does not fit {operation!r}", expected=f"a rule for {operation}", got=got)
