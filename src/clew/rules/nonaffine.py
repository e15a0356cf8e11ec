"""Rules for norms, activations, attention, sums and products. What they do is in `operations/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Rule


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
    stopped or constant gets nothing, and the other all. Conserves but for the stabiliser, which is added to the product
    of queries and keys as they are, whether a model scales them before or after.

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
    """

    epsilon: float = 1e-9
    operations: ClassVar[tuple[str, ...]] = ("add",)


@dataclass(frozen=True)
class ResidualGamma(Rule):
    """ResLRP's γ rule (Berend et al. 2026, eq. 3) for `c = a + b`: what has the sign of the sum counts more.

    `w(z) = 1 + γ [sign z = sign c]`, `R_a = w(a) a R_c / (w(a) a + w(b) b)`, so too for `b`, entry by entry. Conserves,
    and hands on at most `(1 + 2/γ) |R_c|` in size, however much of `a` and `b` cancels. `γ = 0` is `Epsilon()`.
    """

    gamma: float = 1.0
    operations: ClassVar[tuple[str, ...]] = ("add",)


@dataclass(frozen=True)
class StabilisedFork(Rule):
    """Where a tensor is used several times it gets `x Σ R_i/(x + ε)` (Chefer et al. 2021a, their "clone"); the plain
    sum `Σ R_i` otherwise. In blocks, for what enters them and what norms and sums of two put out."""

    epsilon: float = 1e-9
    operations: ClassVar[tuple[str, ...]] = ("fork",)


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
