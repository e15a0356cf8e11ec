"""What is explained: one number per example, made from the model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .outputs import logits_of
from .shapes import TargetError, close_matches

KINDS = ("logit", "probability", "log_probability")
Classes = int | str | Sequence[int] | Sequence[str] | Tensor | NDArray[Any] | np.integer[Any]


@dataclass(frozen=True)
class Contrast:
    """Why `a` rather than `b`: the score of `a` minus that of `b`; each an index, a label, or one per example."""

    a: Classes
    b: Classes


Target = None | Classes | Contrast | Callable[[Any], Tensor]


@dataclass(frozen=True)
class Resolved:
    """A target fixed for one batch: class indices `plus` and `minus` per example, or a `function` of the output."""

    kind: str
    names: list[str]
    batch: int
    plus: Tensor | None = None
    minus: Tensor | None = None
    function: Callable[[Any], Tensor] | None = None

    @property
    def per_row(self) -> bool:
        """Whether any selection of examples can be scored; a user's callable gets the whole batch."""
        return self.function is None

    def __call__(self, output: Any, rows: Tensor | None = None) -> Tensor:
        """One score per example of `output`, which holds the examples `rows` (all of them, if None)."""
        if self.function is not None:
            return _one_per_example(self.function(output), self.batch)
        values = _as_kind(logits_of(output), self.kind)
        score = _pick(values, self.plus, rows)
        return score if self.minus is None else score - _pick(values, self.minus, rows)


def resolve(target: Target, output: Any, batch: int, labels: Sequence[str] | None, kind: str = "logit") -> Resolved:
    """Fix a target on the clean output of a batch, so that it stays the same however the input is changed.

    Raises `TargetError` for a class that does not exist (with the labels most like it).
    """
    if kind not in KINDS:
        raise TargetError("unknown score", expected=" or ".join(KINDS), got=kind)
    if callable(target) and not isinstance(target, Tensor):
        if kind != "logit":
            raise TargetError("a target function makes its own score", expected="score='logit', the default", got=kind)
        _one_per_example(target(output), batch)
        return Resolved(kind, [getattr(target, "__name__", repr(target))], batch, function=target)
    logits = logits_of(output).detach()
    if logits.ndim != 2:
        raise TargetError(
            "the model's output is no table of classes",
            expected="logits of shape (batch, class)",
            got=tuple(logits.shape),
            todo="pass a callable as target: output -> Tensor[batch]",
        )
    if isinstance(target, Contrast):
        plus, minus = _indices(target.a, logits, labels), _indices(target.b, logits, labels)
        names = [f"{_name(i, labels)} rather than {_name(j, labels)}" for i, j in _pairs(plus, minus)]
        return Resolved(kind, names, batch, plus, minus)
    plus = logits.argmax(-1) if target is None else _indices(target, logits, labels)
    return Resolved(kind, [_name(i, labels) for i in plus.tolist()], batch, plus)


def _indices(target: Any, logits: Tensor, labels: Sequence[str] | None) -> Tensor:
    batch, classes = logits.shape
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool:
            raise TargetError("a target tensor holds class indices", expected="integers", got=target.dtype)
        target = target.tolist()
    if isinstance(target, (np.ndarray, np.integer)):
        target = target.tolist()
    if isinstance(target, (int, str)):
        target = [target] * batch
    if not isinstance(target, Sequence):
        raise TargetError(
            "this is no target",
            expected="None, an index, a label, one of these per example, Contrast(a, b), or a callable",
            got=type(target).__name__,
        )
    if len(target) != batch:
        raise TargetError("one target per example is needed", expected=f"{batch}", got=f"{len(target)}")
    numbers = [_index(t, labels) for t in target]
    wrong = [n for n in numbers if not 0 <= n < classes]
    if wrong:
        raise TargetError("no such class", expected=f"0 to {classes - 1}", got=wrong[0])
    return torch.tensor(numbers, device=logits.device)


def _index(target: Any, labels: Sequence[str] | None) -> int:
    if isinstance(target, np.integer):
        return int(target)
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        raise TargetError("a class is an index or a label", expected="int or str", got=repr(target))
    if isinstance(target, int):
        return target
    if not labels:
        raise TargetError(
            f"the label {target!r} cannot be looked up",
            expected="a model that knows its labels",
            got="no labels",
            todo="pass the class index, or a model from clew.load that has labels",
        )
    lowered = [label.lower() for label in labels]
    for match in (lambda label: label == target.lower(), lambda label: target.lower() in label.split(", ")):
        found = [i for i, label in enumerate(lowered) if match(label)]
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(
                f"the label {target!r} is not the only one",
                expected="one class",
                got=f"classes {found}",
                todo="pass the class index",
            )
    raise TargetError(f"no label {target!r}", got=target, todo=close_matches(target, labels))


def _pick(values: Tensor, index: Tensor | None, rows: Tensor | None) -> Tensor:
    assert index is not None
    chosen = index if rows is None else index[rows]
    return values.gather(1, chosen[:, None]).squeeze(1)


def _as_kind(logits: Tensor, kind: str) -> Tensor:
    if kind == "logit":
        return logits
    return logits.softmax(-1) if kind == "probability" else logits.log_softmax(-1)


def _one_per_example(score: Any, batch: int) -> Tensor:
    if not isinstance(score, Tensor) or score.shape != (batch,) or not score.is_floating_point():
        got = f"{score.dtype} of shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        expected = f"a floating point tensor of shape ({batch},)"
        raise TargetError("the target function must return one number per example", expected=expected, got=got)
    return score


def _name(index: int, labels: Sequence[str] | None) -> str:
    return labels[index] if labels and index < len(labels) else f"class {index}"


def _pairs(a: Tensor, b: Tensor) -> list[tuple[int, int]]:
    return list(zip(a.tolist(), b.tolist(), strict=True))
