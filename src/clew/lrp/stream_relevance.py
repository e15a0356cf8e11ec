"""Relevance of every stream of a model of which nothing is declared, with the account of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..attributions import STREAMS
from ..errors import CaptureError, ClewError
from ..rules.rule_sets import rule_set, streams_in, with_streams
from ..seam import owning_model
from ..shapes import at_least_float32
from ..subject import StreamSubject
from ..subject.stream_subject import Leaves
from ..targets import logits_of
from ..traversal import floats_of
from . import operations as operations  # fills the tape's table
from .audit import AuditedCall, AuditedTape
from .changes import with_copies
from .ledger import Leak, OperationRule
from .marks import AttentionCall
from .residual import ResidualSums
from .several_targets import back_through
from .stream_tape import StreamTape
from .tape import Tape

# Models, by kind of input, whose examples share rows, so that they are explained one after the other.
_shared: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()

# What an account may leave open, relative to its largest amount, times the roundings that there were.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}


_Keep = tuple[bool, bool]  # what tells the relevance of attention, and what is known of residual sums
_Found = tuple[list[Tensor], list[Leak], ResidualSums]


@dataclass(frozen=True)
class StreamRelevance:
    """Where the relevance of each score went: `leaves` (relevance in the shape of each leaf, with an axis of examples
    in front where a leaf has none), `streams` the same by stream, what operations leaked, and if it was to be kept what
    tells the relevance of `attention`, call by call, and what is known of residual `sums`."""

    rules: str
    asked: str | Mapping[str, Any]
    total: Tensor
    leaves: Leaves
    streams: dict[str, Tensor]
    entries: list[Leak]
    met: Mapping[OperationRule, int]
    one_at_a_time: bool
    dtype: torch.dtype
    attention: list[AttentionCall] = field(default_factory=list[AttentionCall])
    sums: ResidualSums | None = None

    def account(self) -> dict[str, Tensor]:
        """What became of `total`: `relevance` of all streams, each `leak_…` by cause, and `unexplained`, the rest."""
        leaks: dict[str, Tensor] = {}
        for entry in self.entries:
            name = f"leak_{entry.cause}"
            leaks[name] = leaks.get(name, torch.zeros_like(self.total)) + entry.values.to(self.total)
        kept = torch.stack([R.flatten(1).sum(1).to(self.total) for R in self.streams.values()]).sum(0)
        unexplained = self.total - kept - sum(leaks.values(), torch.zeros_like(kept))
        return {"explained": self.total, "relevance": kept, **leaks, "unexplained": unexplained}

    def open_share(self) -> Tensor:
        """What is unexplained, relative to the largest amount that any operation of the account is about, (batch,)."""
        account = self.account()
        sizes = [v.abs() for v in account.values()] + [e.values.abs().to(self.total) for e in self.entries]
        largest = torch.stack(sizes).amax(0)
        return account["unexplained"].abs() / largest.clamp(min=torch.finfo(self.total.dtype).tiny)

    @property
    def allowed(self) -> float:
        """What rounding may leave open."""
        return _ROUNDING.get(self.dtype, 3e-2)

    @property
    def closes(self) -> bool:
        """Whether every example's account does."""
        return bool((self.open_share() <= self.allowed).all())

    def checks(self) -> dict[str, Any]:
        """The account, and conventions that were used."""
        found: dict[str, Any] = dict(self.account())
        if self.one_at_a_time and len(self.total) > 1:
            found["examples"] = "one at a time: they share rows of tensors"
        return found


def propagate_to_streams(
    subject: StreamSubject,
    rules: str | Mapping[str, Any],
    start: str = "score",
    *,
    keep_attention: bool = False,
    keep_sums: bool = False,
) -> StreamRelevance:
    """One forward pass under `rules` and one backward pass; or one backward pass for each example, where examples share
    rows of tensors, so that the account of all together would not be theirs.

    Raises `OptionError` for rules that do not fit or that miss an operation.
    """
    known = _shared.setdefault(owning_model(subject.model), set())
    keep = keep_attention, keep_sums
    key = subject.call.signature, subject.at
    if key not in known:
        try:
            found = _propagate(subject, rules, start, keep, one_at_a_time=False)
        except CaptureError:
            if subject.batch <= 1:
                raise
        else:
            if found.closes or len(found.total) == 1:
                return found
        alone = _propagate(subject, rules, start, keep, one_at_a_time=True)
        if alone.closes:
            known.add(key)
        return alone
    return _propagate(subject, rules, start, keep, one_at_a_time=True)


