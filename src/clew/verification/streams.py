"""What is verified about results of models of which nothing is declared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..attributions import STREAMS
from ..errors import CheckFailed
from ..lrp import missed_by
from ..rules.rule_sets import RULE_SETS, rule_for, with_streams
from ..seam import callers_autocast, in_callers_modes, owning_model
from ..streams import ModelCall
from ..subject import LEAST_LOGIT, Discrepancy, Result, StreamSubject
from ..targets import comparable_outputs
from ..traversal import floats_of
from .fused_layers import FUSED_ERROR, has_fused_layers, unfused_layers
from .rounding import allowed_difference

_known: WeakKeyDictionary[nn.Module, dict[Any, dict[str, Any]]] = WeakKeyDictionary()


def verify_streams(subject: StreamSubject, model: nn.Module, result: Result, *, again: bool) -> dict[str, Any]:
    """What was verified, as numbers for `checks`. Raises `CheckFailed` where something disagrees.

    The pass that was explained is compared with the model's own call, once per kind of input, or `again`.
    """
    found: dict[str, Any] = {}
    measured = list(subject.measured)
    owner, kinds = owning_model(model), frozenset(p.dtype for p in floats_of(model))
    # Passes under rules and in mass compute the output in ways of their own.
    how = bool(subject.relevance), subject.by_mass
    key = subject.call.signature, kinds, subject.precise, callers_autocast(), how
    known = _known.setdefault(owner, {})
    if again or key not in known:
        own, told = _as_called(subject, model)
        measured += own
        if own and not _wrong(own[:1]):
            known[key] = {"forward_difference": float(own[0].error), **told}
    found |= known.get(key, {})
    measured += _account(subject)
    wrong = _wrong(measured)
    if wrong:
        lines = [f"{one.words}: {float(one.error):.3g}, allowed {one.allowed:.3g}" for one in wrong[:4]]
        raise CheckFailed(
            "the result cannot be trusted: " + ", ".join(dict.fromkeys(one.name for one in wrong)),
            expected="agreement to rounding",
            got="; ".join(lines),
            todo="run clew.doctor(model, inputs), which tells what works on this model; checks='off' gives the result "
            "all the same",
        )
    found["non_finite"] = sum((~v.isfinite()).flatten(1).sum(1) for v in (result.streams or {}).values())
    found["verified"] = ", ".join(dict.fromkeys(one.name for one in measured)) or "nothing"
    subject.relevance.clear()
    return found


def _wrong(measured: Sequence[Discrepancy]) -> list[Discrepancy]:
    return [one for one in measured if not float(one.error) <= one.allowed]


def _as_called(subject: StreamSubject, model: nn.Module) -> tuple[list[Discrepancy], dict[str, Any]]:
    """What was compared with the user's call, the output first, and what is told of it."""
    own = list(_compared(subject, model))
    if not _wrong(own) or not has_fused_layers(model) or any(not float(one.error) <= FUSED_ERROR for one in own):
        return own, {}
    with unfused_layers():
        other = list(_compared(subject, model))
    if _wrong(other):
        return own, {}
    off = f"{float(own[0].error):.1e}"
    said = f"torch's fused encoder layers say something else, by {off} of the output: explained is what the layers say"
    return other, {"as_called": said, "forward_difference": float(own[0].error)}


def _compared(subject: StreamSubject, model: nn.Module) -> Iterator[Discrepancy]:
    """The output that was explained, and its score, against the model called as its user calls it."""
    explained = comparable_outputs(subject.clean_output)
    if not explained:
        return
    call: ModelCall = subject.call.copied()  # which the model may change
    like = next(floats_of(model), None)
    if like is not None and like.dtype != next(floats_of(subject.model)).dtype:  # explained in another precision
        call = call.moved(like)
    with in_callers_modes(), torch.no_grad():
        output = model(*call.args, **call.kwargs)
        scores = subject.score(output), subject.score(subject.clean_output)
    own, allowed = comparable_outputs(output), allowed_difference(model, explained[0].device)
    words = "the pass that was explained, against the model called as its user calls it"
    if len(own) != len(explained):
        yield Discrepancy("forward", torch.tensor(torch.inf), allowed, words)
        return
    errors = [
        Discrepancy.of("forward", a, b.to(a.device), words, least=LEAST_LOGIT).error.double().cpu()
        for a, b in zip(own, explained, strict=True)
    ]
    yield Discrepancy("forward", torch.stack(errors).amax(), allowed, words)
    words = "the score, against that of the model's own call"
    largest = float(torch.stack([t.abs().amax() for t in own if t.numel()]).amax())
    yield Discrepancy.of("score", *scores, words, allowed=allowed, least=max(largest, LEAST_LOGIT))


def _account(subject: StreamSubject) -> Iterator[Discrepancy]:
    """Relevance: what the account leaves unexplained, with the operations that may keep it, and the rules that ran."""
    for found in subject.relevance:
        words = "relevance that no operation accounts for, of the largest amount of the account"
        if not found.closes:
            words += _who(subject, found.asked)
        yield Discrepancy("account", found.open_share().amax(), found.allowed, words)
        named = isinstance(found.asked, str)
        rules = RULE_SETS.get(found.asked, {}) if isinstance(found.asked, str) else found.asked
        known = {entry.argument for entry in subject.clean_entries.values()}
        rules = with_streams(rules, known, STREAMS, named=named)
        wrong = sum(1 for met in found.met if met.rule != rule_for(rules, met.operation, met.place))
        words = f"rules that were used, against the set {found.rules}"
        yield Discrepancy("rules", torch.tensor(float(wrong)), 0.5, words)


def _who(subject: StreamSubject, rules: Any) -> str:
    """The operations that keep relevance or hand on too much, in words."""
    unseen = ", ".join(unseen_operations(subject))
    missed = ", ".join(f"{c.name!r} in {c.module or 'the model'} ({c.missing:+.3g})" for c in missed_by(subject, rules))
    said = f": of {missed}" if missed else ""
    return said + (f"; the model calls {unseen}, which no torch function shows" if unseen else "")


def unseen_operations(subject: StreamSubject) -> list[str]:
    """Functions of the model's own (`torch.autograd.Function`) on the way from the input to the score, by name."""
    with torch.enable_grad():
        found = subject.run(gradient=True)
        score = subject.score(found.output)
    names: dict[str, None] = {}
    seen: set[Any] = set()
    rest = [score.grad_fn]
    while rest:
        node = rest.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            names[type(node).__name__.removesuffix("Backward")] = None
        rest += [parent for parent, _ in node.next_functions]
    return list(names)
