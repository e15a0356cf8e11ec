"""What ships with clew: the bundled models' own data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from ..errors import InputError, OptionError, close_matches
from ..inputs import word_spans
from ..minis import WORDS, AskedDigits, Reversal, captioned_scenes, chat_scenes, reversals, reviews, scenes
from ..minis.film_reviews import LABELS
from ..minis.reversal import LENGTH
from . import Dataset, Example, reader
from .places import some


class Held(Dataset):
    """Examples that are all there."""

    def __init__(
        self,
        name: str,
        examples: Sequence[Example],
        classes: Sequence[str] | None = None,
        evidence: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.ids, self.classes = name, [example.id for example in examples], classes
        self.evidence = evidence
        self._examples = examples

    def read(self, index: int) -> Example:
        return self._examples[index]


@reader(
    "mini",
    get="write mini:digits, mini:digits-clip, mini:reviews, mini:reverse or mini:digits-chat",
    prefix="mini:",
)
def mini(name: str, *, count: int = 48) -> Dataset:
    """Data that ship with clew: mini:digits, mini:digits-clip, mini:reviews, mini:reverse, mini:digits-chat.

    "digits": scenes with one digit; the mask is the digit, the label its class. "digits-clip": scenes with two digits;
    an example for each of them, whose text is the words that mean it ("a seven"). "reviews": reviews of films with a
    few decisive words, which are the rationale; the model `mini:reviews-bert` or `mini:reviews-llama` reads them.
    "reverse": strings for `mini:reverse`, an example for each letter of an answer, which is the label; the rationale is
    the letter of the source that decides it. "digits-chat": pictures for `mini:digits-chat` with a question about one
    of four digits, whose word is the label; the mask is the quarter that is asked for, the rationale the words that say
    which.
    `count`: how many reviews or strings are made.
    """
    makers: dict[str, Callable[[], Dataset]] = {
        "digits": lambda: Held(f"mini:{name}", list(_digits()), WORDS),
        "digits-clip": lambda: Held(f"mini:{name}", list(_captioned()), WORDS),
        "reviews": lambda: Held(f"mini:{name}", list(_reviews(count)), LABELS),
        "reverse": lambda: letters(reversals(count)),
        "digits-chat": lambda: questions(chat_scenes()),
    }
    if name not in makers:
        raise OptionError(f"no data mini:{name}", expected=some(makers), got=name, todo=close_matches(name, makers))
    return makers[name]()


def data_of(model: str) -> str:
    """The name of the data that ship with a bundled model. Raises `InputError` for other models."""
    names = ("digits", "digits-clip", "digits-chat", "reviews", "reverse")
    fit = [f"mini:{name}" for name in names if f"{model}-".startswith(f"mini:{name}-")]
    if not fit:
        todo = "a folder, a file or a name that clew.open_dataset opens"
        raise InputError(f"no data ship with {model}", expected="data to evaluate on", got="none", todo=todo)
    return max(fit, key=len)


def letters(strings: Sequence[Reversal]) -> Dataset:
    """An example for each letter of the strings' answers: all first letters, then all second ones, and so on."""
    found: list[Example] = []
    for place in range(LENGTH):
        for i, one in enumerate(strings):
            written, decides = one.answer.split(), one.decides(place)
            found.append(
                Example(
                    id=f"{i}#{place}",
                    text=one.source,
                    prefix=" ".join(written[:place]) or None,
                    label=written[place],
                    words=tuple(one.source.split()),
                    rationale=((decides, decides + 1),),
                )
            )
    return Held("mini:reverse", found, evidence={"rationale": "letter"})


def questions(asked: Sequence[AskedDigits]) -> Dataset:
    """An example for each picture with its question."""
    found = [
        Example(
            id=str(i),
            image=Image.fromarray(one.image),
            mask=one.mask.astype(np.int8),
            text=one.question,
            label=one.answer,
            words=tuple(one.question.split()),
            rationale=(one.decisive,),
        )
        for i, one in enumerate(asked)
    ]
    return Held("mini:digits-chat", found, evidence={"mask": "quarter", "rationale": "word"})


def _digits() -> Iterator[Example]:
    data = scenes("digits")
    for i, (image, mask, label) in enumerate(zip(data.images, data.masks, data.labels.tolist(), strict=True)):
        yield Example(id=str(i), image=image, mask=mask.astype(np.int8), label=label)


def _captioned() -> Iterator[Example]:
    data = captioned_scenes()
    for i, image in enumerate(data.images):
        for which in range(2):
            mask, label = data.masks[i, which].astype(np.int8), int(data.labels[i, which])
            yield Example(id=f"{i}#{which}", image=image, mask=mask, text=data.captions[i][which], label=label)


def _reviews(count: int) -> Iterator[Example]:
    for i, review in enumerate(reviews(count)):
        spans = word_spans(review.text)
        decisive = [(w, w + 1) for w, (a, b) in enumerate(spans) if any(a < e and b > s for s, e in review.decisive)]
        words = tuple(review.text[a:b] for a, b in spans)
        yield Example(id=str(i), text=review.text, label=review.label, words=words, rationale=tuple(decisive))
