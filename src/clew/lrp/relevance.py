"""Run a model under a rule set, and hand a method the relevance that reached the patches, with the account of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError, ClewError, OptionError
from ..rules.rule_sets import rule_set, streams_in, with_streams
from ..seam import Attention, Capture, GradientProbe, few_of
from ..shapes import at_least_float32
from ..subject import Subject, Trace, repeated
from ..targets import answer_logits_of, logits_of
from . import operations as operations  # fills the tape's table
from .account import Relevance
from .changes import with_copies
from .ledger import ByToken, Flow, Leak
from .residual import ResidualSums
from .several_targets import back_through
from .special_modules import PositionalRelevance
from .tape import Tape


def propagate(
    subject: Subject,
    rules: str | Mapping[str, Any],
    *,
    level: str = "token",
    start: str = "score",
    keep_attention: bool = False,
    positions: bool = False,
    by_head: bool = False,
    keep_sums: bool = False,
    by_token: bool = False,
    attention: Iterable[int] = (),
    states: Iterable[int] = (),
) -> Relevance:
    """One forward pass under `rules` and one backward pass, for each target of an input.

    `start`: relevance handed out is the "score" itself, or "one", as in released code (all relevance is divided by the
    score). `keep_attention` keeps what tells the relevance of attention. `positions` lets relevance into rotary tables
    and biases of attention, `by_head` keeps it for each head, `by_token` what enters the blocks and what biases
    got, token by token; `keep_sums` what is known of residual sums. `attention`: layers that are to be in
    `trace`, with what enters and leaves the blocks `states`. Raises `OptionError` for rules that do not fit or that
    miss an operation.
    """
    subject.refuse_cache()
    more: dict[str, Any] = {"keep_attention": keep_attention, "positions": positions, "by_head": by_head}
    more["by_token"] = by_token
    kept = frozenset(attention), frozenset(states)
    return with_copies(
        subject.model, lambda copies: _propagated(subject, rules, level, start, copies, keep_sums, kept, **more)
    )


def _propagated(
    subject: Subject,
    rules: str | Mapping[str, Any],
    level: str,
    start: str,
    copies: bool,
    sums: bool,
    kept: tuple[frozenset[int], frozenset[int]],
    **more: Any,
) -> Relevance:
    name, chosen = rule_set(rules)
    if isinstance(rules, str):
        chosen = with_streams(chosen, (), {}, named=True)
    if own := streams_in(chosen):
        raise OptionError(
            "a declared model has one stream, which has all the rules",
            expected="rules of operations and places, as 'linear' or 'linear:attention'",
            got=", ".join(f"…@{one}" for one in sorted(own)),
        )
    if subject.token_first(subject.given.shape[0]):  # which the tape could not see
        raise CaptureError(
            "a tensor that relevance passes does not have its examples first",
            expected="(batch, token, width)",
            got="(token, batch, width), in the blocks",
            todo="LRP needs layers whose inputs are (batch, token, width)",
        )
    # What the head does not read of the last block need not be computed, for targets that are made of the logits.
    reads = subject.rows_read if subject.per_row and not kept[0] else None
    tape = Tape(
        subject.bound,
        chosen,
        subject.given.shape[0],
        level=level,
        reads=reads,
        **more,
    )
    tape.copies, tape.keeps_sums = copies, sums
    with torch.enable_grad():
        x = None
        if level == "pixel":
            x = tape.leaf = subject.given.detach().requires_grad_()
        seam = _capture(subject, *kept)
        with tape, seam or nullcontext():
            output = subject.forward(None if x is None else repeated(x, subject.each))
        score = subject.score(output, clean=True)
        subject.need_gradient(score)
        if tape.leaf is None:
            raise CaptureError(
                "the declared patch embedding was not called",
                expected="a forward pass through `patches`",
                got=type(subject.bound.patches).__name__,
                todo="correct `patches` in the declaration",
            )
        records = {} if seam is None else seam.records
        try:
            parts = back_through(
                subject.model,
                _seeds(score, start, subject.each),
                len(subject.given) * subject.length,
                lambda seed, last: _back(subject, name, tape, score, seed, output, records, last=last),
            )
        finally:
            tape.release()
    found = replace(parts[0] if len(parts) == 1 else _interleaved(parts), asked=rules)
    if seam is not None:
        found = replace(found, trace=_traced(subject, seam, output, score.detach(), parts))
    if subject.verify:
        subject.relevance.append(found)
    return found


def _seeds(score: Tensor, start: str, each: int) -> Tensor:
    """What relevance is divided by the score at the start, (target, score): of each target, 0 at the others."""
    whole = torch.ones_like(score) if start == "score" else 1 / score.detach()
    if each == 1:
        return whole[None]
    own = torch.arange(len(score), device=score.device) % each == torch.arange(each, device=score.device)[:, None]
    return torch.where(own, whole, 0)


def _capture(subject: Subject, layers: frozenset[int], states: frozenset[int]) -> Capture | None:
    """What keeps the attention of layers in a pass under rules, and what enters and leaves blocks."""
    if not layers:
        return None
    keep, bound = layers | ({subject.last} if subject.verify else set()), subject.bound
    return Capture(
        bound.blocks,
        bound.attentions,
        len(subject.given),
        keep=keep,
        hidden=states,
        outputs=states,
        examples_first=True,
    )


def _traced(subject: Subject, seam: Capture, output: Any, score: Tensor, parts: Sequence[Relevance]) -> Trace:
    """The trace of a pass under rules, with what is needed to verify it."""
    seam.require()
    subject.shorter, subject.backend = seam.shorter or subject.shorter, next(iter(seam.records.values())).backend
    trace = Trace(subject.bound, seam.records, output, score, subject.read, subject.mask, subject.each, subject.length)
    if subject.verify:
        for layer, record in seam.records.items():
            record.gradient_probe = GradientProbe(few_of(record.o.shape[2], record.o.device), layer == subject.last)
            for part in parts:
                record.gradient_probe.record(part.gradients[layer])
        subject.traces.append(trace)
    return trace


def _back(
    subject: Subject,
    rules: str,
    tape: Tape,
    score: Tensor,
    seed: Tensor,
    output: Any,
    records: Mapping[int, Attention],
    *,
    last: bool,
) -> Relevance:
    """The backward pass of one target of each input, where `seed` (score,) is not 0."""
    assert tape.leaf is not None
    tape.open()
    logits, tables = _logits(output, asked=subject.bound.task == "question-answering"), tape.positional.tables
    kept = {layer: record.o for layer, record in records.items()}
    wanted = [tape.leaf, *kept.values(), *logits, *tables.values()]
    g_x, *found = torch.autograd.grad(
        score, wanted, seed, allow_unused=True, materialize_grads=True, retain_graph=not last
    )
    tape.close()
    gradients, found = dict(zip(kept, found, strict=False)), found[len(kept) :]
    total = at_least_float32((score.detach() * seed).view(-1, subject.each).sum(1))
    if logits:  # a probability or another function of the logits is no sum of them
        handed = sum(tape.per_example(y.detach() * g) for y, g in zip(logits, found, strict=False))
        tape.entries.append(Leak("score", None, "head", "target", total - handed))
    for (key, table), g in zip(tables.items(), found[len(logits) :], strict=True):
        tape.positional.relevance[key] = table.detach() * g
    channels = None
    if tape.level == "pixel":
        channels = tape.leaf.detach() * g_x if tape.pixels is None else tape.pixels
    found = replace(_collected(subject, rules, tape, total, channels), gradients=gradients)
    if tape.level != "token":
        return found
    placed = tape.leaf.detach() * g_x
    placed = placed.sum(-1) if placed.ndim == 3 else placed.sum(1).flatten(1)
    return replace(found, at_leaf=at_least_float32(placed))


def _interleaved(parts: list[Relevance]) -> Relevance:
    """Relevance of several targets of each input, (input · target, …)."""
    first = parts[0]

    def together(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values), 1).flatten(0, 1)

    names = ("total", "semantic", "position", "entering")
    leaks: list[dict[tuple[str, int | None, str, str], Tensor]] = []
    for part in parts:
        sums: dict[tuple[str, int | None, str, str], Tensor] = {}
        for e in part.entries:
            key = e.operation, e.block, e.place, e.cause
            sums[key] = sums[key] + e.values if key in sums else e.values
        leaks.append(sums)
    none = torch.zeros_like(first.total)
    entries = [
        Leak(*key, together([sums.get(key, none).to(none) for sums in leaks]))
        for key in dict.fromkeys(key for sums in leaks for key in sums)
    ]
    kept = [p.by_token for p in parts if p.by_token is not None]
    by_token = None
    if kept:
        states = {
            k: (together([p.states[k][0] for p in kept]), together([p.states[k][1] for p in kept]))
            for k in kept[0].states
        }
        biases = [(block, together([p.biases[i][1] for p in kept])) for i, (block, _) in enumerate(kept[0].biases)]
        by_token = ByToken(states, biases)
    return replace(
        first,
        by_token=by_token,
        **{name: together([getattr(p, name) for p in parts]) for name in names},
        at_leaf=None if first.at_leaf is None else together([p.at_leaf for p in parts if p.at_leaf is not None]),
        channels=None if first.channels is None else together([p.channels for p in parts if p.channels is not None]),
        flow={
            k: Flow(together([p.flow[k].total for p in parts]), together([p.flow[k].size for p in parts]))
            for k in first.flow
        },
        entries=entries,
        inner=PositionalRelevance.interleaved([p.inner for p in parts]),
        sums=None if first.sums is None else ResidualSums.interleaved([p.sums for p in parts if p.sums is not None]),
        attention={k: together([p.attention[k] for p in parts]) for k in first.attention},
        gradients={k: together([p.gradients[k] for p in parts]) for k in first.gradients},
    )


def _logits(output: Any, *, asked: bool) -> list[Tensor]:
    """What scores are made of, where that is known; `asked`: of a model that answers questions."""
    answers = answer_logits_of(output, asked=asked)
    try:
        logits = list(answers) if answers is not None else [logits_of(output)]
    except ClewError:
        return []
    return [y for y in logits if y.requires_grad]


def _collected(subject: Subject, rules: str, tape: Tape, total: Tensor, channels: Tensor | None) -> Relevance:
    prefix, patches = subject.bound.prefix, tape.patches
    if patches is None:
        raise CaptureError("no relevance reached the patch embedding", expected="a score that depends on the patches")
    width = patches.shape[2]
    constant = [tape.prefix[i] for i in sorted(tape.prefix) if tape.prefix[i].numel()]
    lead = torch.cat(constant, 1) if constant else patches.new_zeros(len(patches), 0, width)
    lead = torch.nn.functional.pad(lead, (0, 0, 0, prefix - lead.shape[1]))
    semantic, tokens = torch.cat([lead, patches], 1), prefix + patches.shape[1]
    position = torch.zeros_like(semantic)
    for added in tape.positions:  # prefix tokens that came later have none
        early = added.shape[1] - patches.shape[1]
        position[:, :early] += added[:, :early]
        position[:, prefix:] += added[:, early:]
    entering = tape.entering
    if entering is None or entering.shape[1] != tokens:
        entering = semantic + position
    return Relevance(
        rules=rules,
        prefix=prefix,
        total=total,
        semantic=semantic.detach(),
        position=position.detach(),
        entering=entering.detach(),
        channels=None if channels is None else channels.detach(),
        flow=dict(tape.flow),
        entries=list(tape.entries),
        met=tape.met,
        attention=dict(tape.attention),
        inner=tape.positional.copied(),
        depth=subject.depth,
        dtype=tape.shorter or semantic.dtype,
        sums=ResidualSums.of(tape.sums, total) if tape.keeps_sums else None,
        by_token=None if tape.by_token is None else tape.by_token.copied(),
    )
