"""Token numbers: in lists, arrays and rows of several lengths, and those that mean something to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, short_repr

Tokenizer = Any
_FILL = {"special_tokens_mask": 1, "offset_mapping": (0, 0)}


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


def named_token_ids(source: Any, *names: str) -> set[int]:
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
        return named_token_ids(getattr(model, "config", None), *others[:5])
    found = {int(i) for i in tokenizer.all_special_ids}
    known: Any = getattr(tokenizer, "added_tokens_decoder", None)
    if isinstance(known, Mapping):
        found |= {int(i) for i, token in cast("Mapping[Any, Any]", known).items() if getattr(token, "special", False)}
    return found - (named_token_ids(tokenizer, "unk") - named_token_ids(tokenizer, *others))


def padded_rows(
    rows: Sequence[Mapping[str, list[Any]]], model: nn.Module, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What a tokenizer gave for each text as tensors, padded on the right."""
    return padded(rows, padding_of(model, tokenizer))


def padded(rows: Sequence[Mapping[str, list[Any]]], padding: int) -> dict[str, Any]:
    """Rows of several lengths as tensors, filled up on the right with `padding` and what says that it is no text."""
    if any(not len(row["input_ids"]) for row in rows):
        raise InputError("there is an empty text", expected="at least one token", got="no tokens")
    longest = max(len(row["input_ids"]) for row in rows)
    given: dict[str, Any] = {}
    for name in rows[0]:
        fill = padding if name == "input_ids" else _FILL.get(name, 0)
        given[name] = as_numbers([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])
    if "attention_mask" not in given and any(len(row["input_ids"]) < longest for row in rows):
        given["attention_mask"] = torch.tensor(
            [[1] * (n := len(row["input_ids"])) + [0] * (longest - n) for row in rows]
        )
    return given


def as_numbers(rows: Sequence[Any]) -> Tensor:
    """Numbers in lists as a tensor. Raises `InputError` for what is too large for any, or no number."""
    try:
        return torch.tensor(rows)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise InputError(
            "these are no token numbers", expected="whole numbers in rows", got=short_repr(rows)
        ) from error


def numbers_in(inputs: Any) -> dict[str, Any] | list[dict[str, list[Any]]] | None:
    """Token numbers as a tensor, or of several texts in rows; None for what are no numbers."""
    if isinstance(inputs, Tensor):
        return {"input_ids": inputs}
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iuf":
        return {"input_ids": torch.from_numpy(inputs.astype(np.float64 if inputs.dtype.kind == "f" else np.int64))}
    if not isinstance(inputs, (list, tuple)) or not inputs:
        return None
    single = _whole(inputs)
    if single is not None:
        return {"input_ids": as_numbers(single)}
    items = list(cast("Sequence[Any]", inputs))
    if all(isinstance(i, Mapping) and _whole(i.get("input_ids")) is not None for i in items):
        return [_row(i) for i in items]
    rows = [_whole(item) for item in items]
    return None if any(row is None for row in rows) else [{"input_ids": cast("list[int]", row)} for row in rows]


def _row(item: Mapping[str, Any]) -> dict[str, list[Any]]:
    """One text of several, as a data set holds them. Raises `InputError` for what is not one entry for each token."""
    count = len(_whole(item["input_ids"]) or ())
    row = {k: list(v) for k, v in item.items() if isinstance(v, (list, tuple, Tensor, np.ndarray)) and len(v) == count}
    more = [k for k in item if k not in row]
    if more:
        raise InputError(
            "a row of a data set holds more than tokens",
            expected="an entry for each token: input_ids, attention_mask, …",
            got=", ".join(item),
            todo=f"leave out {', '.join(more)}",
        )
    return {k: [int(one) for one in v] if k == "input_ids" else v for k, v in row.items()}


def _whole(value: Any) -> list[int] | None:
    """A row of token numbers as a list, or None where it is none."""
    if isinstance(value, (Tensor, np.ndarray)):
        integers = value.dtype.kind in "iu" if isinstance(value, np.ndarray) else not value.is_floating_point()
        return [int(i) for i in value.tolist()] if value.ndim == 1 and integers else None
    if isinstance(value, (list, tuple)) and value and all(_is_number(i) for i in cast("list[Any]", value)):
        return [int(i) for i in cast("list[Any]", value)]
    return None


def fits(value: list[Any], rows: Sequence[Mapping[str, list[Any]]]) -> bool:
    """Whether there is an entry for every token of every row."""
    lengths = [len(one) if isinstance(one, (list, tuple)) else -1 for one in value]
    return lengths == [len(row["input_ids"]) for row in rows]


def as_tensor(value: Any) -> Any:
    """Numbers in lists and arrays as a tensor; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return torch.from_numpy(value)
    if isinstance(value, list) and value and all(_is_number(i) for i in cast("list[Any]", value)):
        return torch.tensor(value)
    return value


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)
