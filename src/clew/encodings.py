"""From texts as people have them to token numbers: strings, pairs, words that are split already, chats, numbers in
lists and arrays, or what a tokenizer returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from .shapes import InputError

Tokenizer = Any
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

_FILL = {"special_tokens_mask": 1, "offset_mapping": (0, 0)}
_TAKEN = (
    "a string, a list of strings, pairs (question, context), lists of words, messages of a chat, token numbers, "
    "or a tokenizer's output"
)


@dataclass(frozen=True)
class Encoded:
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
class Row:
    """One text: what the tokenizer gave, and as in `Encoded`; how many `characters` and `tokens` were cut."""

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


def encoded(
    inputs: Any,
    model: nn.Module,
    tokenizer: Tokenizer | None,
    *,
    limit: int | None = None,
    goes_on: bool = False,
    name: str = "input_ids",
) -> Encoded:
    """Token numbers of whatever came. `limit` cuts texts, `goes_on`: a chat is for a model that writes an answer;
    `name`: what the model calls token numbers.

    Raises `InputError` for what is no text, empty texts, and strings without a tokenizer.
    """
    if isinstance(inputs, Encoded):
        return inputs
    if isinstance(inputs, Mapping) and not _is_message(inputs):
        return _of_mapping(cast("Mapping[Any, Any]", inputs), model, tokenizer, name)
    numbers = _numbers(inputs)
    if numbers is not None:
        return Encoded(_padded(numbers, padding_of(model, tokenizer)) if isinstance(numbers, list) else numbers)
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
    return of_rows(rows, model, tokenizer, kind)


def of_rows(rows: Sequence[Row], model: nn.Module, tokenizer: Tokenizer, kind: Any = "strings") -> Encoded:
    """Rows as one batch, padded on the right."""
    values = padded_rows([row.values for row in rows], model, tokenizer)
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
    return Encoded(values, kind, [row.text for row in rows], parts, checks)


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
        kinds = sorted({type(i).__name__ for i in items}) or [type(inputs).__name__]
        raise InputError("these inputs cannot be explained", expected=_TAKEN, got=", ".join(kinds))
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


def tokenized(item: Any, tokenizer: Tokenizer, limit: int | None = None, *, add: bool = True) -> Row:
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


def _row(item: Any, tokenizer: Tokenizer, add: bool, **options: Any) -> Row:
    fast = bool(getattr(tokenizer, "is_fast", False))
    first, second = item if isinstance(item, tuple) else (item, None)
    text = BETWEEN.join(item) if isinstance(item, tuple) else " ".join(item) if isinstance(item, list) else item
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
    if isinstance(item, list) and fast:  # characters are counted in each word
        starts = [sum(len(word) + 1 for word in item[:i]) for i in range(len(item))]
        values["offset_mapping"] = [
            (0, 0) if word is None else (a + starts[word], b + starts[word])
            for (a, b), word in zip(values["offset_mapping"], found.word_ids(), strict=True)
        ]
    row = Row(values, text, parts)
    ids, added = row.ids, row.added
    if len(ids) > 1 and ids[0] == ids[1] and added[0] and not added[1]:  # written by a template, and added once more
        row = Row(row.some(1, len(ids)), text, parts[1:], doubled=str(tokenizer.decode([ids[0]])))
    return row


def _extent(row: Row, part: int) -> tuple[int, int] | None:
    """First and behind-last character of the tokens of one part of a pair."""
    spans = [s for s, p in zip(row.values["offset_mapping"], row.parts, strict=True) if p == part and s[0] < s[1]]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None


def _cut(whole: tuple[int, int] | None, kept: tuple[int, int] | None) -> int:
    if whole is None:
        return 0
    return whole[1] - whole[0] if kept is None else kept[0] - whole[0] + whole[1] - kept[1]


def padded_rows(
    rows: Sequence[Mapping[str, list[Any]]], model: nn.Module, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What a tokenizer gave for each text as tensors, padded on the right."""
    return _padded(rows, padding_of(model, tokenizer))


def _padded(rows: Sequence[Mapping[str, list[Any]]], padding: int) -> dict[str, Any]:
    if any(not len(row["input_ids"]) for row in rows):
        raise InputError("there is an empty text", expected="at least one token", got="no tokens")
    longest = max(len(row["input_ids"]) for row in rows)
    given: dict[str, Any] = {}
    for name in rows[0]:
        fill = padding if name == "input_ids" else _FILL.get(name, 0)
        padded = [[*row[name], *[fill] * (longest - len(row[name]))] for row in rows]
        given[name] = torch.tensor(padded)
    if "attention_mask" not in given and any(len(row["input_ids"]) < longest for row in rows):
        given["attention_mask"] = torch.tensor(
            [[1] * (n := len(row["input_ids"])) + [0] * (longest - n) for row in rows]
        )
    return given


