"""LRP rules: how an operation hands relevance from its output to its inputs, as small functions of one operation.

**Two currencies, and where they meet.** The backward pass carries a modified gradient `g`; the relevance of a tensor is
`R = x · g` everywhere. Rules that multiply each input by something (epsilon, gamma, alpha-beta, z-plus, all of AttnLRP)
are written in that currency: most operations then need no rule at all, and no division by `x` is ever made. Rules whose
equation hands out relevance as such (z-box, flat, w², identity through a norm) are written in the other: they take
`R_y = y · g_y` and give `R_x`. `as_gradient` is the one place where the two meet: `g_x = R_x / x`. It is exact wherever
`x ≠ 0`; what an exact zero would have received is booked as lost under "stabiliser". At the pixels, where a rule ends,
`R_x` is kept as it is, and nothing is lost.

A rule tells a `Book` what it leaks and why, each cause summed from its own terms.

A rule of one's own is a class derived from `AffineRule`; a rule set (`rule_sets.py`) says where it is used.
"""

from .affine import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox
from .base import Affine, AffineRule, Book, Rule, as_gradient, fits, per_unit, share, stabilised
from .nonaffine import (
    AsConcatenated,
    ByAbsoluteSum,
    CopyToAll,
    FixedStd,
    Half,
    Identity,
    PlainGradient,
    ResidualGamma,
    StabilisedFork,
    Stop,
    StopGate,
    Taylor,
    Uniform,
    WholeToEach,
)

__all__ = [
    "Affine",
    "AffineRule",
    "AlphaBeta",
    "AsConcatenated",
    "Book",
    "ByAbsoluteSum",
    "CopyToAll",
    "Epsilon",
    "FixedStd",
    "Flat",
    "Gamma",
    "Half",
    "Identity",
    "PlainGradient",
    "ResidualGamma",
    "Rule",
    "StabilisedFork",
    "Stop",
    "StopGate",
    "Taylor",
    "Uniform",
    "WSquare",
    "WholeToEach",
    "ZBox",
    "as_gradient",
    "fits",
    "per_unit",
    "share",
    "stabilised",
]
