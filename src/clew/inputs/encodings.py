"""From texts as people have them to token numbers: strings, pairs, words that are split already, chats, numbers in
lists and arrays, or what a tokenizer returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, short_repr
from ..files import refuse_halves
from .token_ids import Tokenizer, as_tensor, fits, numbers_in, padded, padded_rows, padding_of
from .token_texts import decode_incrementally, spans_of

MOST_CHARACTERS = 500_000  # of a text; tokenizers take seconds for as many
BETWEEN = "\n"  # between the two parts of a pair, where it is shown as one text

# What tokenizers write down for their user; no model takes it.
BOOKKEEPING = (
    "offset_mapping",
    "special_tokens_mask",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "num_truncated_tokens",
    "length",
)

_TAKEN = (
    "a string, a list of strings, pairs (question, context), lists of words, messages of a chat, token numbers, "
    "or a tokenizer's output"
)


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as token numbers: `values` by name, as a tokenizer names them.

    `texts` are what `offset_mapping` counts characters of, `parts` (batch, token) say which of a pair's two texts a
    token is in (-1: neither). `kind`: what came. `checks` say what was left out or cut.
    """

    values: dict[str, Any]
    kind: Literal["strings", "pairs", "words", "chats", "numbers"] = "numbers"
    texts: list[str] = field(default_factory=list[str])
    parts: Tensor | None = None
    checks: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class EncodedText:
    """One text: what the tokenizer gave, and as in `EncodedTexts`; how many `characters` and `tokens` were cut."""

    values: dict[str, list[Any]]
    text: str
    parts: list[int]
    characters: int | None = 0
    tokens: int = 0
    doubled: str = ""  # the beginning that was in the text already

    @property
    def ids(self) -> list[int]:
        """Token numbers."""
        return self.values["input_ids"]

    @property
    def added(self) -> list[bool]:
        """Which tokens the tokenizer added."""
        return [bool(one) for one in self.values["special_tokens_mask"]]

    def some(self, start: int, stop: int) -> dict[str, list[Any]]:
        """Some of the tokens, with what goes with them."""
        return {name: value[start:stop] for name, value in self.values.items()}


def encode_texts(
    inputs: Any,
    model: nn.Module,
    tokenizer: Tokenizer | None,
    *,
    limit: int | None = None,
    goes_on: bool = False,
    name: str = "input_ids",
) -> EncodedTexts:
    """Token numbers of whatever came. `limit` cuts texts, `goes_on`: a chat is for a model that writes an answer;
    `name`: what the model calls token numbers.

    Raises `InputError` for what is no text, empty texts, and strings without a tokenizer.
    """
    if isinstance(inputs, EncodedTexts):
        return inputs
    if isinstance(inputs, Mapping) and not _is_message(inputs):
        return _of_mapping(cast("Mapping[Any, Any]", inputs), model, tokenizer, name)
    given = numbers_in(inputs)
    if given is not None:
        return EncodedTexts(padded(given, padding_of(model, tokenizer)) if isinstance(given, list) else given)
    kind, items = _items(inputs)
    if tokenizer is None:
        raise InputError(
            "strings need the model's tokenizer",
            expected="a model from clew.load, LoadedModel(…, tokenizer=…), or tokenizer(texts, return_tensors='pt')",
            got=repr(items[0])[:60],
        )
    chats = kind == "chats"
    texts = [chat_text(tokenizer, one, goes_on=goes_on) for one in items] if chats else items
    rows = [tokenized(text, tokenizer, limit, add=not chats) for text in texts]
    return collate(rows, model, tokenizer, kind)


def collate(rows: Sequence[EncodedText], model: nn.Module, tokenizer: Tokenizer, kind: Any = "strings") -> EncodedTexts:
    """Rows as one batch, padded on the right."""
    shared = set(rows[0].values).intersection(*(row.values for row in rows))
    values = padded_rows([{k: v for k, v in row.values.items() if k in shared} for row in rows], model, tokenizer)
    longest = values["input_ids"].shape[1]
    parts = torch.tensor([[*row.parts, *[-1] * (longest - len(row.parts))] for row in rows])
    checks: dict[str, Any] = {}
    if any(row.tokens for row in rows):
        if all(row.characters is not None for row in rows):
            checks["characters_cut"] = torch.tensor([row.characters for row in rows])
        else:
            checks["tokens_cut"] = torch.tensor([row.tokens for row in rows])
    doubled = next((row.doubled for row in rows if row.doubled), "")
    if doubled:
        checks["left_out"] = f"a second {doubled} at the beginning"
    return EncodedTexts(values, kind, [row.text for row in rows], parts, checks)


