"""From tokens to words: by the characters that the tokenizer says each token covers, never by the look of tokens."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite

from ..errors import CheckFailed, OptionError, short_repr

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


def score_words(
    text: str, scores: Sequence[float], offsets: Spans, counted: Sequence[bool], reduce: str, spans: Spans | None = None
) -> list[Word]:
    """Scores of words: the largest, the sum or the mean over their tokens.

    A token is one word's: that with which it shares most characters, of equals the first; spans of one's own that
    overlap share their tokens. `counted` says which tokens count (no special ones, no padding). A word whose only
    tokens are another's has no tokens and 0 as a sum, else the score of those. Words that no token covers, because the
    text was cut, are left out. Raises `OptionError` for an unknown reduction.
    """
    if not isinstance(reduce, str) or reduce not in _REDUCE:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError("unknown reduction of words", expected=", ".join(_REDUCE), got=short_repr(reduce))
    given = list(spans) if spans is not None else word_spans(text)
    columns = [c for c, (a, b) in enumerate(offsets) if counted[c] and a < b]
    order = sorted(range(len(given)), key=lambda w: given[w])
    covering: list[list[int]] = [[] for _ in given]
    own: list[list[int]] = [[] for _ in given]
    starts = [given[w][0] for w in order]
    ends = list(accumulate((given[w][1] for w in order), max))  # of all words so far
    for column in columns:
        a, b = offsets[column]
        touched = [
            w for w in order[bisect_right(ends, a) : bisect_left(starts, b)] if given[w][0] < b and given[w][1] > a
        ]
        shared = {w: min(b, given[w][1]) - max(a, given[w][0]) for w in touched}
        for w in touched:
            covering[w].append(column)
            # Before all others that share no character of the text with it.
            rivals = [v for v in touched if given[v][1] <= given[w][0] or given[v][0] >= given[w][1]]
            if all((shared[w], -given[w][0]) > (shared[v], -given[v][0]) for v in rivals):
                own[w].append(column)
    words: list[Word] = []
    for w, (start, stop) in enumerate(given):
        if not covering[w]:
            continue
        values = [scores[c] for c in own[w] or ([] if reduce == "sum" else covering[w])]
        score = max(values) if reduce == "max" else sum(values, 0.0) / (len(values) if reduce == "mean" else 1)
        words.append(Word(text[start:stop], start, stop, score, tuple(own[w])))
    return words


def verify_words(
    text: str, words: Sequence[Word], scores: Sequence[float], offsets: Spans, counted: Sequence[bool], reduce: str
) -> None:
    """Raise `CheckFailed` where words are not those of the text, or their scores not made of their own tokens."""
    size = max((abs(s) for s in scores if isfinite(s)), default=0.0) or 1.0
    taken = {column for word in words for column in word.tokens}
    for word in words:
        values = [scores[column] for column in word.tokens]
        beside = any(offsets[c][1] <= word.start or offsets[c][0] >= word.stop or not counted[c] for c in word.tokens)
        again = {"max": max, "sum": sum, "mean": lambda v: sum(v) / len(v)}[reduce](values) if values else word.score
        same = abs(again - word.score) <= 1e-6 * size * max(1, len(values)) or again != again
        if word.text != text[word.start : word.stop] or beside or not same:
            raise CheckFailed(
                f"the word {word.text!r} and its score disagree with the tokens of the text",
                expected=f"{text[word.start : word.stop]!r}, {again:.4g}, the {reduce} of its tokens {word.tokens}",
                got=f"{word.text!r}, {word.score:.4g}",
            )
    lost = [
        column
        for column, (a, b) in enumerate(offsets)
        if counted[column] and column not in taken and any(w.start < b and w.stop > a for w in words)
    ]
    if lost and len({(w.start, w.stop) for w in words}) == len(words):
        raise CheckFailed("tokens of words are no word's", expected="a word for each token", got=f"columns {lost[:8]}")
