"""What is verified about results of models of which nothing is declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import CheckFailed
from ..lrp import missed_by
from ..rules.rule_sets import RULE_SETS, rule_for
from ..seam import callers_autocast, floats_of, in_callers_autocast, is_quantized, modules_of
from ..streams import ModelCall
from ..subject import Discrepancy, Result, StreamSubject
from ..targets import comparable_outputs

_known: WeakKeyDictionary[nn.Module, dict[Any, float]] = WeakKeyDictionary()
_ALLOWED = {torch.float64: 1e-5, torch.float32: 3e-4}


def verify_streams(subject: StreamSubject, model: nn.Module, result: Result, *, again: bool) -> dict[str, Any]:
    """What was verified, as numbers for `checks`. Raises `CheckFailed` where something disagrees.

    The pass that was explained is compared with the model's own call, once per kind of input, or `again`.
    """
    found: dict[str, Any] = {}
    measured = list(subject.measured)
    kinds = frozenset(p.dtype for p in floats_of(model))
    known, key = _known.setdefault(model, {}), (subject.call.signature, kinds, subject.precise, callers_autocast())
    if again or key not in known:
        own = _compared(subject, model)
        if own is not None:
            known[key] = float(own.error)
            measured.append(own)
    if key in known:
        found["forward_difference"] = known[key]
    measured += _account(subject)
    wrong = [one for one in measured if not float(one.error) <= one.allowed]
    if wrong:
        lines = [f"{one.words}: {float(one.error):.3g}, allowed {one.allowed:.3g}" for one in wrong[:4]]
        raise CheckFailed(
            "the result cannot be trusted: " + ", ".join(dict.fromkeys(one.name for one in wrong)),
            expected="agreement to rounding",
            got="; ".join(lines),
            todo="run clew.doctor(model, inputs), which tells what works on this model; checks='off' gives the result "
            "all the same",
        )
    found["verified"] = ", ".join(dict.fromkeys(one.name for one in measured)) or "nothing"
    subject.relevance.clear()
    return found


def _compared(subject: StreamSubject, model: nn.Module) -> Discrepancy | None:
    """The output that was explained, against the model called as its user calls it."""
    call: ModelCall = subject.call
    explained = comparable_outputs(subject.clean_output)
    if not explained:
        return None
    call = call.copied()  # which the model may change
    precise = subject.precise and any(p.dtype != torch.float64 for p in floats_of(model))
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if precise and like is not None:
        call = call.moved(like)
    with in_callers_autocast(), torch.no_grad():
        own = comparable_outputs(model(*call.args, **call.kwargs))
    words = "the pass that was explained, against the model called as its user calls it"
    errors = [
        Discrepancy.of("forward", a, b.to(a.device), words).error.double().cpu()
        for a, b in zip(own, explained, strict=False)
    ]
    return Discrepancy("forward", torch.stack(errors).amax(), _allowed(model, own), words)


def _allowed(model: nn.Module, own: list[Tensor]) -> float:
    kinds = {p.dtype for p in floats_of(model)} | {t.dtype for t in own}
    if any(map(is_quantized, modules_of(model))) or callers_autocast():
        return 0.1
    return max(_ALLOWED.get(kind, 0.1) for kind in kinds)


def _account(subject: StreamSubject) -> Iterator[Discrepancy]:
    """Relevance: what the account leaves unexplained, with the operations that may keep it, and the rules that ran."""
    for found in subject.relevance:
        words = "relevance that no operation accounts for, of the largest amount of the account"
        if not found.closes:
            words += _who(subject, found.asked)
        yield Discrepancy("account", found.open_share().amax(), found.allowed, words)
        rules = RULE_SETS.get(found.asked, {}) if isinstance(found.asked, str) else found.asked
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