# Strings


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item


def _is_chat(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and bool(item) and all(_is_message(i) for i in cast("list[Any]", item))


def _items(inputs: Any) -> tuple[Literal["strings", "pairs", "words", "chats"], list[Any]]:
    """What kind of texts came, one after the other."""
    if _is_message(inputs):
        return "chats", [[inputs]]
    if _is_chat(inputs):
        return "chats", [inputs]
    if isinstance(inputs, np.ndarray):
        inputs = inputs.tolist()
    items: list[Any] = (
        [inputs] if isinstance(inputs, (str, tuple)) else list(inputs) if isinstance(inputs, list) else []
    )

    def strings(item: Any, count: int | None = None) -> bool:
        return len(item) == (count or len(item)) > 0 and all(isinstance(s, str) for s in item)

    kind: Any = None
    if items and all(isinstance(i, str) for i in items):
        kind = "strings"
    elif items and all(isinstance(i, tuple) and strings(i, 2) for i in items):
        kind = "pairs"
    elif items and all(isinstance(i, list) and strings(i) for i in items):
        kind = "words"
    elif items and all(_is_chat(i) for i in items):
        return "chats", items
    if kind is None:
        kinds = Counter(type(i).__name__ for i in items) or Counter([type(inputs).__name__])
        most = kinds.most_common(1)[0][0]
        odd = [f"{short_repr(one)} in example {i}" for i, one in enumerate(items) if type(one).__name__ != most]
        got = ", ".join(sorted(kinds)) + (f": {', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}" if odd else "")
        empty = any(one is None or isinstance(one, float) for one in items)  # as pandas has cells without a value
        todo = "leave the examples without a text out" if odd and empty else None
        raise InputError("these inputs cannot be explained", expected=_TAKEN, got=got, todo=todo)
    blank = [i for i, item in enumerate(items) if not "".join(item).strip()]
    if blank:
        raise InputError("there is an empty text", expected="words to explain", got=f"examples {blank}")
    return kind, items


def chat_text(tokenizer: Tokenizer, messages: Sequence[Any], *, goes_on: bool) -> str:
    """Messages as the tokenizer's template writes them.

    A model that `goes_on` is asked for an answer, or for the rest of an answer that has begun. Raises `InputError`
    where there is no template, or it refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "messages need the tokenizer's chat template",
            expected="a tokenizer with a chat_template",
            got=f"{type(tokenizer).__name__} without one",
            todo="set tokenizer.chat_template, or write the prompt as a string",
        )
    begun = goes_on and messages[-1]["role"] == "assistant"
    how = {"continue_final_message": True} if begun else {"add_generation_prompt": goes_on}
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **how))
    except Exception as error:  # templates are programs, with errors of their own
        raise InputError(
            "the chat template refuses these messages",
            expected="messages as its model knows them",
            got=f"{', '.join(str(m['role']) for m in messages)}: {error}",
        ) from error


def tokenized(item: Any, tokenizer: Tokenizer, limit: int | None = None, *, add: bool = True) -> EncodedText:
    """One text by the model's own tokenizer, cut to `limit` tokens; `add`: with its special tokens."""
    whole = _row(item, tokenizer, add)
    if limit is None or len(whole.ids) <= limit:
        return whole
    row = _row(item, tokenizer, add, truncation=True, max_length=limit)
    row.tokens = len(whole.ids) - len(row.ids)
    row.characters = None
    if "offset_mapping" in row.values:
        row.characters = sum(_cut(_extent(whole, part), _extent(row, part)) for part in (0, 1))
    return row


def _row(item: Any, tokenizer: Tokenizer, add: bool, **options: Any) -> EncodedText:
    fast = bool(getattr(tokenizer, "is_fast", False))
    first, second = item if isinstance(item, tuple) else (item, None)
    text = BETWEEN.join(item) if isinstance(item, tuple) else " ".join(item) if isinstance(item, list) else item
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            "a text is longer than any that is explained",
            expected=f"at most {MOST_CHARACTERS:,} characters",
            got=f"{len(text):,}",
            todo="explain it in parts, chapter by chapter",
        )
    refuse_halves(text)
    if isinstance(item, list):
        options["is_split_into_words"] = True
    if not add:
        options["add_special_tokens"] = False
    try:
        found: Any = tokenizer(
            first, second, return_special_tokens_mask=True, return_offsets_mapping=fast, verbose=False, **options
        )
    except AssertionError as error:
        todo = "make the tokenizer with add_prefix_space=True, or join the words: ' '.join(words)"
        raise InputError("the tokenizer takes no words that are split", got=error, todo=todo) from error
    values = {k: list(v) for k, v in found.items()}
    values.setdefault("special_tokens_mask", [0] * len(values["input_ids"]))
    parts = [-1 if added else 0 for added in values["special_tokens_mask"]]
    if second is not None and fast:  # characters of the second text follow those of the first
        ahead = len(first) + len(BETWEEN)
        parts = [-1 if part is None else int(part) for part in found.sequence_ids()]
        values["offset_mapping"] = [
            (a + ahead, b + ahead) if part == 1 else (a, b)
            for (a, b), part in zip(values["offset_mapping"], parts, strict=True)
        ]
    elif second is not None:
        parts = [-1] * len(parts)
    elif not fast and isinstance(item, str):  # bytes and characters spell the text
        spans = _spelled_spans(text, values, tokenizer)
        if spans is not None:
            values["offset_mapping"] = spans
    if isinstance(item, list) and fast:  # characters are counted in each word
        starts = [sum(len(word) + 1 for word in item[:i]) for i in range(len(item))]
        values["offset_mapping"] = [
            (0, 0) if word is None else (a + starts[word], b + starts[word])
            for (a, b), word in zip(values["offset_mapping"], found.word_ids(), strict=True)
        ]
    row = EncodedText(values, text, parts)
    ids, added = row.ids, row.added
    if len(ids) > 1 and ids[0] == ids[1] and added[0] and not added[1]:  # written by a template, and added once more
        row = EncodedText(row.some(1, len(ids)), text, parts[1:], doubled=str(tokenizer.decode([ids[0]])))
    return row


