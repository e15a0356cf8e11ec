"""Run a model under a rule set, and hand a method the relevance that reached the patches, with the account of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError, ClewError, OptionError
from ..rules.rule_sets import rule_set, streams_in, with_streams
from ..shapes import Pixels, Scores, at_least_float32
from ..subject import Subject, repeated
from ..targets import answer_logits_of, logits_of
from . import operations as operations  # fills the tape's table
from .changes import with_copies
from .ledger import ByToken, Flow, Leak, OperationRule
from .residual import ResidualSums
from .several_targets import back_through
from .special_modules import PositionalRelevance
from .tape import Tape

# Above this, rounding of float32 sums may be seen in a heatmap.
_ILL = 1e-3


@dataclass(frozen=True)
class Relevance:
    """Where the relevance of a score went. Vectors are (batch, token, width); sums over tokens and width conserve.

    `semantic` is what the content of each token got (patches; for prefix tokens their embedding), `position` what its
    positional encoding got, `entering` both together before they were told apart. `channels` (batch, channel, height,
    width) on the level of pixels. `total` is what was handed out at the output, `flow` what was left at each stage from
    input to output, `entries` what each operation leaked. `attention[l]`: `A_l ⊙ (S Vᵀ)` is the relevance of attention
    `A_l`. `inner` is what positional encodings inside the blocks got: rotary tables, biases of attention. `asked` are
    the rules as they were asked for, `dtype` is the shortest that was computed in; `at_leaf` (batch, patch) is input
    times gradient where relevance ends, by autograd.
    """

    rules: str
    prefix: int
    total: Tensor
    semantic: Tensor
    position: Tensor
    entering: Tensor
    channels: Tensor | None
    flow: Mapping[str, Flow]
    entries: list[Leak]
    met: Mapping[OperationRule, int]
    attention: Mapping[int, Tensor]
    inner: PositionalRelevance
    depth: int
    dtype: torch.dtype
    asked: str | Mapping[str, Any] = ""
    at_leaf: Tensor | None = None
    sums: ResidualSums | None = None
    by_token: ByToken | None = None

    @property
    def pixels(self) -> Pixels | None:
        """What pixels got, channels together."""
        return None if self.channels is None else self.channels.sum(1)

    def by_layer(self) -> Tensor | None:
        """Relevance of positions inside the blocks, signed, (batch, layer, token); None where there are none."""
        tables, biases = self.inner.relevance, self.inner.biases
        if not tables and not biases:
            return None
        layers: list[Tensor] = []
        for layer in range(self.depth):
            parts = [at_least_float32(R).sum(-1) for (l, _), R in tables.items() if l == layer]
            parts += [at_least_float32(biases[layer][0])] if layer in biases else []
            layers.append(sum(parts[1:], parts[0]).to(self.total.device) if parts else self.semantic.new_zeros(()))
        shape = next(t for t in layers if t.ndim).shape
        return torch.stack([t.to(self.total.dtype).expand(shape) for t in layers], 1)

    def leaks(self) -> dict[str, Tensor]:
        """Relevance that was not handed on, by cause, each summed from its own operations: (batch,) each."""
        causes: dict[str, Tensor] = {}
        for entry in self.entries:
            values = entry.values.to(self.total.dtype)
            causes[entry.cause] = causes[entry.cause] + values if entry.cause in causes else values
        return causes

    def account(self, part: str) -> dict[str, Tensor]:
        """What became of `total`: `relevance` in the result, each `leak_…` by cause, and `unexplained`, the rest.

        What a result leaves out counts as a leak too: `leak_position`, `leak_semantic`, `leak_prefix`.
        """
        leaks = {f"leak_{cause}": values for cause, values in self.leaks().items()}
        semantic, position = ({"prefix": v[:, : self.prefix], "patches": v[:, self.prefix :]} for v in self._both())
        kept = torch.zeros_like(self.total)
        inner = self.by_layer()
        inside = torch.zeros_like(kept) if inner is None else inner.flatten(1).sum(1)
        for name, vectors, wanted in (
            ("semantic", semantic, part in ("all", "semantic")),
            ("position", position, part in ("all", "position")),
        ):
            sums = {place: v.flatten(1).sum(1).to(self.total.dtype) for place, v in vectors.items()}
            if self.pixels is not None and name == "semantic":
                sums["patches"] = self.pixels.flatten(1).sum(1).to(self.total.dtype)
            if name == "position":
                sums["patches"] = sums["patches"] + inside
            if not wanted:
                leaks[f"leak_{name}"] = sums["patches"] + sums["prefix"]
            elif self.pixels is not None:  # prefix tokens have no pixels
                kept = kept + sums["patches"]
                leaks["leak_prefix"] = leaks.get("leak_prefix", 0) + sums["prefix"]
            else:
                kept = kept + sums["patches"] + sums["prefix"]
        unexplained = self.total - kept - sum(leaks.values(), torch.zeros_like(kept))
        return {"explained": self.total, "relevance": kept, **leaks, "unexplained": unexplained}

    def _both(self) -> tuple[Tensor, Tensor]:
        return at_least_float32(self.semantic), at_least_float32(self.position)

    def stages(self) -> dict[str, Tensor]:
        """Sums of relevance, (batch,) each, from the input to the output: parts of the input, then what enters each
        block, what leaves the last, and the head's norm, pooled tokens and classifier as far as there are any."""
        parts = {} if self.pixels is None else {"pixels": self.pixels.flatten(1).sum(1)}
        inner, position = self.by_layer(), at_least_float32(self.position).flatten(1).sum(1)
        position = position if inner is None else position + inner.flatten(1).sum(1).to(position)
        parts |= {"position": position, "semantic": at_least_float32(self.semantic).flatten(1).sum(1)}
        return {k: at_least_float32(v).to(self.total.dtype) for k, v in parts.items()} | {
            k: f.total for k, f in self.flow.items()
        }

    def conditioning(self) -> Tensor:
        """Rounding of sums against the total: unit round-off × largest `Σ|R|` of a stage / `|total|`, (batch,)."""
        largest = torch.stack([f.size for f in self.flow.values()]).amax(0)
        return torch.finfo(self.dtype).eps * largest / self.total.abs()

    def checks(self, part: str) -> dict[str, Any]:
        """The account, relevance by stage, and a word of advice where the numbers are not to be trusted."""
        found: dict[str, Any] = dict(self.account(part))
        stages = self.stages()
        found["relevance_by_stage"] = torch.stack(list(stages.values()), 1)
        found["stages"] = ", ".join(stages)
        found["conditioning"] = conditioning = self.conditioning()
        finite = all(bool(v.isfinite().all()) for v in (self.semantic, self.position, found["unexplained"]))
        if not finite or bool((conditioning > _ILL).any()):
            found["advice"] = (
                f"relevance is {'ill-conditioned' if finite else 'not finite'} in {self.dtype} under these "
                "rules: explain again with compute_dtype=torch.float64"
            )
        return found


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
) -> Relevance:
    """One forward pass under `rules` and one backward pass, for each target of an input.

    `start`: relevance handed out is the "score" itself, or "one", as in released code (all relevance is divided by the
    score). `keep_attention` keeps what tells the relevance of attention. `positions` lets relevance into rotary tables
    and biases of attention, `by_head` keeps it for each head, `by_token` what enters the blocks and what biases
    got, token by token; `keep_sums` what is known of residual sums. Raises `OptionError` for rules that do not fit or
    that miss an operation.
    """
    subject.refuse_cache()
    more: dict[str, Any] = {"keep_attention": keep_attention, "positions": positions, "by_head": by_head}
    more["by_token"] = by_token
    return with_copies(
        subject.model, lambda copies: _propagated(subject, rules, level, start, copies, keep_sums, **more)
    )


