"""Token mass of every stream of a model, with the account of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..lrp.changes import with_copies
from ..seam import floats_of
from ..shapes import at_least_float32
from ..subject import Discrepancy, StreamSubject, tolerance
from . import operations as operations  # fills the table
from .mass_pass import MassPass, Mix, Residual
from .site import Site


@dataclass(frozen=True)
class StreamMass:
    """Where the mass of the scores went: `leaves` in their shapes, the `sites` that were found, and of all examples
    together, of 1, what went to `constants` and how much is `unaccounted` for. Rounding may be `allowed` so much."""

    leaves: dict[str, Tensor]
    sites: list[Site]
    constants: float
    unaccounted: float
    allowed: float

    @property
    def arrives(self) -> bool:
        """Whether all mass is accounted for."""
        return self.unaccounted <= self.allowed

    def checks(self) -> dict[str, Any]:
        """The account, and the sites, as numbers."""
        return {
            "sites": len(self.sites),
            "sites_reached": sum(site.reached for site in self.sites),
            "constants": self.constants,
            "unaccounted": self.unaccounted,
        }


def propagate_mass(
    subject: StreamSubject,
    mix: Mix,
    residual: Residual,
    *,
    gradient: bool = False,
    before: Callable[[list[Site]], None] | None = None,
) -> StreamMass:
    """One forward pass and one backward pass in mass, after one of the gradient where `mix` needs `∂score/∂A`.

    `before` is called with all sites before mass goes back.
    Raises `CaptureError` where no attention was seen, `OptionError` where mass comes to what is no softmax attention.
    """
    return with_copies(
        subject.model, lambda copies: _propagated(subject, mix, residual, before, gradient=gradient, copies=copies)
    )


def _propagated(
    subject: StreamSubject,
    mix: Mix,
    residual: Residual,
    before: Callable[[list[Site]], None] | None,
    *,
    gradient: bool,
    copies: bool,
) -> StreamMass:
    tape = MassPass(subject.model, mix, residual, gradient=gradient)
    tape.copies, subject.by_mass = copies, True
    scores: list[Tensor] = []

    with torch.enable_grad():
        # Where a model of double precision casts to single, sums would not be right to more than that.
        double = all(p.dtype == torch.float64 for p in floats_of(subject.model))
        found = subject.run(
            gradient=True,
            within=tape,
            score_within=lambda output: scores.append(tape.scored(subject.score, output)),
            precise=double,
        )
        (score,) = scores
        if not tape.sites:
            raise no_attention(subject)
        subject.need_gradient(score)
        subject.see_axes()  # by a gradient, not by mass
        if gradient:
            tape.currency = "gradient"
            outputs = list(found.leaves.values())
            torch.autograd.grad(score.sum(), outputs, allow_unused=True, retain_graph=True)
            tape.currency = "mass"
        if before is not None:
            before(tape.sites)
        leaves = subject.gradients_of(score, found.leaves)
    arrived = sum(float(at_least_float32(mass).sum()) for mass in leaves.values())
    unaccounted = abs(len(score) + float(tape.made) - float(tape.constants) - arrived) / len(score)
    kinds = {p.dtype for p in floats_of(subject.model)} | {score.dtype} | ({tape.shorter} if tape.shorter else set())
    got = StreamMass(leaves, tape.sites, float(tape.constants) / len(score), unaccounted, tolerance(*kinds))
    if subject.verify:
        words = "mass that neither inputs nor constants got, of 1"
        subject.measured.append(Discrepancy("mass", torch.tensor(unaccounted), got.allowed, words))
        subject.measured += [site.measured() for site in tape.sites if site.reached]
    return got


def no_attention(subject: StreamSubject) -> CaptureError:
    """An error for a model without softmax attention."""
    return CaptureError(
        "no softmax attention was seen in this model",
        expected="attention by torch.nn.functional.scaled_dot_product_attention, nn.MultiheadAttention, or a softmax "
        "between two products",
        got=type(subject.model).__name__,
        todo="take a method that needs no attention: attn_lrp, integrated_gradients, input_x_gradient",
    )
