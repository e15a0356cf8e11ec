"""The data that ship with clew, whose evidence is known because it was put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import OptionError, close_matches
from ..inputs import word_spans
from ..minis import WORDS, captioned_scenes, reviews, scenes
from ..minis.film_reviews import LABELS
from . import Dataset, Example, reader


class _Held(Dataset):
    """Examples that are all there."""

    def __init__(self, name: str, examples: Sequence[Example], classes: Sequence[str]) -> None:
        self.name, self.classes, self._examples = name, classes, examples
        self.ids = [example.id for example in examples]

    def read(self, index: int) -> Example:
        return self._examples[index]


@reader(
    "mini",
    what="data that ship with clew: mini:digits, mini:digits-clip, mini:reviews",
    get="write mini:digits, mini:digits-clip or mini:reviews",
    prefix="mini:",
)
def mini(name: str, *, count: int = 48) -> Dataset:
    """Data that ship with clew.

    "digits": scenes with one digit; the mask is the digit, the label its class. "digits-clip": scenes with two digits;
    an example for each of them, whose text is the words that mean it ("a seven"). "reviews": reviews of films with a
    few decisive words, which are the rationale; the model `mini:reviews-bert` or `mini:reviews-llama` reads them.
    `count`: how many reviews are made.
    """
    makers: dict[str, Callable[[], Dataset]] = {
        "digits": _digits,
        "digits-clip": _captioned,
        "reviews": lambda: _reviews(count),
    }
    if name not in makers:
        expected = ", ".join(f"mini:{one}" for one in makers)
        raise OptionError(f"no data mini:{name}", expected=expected, got=name, todo=close_matches(name, makers))
    return makers[name]()


def _digits() -> Dataset:
    data = scenes("digits")
    together = zip(data.images, data.masks, data.labels.tolist(), strict=True)
    examples = [
        Example(id=str(i), image=image, mask=mask.astype(np.int8), label=label)
        for i, (image, mask, label) in enumerate(together)
    ]
    return _Held("mini:digits", examples, WORDS)


def _captioned() -> Dataset:
    data = captioned_scenes()
    examples = [
        Example(
            id=f"{i}#{which}",
            image=image,
            mask=data.masks[i, which].astype(np.int8),
            text=data.captions[i][which],
            label=int(data.labels[i, which]),
        )
        for i, image in enumerate(data.images)
        for which in range(2)
    ]
    return _Held("mini:digits-clip", examples, WORDS)


def _reviews(count: int) -> Dataset:
    examples: list[Example] = []
    for i, review in enumerate(reviews(count)):
        spans = word_spans(review.text)
        decisive = [(w, w + 1) for w, (a, b) in enumerate(spans) if any(a < e and b > s for s, e in review.decisive)]
        words = tuple(review.text[a:b] for a, b in spans)
        examples.append(
            Example(id=str(i), text=review.text, label=review.label, words=words, rationale=tuple(decisive))
        )
    return _Held("mini:reviews", examples, LABELS)
