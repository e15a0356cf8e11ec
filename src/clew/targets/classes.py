"""Classes of a whole input as people name them: by number or label; and why some cannot be explained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import TargetError, close_matches, short_repr
from ..inputs import OWN_MODEL
from ..validation import parse_integer
from .kinds import Contrast, Each, Similarity, Span, Token

ADVICE = (
    "the model gives an embedding, no classes: pass a callable as target for what it should be like, for example the "
    "cosine with a reference embedding, lambda out: torch.cosine_similarity(out, reference); or put a head on it"
)


def class_indices(target: Any, logits: Tensor, labels: Sequence[str] | None, noun: str = "class") -> Tensor:
    """The numbers of what each example's target names. Raises `TargetError` where there is no such class."""
    batch, classes = logits.shape
    if isinstance(target, (Span, Token)):
        refuse(target, "classification")
    if isinstance(target, Similarity):
        todo = "pass the image–text model itself; of a zero-shot classifier explain a class"
        raise TargetError("only image–text models find things alike", expected="a class", got=target, todo=todo)
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
    numbers = [class_index(t, labels) for t in target]
    wrong = [n for n in numbers if not 0 <= n < classes]
    if wrong:
        raise TargetError(f"no such {noun}", expected=f"0 to {classes - 1}", got=wrong[0])
    return torch.tensor(numbers, device=logits.device)


def class_index(target: Any, labels: Sequence[str] | None) -> int:
    """The number of a class. Raises `TargetError` for what is no class, with the labels most like it."""
    if isinstance(target, np.integer):
        return int(target)
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        raise TargetError("a class is an index or a label", expected="int or str", got=short_repr(target))
    if isinstance(target, int):
        return target
    if not labels:
        raise TargetError(
            f"the label {target!r} cannot be looked up",
            expected="a model that knows its labels",
            got="no labels",
            todo=f"pass the class index, a model from clew.load that has labels, or {OWN_MODEL}",
        )
    found = matching_classes(target, labels)
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(
            f"the label {target!r} is not the only one",
            expected="one class",
            got=f"classes {found}",
            todo="pass the class index",
        )
    pair = joined_classes(target, labels)
    todo = close_matches(target, labels) if pair is None else f"for one rather than the other pass clew.Contrast{pair}"
    number = parse_integer(target.strip())
    if number is not None and number >= 0:
        todo += f"; for the class by its index pass {number}, not a string"
    raise TargetError(f"no label {target!r}", got=target, todo=todo)


def matching_classes(text: str, labels: Sequence[str] | None) -> list[int]:
    """Numbers of the classes whose label a text is: as it is written, else but for capitals, else one of its names
    ("cat, puss"). Empty where there are none."""
    lowered = [str(label).lower() for label in labels or ()]
    found = [i for i, label in enumerate(labels or ()) if label == text]
    found = found or [i for i, label in enumerate(lowered) if label == text.lower()]
    return found or [i for i, label in enumerate(lowered) if text.lower() in label.split(", ")]


def joined_classes(text: str, labels: Sequence[str] | None) -> tuple[str, str] | None:
    """Two labels that a text names with a stroke between them, as the command line takes "A / B"; else None."""
    for stroke in re.finditer("/", text):
        a, b = text[: stroke.start()].strip(), text[stroke.end() :].strip()
        if matching_classes(a, labels) and matching_classes(b, labels):
            return a, b
    return None


def refuse_class_target(target: Any) -> None:
    """Raise `TargetError` where an embedding is asked for a class or for what it is like."""
    for one in _single(target):
        if isinstance(one, (str, Similarity)):
            expected = "None (the norm of the embedding), the number of a feature, or a callable"
            raise TargetError("this model gives an embedding, no classes", expected=expected, got=one, todo=ADVICE)


def _single(target: Any) -> list[Any]:
    """Every class that a target is made of."""
    if isinstance(target, Contrast):
        return _single(target.a) + _single(target.b)
    several = target.targets if isinstance(target, Each) else target
    if isinstance(several, str) or not isinstance(several, Sequence):
        return [several]
    return [single for one in cast("Sequence[Any]", several) for single in _single(one)]


def refuse_probability(what: str, kind: str) -> None:
    """Raise the `TargetError` for a probability of what has none."""
    why = "gives an embedding, no classes" if what == "embedding" else "is a regression, whose outputs are values"
    raise TargetError(
        f"this model {why}: there is no {kind}", expected="score='logit'", got=kind, todo="leave score out"
    )


def refuse(one: Any, task: str) -> None:
    """Raise the `TargetError` for a target that a model for this task does not take."""
    takes = {
        "classification": "a class or label, Contrast(a, b), or a callable",
        "causal-lm": "None, a token, Contrast(a, b), Span(…), Token(…), or a callable",
        "token-classification": "Token(where, label): the head has an output for each token",
        "question-answering": "None (the predicted answer), Span(…), or a callable",
    }
    raise TargetError(f"this target does not fit a model for {task}", expected=takes[task], got=short_repr(one))


def name_of(index: int, labels: Sequence[str] | None, noun: str = "class") -> str:
    """What the reader calls a class."""
    return labels[index] if labels and index < len(labels) else f"{noun} {index}"
