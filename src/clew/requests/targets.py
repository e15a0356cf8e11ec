"""Targets as people write them: a class or next token, "A / B" for one rather than the other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import TargetError
from ..targets import Contrast, Similarity, Target, matching_classes
from ..targets.classes import joined_classes
from ..validation import parse_integer

_RATHER = " / "


def target_of(text: str | None, labels: Sequence[str] | None = None) -> Target:
    """A class by label or index; "A / B" is `Contrast(A, B)`; nothing is the predicted class.

    What is spelled like one of the `labels` is that label, be it a number or with " / " in it; other numbers are
    indices. Without labels a word may be a token, which may begin with a space. Raises `TargetError` for negative
    indices, and for two labels without spaces between them.
    """
    if text is None or not text.strip():
        return None
    whole = text.strip() if labels else text.rstrip()
    if _RATHER not in whole or matching_classes(whole, labels):
        if not matching_classes(whole, labels):
            _refuse_joined(whole, labels)
        return _class(whole, labels)
    places = [found.start() for found in re.finditer(f"(?={_RATHER})", whole)]
    pairs = [(whole[:at].rstrip(), whole[at + len(_RATHER) :]) for at in places]
    pairs = [(a.strip(), b.strip()) for a, b in pairs] if labels else pairs
    fitting = [
        pair
        for pair in pairs
        if all(matching_classes(one, labels) or re.fullmatch("[0-9]+", one.strip()) for one in pair)
    ]
    a, b = (fitting or pairs)[0]
    return Contrast(_class(a, labels), _class(b, labels))


def texts_of(text: str) -> Contrast | Similarity:
    """A text that an image is compared with; "A / B" is one rather than the other."""
    a, _, b = (part.strip() for part in text.partition(_RATHER))
    return Contrast(a, b) if b else Similarity(a)


def _refuse_joined(text: str, labels: Sequence[str] | None) -> None:
    """Raise `TargetError` where two labels stand on the sides of a stroke without spaces."""
    if (pair := joined_classes(text, labels)) is not None:
        todo = f"write '{pair[0]} / {pair[1]}', with spaces, for the one rather than the other"
        raise TargetError(f"no label {text!r}", got=text, todo=todo)


def _class(text: str, labels: Sequence[str] | None) -> int | str:
    number = None if matching_classes(text, labels) else parse_integer(text.strip())
    if number is None:
        return text
    if text.strip().startswith("-"):
        raise TargetError("a class is counted from 0", expected="0 or more, or a label", got=text)
    return number
