"""Which attention of a model asks what: the streams whose tokens ask, and those that are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..subject import StreamSubject
from .site import Site
from .stream_mass import MassGraph, with_mass_graph


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
    return with_mass_graph(subject, links_of, nodes=True)


def links_of(graph: MassGraph) -> list[SiteLink]:
    """The attentions of a pass whose nodes are kept."""
    graph.send(_nothing, lambda site, mark: (1.0, 1.0), again=True, verify=False)  # which sites are reached
    return [
        SiteLink(
            site.module,
            _made_of(graph, site, "query"),
            _made_of(graph, site, "key"),
            (site.o.shape[-2], site.v.shape[-2]),
            site.reached,
        )
        for site in graph.sites
    ]


def _nothing(site: Any, rows: slice) -> Tensor:
    return torch.zeros_like(site.probabilities(rows))


def _made_of(graph: MassGraph, site: Site, name: str) -> tuple[str, ...]:
    """The streams whose mass the queries or keys of a site are."""
    node = graph.node(site, name)
    if node is None or not node.requires_grad:
        return ()
    found = graph.carried(node, torch.ones_like(node))
    names = [graph.subject.clean_entries[key].argument for key, g in found.items() if bool(g.any())]
    return tuple(dict.fromkeys(names))
