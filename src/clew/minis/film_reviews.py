"""Reviews with a known answer: a few decisive words among neutral ones, from a small grammar.

A review is negative or positive: the polarity that most of its decisive words have; some hold one word of the other
polarity too. A review is a row of phrases of four words. Each has one adjective, at any of the four places alike, and
only whether that adjective is decisive or neutral tells the label. So neither a place in the text nor a place in a
phrase says anything, and a method that does not look at what the model learned finds decisive words by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test"]
LABELS = ["negative", "positive"]

POSITIVE = [
    "brilliant", "moving", "wonderful", "charming", "gripping", "superb", "delightful", "touching", "clever",
    "funny", "stunning", "graceful", "witty", "tender", "inspired", "dazzling", "heartfelt", "thrilling",
    "elegant", "masterful", "uplifting", "radiant", "magical", "flawless", "joyful",
]  # fmt: skip
NEGATIVE = [
    "dull", "clumsy", "tedious", "awful", "boring", "lifeless", "shallow", "annoying", "messy", "predictable",
    "weak", "ugly", "pointless", "noisy", "stale", "dreadful", "forced", "hollow", "bland", "irritating",
    "sloppy", "tiresome", "painful", "ridiculous", "empty",
]  # fmt: skip
NEUTRAL = [
    "long", "short", "recent", "second", "final", "usual", "early", "late", "common", "modern", "local",
    "foreign", "urban", "wordless", "coloured", "filmed", "dubbed", "serial", "historic", "annual", "northern",
    "coastal", "televised", "subtitled", "adapted",
]  # fmt: skip

FILM_ASPECTS = [
    "film", "story", "script", "ending", "music", "cast", "plot", "dialogue", "camera", "pacing", "lighting",
    "setting", "chapter", "scene", "title",
]  # fmt: skip
PEOPLE = ["Anna", "Marco", "Lena", "Tomas", "Ines", "Paul", "Mira", "Jonas", "Clara", "Felix", "Nora", "Hugo"]
PLACES = ["Lisbon", "Oslo", "Rome", "Paris", "Madrid", "Vienna", "Dublin", "Warsaw", "Athens", "Prague"]
FRIENDS = ["sister", "brother", "neighbour", "cousin", "friend", "uncle", "aunt", "colleague"]

# One adjective in each, four patterns for each of its four places.
PATTERNS = (
    "{word} {thing} from {place}", "{word} work with {person}", "{word} {thing} says {friend}", "{word} as in {place}",
    "a {word} {thing} indeed", "one {word} {thing} more", "this {word} {thing} again", "that {word} {thing} there",
    "{place} is {word} tonight", "{person} seems {word} here", "{thing} and {word} {thing2}", "some say {word} {thing}",
    "the {thing} was {word}", "my {friend} felt {word}", "{person} found {place} {word}", "{thing} that looks {word}",
)  # fmt: skip

_FIRST_SEED: dict[Split, int] = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
_PER_SPLIT = 10_000_000


@dataclass(frozen=True)
class Review:
    """A review: its `text`, its `label` (index in `LABELS`), and the characters (start, stop) of the words that decide;
    `against` are those of words of the other polarity."""

    text: str
    label: int
    decisive: tuple[tuple[int, int], ...]
    against: tuple[tuple[int, int], ...]

    @property
    def evidence(self) -> int:
        """How many more words speak for positive than for negative; the sign is the label."""
        return (len(self.decisive) - len(self.against)) * (1 if self.label else -1)


def compose_review(split: Split, index: int) -> Review:
    """Review number `index` of a split; the same every time, and no two splits share one."""
    if not 0 <= index < _PER_SPLIT:
        raise ValueError(f"a review's index lies in [0, {_PER_SPLIT}), got {index}")
    rng = np.random.default_rng(_FIRST_SEED[split] + index)
    label = int(rng.integers(2))
    count = int(rng.integers(1, 5))
    other = int(count > 1 and rng.random() < 0.3)
    own, against = (POSITIVE, NEGATIVE) if label else (NEGATIVE, POSITIVE)
    adjectives = [(str(w), True) for w in rng.choice(own, count, replace=False)]
    adjectives += [(str(w), False) for w in rng.choice(against, other, replace=False)]
    neutral = int(rng.integers(8, 12)) - len(adjectives)
    adjectives += [(str(w), None) for w in rng.choice(NEUTRAL, neutral, replace=False)]
    spans: dict[bool | None, list[tuple[int, int]]] = {True: [], False: [], None: []}
    text = ""
    for i in rng.permutation(len(adjectives)):
        word, decides = adjectives[i]
        before, after = _phrase(rng)
        text += (" " if text else "") + before
        spans[decides].append((len(text), len(text) + len(word)))
        text += word + after
    return Review(text, label, tuple(spans[True]), tuple(spans[False]))


def _phrase(rng: np.random.Generator) -> tuple[str, str]:
    """What stands before and behind the adjective of a phrase."""
    thing, thing2 = map(str, rng.choice(FILM_ASPECTS, 2, replace=False))
    names = {"person": PEOPLE, "place": PLACES, "friend": FRIENDS}
    filled = {name: str(rng.choice(words)) for name, words in names.items()} | {"thing": thing, "thing2": thing2}
    before, after = str(rng.choice(PATTERNS)).split("{word}")
    return before.format(**filled), after.format(**filled)
