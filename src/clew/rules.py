"""LRP rules: how an operation hands relevance from its output to its inputs, as small functions of one operation.

**Two currencies, and where they meet.** The backward pass carries a modified gradient `g`; the relevance of a tensor is
`R = x · g` everywhere. Rules that multiply each input by something (epsilon, gamma, alpha-beta, z-plus, all of AttnLRP)
are written in that currency: most operations then need no rule at all, and no division by `x` is ever made. Rules whose
equation hands out relevance as such (z-box, flat, w², identity through a norm) are written in the other: they take
`R_y = y · g_y` and give `R_x`. `as_gradient` is the one place where the two meet: `g_x = R_x / x`. It is exact wherever
`x ≠ 0`; what an exact zero would have received is booked as lost under "stabiliser". At the pixels, where a rule ends,
`R_x` is kept as it is, and nothing is lost.

A rule tells a `Book` what it leaks and why, each cause summed from its own terms.

Letters: `x` input, `y` output, `W`, `b` weight and bias, `S` relevance per unit of the denominator, `a = |W||x|`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from .shapes import OptionError


@runtime_checkable
class Book(Protocol):
    """Where rules write down relevance that they do not hand on: a `cause`, and values with the batch axis first."""

    def leak(self, cause: str, values: Tensor, factor: float = 1.0) -> None:
        """Sum `values` per example under `cause`, times `factor`."""
        ...


@dataclass(frozen=True)
class Affine:
    """One linear layer or convolution `y = apply(x, W, b)`; `pull(S, W)` is the transpose of `apply`."""

    x: Tensor | None
    y: Tensor | None
    weight: Tensor
    bias: Tensor | None
    apply: Callable[..., Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]

    @property
    def input(self) -> Tensor:
        """`x`, for rules that asked for it."""
        assert self.x is not None
        return self.x

    @property
    def output(self) -> Tensor:
        """`y`, for rules that asked for it."""
        assert self.y is not None
        return self.y

    def shift(self, *, absolute: bool = False) -> Tensor | float:
        """The bias, or its size, shaped to be added to `y`."""
        if self.bias is None:
            return 0.0
        bias = self.bias.abs() if absolute else self.bias
        return bias if self.weight.ndim == 2 else bias.view(-1, *[1] * (self.weight.ndim - 2))


def stabilised(z: Tensor, epsilon: float, signed: bool) -> Tensor:
    """`z + ε sign(z)` with `sign(0) = 1`, or `z + ε`."""
    return z + (_towards(z, epsilon) if signed else epsilon)


def _towards(z: Tensor, epsilon: float) -> Tensor:
    return torch.full_like(z, epsilon).copysign_(z)


def share(R: Tensor, z: Tensor, epsilon: float, signed: bool, book: Book, factor: float = 1.0) -> Tensor:
    """`S = R / stabilised(z)`, and 0 where `z = 0`; what that loses, times `factor`, is booked as "stabiliser"."""
    S = torch.where(z == 0, 0.0, R / stabilised(z, epsilon, signed))
    book.leak("stabiliser", torch.where(z == 0, R, S * (_towards(z, epsilon) if signed else epsilon)), factor)
    return S


def as_gradient(R: Tensor, x: Tensor, book: Book, epsilon: float = 0.0) -> Tensor:
    """`R / (x + ε)`, where the currencies meet. Zeros of `x` get nothing; what is lost is booked as "stabiliser"."""
    zero = x.abs() < torch.finfo(x.dtype).tiny
    S = torch.where(zero, 0.0, R / torch.where(zero, 1.0, x + epsilon))
    book.leak("stabiliser", torch.where(zero, R, S * epsilon))
    return S


@dataclass(frozen=True)
class Rule:
    """What all rules share. `operations` it fits; `currency` it is written in; `saves` what it needs of the forward."""

    operations: ClassVar[tuple[str, ...]] = ()
    currency: ClassVar[str] = "gradient"

    @property
    def saves(self) -> frozenset[str]:
        """The tensors to keep for the backward pass: "x", "y"."""
        return frozenset({"x", "y"})

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        """For a linear layer or convolution: `g_x` from `g_y`, or, in the currency of relevance, `R_x`."""
        raise NotImplementedError


# Linear layers and convolutions


@dataclass(frozen=True)
class Epsilon(Rule):
    """`R_x = x ⊙ Wᵀ(R_y / (y + ε sign y))` (Bach et al. 2015, eq. 58). With `ε = 0` it is gradient × input.

    Also for sums: `R_a = a R / (a + b + ε)`. Conserves but for bias and stabiliser. `signed=False` adds `ε` whatever
    the sign, as some released code does.
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
class Gamma(Rule):
    """The generalised gamma rule with bias (Andéol et al. 2021): positive outputs favour positive contributions,
    negative outputs negative ones, by a weight `γ`.

    With `a = |W||x| + |b|`, the bias being one more contribution: `den = y + γ/2 (y + sign(y) a)`, `S = R_y / den`,
    `R_x = x ⊙ (SW) + γ/2 [x ⊙ (SW) + |x| ⊙ ((sign(y) S)|W|)]`. Conserves but for the bias and the stabiliser.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    operations: ClassVar[tuple[str, ...]] = ("linear", "conv")

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        # In place where it can be: passes over memory cost as much as the products.
        x, y, size, half = op.input, op.output, op.weight.abs(), self.gamma / 2
        sign = y.sign()
        den = op.apply(x.abs(), size, None if op.bias is None else op.bias.abs()).mul_(half).add_(self.epsilon)
        den.mul_(sign).add_(y, alpha=1 + half)
        S = (y * g).div_(den).nan_to_num_(nan=0.0)  # an output of zero has nothing to hand on
        T = sign.mul_(S)
        book.leak("stabiliser", T, self.epsilon)
        if op.bias is not None:
            leak_bias(op, S, book, op.bias, 1 + half)
            leak_bias(op, T, book, op.bias.abs(), half)
        g_x = op.pull(T, size).mul_(x.sign()).mul_(half)
        return g_x.add_(op.pull(S, op.weight), alpha=1 + half)


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """`R_x = α · (positive contributions' share) - β · (negative contributions' share)`, `β = α - 1`
    (Bach et al. 2015, eq. 60), biases left aside. `α = 1` is z-plus.

    With `a = |W||x|` the contributions sum to `z± = (y - b ± a)/2`. Conserves but for the stabiliser: outputs without
    any positive contribution lose their share. `separate=True`: positive and negative inputs each divide by their own
    sum, as in Chefer's first LRP release; relevance then doubles at each layer (booked as "copies").
    """

    alpha: float = 1.0
    epsilon: float = 1e-9
    signed: bool = False
    separate: bool = False
    operations: ClassVar[tuple[str, ...]] = ("linear", "conv")

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
        S = self.alpha * share(R, positive, self.epsilon, self.signed, book, self.alpha)
        T = beta * share(R, negative, self.epsilon, self.signed, book, -beta)
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
            S = share(R, op.apply(x, W), self.epsilon, self.signed, book)
            g_x = g_x + x.ne(0) * op.pull(S, W)
        return g_x


@dataclass(frozen=True)
class ZBox(Rule):
    """`R_x = x ⊙ (SW) - l ⊙ (SW⁺) - h ⊙ (SW⁻)`, `S = R_y / (xW - lW⁺ - hW⁻ + ε)` (Montavon et al. 2017, eq. 18), for
    pixels that lie between `low` and `high` (default: the least and largest value of each image).

    Biases left aside. Conserves but for the stabiliser.
    """

    low: float | None = None
    high: float | None = None
    epsilon: float = 1e-9
    operations: ClassVar[tuple[str, ...]] = ("conv", "linear")
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
class Flat(Rule):
    """`R_x = Σ_j R_j / (number of inputs of j)` (Lapuschkin et al. 2019): says where, not what. Conserves."""

    operations: ClassVar[tuple[str, ...]] = ("conv", "linear")
    currency: ClassVar[str] = "relevance"

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        return _by_weight(op, g, torch.ones_like(op.weight), book)


@dataclass(frozen=True)
class WSquare(Rule):
    """`R_x = Σ_j R_j W_ji² / Σ_i W_ji²` (Montavon et al. 2017, eq. 12). Conserves. For inputs without a range."""

    operations: ClassVar[tuple[str, ...]] = ("conv", "linear")
    currency: ClassVar[str] = "relevance"

    def affine(self, op: Affine, g: Tensor, book: Book) -> Tensor:
        return _by_weight(op, g, op.weight.square(), book)


def _by_weight(op: Affine, g: Tensor, V: Tensor, book: Book) -> Tensor:
    total = op.apply(torch.ones_like(op.input), V)
    return op.pull(share(op.output * g, total, 0.0, False, book), V)


def leak_bias(op: Affine, S: Tensor, book: Book, bias: Tensor | None = None, factor: float = 1.0) -> None:
    """The share of the bias, `Σ S b`, in one pass over `S`."""
    bias = op.bias if bias is None else bias
    if bias is None:
        return
    over_places = S.flatten(2).sum(2) if op.weight.ndim > 2 else S.flatten(1, -2).sum(1) if S.ndim > 2 else S
    book.leak("bias", over_places * bias, factor)


# Norms, activations, attention, sums


@dataclass(frozen=True)
class FixedStd(Rule):
    """Layer and RMS norms with their standard deviation held fixed (Ali et al. 2022; AttnLRP, prop. 3.4): the gradient
    of `x ↦ (x - mean x)/σ · w + b`. Conserves but for the bias. `own_epsilon` stabilises `y` by the norm's own `eps`,
    unsigned, as the released PA-LRP code does."""

    own_epsilon: bool = False
    operations: ClassVar[tuple[str, ...]] = ("norm",)

    @property
    def saves(self) -> frozenset[str]:
        return frozenset({"y"}) if self.own_epsilon else frozenset()


@dataclass(frozen=True)
class Identity(Rule):
    """`R_x = R_y`: conserves. For an activation `f` it is the modified gradient `g · f(x)/x` (AttnLRP, eq. 9); for
    norms and the softmax (Chefer et al. 2021a) it divides by `x + ε`, and is ill-conditioned where that is small."""

    epsilon: float = 0.0
    operations: ClassVar[tuple[str, ...]] = ("activation", "norm", "softmax")


@dataclass(frozen=True)
class Taylor(Rule):
    """The softmax's own gradient: `R_x = x ⊙ (R_s - s Σ R_s)` (AttnLRP, prop. 3.1). What the first-order expansion
    leaves out, `Σ g (s - J x)`, is booked as "softmax"."""

    operations: ClassVar[tuple[str, ...]] = ("softmax",)


@dataclass(frozen=True)
class Stop(Rule):
    """Nothing goes through (CP-LRP, Ali et al. 2022): attention is fixed, the values get everything. Conserves."""

    operations: ClassVar[tuple[str, ...]] = ("softmax",)


@dataclass(frozen=True)
class Half(Rule):
    """A product of two matrices that both depend on the input hands half to each (AttnLRP, prop. 3.3); one that is
    stopped or constant gets nothing, and the other all. Conserves but for the stabiliser, which attention has at its
    output only: scores are scaled before or after their product, and a stabiliser would see the difference.

    `halve_stopped=True` halves even then, as the released PA-LRP code does; the rest is booked as "stopped".
    """

    epsilon: float = 0.0
    signed: bool = True
    halve_stopped: bool = False
    operations: ClassVar[tuple[str, ...]] = ("matmul",)
    fraction: ClassVar[float] = 0.5


@dataclass(frozen=True)
class WholeToEach(Half):
    """A product hands everything to each factor, as its own gradient does: relevance doubles, booked as "copies"."""

    fraction: ClassVar[float] = 1.0


@dataclass(frozen=True)
class Uniform(Rule):
    """An elementwise product of two activations hands half to each (AttnLRP, prop. 3.3). Conserves."""

    operations: ClassVar[tuple[str, ...]] = ("product",)


@dataclass(frozen=True)
class StopGate(Rule):
    """In a gated MLP the activated gate counts as fixed, the other factor gets everything (CP-LRP). Conserves."""

    operations: ClassVar[tuple[str, ...]] = ("product",)


@dataclass(frozen=True)
class ByAbsoluteSum(Rule):
    """`a + b`, where `a` and `b` get totals in the ratio of `|Σ R_a| : |Σ R_b|`, per example (Chefer et al. 2021a,
    eq. 9-10): keeps numbers bounded where proportional shares of both signs would explode. Conserves but for `ε`.

    `fork_epsilon` also stabilises what the first of two inputs gets, the one that is used again elsewhere.
    """

    epsilon: float = 1e-9
    fork_epsilon: float = 0.0
    operations: ClassVar[tuple[str, ...]] = ("add",)


@dataclass(frozen=True)
class CopyToAll(Rule):
    """Released quirk: the mean over tokens hands each token the whole relevance (booked as "copies")."""

    operations: ClassVar[tuple[str, ...]] = ("mean",)


@dataclass(frozen=True)
class AsConcatenated(Rule):
    """Released quirk: relevance of features interleaved by `torch.stack` is read as if they were concatenated."""

    operations: ClassVar[tuple[str, ...]] = ("stack",)


@dataclass(frozen=True)
class PlainGradient(Rule):
    """An operation's own gradient, for operations that have no rule. `y·g - Σ x·g` is booked as "nonlinearity"."""

    operations: ClassVar[tuple[str, ...]] = ("*",)


def fits(rule: Any, operation: str) -> Rule:
    """The rule, if it fits an operation. Raises `OptionError` otherwise."""
    if isinstance(rule, Rule) and ({operation, "*"} & set(rule.operations)):
        return rule
    got = f"{type(rule).__name__}, for {', '.join(rule.operations)}" if isinstance(rule, Rule) else repr(rule)
    raise OptionError(f"this rule does not fit {operation!r}", expected=f"a rule for {operation}", got=got)
