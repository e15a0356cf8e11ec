"""Beyond Intuition on models of which nothing is declared: perception is token mass, feedback is the gradient of the
last attention, brought to the tokens that its keys are made of.

Row r of the last attention that the score reads takes the mass `w_r P[r]` to the tokens. Each is multiplied by the mean
feedback `W[r, j]` of the keys j that it becomes past all attentions: with one key for each token this is `W ⊙ P`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..mass import MassGraph, Site, with_mass_graph
from ..mass.mass_pass import Mark, Mix
from ..shapes import at_least_float32
from ..subject import (
    PathRecord,
    Quadrature,
    Result,
    StreamSubject,
    leaves_of,
    quadrature_rule,
    scaled_leaves,
    stream_result,
)
from .mass import graph_of, refuse_number

Leaves = dict[str, Tensor]
COARSE = 0.1  # an estimated error of the path integral, of the largest score, that is worth a word


@dataclass(frozen=True)
class FeedbackPath:
    """The path along which feedback is integrated, as options of a method."""

    n_steps: int
    quadrature: str
    baselines: float | Tensor

    @property
    def rule(self) -> Quadrature:
        """Points and weights."""
        return quadrature_rule(self.quadrature, self.n_steps)


def head_by_mass(subject: StreamSubject, start_layer: int | None, path: FeedbackPath | None) -> Result:
    """`beyond_intuition_head`: `C = Σ_h I_h A_h`."""

    def mixes(graph: MassGraph, start: int) -> Mix:
        importance = _HeadImportance(graph)

        def mix(site: Site, rows: slice) -> Tensor:
            A = site.probabilities(rows)
            return A * importance.of(site).to(A)

        return mix

    return _perceived(subject, mixes, start_layer, path, gradient=True)


def token_by_mass(subject: StreamSubject, start_layer: int | None, path: FeedbackPath | None) -> Result:
    """`beyond_intuition_token`: `C = (mean_h A_h) diag(ρ)`."""

    def mixes(graph: MassGraph, start: int) -> Mix:
        graph.send(_nothing, lambda site, mark: (1.0, 1.0), again=True, verify=False)  # which sites are reached
        reached = [site for site in graph.sites[start:] if site.reached]
        ratios = {site.number: _token_ratio(graph, site) for site in reached}

        def mix(site: Site, rows: slice) -> Tensor:
            A = site.probabilities(rows)
            return A * ratios[site.number].to(A) if site.number in ratios else A

        return mix

    return _perceived(subject, mixes, start_layer, path, gradient=False)


def _perceived(
    subject: StreamSubject,
    mixes: Callable[[MassGraph, int], Mix],
    start_layer: int | None,
    path: FeedbackPath | None,
    *,
    gradient: bool,
) -> Result:
    start = start_layer or 0

    def use(graph: MassGraph) -> Result:
        refuse_number(start, len(graph.sites))
        told = graph_of(graph) if subject.details else {}
        perception = _Perception(graph, mixes(graph, start), start)
        found = graph.send(perception.handed, perception.shares, again=True)
        checks, options = found.checks() | told, {"start_layer": start}
        if path is None:
            return stream_result(subject, found.leaves, options=options, checks=checks)
        why = perception.without_feedback()
        if why is not None:
            checks["feedback"] = f"none, perception alone: {why}"
            return stream_result(subject, found.leaves, options=options, checks=checks)
        fine, coarse, more = _with_feedback(perception, path)
        result = stream_result(subject, fine, options=options, checks={**checks, **more})
        return _with_error(subject, result, coarse, path)

    # The gradient is needed where an attention's output goes, too: past it, and along the path.
    return with_mass_graph(subject, use, gradient=gradient, nodes=True, differentiable=True)


@dataclass
class _Perception:
    """`P = ∏ (I + C)`, of all rows of the last attention that the score reads, or of one `row` alone."""

    graph: MassGraph
    mix: Mix
    start: int
    row: int | None = None

    @property
    def last(self) -> Site:
        """The last attention that mass comes to."""
        return max((s for s in self.graph.sites if s.reached), key=lambda s: s.number, default=self.graph.sites[-1])

    def shares(self, site: Site, mark: Mark) -> tuple[Any, Any]:
        """All to what goes past, all to what goes through; where one row is wanted, of it alone."""
        kept: float | Tensor = 1.0
        if self.row is not None and site.number == self._chosen.number:
            assert mark.rows is not None
            kept = mark.rows(self._one_row)
        return kept, 0.0 if site.number < self.start else kept

    def handed(self, site: Site, rows: slice) -> Tensor:
        """`C`; of a last attention that is added to nothing, of the row alone."""
        handed = self.mix(site, rows)
        if self.row is None or site.number != self._chosen.number or site.number in self.graph.around:
            return handed
        return handed * (torch.arange(site.o.shape[-2], device=handed.device)[rows] == self.row)[:, None]

    def of_row(self, row: int, last: Site) -> Leaves:
        """`w_r P[r]` at the leaves."""
        self.row, self._chosen = row, last
        try:
            return self.graph.send(self.handed, self.shares, again=True, verify=False).leaves
        finally:
            self.row = None

    def _one_row(self, site: Site) -> Tensor:
        found = torch.zeros_like(site.o)
        found[..., self.row, :] = 1
        return found

    def without_feedback(self) -> str | None:
        """Why there is no feedback to multiply with, if that is so."""
        last, graph = self.last, self.graph
        if not last.reached:
            return "no attention is reached"
        if last.o.ndim != 4 or len(last.o) != graph.subject.batch:
            return f"{last.module}, the last attention, has windows, so that its rows are several at a time"
        mark = graph.around.get(last.number)
        if mark is not None and (mark.rows is None or len(mark.sites) > 1):
            return f"rows of {last.module}, the last attention, cannot be followed to the sum around it"
        assert last.asked is not None
        asked = last.asked.flatten(1).sum(1)
        if not torch.allclose(asked, torch.ones_like(asked), rtol=1e-2):
            return f"not all mass goes by {last.module}, the last attention"
        return None


def _with_feedback(perception: _Perception, path: FeedbackPath) -> tuple[Leaves, Leaves, dict[str, Any]]:
    """`Σ_r w_r W[r] ⊙ P[r]` at the leaves, by the rule and by the coarser one it embeds; and checks."""
    graph, last = perception.graph, perception.last
    assert last.asked is not None
    rows = last.asked.flatten(0, 1).ne(0).any(0).nonzero()[:, 0]
    *totals, told = _integrated_gradient(graph, last, rows, path)
    W = [total.clamp(min=0).mean(1) for total in totals]  # (batch, row, key)
    key = graph.node(last, "key")
    assert key is not None
    ones = graph.carried(key, torch.ones_like(key))
    fine: Leaves = {}
    coarse: Leaves = {}
    for i, row in enumerate(rows.tolist()):
        P = perception.of_row(row, last)
        for total, weights in ((fine, W[0]), (coarse, W[1])):
            given = weights[:, i, None, :, None].to(key.dtype)
            carried = graph.carried(key, given.expand(key.shape))
            for name, mass in P.items():
                there = bool(ones[name].any())
                factor = torch.where(ones[name] > 0, carried[name] / ones[name], 0.0) if there else 1.0
                total[name] = total.get(name, 0.0) + mass * factor
    entries = graph.subject.clean_entries
    names = dict.fromkeys(entries[k].argument for k, one in ones.items() if bool(one.any()))
    return fine, coarse, {"feedback": f"of {', '.join(names) or 'nothing'}, in {last.module}", **told}


def _integrated_gradient(
    graph: MassGraph, last: Site, rows: Tensor, path: FeedbackPath
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """`∫ ∂s/∂A dα` at some rows of an attention, (batch, head, row, key), by the rule and by the coarser one; and what
    is to be said about the path."""
    subject, rule = graph.subject, path.rule
    at = leaves_of(subject)
    x = at.leaves
    start = at.baseline(path.baselines, x)

    def integrate() -> list[Any]:
        taken = {key: PathRecord(start[key], x[key]) for key in x}
        totals: list[Any] = [0.0, 0.0]
        for point, all_rows in at.chunks(path.n_steps, None):
            scaled = scaled_leaves(start, x, rule, point, all_rows)
            for key, record in taken.items():
                record.add(scaled[key], rule.weights.to(x[key].dtype)[point], all_rows)
            G = graph.attention_gradient_at(scaled, last, rows)
            totals = [total + G * w[point].to(G) for total, w in zip(totals, (rule.weights, rule.coarse), strict=True)]
        at.measure_path(path.quadrature, taken.values(), path.n_steps)
        return totals

    fine, coarse = at.along(start, integrate)
    return fine, coarse, at.told


def _with_error(subject: StreamSubject, result: Result, coarse: Leaves, path: FeedbackPath) -> Result:
    """The result with what the coarser rule says of the integral's error, relative to the largest score."""
    other = subject.by_stream(coarse)
    assert result.streams is not None
    scores = torch.cat([v.flatten(1) for v in result.streams.values()], 1)
    difference = scores - torch.cat([other[name].flatten(1) for name in result.streams], 1)
    largest = scores.abs().amax(-1)
    error = torch.where(largest > 0, difference.abs().amax(-1) / largest, 0.0)
    result.checks["integration_error"] = error
    if bool((error > COARSE).any()):
        result.checks["advice"] = (
            f"the score bends sharply along the path, more than {path.n_steps} points can follow: explain again with "
            f"n_steps={4 * path.n_steps}"
        )
    return result


