"""Streams of tokens: which tokens ask each attention, and which are asked.

Nothing of that is declared. Mass that goes past all attention stays with its tokens, so a different amount is sent back
from each token of what an attention added to, and from each of its keys: where the same amounts come by, in the same
order, are the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import OptionError
from ..shapes import at_least_float32
from ..subject import Discrepancy, StreamSubject, tolerance
from ..traversal import floats_of
from . import operations as operations  # fills the table
from .mass_pass import MassPass
from .own_functions import with_own_functions
from .site import Site
from .stream_mass import StreamMass, no_attention


@dataclass(eq=False)
class TokenStream:
    """So many tokens, and the `sites` whose results were added to them, in order. After how many of these something is
    made of them is their *state*.

    Mass of any token can start at `keys`, the values of an attention that asked them, or else at `total`, a sum around
    an attention in which the tokens are at `places` (batch, token).
    """

    count: int
    keys: Tensor | None = None
    total: Tensor | None = None
    places: Tensor | None = None
    sites: list[Site] = field(default_factory=list[Site])


@dataclass(frozen=True)
class Step:
    """One attention: `site` asks tokens `keys` in a `state`, and adds what it gets to tokens `queries`."""

    site: Site
    queries: TokenStream
    keys: TokenStream
    state: int


@dataclass
class TokenStreams:
    """What was found: `streams`, `steps` in the order of the pass, and of each stream the mass (batch, token) of the
    score at its tokens, as the score reads them (`readout`)."""

    subject: StreamSubject
    tape: MassPass
    score: Tensor
    leaves: dict[str, Tensor]
    allowed: float
    streams: list[TokenStream] = field(default_factory=list[TokenStream])
    steps: list[Step] = field(default_factory=list[Step])
    readout: list[Tensor] = field(default_factory=list[Tensor])

    def find(self) -> None:
        """Find all. Raises `OptionError` where tokens do not stay apart."""
        for site in self.tape.sites:
            if site.gradient is not None and bool(site.gradient.any()):
                self._add(site)
        last = [stream.sites[-1] for stream in self.streams if stream.sites]
        found = self._arrived(self.score, torch.ones_like(self.score), last)
        for stream in self.streams:
            read = found[stream.sites[-1]] if stream.sites else None
            like = at_least_float32(self.score)
            self.readout.append(like.new_zeros(len(like), stream.count) if read is None else read.to(like))
        whole = sum(part.sum(-1) for part in self.readout)
        if not self._same(torch.as_tensor(whole), torch.ones_like(self.score)):
            raise self._refusal("the score reads tokens that are none of those behind the last attention", "the model")

    def last(self) -> tuple[Site, Tensor]:
        """The last attention that mass of the score comes to, and what it asks of each query, (batch, query).

        Raises `OptionError` where there is none, or where it is computed in windows.
        """
        found = self._arrived(self.score, torch.ones_like(self.score), self.tape.sites)
        for site in reversed(self.tape.sites):
            asked, total = found[site], (self.tape.nodes or {}).get((site.number, "sum"))
            if asked is None or not bool(asked.any()):
                continue
            tokens = asked.numel() if total is None else total.shape[:-1].numel()
            if tokens != asked.numel() or site.v.shape[:-2].numel() % len(self.score):
                raise self._refusal(
                    "the last attention is computed in windows, or of tokens that were moved", site.module
                )
            stream = TokenStream(site.v.shape[-2], keys=self._node(site))
            self.streams, self.steps = [stream], [Step(site, stream, stream, 0)]
            return site, asked
        raise self._refusal("nothing of any attention is read", "the model")

    def constant_keys(self, site: Site) -> Tensor:
        """Which keys of a site are of constants alone, (key,): all mass that is sent back from them ends there."""
        values, count = self._node(site), site.v.shape[-2]
        found = torch.zeros(count, dtype=torch.bool, device=site.v.device)

        def ending(first: int, end: int) -> float:
            amounts = at_least_float32(self.score).new_zeros(len(self.score), count)
            amounts[:, first:end] = 1
            self.tape.constants = 0.0
            self._sent([values], [self._from_keys(values, amounts)])
            return float(self.tape.constants) / len(self.score)

        def split(first: int, end: int, ends: float) -> None:
            """Mark keys of a range, of whose mass so much ends at constants."""
            if ends > (end - first) * (1 - self.allowed):
                found[first:end] = True
            elif ends > self.allowed and end - first > 1:
                # As a rule they are the first: CLS, registers.
                middle = first + round(ends) if 0 < round(ends) < end - first else (first + end) // 2
                before = ending(first, middle)
                if before == 0 and middle - first < (end - first) // 2:
                    middle = (first + end) // 2
                    before = ending(first, middle)
                split(first, middle, before)
                split(middle, end, ends - before)

        split(0, count, ending(0, count))
        return found

    # Where mass is sent from

    def _add(self, site: Site) -> None:
        """Find what tokens ask and are asked at a site."""
        total, values = (self.tape.nodes or {}).get((site.number, "sum")), self._node(site)
        if total is None:
            raise self._refusal("an attention has no residual, of which the equations know nothing", site.module)
        count, batch = site.o.shape[-2], len(self.score)
        if site.o.shape[:-2].numel() % batch or total.shape[:-1].numel() != batch * count:
            raise self._refusal("an attention is computed in windows, or of tokens that were moved", site.module)
        keys, state = self._asked(site, values)
        amounts = torch.rand(total.shape[:-1], generator=torch.Generator().manual_seed(site.number)).to(total) + 0.5
        handed = (amounts / total.shape[-1])[..., None].expand(total.shape)
        own = self._arrived(total, handed, [site])[site]
        assert own is not None
        if not self._same(own.flatten().sort().values, amounts.flatten().sort().values.to(own)):
            raise self._refusal("what an attention gives is put to other tokens than those that asked", site.module)
        queries, before = self._origin(site, total, handed, own)
        if queries is None:
            # The same amounts, in the order of the tokens and in that of the sum.
            places = torch.empty_like(own, dtype=torch.long).flatten()
            places[own.flatten().argsort()] = amounts.flatten().argsort()
            queries = TokenStream(count, total=total, places=places.view_as(own))
            self.streams.append(queries)
        elif before != len(queries.sites):
            raise self._refusal("tokens go on in two ways", site.module)
        queries.sites.append(site)
        self.steps.append(Step(site, queries, keys, state))

    def _asked(self, site: Site, values: Tensor) -> tuple[TokenStream, int]:
        """The stream of a site's keys, and its state."""
        shape = len(self.score), values.shape[-2]
        amounts = torch.rand(shape, generator=torch.Generator().manual_seed(-1 - site.number)).to(values) + 0.5
        if values.shape[:-2].numel() % len(self.score):
            raise self._refusal("keys are the same for all examples", site.module)
        handed = self._from_keys(values, amounts)
        keys, state = self._origin(site, values, handed, amounts)
        if keys is None:
            keys = TokenStream(values.shape[-2])
            self.streams.append(keys)
        if keys.keys is None:
            keys.keys = values
        return keys, state

    def _origin(self, site: Site, node: Tensor, handed: Tensor, amounts: Tensor) -> tuple[TokenStream | None, int]:
        """The stream whose tokens a node of the graph holds, and its state; None where there is none yet."""
        begun = [stream for stream in self.streams if stream.sites]
        latest = self._arrived(node, handed, [stream.sites[-1] for stream in begun])
        for stream in begun:
            if self._same(latest[stream.sites[-1]], amounts):
                return stream, len(stream.sites)
        # Made of tokens as they were before: the other side of a co-attention; or of none that are known.
        found = self._arrived(node, handed, [one for stream in begun for one in stream.sites])
        for stream in begun:
            for state in range(len(stream.sites), 0, -1):
                if self._same(found[stream.sites[state - 1]], amounts):
                    return stream, state
        if any(one is not None and bool(one.any()) for one in found.values()):
            raise self._refusal("tokens come together, are left out or change places", site.module)
        at_leaves = self._at_leaves(node, handed)
        for stream in self.streams:
            known = self._of_tokens(stream, amounts)
            if known is not None and all(map(self._same, known, at_leaves)):
                return stream, 0
        return None, 0

    def _of_tokens(self, stream: TokenStream, amounts: Tensor) -> list[Tensor] | None:
        """What comes to the leaves of amounts (batch, token) at the tokens of a stream."""
        if stream.count != amounts.shape[1]:
            return None
        node, handed = self._start(stream, amounts)
        return self._at_leaves(node, handed)

    def _start(self, stream: TokenStream, amounts: Tensor) -> tuple[Tensor, Tensor]:
        """A node of the graph, and amounts (batch, token) of a stream's tokens as mass of it."""
        if stream.keys is not None:
            return stream.keys, self._from_keys(stream.keys, amounts)
        assert stream.total is not None and stream.places is not None
        each = torch.empty_like(amounts).flatten()
        each[stream.places.flatten()] = amounts.flatten()
        shape = stream.total.shape
        return stream.total, (each.view(shape[:-1]) / shape[-1])[..., None].expand(shape).to(stream.total)

    def _from_keys(self, values: Tensor, amounts: Tensor) -> Tensor:
        """Amounts (batch, token) as mass of values (…, head, token, dim), even over heads and channels."""
        *lead, count, width = values.shape
        batch, heads = len(amounts), torch.Size(lead).numel() // len(amounts)
        each = (amounts / (heads * width))[:, None].expand(batch, heads, count).reshape(*lead, count)
        return each[..., None].expand(values.shape).to(values)

    # Where it comes to

    def _node(self, site: Site) -> Tensor:
        return (self.tape.nodes or {})[site.number, "key"]

    def _arrived(self, node: Tensor, handed: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor | None]:
        """What is asked of sites, (batch, token) each, by mass that is handed to a node and goes past attention."""
        for site in sites:
            site.asked = None
        if sites:
            nodes = [self._node(site) for site in sites]
            torch.autograd.grad(node, nodes, handed, allow_unused=True, retain_graph=True)
        return {site: None if site.asked is None else self.over_heads(site.asked, -1) for site in sites}

    def over_heads(self, values: Tensor, axis: int) -> Tensor:
        """The sum over heads of (…, head, *axes), which may be on the axis of the examples: (batch, *axes)."""
        return values.reshape(len(self.score), -1, *values.shape[axis:]).sum(1)

    def _sent(self, nodes: list[Tensor], handed: list[Tensor]) -> list[Tensor]:
        """What comes to the leaves of mass that is handed to nodes, where what constants get is counted."""
        # Values of constants alone are leaves, too, so that autograd goes all ways that end at constants.
        ends = self.tape.of_constants or []
        found = torch.autograd.grad(
            nodes, [*self.leaves.values(), *ends], handed, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        for part in found[len(self.leaves) :]:
            self.tape.constants += at_least_float32(part).sum()
        return list(found[: len(self.leaves)])

    def _at_leaves(self, node: Tensor, handed: Tensor) -> list[Tensor]:
        inputs = list(self.leaves.values())
        return list(
            torch.autograd.grad(node, inputs, handed, allow_unused=True, materialize_grads=True, retain_graph=True)
        )

    def _same(self, found: Tensor | None, expected: Tensor) -> bool:
        """Whether two tensors hold the same, up to rounding."""
        if found is None or found.shape != expected.shape:
            return False
        size = float(torch.maximum(found.abs(), expected.abs()).amax()) if found.numel() else 0.0
        return float((found - expected.to(found)).abs().amax() if found.numel() else 0.0) <= self.allowed * size

    def _refusal(self, why: str, where: str) -> OptionError:
        return OptionError(
            f"{why}, in {where}",
            expected="streams of tokens that stay apart but for attention, each with a residual around it",
            got=where,
            todo="leave variant out: the default goes by token mass, which needs none of that",
        )

    # What comes of it

    def _one(self, masses: Sequence[Tensor], one: int | None) -> dict[str, Tensor]:
        """What comes to the leaves of masses of tokens, of all examples or of one."""
        if one is not None:
            masses = [mass * (torch.arange(len(mass), device=mass.device) == one)[:, None] for mass in masses]
        starts = [self._start(stream, mass) for stream, mass in zip(self.streams, masses, strict=True)]
        found = self._sent([node for node, _ in starts], [handed for _, handed in starts])
        return dict(zip(self.leaves, found, strict=True))

    def at_leaves(self, masses: Sequence[Tensor]) -> StreamMass:
        """Mass (batch, token) of each stream's tokens, where it comes from. Sites are reached as their gradient is."""
        tape, batch = self.tape, len(self.score)
        tape.constants, tape.made = 0.0, 0.0
        axes = self.subject.axes(self.score, self.leaves)
        if None in axes.values():  # examples share leaves
            each = [self._one(masses, one) for one in range(batch)]
            leaves = {k: torch.stack([one[k] for one in each]) for k in self.leaves}
            leaves = {k: v if axes[k] is None else v.sum(0) for k, v in leaves.items()}
        else:
            leaves = self._one(masses, None)
        arrived = sum(float(at_least_float32(part).sum()) for part in leaves.values())
        constants = float(tape.constants)
        whole = sum(float(mass.sum()) for mass in masses)
        for site in tape.sites:
            site.asked = None
        for step in self.steps:
            assert step.site.gradient is not None
            step.site.asked = at_least_float32(step.site.gradient.ne(0).any(-1))
        unaccounted = abs(whole + float(tape.made) - constants - arrived) / max(abs(whole), 1e-30)
        return StreamMass(leaves, tape.sites, constants / batch, unaccounted, self.allowed)


def with_token_streams(subject: StreamSubject, mix: Callable[[TokenStreams], Sequence[Tensor]]) -> StreamMass:
    """Where mass (batch, token) of each stream comes from: `mix` finds streams, in one forward pass, and says it.

    Raises `CaptureError` where no attention was seen, `OptionError` where tokens do not stay apart.
    """

    def once(copies: bool, own_functions: bool) -> tuple[StreamMass, bool]:
        got = _found(subject, mix, copies=copies, own_functions=own_functions)
        return got, got.arrives

    return with_own_functions(subject, once)


def _found(
    subject: StreamSubject, mix: Callable[[TokenStreams], Sequence[Tensor]], *, copies: bool, own_functions: bool
) -> StreamMass:
    # Nothing is handed to keys: all mass goes past attention, and is seen where it comes by.
    tape = MassPass(subject.model, _nothing, lambda site, mark: (1.0, 1.0), gradient=True)
    tape.nodes, tape.of_constants, tape.own_functions = {}, [], own_functions
    tape.copies, subject.by_mass = copies, True
    scores: list[Tensor] = []
    with torch.enable_grad():
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
        subject.see_axes()
        subject.axes(score, found.leaves)
        tape.currency = "gradient"
        inputs = [*found.leaves.values(), *tape.of_constants]
        torch.autograd.grad(score.sum(), inputs, allow_unused=True, retain_graph=True)
        tape.currency = "mass"
        kinds = (
            {p.dtype for p in floats_of(subject.model)} | {score.dtype} | ({tape.shorter} if tape.shorter else set())
        )
        streams = TokenStreams(subject, tape, score, found.leaves, tolerance(*kinds))
        got = streams.at_leaves(mix(streams))
    if subject.verify:
        words = "mass that neither inputs nor constants got, of all"
        subject.measured.append(Discrepancy("mass", torch.tensor(got.unaccounted), got.allowed, words))
        subject.measured += [site.measured() for site in tape.sites if site.reached]
    return got


def _nothing(site: Site, rows: slice) -> Tensor:
    shape = (*site.o.shape[:-2], site.o.shape[-2], site.v.shape[-2])
    return at_least_float32(site.o.new_zeros(())).expand(shape)[..., rows, :]
