"""Relevance of attention, times its gradient, as what token mass goes by: on models of which nothing is declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError, OptionError
from ..lrp import StreamRelevance, propagate_to_streams
from ..mass import Site
from ..shapes import at_least_float32
from ..subject import Result, StreamSubject
from . import mass


@dataclass
class RelevantAttention:
    """`max(∂s/∂A ⊙ R(A), 0)` of each site, with `R(A) = A ⊙ (S Vᵀ)`; `S` is known of the calls that a pass under rules
    met, which are those of the sites, in their order."""

    relevance: StreamRelevance
    times_gradient: bool
    of_site: dict[int, Tensor | None] = field(default_factory=dict[int, "Tensor | None"])

    def match(self, sites: list[Site]) -> None:
        """Find each call among the sites, in order, by its shape and by what it gave. Sites that see constants
        alone were not met. Raises `CaptureError` where a call is none of the sites."""
        calls = self.relevance.attention
        place = 0
        for site in sites:
            if place < len(calls) and site.gave(calls[place].shape, calls[place].ends):
                self.of_site[site.number] = calls[place].S
                place += 1
        if place < len(calls):
            raise CaptureError(
                "attention that a pass under rules met was not found again in the pass by which mass goes",
                expected=f"{len(calls)} calls in the same order, with the same outputs",
                got=f"{place} of them, then one of shape {tuple(calls[place].shape)}",
                todo="take generic_attribution, which needs one pass",
            )
        if all(S is None for S in self.of_site.values()):
            raise OptionError(
                "these rules give attention no relevance",
                expected="rules that let relevance through the softmax's product",
                got=self.relevance.rules,
            )

    def handed(self, site: Site, rows: slice) -> Tensor:
        """What the queries of a site hand to keys, each head by itself."""
        if site.number not in self.of_site:
            raise CaptureError(
                f"the pass under rules did not meet the attention in {site.module}",
                expected="a softmax between two products, or torch.nn.functional.scaled_dot_product_attention",
                got=site.module,
                todo="take generic_attribution, which needs no rules",
            )
        A, S = site.probabilities(rows), self.of_site[site.number]
        if S is None:
            return torch.zeros_like(A)
        R = A * (at_least_float32(S[..., rows, :]) @ at_least_float32(site.v).mT).to(A)
        return (R * site.attention_gradient(rows).to(R) if self.times_gradient else R).clamp(min=0)


def relevance_method(
    subject: StreamSubject,
    rules: str | Mapping[str, Any],
    *,
    times_gradient: bool,
    start_layer: int | None = None,
    last: bool = False,
) -> Result:
    """The result of a path product over relevance of attention, or of its `last` site alone."""
    found = propagate_to_streams(subject, rules, "one", keep_attention=True)
    if subject.verify:
        subject.relevance.append(found)
    C = RelevantAttention(found, times_gradient)
    more: dict[str, Any] = {"gradient": times_gradient, "before": C.match}
    if last:
        result = mass.last_attention(subject, mix=C.handed, **more)
    else:
        result = mass.mass_method(subject, C.handed, mass.both, start_layer=start_layer, **more)
    options = {**result.options, "rules": found.rules}
    if last:
        options.pop("layer")
    return replace(result, options=options, checks={**found.checks(), **result.checks})