def _propagate(
    subject: StreamSubject, rules: str | Mapping[str, Any], start: str, keep: _Keep, *, one_at_a_time: bool
) -> StreamRelevance:
    def run(copies: bool) -> StreamRelevance:
        return _propagated(subject, rules, start, keep, one_at_a_time=one_at_a_time, copies=copies)

    return with_copies(subject.model, run)


def _propagated(
    subject: StreamSubject,
    rules: str | Mapping[str, Any],
    start: str,
    keep: _Keep,
    *,
    one_at_a_time: bool,
    copies: bool,
) -> StreamRelevance:
    name, chosen = rule_set(rules)
    if streams_in(chosen):
        known = {entry.argument for entry in subject.clean_entries.values()}
        chosen = with_streams(chosen, known, STREAMS, named=isinstance(rules, str))
    kind, batch = StreamTape if streams_in(chosen) else Tape, max(1, subject.batch)
    tape = kind(None, chosen, batch, level="stream", model=subject.model, keep_attention=keep[0])
    tape.copies, tape.keeps_sums = copies, keep[1]
    inside: list[Tensor] = []

    def score_inside(output: Any) -> None:
        if subject.callable_target:
            inside.append(subject.score(output))

    with torch.enable_grad():
        # Where a model of double precision casts to single, its account would not close to more than that.
        double = all(p.dtype == torch.float64 for p in floats_of(subject.model))
        found = subject.run(gradient=True, within=tape, score_within=score_inside, precise=double)
        output = found.output
        score = inside[0] if inside else subject.score(output)
        subject.need_gradient(score)
        logits = [] if inside else _logits(output)
        leaves = found.leaves
        one_at_a_time |= subject.each > 1
        tape.batch = 1 if one_at_a_time else len(score)
        seed = torch.ones_like(score) if start == "score" else 1 / score.detach()
        total = at_least_float32((score * seed).detach())
        axes = subject.axes(score, leaves)
        attention: list[AttentionCall] = []
        alone = one_at_a_time or None in axes.values()
        seeds = torch.diag(seed) if alone else seed[None]

        def back(seed: Tensor, last: bool) -> _Found:
            found = _back(tape, score, seed, leaves, logits, last=last)
            attention[:] = _together(attention, tape.attention_calls)
            return found

        try:
            if keep[0]:  # which is read of the tape
                parts = [back(one, i == len(seeds) - 1) for i, one in enumerate(seeds)]
            else:
                parts = back_through(subject.model, seeds, _tokens(leaves), back)
        finally:
            tape.release()
    relevance = {
        key: subject.together(axes[key], [part[0][i] for part in parts]) if alone else parts[0][0][i]
        for i, key in enumerate(leaves)
    }
    entries = parts[0][1]
    if alone:
        entries = _in_order([part[1] for part in parts], total, shared=not one_at_a_time)
    for name, R in subject.by_stream(relevance, again=True).items():
        entries.append(Leak(name, None, "", "looked_up_again", R.flatten(1).sum(1)))
    if (rest := subject.not_given(relevance)) is not None:
        entries.append(Leak("embedding", None, "", "constant", rest))
    return StreamRelevance(
        rules=name,
        asked=rules,
        total=total,
        leaves=relevance,
        streams=subject.by_stream(relevance),
        entries=entries,
        met=tape.met,
        one_at_a_time=one_at_a_time and subject.each == 1,
        dtype=_shortest(subject.model, tape, total),
        attention=attention,
        sums=_sums([part[2] for part in parts], shared=not one_at_a_time) if keep[1] else None,
    )


