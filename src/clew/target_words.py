"""Targets as people write them: a class or next token, "A / B" for one rather than the other."""

from __future__ import annotations

from .targets import Contrast, Similarity, Target


def target_of(text: str | None) -> Target:
    """A class index or label; "A / B" is `Contrast(A, B)`; nothing is the predicted class."""
    if text is None or not text.strip():
        return None
    a, slash, b = text.partition(" / ")
    return Contrast(_class(a), _class(b)) if slash else _class(text)


def texts_of(text: str) -> Contrast | Similarity:
    """A text that an image is compared with; "A / B" is one rather than the other."""
    a, _, b = (part.strip() for part in text.partition(" / "))
    return Contrast(a, b) if b else Similarity(a)


def _class(text: str) -> int | str:
    stripped = text.strip()
    return int(stripped) if stripped.lstrip("-").isdigit() else stripped
