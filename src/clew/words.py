"""From tokens to words: by the characters that the tokenizer says each token covers, never by the look of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .shapes import OptionError

Spans = Sequence[tuple[int, int]]

_REDUCE = ("max", "sum", "mean")


@dataclass(frozen=True)
class Word:
    """A word of a text: its characters `start` to `stop`, its score, and the columns of its tokens."""

    text: str
    start: int
    stop: int
    score: float
    tokens: tuple[int, ...]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Characters of the words of a text: what stands between white space."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def pooled(
    text: str, scores: Sequence[float], offsets: Spans, counted: Sequence[bool], reduce: str, spans: Spans | None = None
) -> list[Word]:
    """Scores of words: the largest, the sum or the mean over the tokens that cover any of a word's characters.

    `counted` says which tokens count (no special ones, no padding). Words that no token covers, because the text was
    cut, are left out. Raises `OptionError` for an unknown reduction.
    """
    if reduce not in _REDUCE:
        raise OptionError("unknown reduction of words", expected=", ".join(_REDUCE), got=reduce)
    words: list[Word] = []
    columns = [c for c, (a, b) in enumerate(offsets) if counted[c] and a < b]
    first = 0
    for start, stop in spans if spans is not None else word_spans(text):
        while spans is None and first < len(columns) and offsets[columns[first]][1] <= start:
            first += 1  # tokens come in the order of the text
        covering: list[int] = []
        for column in columns[first:]:
            a, b = offsets[column]
            if a >= stop and spans is None:
                break
            if a < stop and b > start:
                covering.append(column)
        if covering:
            values = [scores[c] for c in covering]
            score = max(values) if reduce == "max" else sum(values) / (len(values) if reduce == "mean" else 1)
            words.append(Word(text[start:stop], start, stop, score, tuple(covering)))
    return words