def _propagated(
    subject: Subject, rules: str | Mapping[str, Any], level: str, start: str, copies: bool, sums: bool, **more: Any
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
    reads = subject.rows_read if subject.per_row else None
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
        with tape:
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
        try:
            parts = back_through(
                subject.model,
                _seeds(score, start, subject.each),
                len(subject.given) * subject.length,
                lambda seed, last: _back(subject, name, tape, score, seed, output, last=last),
            )
        finally:
            tape.release()
    found = replace(parts[0] if len(parts) == 1 else _interleaved(parts), asked=rules)
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


def _back(
    subject: Subject, rules: str, tape: Tape, score: Tensor, seed: Tensor, output: Any, *, last: bool
) -> Relevance:
    """The backward pass of one target of each input, where `seed` (score,) is not 0."""
    assert tape.leaf is not None
    tape.open()
    logits, tables = _logits(output, asked=subject.bound.task == "question-answering"), tape.positional.tables
    wanted = [tape.leaf, *logits, *tables.values()]
    g_x, *found = torch.autograd.grad(
        score, wanted, seed, allow_unused=True, materialize_grads=True, retain_graph=not last
    )
    tape.close()
    total = at_least_float32((score.detach() * seed).view(-1, subject.each).sum(1))
    if logits:  # a probability or another function of the logits is no sum of them
        handed = sum(tape.per_example(y.detach() * g) for y, g in zip(logits, found, strict=False))
        tape.entries.append(Leak("score", None, "head", "target", total - handed))
    for (key, table), g in zip(tables.items(), found[len(logits) :], strict=True):
        tape.positional.relevance[key] = table.detach() * g
    channels = None
    if tape.level == "pixel":
        channels = tape.leaf.detach() * g_x if tape.pixels is None else tape.pixels
    found = _collected(subject, rules, tape, total, channels)
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


def reduced(vectors: Tensor, reduction: str) -> Scores:
    """Relevance vectors as one number per token: their "sum", which conserves, or their "l2" norm, without a sign."""
    vectors = at_least_float32(vectors)
    return vectors.sum(-1) if reduction == "sum" else vectors.norm(dim=-1)
