"""Attention with its gradient, for methods that multiply the two: the model's own, or one under rules.

Under rules that hold attention fixed no gradient goes on through it, and yet it has one: that of `O = A V`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import OptionError, short_repr
from ..lrp import propagate
from ..rules.rule_sets import rule_set
from ..shapes import Outputs
from ..subject import Subject, Trace

Rules = str | Mapping[str, Any]


def with_gradients(
    subject: Subject, layers: range, rules: Rules | None, *, states: Iterable[int] = ()
) -> tuple[Trace, Mapping[int, Outputs]]:
    """One pass that keeps the attention of layers, what enters and leaves the blocks `states`, and `∂s/∂o` by layer."""
    if rules is None:
        trace = subject.run(layers, hidden=states, outputs=states, leaf=(layers[0], "o"))
        found = trace.gradients((layer, "o") for layer in layers)
        return trace, {layer: g for (layer, _), g in found.items()}
    found = propagate(subject, rules, attention=layers, states=states)
    assert found.trace is not None
    return found.trace, found.gradients


def named_rules(rules: Rules | None) -> dict[str, Any]:
    """The option as it is written into a result."""
    return {"rules": None if rules is None else rule_set(rules)[0]}


def refuse_rules(rules: Rules | None) -> None:
    """Raise `OptionError` for rules where the blocks of a model are not declared."""
    if rules is not None:
        raise OptionError(
            "gradients of attention under rules are of declared models",
            expected="rules=None",
            got=f"rules={short_repr(rules)}",
            todo="leave it out, or declare the model (docs/models.md)",
        )