def missed_by(subject: StreamSubject, rules: str | Mapping[str, Any], most: int = 3) -> list[AuditedCall]:
    """The calls of the model that hand on less or more than they get, the worst first."""
    tape = AuditedTape(rule_set(rules)[1], 1, subject.model)
    tape.copies = True
    with torch.enable_grad():
        inside: list[Tensor] = []
        found = subject.run(
            gradient=True,
            within=tape,
            score_within=lambda output: inside.append(subject.score(output)) if subject.callable_target else None,
        )
        score = inside[0] if inside else subject.score(found.output)
        tape.open()
        torch.autograd.grad(score.sum(), list(found.leaves.values()), allow_unused=True)
        tape.close()
        tape.release()
    least = 1e-6 * float(score.detach().abs().sum())
    return [call for call in tape.worst() if abs(call.missing) > least][:most]


def _tokens(leaves: Leaves) -> int:
    """How many vectors enter, which decides how many backward passes go at a time."""
    return sum(leaf.numel() // max(1, leaf.shape[-1] if leaf.ndim else 1) for leaf in leaves.values())


def _back(tape: Tape, score: Tensor, seed: Tensor, leaves: Leaves, logits: list[Tensor], *, last: bool) -> _Found:
    """The backward pass of the scores where `seed` (score,) is not 0."""
    tape.open()
    keys = list(leaves)
    found = torch.autograd.grad(
        score, [*leaves.values(), *logits], seed, allow_unused=True, materialize_grads=True, retain_graph=not last
    )
    tape.close()
    values: list[Tensor] = []
    for key, g in zip(keys, found, strict=False):
        handed = tape.handed.get(id(leaves[key]))
        values.append(at_least_float32(leaves[key].detach() * g) if handed is None else handed)
    entries = list(tape.entries)
    if logits:
        handed = sum(tape.per_example(y.detach() * g) for y, g in zip(logits, found[len(keys) :], strict=True))
        own = at_least_float32(score.detach() * seed)
        entries.append(Leak("score", None, "head", "target", (own.sum()[None] if tape.batch == 1 else own) - handed))
    own = score.detach() * seed
    return values, entries, ResidualSums.of(tape.sums, own[:1] if tape.batch == 1 else own)


def _at(total: Tensor, one: int) -> Tensor:
    return torch.zeros_like(total).index_copy_(0, torch.tensor([one], device=total.device), total[one : one + 1])


def _together(before: list[AttentionCall], calls: list[AttentionCall]) -> list[AttentionCall]:
    """What backward passes of single examples found of attention; of each the others got nothing."""
    if not before:
        return [replace(one) for one in calls]
    return [
        replace(new, S=old.S if new.S is None else new.S if old.S is None else old.S + new.S)
        for old, new in zip(before, calls, strict=True)
    ]


def _sums(parts: list[ResidualSums], *, shared: bool) -> ResidualSums:
    """What is known of the sums from passes of single examples; `shared`: of passes whose books are of all examples."""
    if len(parts) == 1:
        return parts[0]
    own = [(part, i if shared else 0) for i, part in enumerate(parts)]
    C, A = torch.stack([p.cancellation[i] for p, i in own]), torch.stack([p.amplification[i] for p, i in own])
    return ResidualSums(C, A)


def _in_order(parts: list[list[Leak]], total: Tensor, *, shared: bool) -> list[Leak]:
    """Leaks of single examples as those of the batch; `shared`: of passes whose books are of all examples."""
    found: dict[tuple[str, int | None, str, str], Tensor] = {}
    for i, entries in enumerate(parts):
        for e in entries:
            key = e.operation, e.block, e.place, e.cause
            value = e.values.to(total) if shared else _at(torch.zeros_like(total) + e.values.to(total).sum(), i)
            found[key] = found[key] + value if key in found else value
    return [Leak(*key, values) for key, values in found.items()]


def _logits(output: Any) -> list[Tensor]:
    try:
        found = logits_of(output)
    except ClewError:
        return []
    return [found] if found.requires_grad else []


def _shortest(model: nn.Module, tape: Tape, total: Tensor) -> torch.dtype:
    """The shortest dtype that was computed in."""
    kinds = (
        {p.dtype for p in floats_of(model)}
        | {total.dtype}
        | tape.dtypes
        | ({tape.shorter} if tape.shorter is not None else set())
    )
    return min(kinds, key=lambda d: torch.finfo(d).bits)
