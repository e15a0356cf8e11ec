"""Attention methods of models of which nothing is declared: token mass, sent back through the graph as it is.

Each is the same backward pass; they differ in what query i hands to key j, and in the shares of a residual.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..mass import Site, propagate_mass
from ..mass.mass_pass import Mark, Mix, Residual
from ..subject import Result, StreamSubject, stream_result


def rollout(site: Site, rows: slice) -> Tensor:
    """`A`."""
    return site.probabilities(rows)


def positive_gradient(site: Site, rows: slice) -> Tensor:
    """`max(∂s/∂A ⊙ A, 0)`."""
    A = site.probabilities(rows)
    return (site.attention_gradient(rows).to(A) * A).clamp(min=0)


def halves(site: Site, mark: Mark) -> tuple[float, float]:
    """`(A + I) / 2`."""
    return 0.5, 0.5


def both(site: Site, mark: Mark) -> tuple[float, float]:
    """`A + I`."""
    return 1.0, 1.0


@dataclass
class RowsNormalised:
    """Rows of `I + C` divided by their sums, with `C` by `mix`: what an attention hands on, and its residual."""

    mix: Mix
    around: set[int] = field(default_factory=set[int])  # sites that have a residual

    def shares(self, site: Site, mark: Mark) -> tuple[Tensor, Tensor]:
        """`1 / (1 + Σ_j C_ij)` of each token, in the shape of the sum."""
        if mark.steps is None:
            raise OptionError(
                f"rows of the attention in {site.module} cannot be followed to the sum around it",
                expected="layers that keep or move tokens between an attention and its residual",
                got=site.module,
                todo="take attention_rollout or generic_attribution",
            )
        self.around.add(site.number)
        o = site.o
        sums = torch.cat([self.mix(site, rows).sum(-1) for rows in site.blocks()], -1)
        values = sums.to(o.dtype)[..., None].expand(o.shape)
        for step in mark.steps:
            values = step(values)
        share = 1 / (1 + values)
        return share, share

    def handed(self, site: Site, rows: slice) -> Tensor:
        """`C`; of an attention without a residual, whose rows are all of `C`, divided by the sums of its mean."""
        C = self.mix(site, rows)
        if site.number in self.around or C.ndim < 4:
            return C
        sums = C.sum(-1, keepdim=True).mean(-3, keepdim=True)
        return torch.where(sums == 0, 0.0, C / sums)


def mass_method(
    subject: StreamSubject,
    mix: Mix,
    residual: Residual,
    *,
    start_layer: int | None = None,
    gradient: bool = False,
) -> Result:
    """The result of a method that differs in `mix` and `residual`, from site `start_layer` on."""
    start = start_layer or 0

    def shares(site: Site, mark: Mark) -> Any:
        return (1.0, 0.0) if site.number < start else residual(site, mark)

    found = propagate_mass(subject, mix, shares, gradient=gradient)
    if start and not 0 <= start < len(found.sites):
        raise OptionError(
            f"there is no attention {start}",
            expected=f"0 to {len(found.sites) - 1}",
            got=start,
            todo="sites are counted in the order of the pass",
        )
    result = stream_result(subject, found.leaves, checks=found.checks())
    return replace(result, options={"start_layer": start})


def last_attention(subject: StreamSubject, layer: int | None = None) -> Result:
    """`mean_h A` of one site (default: the last that mass reaches), and nothing of what is before."""
    chosen: list[int] = [] if layer is None else [layer]

    def is_chosen(site: Site) -> bool:
        if not chosen:  # mass comes to the last one first
            chosen.append(site.number)
        return site.number == chosen[0]

    def shares(site: Site, mark: Mark) -> tuple[float, float]:
        return (0.0, 1.0) if is_chosen(site) else (1.0, 0.0)

    def mix(site: Site, rows: slice) -> Tensor:
        is_chosen(site)
        return site.probabilities(rows)

    found = propagate_mass(subject, mix, shares)
    result = stream_result(subject, found.leaves, checks=found.checks())
    return replace(result, options={"layer": chosen[0] if chosen else None})


def refuse_variant(variant: str) -> None:
    """Raise `OptionError` for a variant that needs blocks and readout to be declared."""
    if variant != "paper":
        raise OptionError(
            f"variant={variant!r} needs a declared model",
            expected="variant='paper'",
            got=variant,
            todo="leave variant out",
        )
