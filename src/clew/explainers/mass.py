"""Attention methods of models of which nothing is declared: token mass, sent back through the graph as it is.

Each is the same backward pass; they differ in what query i hands to key j, and in the shares of a residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..mass import MassGraph, Site, StreamMass, links_of, with_mass_graph
from ..mass.mass_pass import Mark, Mix, Residual
from ..subject import Result, StreamSubject, stream_result


def rollout(site: Site, rows: slice) -> Tensor:
    """`A`."""
    return site.probabilities(rows)


def positive_gradient(site: Site, rows: slice) -> Tensor:
    """`max(∂s/∂A ⊙ A, 0)`."""
    A = site.probabilities(rows)
    return (site.attention_gradient(rows).to(A) * A).clamp_(min=0)


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
    subject: StreamSubject
    around: set[int] = field(default_factory=set[int])  # sites that have a residual

    def shares(self, site: Site, mark: Mark) -> tuple[Tensor, Tensor]:
        """`1 / (1 + Σ_j C_ij)` of each token, in the shape of the sum."""
        if mark.rows is None:
            raise self._refusal(site)
        self.around.update(one.number for one in mark.sites)
        share = 1 / (1 + mark.rows(self._sums))
        return share, share

    def _sums(self, site: Site) -> Tensor:
        """`Σ_j C_ij` of each head, in the shape of the output."""
        sums = torch.cat([self.mix(site, rows).sum(-1) for rows in site.blocks()], -1)
        return sums.to(site.o.dtype)[..., None].expand(site.o.shape)

    def handed(self, site: Site, rows: slice) -> Tensor:
        """`C`; of an attention without a residual, whose rows are all of `C`, divided by the sums of its mean."""
        C = self.mix(site, rows)
        if site.number in self.around:
            return C
        sums = C.sum(-1, keepdim=True)
        if C.ndim > 3:
            sums = sums.mean(-3, keepdim=True)
        elif len(C) != self.subject.batch:  # heads, or windows, are among the examples
            raise self._refusal(site)
        return torch.where(sums == 0, 0.0, C / sums)

    def _refusal(self, site: Site) -> OptionError:
        return OptionError(
            f"rows of the attention in {site.module} cannot be followed to the sum around it",
            expected="layers that keep or move tokens between an attention and its residual",
            got=site.module,
            todo="take attention_rollout or generic_attribution",
        )


def mass_method(
    subject: StreamSubject,
    mix: Mix,
    residual: Residual,
    *,
    start_layer: int | None = None,
    gradient: bool = False,
    before: Callable[[list[Site]], None] | None = None,
) -> Result:
    """The result of a method that differs in `mix` and `residual`, from site `start_layer` on. `before` sees all sites
    before mass goes back."""
    start = start_layer or 0

    def shares(site: Site, mark: Mark) -> Any:
        return (1.0, 0.0) if site.number < start else residual(site, mark)

    found, told = _sent(subject, mix, shares, gradient=gradient, before=before)
    refuse_number(start, len(found.sites))
    result = stream_result(subject, found.leaves, checks=found.checks() | told)
    return replace(result, options={"start_layer": start})


def _sent(
    subject: StreamSubject,
    mix: Mix,
    residual: Residual,
    *,
    gradient: bool = False,
    before: Callable[[list[Site]], None] | None = None,
) -> tuple[StreamMass, dict[str, str]]:
    """Mass of a pass, and with details which attention asks what."""

    def use(graph: MassGraph) -> tuple[StreamMass, dict[str, str]]:
        if before is not None:
            before(graph.sites)
        told = graph_of(graph) if subject.details else {}
        return graph.send(mix, residual), told

    return with_mass_graph(subject, use, gradient=gradient, nodes=subject.details)


def graph_of(graph: MassGraph) -> dict[str, str]:
    """Which attention asks what, a line each, as a check."""
    return {"graph": "\n".join(map(str, links_of(graph)))}


def last_attention(
    subject: StreamSubject,
    layer: int | None = None,
    *,
    mix: Mix = rollout,
    gradient: bool = False,
    before: Callable[[list[Site]], None] | None = None,
) -> Result:
    """`mean_h` of what `mix` gives (default: `A`), of one site (default: the last that mass reaches), and nothing of
    what is before."""
    chosen: list[int] = [] if layer is None else [layer]

    def is_chosen(site: Site) -> bool:
        if not chosen:  # mass comes to the last one first
            chosen.append(site.number)
        return site.number == chosen[0]

    def shares(site: Site, mark: Mark) -> tuple[float, float]:
        return (0.0, 1.0) if is_chosen(site) else (1.0, 0.0)

    def of_chosen(site: Site, rows: slice) -> Tensor:
        is_chosen(site)
        return mix(site, rows)

    found, told = _sent(subject, of_chosen, shares, gradient=gradient, before=before)
    for number in chosen:
        refuse_number(number, len(found.sites))
        if not found.sites[number].reached:
            todo = "choose one that the score depends on: clew.doctor tells which attention is read"
            raise OptionError(f"nothing of attention {number} is read", expected="one that is", got=number, todo=todo)
    result = stream_result(subject, found.leaves, checks=found.checks() | told)
    return replace(result, options={"layer": chosen[0] if chosen else None})


def refuse_number(number: int, count: int) -> None:
    """Raise `OptionError` for an attention that there is not."""
    if not 0 <= number < count:
        todo = "attentions are counted in the order in which they are computed"
        raise OptionError(f"there is no attention {number}", expected=f"0 to {count - 1}", got=number, todo=todo)


def refuse_variant(variant: str) -> None:
    """Raise `OptionError` for a variant that needs blocks and readout to be declared."""
    if variant != "paper":
        raise OptionError(
            f"variant={variant!r} needs a declared model",
            expected="variant='paper'",
            got=variant,
            todo="leave variant out",
        )
