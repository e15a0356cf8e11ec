"""What benchmarks of models with several inputs share: examples as arguments, and the places of their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...datasets import Example
from ...errors import InputError
from ...explaining.any_model import encoded
from ...inputs import decode_incrementally, decoder
from ...models import LoadedModel


def arguments_of(loaded: LoadedModel, examples: Sequence[Example]) -> Any:
    """Examples as the model takes them, each made by its own processor or tokenizer, in one batch.

    Raises `InputError` for an example that has nothing the model takes, and for examples of several sizes.
    """
    each = [encoded(loaded, _given(loaded, example))[0] for example in examples]
    if len(each) == 1:
        return each[0]
    if isinstance(each[0], Tensor):
        return _joined("the input", each)
    return {name: _joined(name, [one[name] for one in each]) for name in cast("Mapping[str, Any]", each[0])}


def _given(loaded: LoadedModel, example: Example) -> Any:
    images = None if example.image is None else [example.image]
    given = {"images": images, "text": example.text, "answer": example.prefix}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise InputError("there is nothing in this example", expected="a picture or a text", got=repr(example.id))
    return images if list(given) == ["images"] and loaded.preprocess is not None else given


def _joined(name: str, values: Sequence[Any]) -> Any:
    if not all(isinstance(value, Tensor) for value in values):
        return values[0]
    if len({value.shape for value in values}) > 1:
        got = sorted({tuple(value.shape) for value in values})
        raise InputError(f"{name} of several sizes at once", expected="one size", got=got)
    return torch.cat(list(values))


def word_columns(loaded: LoadedModel, ids: Sequence[int], words: Sequence[str]) -> list[list[int]]:
    """The columns of each word among token numbers: the last place where they stand one after another.

    Letters are compared, without white space and case, so that it does not matter what stands before the words; a
    token may be of two words. Raises `InputError` where the words do not stand there.
    """
    tokenizer: Any = loaded.tokenizer or getattr(loaded.processor, "tokenizer", None)
    if tokenizer is None:
        raise InputError("words have no places without a tokenizer", expected="a tokenizer", got=loaded.name)
    special = set(map(int, tokenizer.all_special_ids))
    spelled = decode_incrementally(list(ids), decoder(tokenizer), special)
    shown = [
        (letter, column)
        for column, text in enumerate(spelled)
        for letter in ("\0" if ids[column] in special else _letters(text))
    ]
    wanted = [(letter, w) for w, word in enumerate(words) for letter in _letters(word)]
    start = "".join(letter for letter, _ in shown).rfind("".join(letter for letter, _ in wanted))
    if start < 0 or not wanted:
        raise InputError(
            "the words of an example are not found in what the model reads",
            expected=" ".join(words)[:80],
            got="".join(spelled)[:80],
        )
    found: list[list[int]] = [[] for _ in words]
    for (_, column), (_, word) in zip(shown[start:], wanted, strict=False):
        if column not in found[word]:
            found[word].append(column)
    return found


def _letters(text: str) -> str:
    """A text without white space and case, as many characters as it has letters."""
    return "".join(low if len(low := one.lower()) == 1 else one for one in text if not one.isspace())
