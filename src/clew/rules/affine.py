"""Rules for linear layers and convolutions `y = Wx + b`. `S`: relevance per unit of a denominator; `a = |W||x|`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Affine, AffineRule, Book, share


@dataclass(frozen=True)
class Epsilon(AffineRule):
    """`R_x = x ⊙ Wᵀ(R_y / (y + ε sign y))` (Bach et al. 2015, eq. 58). With `ε = 0` it is gradient × input.

    `ε ≥ 0`, in the unit of `y`. Also for sums: `R_a = a R / (a + b + ε)`. Conserves but for bias and stabiliser.
    `signed=False` adds `ε` whatever the sign, as some released code does.
    """

    epsilon: float = 0.0
    signed: bool = True
    operations: ClassVar[tuple[str, ...]] = ("linear", "conv", "add")

    @property
    def saves(self) -> frozenset[str]:
        return frozenset({"y"}) if self.epsilon else frozenset()

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        S = share(op.output * g, op.output, self.epsilon, self.signed, book) if self.epsilon else g
        leak_bias(op, S, book)
        return op.pull(S, op.weight)


@dataclass(frozen=True)
class Gamma(AffineRule):
    """The generalised gamma rule with bias (Andéol et al. 2021): positive outputs favour positive contributions,
    negative outputs negative ones, by a weight `γ ≥ 0`; with 0 it is epsilon.

    With `a = |W||x| + |b|`, the bias being one more contribution: `den = y + γ/2 (y + sign(y) a)`, `S = R_y / den`,
    `R_x = x ⊙ (SW) + γ/2 [x ⊙ (SW) + |x| ⊙ ((sign(y) S)|W|)]`. Conserves but for the bias and the stabiliser.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        # In place where it can be: passes over memory cost as much as the products.
        x, y, size, half = op.input, op.output, op.weight.abs(), self.gamma / 2
        sign = y.sign()
        den = op.apply(x.abs(), size, None if op.bias is None else op.bias.abs()).mul_(half).add_(self.epsilon)
        den.mul_(sign).add_(y, alpha=1 + half)
        S = (y * g).div_(den).masked_fill_(y == 0, 0.0)  # an output of zero has nothing to hand on
        T = sign.mul_(S)
        book.leak("stabiliser", T, self.epsilon)
        if op.bias is not None:
            leak_bias(op, S, book, op.bias, 1 + half)
            leak_bias(op, T, book, op.bias.abs(), half)
        g_x = op.pull(T, size).mul_(x.sign()).mul_(half)
        return g_x.add_(op.pull(S, op.weight), alpha=1 + half)


