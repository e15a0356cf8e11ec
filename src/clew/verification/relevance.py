"""Relevance: the account, the rules that were really used, and the order of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..rules.rule_sets import RULE_SETS, rule_for
from ..shapes import at_least_float32
from ..subject import Discrepancy, Result, Subject, tolerance

_RESIDUAL = {"base", "gamma", "stream"}  # options of `res_lrp` that change its rules


def check_relevance(subject: Subject, result: Result, method: str, asked: Mapping[str, Any]) -> Iterator[Discrepancy]:
    """Of each pass under rules: what its account leaves unexplained, which rules it met, where relevance ended."""
    for found in subject.relevance:
        account = found.account("all")
        largest = torch.stack([v.abs() for v in account.values()]).amax(0)
        tiny = torch.finfo(largest.dtype).tiny
        rounding = float(found.conditioning().nan_to_num().max()) * max(1, len(found.entries))
        allowed = max(tolerance(found.dtype), rounding)
        words = "relevance that no operation accounts for, of the largest amount of the account"
        # Rules of one's own need not write down what they keep: `unexplained` tells.
        if isinstance(found.asked, str) or all(map(_is_ours, found.asked.values())):
            yield Discrepancy(
                "account", (account["unexplained"].abs() / largest.clamp(min=tiny)).amax(), allowed, words
            )
        rules = RULE_SETS.get(found.asked, {}) if isinstance(found.asked, str) else found.asked
        wrong = sum(1 for met in found.met if met.rule != rule_for(rules, met.operation, met.place))
        yield Discrepancy(
            "rules", torch.tensor(float(wrong)), 0.5, f"rules that were used, against the set {found.rules}"
        )
        placed = at_least_float32(found.semantic[:, found.prefix :]).sum(-1)
        if found.at_leaf is not None:
            words = "relevance of tokens, against input times gradient where it ends"
            yield Discrepancy.of("order", found.at_leaf, placed, words, allowed=max(rounding, tolerance(found.dtype)))
    if subject.relevance:
        yield from _named(subject.relevance[0], method, asked)
        yield from _scores(subject, subject.relevance[0], result, method, asked)


def _is_ours(rule: Any) -> bool:
    return type(rule).__module__.partition(".")[0] == __name__.partition(".")[0]


def _named(found: Any, method: str, asked: Mapping[str, Any]) -> Iterator[Discrepancy]:
    """The set of rules, against the one that was asked for by name, or that the method is named after."""
    plain = method == "pa_lrp" and not {"variant", "rules"} & set(asked)
    named = asked.get("rules") or (method if method in RULE_SETS else "attn_lrp" if plain else None)
    changed = any(asked.get(name) for name in ("gamma_linear", "gamma_conv")) or _RESIDUAL & set(asked)
    if isinstance(named, str) and not changed:
        words = f"the set of rules, against {named}, which was asked for"
        yield Discrepancy("rules", torch.tensor(float(found.asked != named)), 0.5, words)


def _scores(
    subject: Subject, found: Any, result: Result, method: str, asked: Mapping[str, Any]
) -> Iterator[Discrepancy]:
    """Scores, against input times gradient where relevance ends, and what positions got, added up plainly."""
    own = set(asked) - {"rules", "gamma_linear", "gamma_conv", "part"} - _RESIDUAL
    if method not in ("lrp", "attn_lrp", "cp_lrp", "res_lrp", "pa_lrp") or own:
        return
    if found.at_leaf is None or result.scores is None:
        return
    if result.options.get("level") != "token" or result.options.get("clamp"):
        return
    part = asked.get("part", "all" if method == "pa_lrp" else "semantic")
    expected = found.at_leaf if part != "position" else torch.zeros_like(found.at_leaf)
    if part == "all" and not subject.bound.is_text:  # as it was before it was told apart
        expected = at_least_float32(found.entering[:, found.prefix :]).sum(-1)
    elif part != "semantic":
        expected = expected + at_least_float32(found.position[:, found.prefix :]).sum(-1)
        if method != "pa_lrp" and (found.inner.relevance or found.inner.biases):
            return  # gathered as its options say
        for key in found.inner.relevance:
            expected = expected + at_least_float32(found.inner.relevance[key]).clamp(min=0).sum(-1).to(expected)
        for _, positive in found.inner.biases.values():
            expected = expected + positive.to(expected)
    words = "scores, against input times gradient where relevance ends"
    allowed = max(1e-3, tolerance(found.dtype))
    yield Discrepancy.of("order", expected, result.scores[:, found.prefix :], words, allowed=allowed)