# Token numbers


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _whole(value: Any) -> list[int] | None:
    """A row of token numbers as a list, or None where it is none."""
    if isinstance(value, (Tensor, np.ndarray)):
        integers = value.dtype.kind in "iu" if isinstance(value, np.ndarray) else not value.is_floating_point()
        return [int(i) for i in value.tolist()] if value.ndim == 1 and integers else None
    if isinstance(value, (list, tuple)) and value and all(_is_number(i) for i in cast("list[Any]", value)):
        return [int(i) for i in cast("list[Any]", value)]
    return None


def _numbers(inputs: Any) -> dict[str, Any] | list[dict[str, list[Any]]] | None:
    """Token numbers as a tensor, or of several texts in rows; None for what are no numbers."""
    if isinstance(inputs, Tensor):
        return {"input_ids": inputs}
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iuf":
        return {"input_ids": torch.from_numpy(inputs.astype(np.float64 if inputs.dtype.kind == "f" else np.int64))}
    if not isinstance(inputs, (list, tuple)) or not inputs:
        return None
    single = _whole(inputs)
    if single is not None:
        return {"input_ids": torch.tensor(single)}
    items = list(cast("Sequence[Any]", inputs))
    if all(isinstance(i, Mapping) and "input_ids" in i for i in items):
        return [{k: list(v) for k, v in i.items() if k not in ("labels", "label")} for i in items]
    rows = [_whole(item) for item in items]
    return None if any(row is None for row in rows) else [{"input_ids": cast("list[int]", row)} for row in rows]


def _of_mapping(inputs: Mapping[Any, Any], model: nn.Module, tokenizer: Tokenizer | None, name: str) -> Encoded:
    given = {str(k): v for k, v in inputs.items() if v is not None}
    if "input_ids" not in given and name in given:
        given["input_ids"] = given.pop(name)
    ids: Any = given.get("input_ids")
    rows = None if isinstance(ids, (Tensor, np.ndarray)) or ids is None else _numbers(ids)
    if isinstance(rows, list):  # what a tokenizer returns where it is not asked for tensors
        listed = {k: v for k, v in given.items() if isinstance(v, list) and _fits(cast("list[Any]", v), rows)}
        filled = _padded([{k: v[i] for k, v in listed.items()} for i in range(len(rows))], padding_of(model, tokenizer))
        given = {k: v for k, v in given.items() if k not in listed} | filled
    else:
        given = {k: _as_tensor(v) for k, v in given.items()}
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
    return Encoded(given, parts=parts)


def _fits(value: list[Any], rows: Sequence[Mapping[str, list[Any]]]) -> bool:
    """Whether there is an entry for every token of every row."""
    lengths = [len(one) if isinstance(one, (list, tuple)) else -1 for one in value]
    return lengths == [len(row["input_ids"]) for row in rows]


def _as_tensor(value: Any) -> Any:
    """Numbers in lists and arrays as a tensor; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return torch.from_numpy(value)
    if isinstance(value, list) and value and all(_is_number(i) for i in cast("list[Any]", value)):
        return torch.tensor(value)
    return value


def padding_of(model: nn.Module, tokenizer: Tokenizer | None) -> int:
    """The number that the model takes for padding; any number where it takes none, as the mask says what is padding."""
    config: Any = getattr(model, "config", None)
    names = ("pad_token_id", "eos_token_id")
    # What is read as padding is what the tokenizer fills up with.
    for source in (tokenizer, config) if getattr(model, "reads_padding", False) else (config, tokenizer):
        for name in names:
            found = getattr(source, name, None)
            if isinstance(found, int) and found >= 0:
                return found
    return 0


def numbers_of(source: Any, *names: str) -> set[int]:
    """Numbers of tokens by what a tokenizer or configuration calls them, "bos" or "eos"; of some there are several."""
    found: set[int] = set()
    for name in names:
        value: Any = getattr(source, f"{name}_token_id", None)
        for one in cast("list[Any]", value) if isinstance(value, (list, tuple)) else [value]:
            if _is_number(one) and one >= 0:
                found.add(int(one))
    return found


def special_ids(model: nn.Module, tokenizer: Tokenizer | None) -> set[int]:
    """Numbers of all tokens that are no words. An unknown word is a word."""
    others = ("bos", "eos", "pad", "cls", "sep", "mask")
    if tokenizer is None:
        return numbers_of(getattr(model, "config", None), *others[:5])
    found = {int(i) for i in tokenizer.all_special_ids}
    known: Any = getattr(tokenizer, "added_tokens_decoder", None)
    if isinstance(known, Mapping):
        found |= {int(i) for i, token in cast("Mapping[Any, Any]", known).items() if getattr(token, "special", False)}
    return found - (numbers_of(tokenizer, "unk") - numbers_of(tokenizer, *others))