@dataclass
class _HeadImportance:
    """`H I_h` of each site (…, head, 1, 1), `I_h ∝ Σ_ij |g_V[i] · V[j]|`: of each map, so windows have their own."""

    graph: MassGraph
    known: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def of(self, site: Site) -> Tensor:
        """Of one site. A mean over heads follows: mass goes evenly to the channels of all."""
        if site.number not in self.known:
            found = self._found(site, _maps(self.graph, site))
            self.known[site.number] = found.reshape(*site.o.shape[:-2], 1, 1)
        return self.known[site.number]

    def _found(self, site: Site, maps: tuple[int, int]) -> Tensor:
        if site.gradient is None:
            return at_least_float32(site.o.new_ones(maps))
        lead = site.o.shape[:-2]
        v = at_least_float32(site.v).expand(*lead, *site.v.shape[-2:])
        g_v, asks = torch.zeros_like(v), torch.zeros(*lead, site.o.shape[-2], v.shape[-2], dtype=torch.bool)
        asks = asks.to(v.device)
        for rows in site.blocks():
            A, g = site.probabilities(rows).to(v), at_least_float32(site.gradient[..., rows, :])
            g_v += A.mT @ g
            asks[..., rows, :] = A != 0
        heads = [t.reshape(*maps, *t.shape[-2:]) for t in (g_v, v, asks, site.gradient)]
        # ∂s/∂A is not zero at padding, where A is: only keys that are asked count.
        v = heads[1] * _asked(heads[2].any(1), heads[3].ne(0).any(-1).any(1))[:, None, :, None]
        size = max(1, 2**23 // max(1, v.shape[:-1].numel()))
        total = torch.stack([(part @ v.mT).abs().sum((-2, -1)) for part in heads[0].split(size, dim=-2)]).sum(0)
        everything = total.sum(-1, keepdim=True)
        return torch.where(everything > 0, total * maps[1] / everything, 1.0)


def _asked(asks: Tensor, matters: Tensor) -> Tensor:
    """Keys (…, key) that queries which matter (…, query) ask, or, where keys are as many as queries and so their
    tokens', that these ask: behind a window, say."""
    while True:
        seen = (asks & matters[..., None]).any(-2)
        if seen.shape != matters.shape or bool((seen <= matters).all()):
            return seen
        matters = matters | seen


def _maps(graph: MassGraph, site: Site) -> tuple[int, int]:
    """How many maps an attention has, and heads in each. Heads on the axis of examples go to the same tokens."""
    lead = site.o.shape[:-2]
    if len(lead) > 1:
        return lead[:-1].numel(), lead[-1]
    if len(site.o) == graph.subject.batch:
        return len(site.o), 1
    mark = graph.mark(graph.node(site, "projected")) or graph.around.get(site.number)
    if mark is None or mark.rows is None:
        raise _refusal(site, "has rows that cannot be followed")
    first = torch.zeros_like(site.o)
    first[0] = 1
    heads = round(1 / float(_laid_out(mark, site, first).amax()))
    first[:heads] = 1
    if len(site.o) % heads or float(_laid_out(mark, site, first).amax()) < 0.99:
        raise _refusal(site, "has heads apart from each other on the axis of examples")
    return len(site.o) // heads, heads


def _token_ratio(graph: MassGraph, site: Site) -> Tensor:
    """`‖(V W_O)_j‖ / ‖x_j‖` (…, key), in the shape of the site: what the model makes of values until they are added to
    the stream, without biases, or until a norm, relative to the stream that the attention looks at.

    `V W_O` is the derivative of what is made of what comes out of the attention, times `V`: so it is whatever the model
    calls there.
    """
    branch, output, values = (graph.node(site, n) for n in ("branch", "output", "key"))
    branch = graph.node(site, "projected") if branch is None else branch
    if branch is None or output is None or values is None:
        raise _refusal(site, "is not projected, so that it is not known what its values change")
    maps = _maps(graph, site)
    where, queries = _Places(graph, site, maps, graph.mark(branch)), site.o.shape[-2]
    with graph.gradients():
        u = torch.zeros_like(branch).requires_grad_()
        (pulled,) = torch.autograd.grad(branch, output, u, create_graph=True)
    v, found = site.v.expand(*site.o.shape[:-2], *site.v.shape[-2:]), list[Tensor]()
    for part in v.split(queries, dim=-2):
        padded = torch.zeros_like(site.o)
        padded[..., : part.shape[-2], :] = part
        with graph.gradients():
            (projected,) = torch.autograd.grad(pulled, u, padded, retain_graph=True)
        found.append(where.of_tokens(at_least_float32(projected).norm(dim=-1))[:, : part.shape[-2]])
    sizes = torch.cat(found, 1)  # (map, key)
    skip, read = graph.node(site, "query"), graph.read(values)
    if skip is not None and graph.origin(skip) is graph.origin(values) and sizes.shape[1] == queries:
        around = _Places(graph, site, maps, graph.around[site.number])
        streams = around.of_tokens(at_least_float32(skip.detach()).norm(dim=-1))
    elif read is not None and read.shape[:-1] == sizes.shape:
        streams = at_least_float32(read.detach()).norm(dim=-1)
    else:
        raise _refusal(site, "has values of which it cannot be seen what they are made of")
    ratio = (sizes / streams)[:, None].expand(maps[0], maps[1], -1)
    return ratio.reshape(*site.o.shape[:-2], 1, -1)


class _Places:
    """Where the queries of a site are in a tensor that comes straight from it."""

    def __init__(self, graph: MassGraph, site: Site, maps: tuple[int, int], mark: Mark | None) -> None:
        if mark is None or mark.rows is None:
            raise _refusal(site, "has rows that cannot be followed to what is made of them")
        self._site, self._shape = site, (maps[0], site.o.shape[-2])
        numbers = torch.arange(1.0, maps[0] * site.o.shape[-2] + 1, dtype=torch.float64, device=site.o.device)
        numbers = numbers.view(maps[0], 1, -1, 1).expand(*maps, -1, site.o.shape[-1]).reshape(site.o.shape)
        self._places = _laid_out(mark, site, numbers)[..., 0].round().long().flatten() - 1  # -1: of another attention

    def of_tokens(self, values: Tensor) -> Tensor:
        """One number for each token, as (map, query)."""
        if values.numel() != self._places.numel():
            raise _refusal(self._site, "is added to several streams, so that it is not known which one it changes")
        found, own = values.new_zeros(self._shape[0] * self._shape[1]), self._places >= 0
        return found.index_put((self._places[own],), values.flatten()[own]).view(self._shape)


def _laid_out(mark: Mark, site: Site, values: Tensor) -> Tensor:
    """Values of one site as they are laid out in what comes straight from it, or from others beside it."""
    assert mark.rows is not None
    return mark.rows(lambda other: values if other is site else torch.zeros_like(other.o, dtype=values.dtype))


def _nothing(site: Site, rows: slice) -> Tensor:
    return torch.zeros_like(site.probabilities(rows))


def _refusal(site: Site, why: str) -> OptionError:
    return OptionError(
        f"the attention in {site.module} {why}",
        expected="layers that keep or move tokens between an attention and its residual, heads on an axis of their own",
        got=site.module,
        todo="take attention_rollout or generic_attribution",
    )
