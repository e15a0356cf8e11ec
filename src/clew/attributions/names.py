"""What rows and columns of several results are called: each says only what is true of all that stands there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import short_repr
from .base import Attribution


def predicted(result: Attribution, example: int) -> str | None:
    """The class with the largest logit; None where a result does not know its classes."""
    labels, logits = result.labels, result.logits
    if not labels or logits is None or logits.ndim != 2 or logits.shape[1] != len(labels):
        return None
    return labels[int(logits[example].argmax())]


def share_targets(results: Sequence[Attribution]) -> bool:
    """Whether in each row all columns explain the same."""
    return len({tuple(_targets(r)) for r in results}) <= 1


def rows_of(results: Sequence[Attribution]) -> list[str]:
    """A name for each example: what is explained where that is the same in all columns, else what is predicted."""
    first, same = results[0], share_targets(results)
    found: list[str] = []
    for i in range(len(first)):
        classes = {predicted(r, i) for r in results}
        likeliest = classes.pop() if len(classes) == 1 else None
        target = first.name_of_target(i)
        if likeliest is not None and (not same or target == likeliest):
            found.append(f"predicted: {likeliest}")
        elif same:
            found.append(f"target: {target}" if likeliest is not None else target)
        else:
            found.append(f"input {i + 1}")
    return found


def columns_of(results: Sequence[Attribution]) -> list[str]:
    """A name for each result: its method, and what else tells it from the others."""
    models = [model_of(r) for r in results]
    found = [r.method + _options(r, [other for other in results if other.method == r.method]) for r in results]
    if len(set(models)) > 1:
        found = [f"{name}, {model}" for name, model in zip(found, models, strict=True)]
    if not share_targets(results):
        found = [f"{name}: {_target(r)}" for name, r in zip(found, results, strict=True)]
    return found


def model_of(result: Attribution) -> str:
    """The name of the model; of a path its last part."""
    name = str(result.provenance.get("model", "the model"))
    return re.sub(r"^(\w+:)?[/\\.~].*[/\\](?=.)", "", name.rstrip("/\\"))


def _targets(result: Attribution) -> list[str]:
    return [result.name_of_target(i) for i in range(len(result))]


def _target(result: Attribution) -> str:
    """What a whole column explains."""
    names = _targets(result)
    if len(set(names)) > 1 and all(name == predicted(result, i) for i, name in enumerate(names)):
        return "predicted"
    return ", ".join(names if len(set(names)) > 1 else names[:1])


def _options(result: Attribution, among: Sequence[Attribution]) -> str:
    """Options of a result that others have not, or have otherwise."""
    differing = {
        name: short_repr(value) if not isinstance(value, str) else value
        for name, value in result.options.items()
        if len({repr(other.options.get(name)) for other in among}) > 1
    }
    return f" ({', '.join(f'{name}={value}' for name, value in differing.items())})" if differing else ""