@dataclass(frozen=True)
class AlphaBeta(AffineRule):
    """`R_x = α · (positive contributions' share) - β · (negative contributions' share)`, `β = α - 1`
    (Bach et al. 2015, eq. 60), biases left aside. `α ≥ 1`; `α = 1` is z-plus.

    With `a = |W||x|` the contributions sum to `z± = (y - b ± a)/2`. Conserves but for the stabiliser: outputs without
    any positive contribution lose their share. `separate=True`: positive and negative inputs each divide by their own
    sum, as in Chefer's first LRP release; relevance then doubles at each layer (booked as "copies").
    """

    alpha: float = 1.0
    epsilon: float = 1e-9
    separate: bool = False

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        if self.separate:
            return self._separate(op, g, book)
        if self.alpha == 1:
            return self._positive(op, g, book)
        x, R, size = op.input, op.output * g, op.weight.abs()
        a, rest = op.apply(x.abs(), size), op.output - op.shift()
        least = 8 * torch.finfo(a.dtype).eps * a  # a smaller sum is rounding: there are no contributions of that sign
        positive, negative = (z * (z.abs() > least) for z in ((rest + a) / 2, (rest - a) / 2))
        beta = self.alpha - 1
        S = self.alpha * share(R, positive, self.epsilon, True, book, self.alpha)
        T = beta * share(R, negative, self.epsilon, True, book, -beta)
        return (op.pull(S - T, op.weight) + x.sign() * op.pull(S + T, size)) / 2

    def _positive(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        """Z-plus, in as few passes over memory as can be."""
        x, y, size = op.input, op.output, op.weight.abs()
        z = op.apply(x.abs(), size, None if op.bias is None else -op.bias).add_(y).mul_(0.5)
        # A sum at rounding's height means that there is no positive contribution. Rare: look at the extremes first.
        (lowest, highest), shift = z.aminmax(), op.shift(absolute=True)
        rounding = 8 * torch.finfo(z.dtype).eps
        bound = 2 * highest - y.amin() + torch.as_tensor(shift).max()
        empty = z.abs() <= (y.abs() + shift) * rounding if bool(lowest <= bound * rounding) else None
        S = (y * g).div_(z.add_(self.epsilon))
        if empty is not None:
            S.masked_fill_(empty, 0.0)
            book.leak("stabiliser", y * g * empty)
        book.leak("stabiliser", S, self.epsilon)
        g_x = op.pull(S, size).mul_(x.sign())
        return g_x.add_(op.pull(S, op.weight)).mul_(0.5)

    def _separate(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        R, g_x = op.output * g, torch.zeros_like(op.input)
        book.leak("copies", -R)
        for side in (1, -1):
            x = (side * op.input).clamp(min=0) * side
            W = (side * op.weight).clamp(min=0) * side
            S = share(R, op.apply(x, W), self.epsilon, True, book)
            g_x = g_x + x.ne(0) * op.pull(S, W)
        return g_x


@dataclass(frozen=True)
class ZBox(AffineRule):
    """`R_x = x ⊙ (SW) - l ⊙ (SW⁺) - h ⊙ (SW⁻)`, `S = R_y / (xW - lW⁺ - hW⁻ + ε)` (Montavon et al. 2017, eq. 18), for
    pixels that lie between `low` and `high` (default: the least and largest value of each image).

    Biases left aside. Conserves but for the stabiliser.
    """

    low: float | None = None
    high: float | None = None
    epsilon: float = 1e-9
    currency: ClassVar[str] = "relevance"

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        x, W = op.input, op.weight
        edge = (-1, *[1] * (x.ndim - 1))
        low = x.flatten(1).amin(1).view(edge) if self.low is None else torch.as_tensor(self.low, dtype=x.dtype)
        high = x.flatten(1).amax(1).view(edge) if self.high is None else torch.as_tensor(self.high, dtype=x.dtype)
        l, h = low.to(x).expand_as(x), high.to(x).expand_as(x)
        positive, negative = W.clamp(min=0), W.clamp(max=0)
        z = op.output - op.shift() - op.apply(l, positive) - op.apply(h, negative)
        S = share(op.output * g, z, self.epsilon, False, book)
        return x * op.pull(S, W) - l * op.pull(S, positive) - h * op.pull(S, negative)


@dataclass(frozen=True)
class Flat(AffineRule):
    """`R_x = Σ_j R_j / (number of inputs of j)` (Lapuschkin et al. 2019): says where, not what. Conserves."""

    currency: ClassVar[str] = "relevance"

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        return _by_weight(op, g, torch.ones_like(op.weight), book)


@dataclass(frozen=True)
class WSquare(AffineRule):
    """`R_x = Σ_j R_j W_ji² / Σ_i W_ji²` (Montavon et al. 2017, eq. 12). Conserves. For inputs without a range."""

    currency: ClassVar[str] = "relevance"

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        return _by_weight(op, g, op.weight.square(), book)


def _by_weight(op: Affine, g: Tensor, V: Tensor, book: Book) -> Tensor:
    total = op.apply(torch.ones_like(op.input), V)
    return op.pull(share(op.output * g, total, 0.0, False, book), V)


def leak_bias(op: Affine, S: Tensor, book: Book, bias: Tensor | None = None, factor: float = 1.0) -> None:
    """The share of the bias, `Σ S b`, in one pass over `S`."""
    bias = op.bias if bias is None else bias
    if bias is not None:
        book.leak("bias", bias @ S.flatten(2) if op.weight.ndim > 2 else S @ bias, factor)
