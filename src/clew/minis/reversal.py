"""Strings with a known answer: ten letters, written backwards, each three letters on in the alphabet.

The letter that decides the j-th letter of an answer is the j-th from the end of the source, and no other says anything
about it.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from .film_reviews import Split

LENGTH, SHIFT = 10, 3
LETTERS = string.ascii_lowercase
_FIRST_SEED: dict[Split, int] = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
_PER_SPLIT = 10_000_000


@dataclass(frozen=True)
class Reversal:
    """A `source` of ten letters, "q a f …", and its `answer`; letters are parted by spaces."""

    source: str
    answer: str

    @staticmethod
    def decides(place: int) -> int:
        """The place of the source's letter that decides the answer's letter at a place."""
        return LENGTH - 1 - place


def compose_reversal(split: Split, index: int) -> Reversal:
    """String number `index` of a split; the same every time, and no two splits share a seed."""
    if not 0 <= index < _PER_SPLIT:
        raise ValueError(f"a string's index lies in [0, {_PER_SPLIT}), got {index}")
    letters = np.random.default_rng(_FIRST_SEED[split] + index).integers(0, len(LETTERS), LENGTH)
    answer = [(int(i) + SHIFT) % len(LETTERS) for i in letters[::-1]]
    return Reversal(" ".join(LETTERS[i] for i in letters), " ".join(LETTERS[i] for i in answer))