def _spelled_spans(text: str, values: dict[str, list[Any]], tokenizer: Tokenizer) -> list[tuple[int, int]] | None:
    """Characters of the tokens of a tokenizer that does not tell them, where what it decodes is the text itself."""
    columns = [c for c, added in enumerate(values["special_tokens_mask"]) if not added]
    numbers = [values["input_ids"][c] for c in columns]
    found = spans_of(text, decode_incrementally(numbers, decoder(tokenizer)))
    if found is None:
        return None
    spans = [(0, 0)] * len(values["input_ids"])
    for column, span in zip(columns, found, strict=True):
        spans[column] = span
    return spans


def decoder(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """Tokens as text, nothing tidied up."""

    def decode(ids: Sequence[int]) -> str:
        try:
            return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
        except TypeError:  # tokenizers of other libraries
            return str(tokenizer.decode(list(ids)))

    return decode


def _extent(row: EncodedText, part: int) -> tuple[int, int] | None:
    """First and behind-last character of the tokens of one part of a pair."""
    spans = [s for s, p in zip(row.values["offset_mapping"], row.parts, strict=True) if p == part and s[0] < s[1]]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None


def _cut(whole: tuple[int, int] | None, kept: tuple[int, int] | None) -> int:
    if whole is None:
        return 0
    return whole[1] - whole[0] if kept is None else kept[0] - whole[0] + whole[1] - kept[1]


# Token numbers


def _of_mapping(inputs: Mapping[Any, Any], model: nn.Module, tokenizer: Tokenizer | None, name: str) -> EncodedTexts:
    given = {str(k): v for k, v in inputs.items() if v is not None}
    if "input_ids" not in given and name in given:
        given["input_ids"] = given.pop(name)
    ids: Any = given.get("input_ids")
    rows = None if isinstance(ids, (Tensor, np.ndarray)) or ids is None else numbers_in(ids)
    if isinstance(rows, list):  # what a tokenizer returns where it is not asked for tensors
        listed = {k: v for k, v in given.items() if isinstance(v, list) and fits(cast("list[Any]", v), rows)}
        filled = padded([{k: v[i] for k, v in listed.items()} for i in range(len(rows))], padding_of(model, tokenizer))
        given = {k: v for k, v in given.items() if k not in listed} | filled
    else:
        given = {k: as_tensor(v) for k, v in given.items()}
    if not isinstance(given.get("input_ids"), Tensor):
        raise InputError(
            "a mapping of inputs holds token numbers",
            expected="input_ids, as tokenizer(…) gives them",
            got={k: type(v).__name__ for k, v in given.items()},
            todo="inputs_embeds are not taken: models pool by input_ids" if "inputs_embeds" in given else None,
        )
    encodings: Any = getattr(inputs, "encodings", None)
    parts = None
    if encodings and {len(e.ids) for e in encodings} == {given["input_ids"].shape[-1]}:
        given.setdefault("special_tokens_mask", torch.tensor([e.special_tokens_mask for e in encodings]))
        parts = torch.tensor([[-1 if part is None else part for part in e.sequence_ids] for e in encodings])
    return EncodedTexts(given, parts=parts)
