"""A prompt and those of its parts that may be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..errors import InputError, short_repr
from ..inputs import Spans, Tokenizer, places_of, source_spans
from .prompts import PromptAndAnswer, ids_of_prompt


@dataclass(frozen=True)
class PromptParts:
    """A prompt with the `spans` of its sources: characters of `text`, or of token numbers (`text` is "") positions.

    `add`: the tokenizer's special tokens are none of the text.
    """

    text: str
    spans: list[tuple[int, int]]
    ids: Sequence[int]
    tokenizer: Tokenizer | None = None
    add: bool = False

    def ids_with(self, kept: Sequence[bool]) -> list[int]:
        """Tokens of the prompt with some of its sources: the text is joined as if the others had never been there.

        White space before a source goes with it, and is left out before the first that stays.
        """
        if not self.text:
            gone = {i for (a, b), keep in zip(self.spans, kept, strict=True) if not keep for i in range(a, b)}
            return [number for i, number in enumerate(self.ids) if i not in gone]
        parts, at, begun = list[str](), 0, False
        for (start, stop), keep in zip(self.spans, kept, strict=True):
            between, at = self.text[at:start], stop
            if between.strip() or not parts:  # words that always stay
                parts.append(between)
                between, begun = "", False
            if keep:
                parts += [between if begun else "", self.text[start:stop]]
                begun = True
        return ids_of_prompt("".join([*parts, self.text[at:]]), self.tokenizer, add=self.add)


def parts_of(
    prompt: Any,
    ids: Sequence[int],
    words: PromptAndAnswer | None,
    answer: Any,
    tokenizer: Tokenizer | None,
    context: Any,
    split: str | None,
) -> PromptParts:
    """A prompt, of which the tokens `ids` and perhaps the `words` are known, and its sources.

    Raises `InputError` where there are none, where the context is not in the prompt, and where nothing is left of the
    prompt without its sources.
    """
    text = "" if words is None else _before_answer(words, answer)
    if text:
        if context is None:
            context = [text] if isinstance(prompt, str) else _contents(prompt)
        spans = source_spans(text, _places(context, text), split)
    elif context is None:
        raise InputError(
            "the sources of token numbers are not known",
            expected="context=[(start, stop), …], positions of each source",
            got="none",
            todo="name them, or pass the prompt as a string, to a model from clew.load",
        )
    else:
        spans = list(_pairs(context, len(ids), "positions of tokens of the prompt"))
    if not spans:
        raise InputError("there is no source", expected="words in the prompt, or in its context", got="none")
    found = PromptParts(text, spans, ids, tokenizer, isinstance(prompt, str))
    if not found.ids_with([False] * len(spans)):
        raise InputError(
            "nothing is left of the prompt without its sources",
            expected="words that always stay, such as the question",
            got=f"{len(spans)} sources that are all of it",
            todo="say what may be left out: context='…'",
        )
    return found


def _before_answer(words: PromptAndAnswer, answer: Any) -> str:
    """The prompt's characters, up to a token that has some of the prompt and of the answer."""
    if not words.text or not isinstance(answer, str):
        return words.text
    ends = [stop for _, stop in words.spans[: words.prompt]]
    return words.text[: max(ends) if any(ends) else len(words.text) - len(answer)]


def _places(context: Any, text: str) -> Spans:
    several = [context] if isinstance(context, str) else context
    strings = isinstance(several, (list, tuple)) and all(isinstance(one, str) for one in cast("list[Any]", several))
    if strings:
        return places_of(cast("list[str]", several), text)
    return _pairs(several, len(text), "words of the prompt, or their characters")


def _pairs(given: Any, length: int, taken: str) -> Spans:
    """Pairs (start, stop) in order. Raises `InputError` for others, and where they overlap or run out of the text."""
    expected = f"{taken}: [(start, stop), …], 0 to {length}, in order, apart from each other"
    try:
        found = [(a, b) for a, b in torch.as_tensor(given).tolist()]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError("these are no parts of the prompt", expected=expected, got=short_repr(given)) from error
    ends = [i for pair in found for i in pair]
    whole = all(isinstance(i, int) for i in ends) and all(a < b for a, b in found)
    if not whole or not ends or ends != sorted(ends) or ends[0] < 0 or ends[-1] > length:
        raise InputError("these are no parts of the prompt", expected=expected, got=short_repr(given))
    return found


def _contents(prompt: Any) -> list[str]:
    """The words of the messages of a chat, as templates write them."""
    chat: Any = [prompt] if isinstance(prompt, Mapping) else prompt
    found = list[str]()
    for message in chat if isinstance(chat[0], Mapping) else chat[0]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [one["text"] for one in content]
    return [one.strip() for one in found if one.strip()]
