"""Which attention of a model asks what: the streams whose tokens ask, and those that are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..subject import StreamSubject
from . import operations as operations  # fills the table
from .mass_pass import MassPass


@dataclass(frozen=True)
class SiteLink:
    """One attention: the `module` that computes it, the streams that its queries and keys are made of (tokens that are
    none of the input are "constants"), how many of each, and whether mass `reached` it."""

    module: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    size: tuple[int, int]
    reached: bool

    def __str__(self) -> str:
        ask, asked = (", ".join(names) or "constants" for names in (self.queries, self.keys))
        unread = "" if self.reached else "; nothing of it is read"
        return f"{self.module}: {ask} ← {asked} ({self.size[0]} × {self.size[1]}{unread})"


def site_graph(subject: StreamSubject) -> list[SiteLink]:
    """The attentions of one pass, in its order. A token counts as made of what goes past attentions to it alone."""
    tape = MassPass(subject.model, _nothing, lambda site, mark: (1.0, 1.0), gradient=False)
    tape.nodes = {}
    scores: list[Tensor] = []
    with torch.enable_grad():
        found = subject.run(
            gradient=True, within=tape, score_within=lambda output: scores.append(tape.scored(subject.score, output))
        )
        _made_of(scores[0].sum(), found.leaves, subject)  # which sites are reached
        tape.residual = lambda site, mark: (1.0, 0.0)
        return [
            SiteLink(
                site.module,
                _made_of(tape.nodes.get((site.number, "query")), found.leaves, subject),
                _made_of(tape.nodes.get((site.number, "key")), found.leaves, subject),
                (site.o.shape[-2], site.v.shape[-2]),
                site.reached,
            )
            for site in tape.sites
        ]


def _nothing(site: Any, rows: slice) -> Tensor:
    return torch.zeros_like(site.probabilities(rows))


def _made_of(node: Tensor | None, leaves: Mapping[str, Tensor], subject: StreamSubject) -> tuple[str, ...]:
    """The streams whose mass a tensor is."""
    if node is None or not node.requires_grad:
        return ()
    found = torch.autograd.grad(
        node.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True, retain_graph=True
    )
    names = [subject.clean_entries[key].argument for key, g in zip(leaves, found, strict=True) if bool(g.any())]
    return tuple(dict.fromkeys(names))
