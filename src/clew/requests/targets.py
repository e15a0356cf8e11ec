"""Targets as people write them: a class or next token, "A / B" for one rather than the other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import TargetError
from ..targets import Contrast, Similarity, Target, matching_classes
from ..validation import parse_integer

_RATHER = " / "


def target_of(text: str | None, labels: Sequence[str] | None = None) -> Target:
    """A class by label or index; "A / B" is `Contrast(A, B)`; nothing is the predicted class.

    What is spelled like one of the `labels` is that label, be it a number or with " / " in it; other numbers are
    indices. Raises `TargetError` for negative ones.
    """
    if text is None or not text.strip():
        return None
    whole = text.strip()
    if _RATHER not in whole or matching_classes(whole, labels):
        return _class(whole, labels)
    places = [found.start() for found in re.finditer(f"(?={_RATHER})", whole)]
    pairs = [(whole[:at].strip(), whole[at + len(_RATHER) :].strip()) for at in places]
    fitting = [
        pair for pair in pairs if all(matching_classes(one, labels) or re.fullmatch("[0-9]+", one) for one in pair)
    ]
    a, b = (fitting or pairs)[0]
    return Contrast(_class(a, labels), _class(b, labels))


def texts_of(text: str) -> Contrast | Similarity:
    """A text that an image is compared with; "A / B" is one rather than the other."""
    a, _, b = (part.strip() for part in text.partition(_RATHER))
    return Contrast(a, b) if b else Similarity(a)


def _class(text: str, labels: Sequence[str] | None) -> int | str:
    number = None if matching_classes(text, labels) else parse_integer(text)
    if number is None:
        return text
    if text.startswith("-"):
        raise TargetError("a class is counted from 0", expected="0 or more, or a label", got=text)
    return number
