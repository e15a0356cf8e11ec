"""Texts in: strings, pairs of strings, token numbers or what a tokenizer returned, as one batch that a model takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import Bound
from .shapes import InputError
from .texts import TextBatch, arrange, read_mask
from .token_strings import token_string

Tokenizer = Any
BETWEEN = "\n"  # between the two parts of a pair, where it is shown as one text


def text_inputs(
    inputs: Any, model: nn.Module, bound: Bound | None, tokenizer: Tokenizer | None, *, truncate: bool = False
) -> tuple[dict[str, Any], TextBatch]:
    """Arguments for the model, padding last, and the batch of texts as they were given.

    `truncate` cuts strings to the model's positions. Raises `InputError` for empty texts, texts beyond the model's
    positions, and strings without a tokenizer.
    """
    given = _encoded(inputs, model, tokenizer, longest_text(model, bound, tokenizer) if truncate else None)
    ids: Tensor = given["input_ids"]
    if ids.ndim == 1:
        given = {k: v[None] if isinstance(v, Tensor) and v.ndim == 1 else v for k, v in given.items()}
        ids = given["input_ids"]
    if ids.ndim != 2 or ids.is_floating_point() or 0 in ids.shape:
        raise InputError(
            "these are no token numbers",
            expected="integers of shape (batch, token)",
            got=f"{ids.dtype} of shape {tuple(ids.shape)}",
        )
    _check_numbers(ids, None if bound is None else bound.patches)
    mask = read_mask(given.get("attention_mask"), ids)
    context, padding = int(getattr(model, "context", None) or 0), padding_of(model, tokenizer)
    if getattr(model, "reads_padding", False):  # then it is a token like any other, added behind the text
        given, mask = _as_tokens(_filled(given, context, padding), mask, model, tokenizer)
        ids = given["input_ids"]
    batch = _batch(given, ids, mask, model, tokenizer, context)
    _check_length(int(batch.lengths.max()), model, bound)
    taken = set(inspect.signature(model.forward).parameters)
    passed = {k: v for k, v in given.items() if k in taken and not k.startswith("_")}
    # Classifiers find the last token by the number that they take for padding.
    passed["input_ids"] = ids.masked_fill(~mask, padding)
    if "attention_mask" in taken and ("attention_mask" in given or not bool(mask.all())):
        passed["attention_mask"] = mask.to(torch.long)
    return arrange(batch, passed, padding), batch


def _encoded(inputs: Any, model: nn.Module, tokenizer: Tokenizer | None, limit: int | None) -> dict[str, Any]:
    """A mapping with `input_ids`, and where known `offset_mapping`, `special_tokens_mask` and `_texts`."""
    if isinstance(inputs, Tensor):
        return {"input_ids": inputs}
    if isinstance(inputs, Mapping):
        given = {str(k): v for k, v in cast("Mapping[Any, Any]", inputs).items() if v is not None}
        if not isinstance(given.get("input_ids"), Tensor):
            found = {k: type(v).__name__ for k, v in given.items()}
            raise InputError(
                "a mapping of inputs holds token numbers as a tensor",
                expected="input_ids, as tokenizer(…, return_tensors='pt') gives them",
                got=found,
                todo="inputs_embeds are not taken: models pool by input_ids",
            )
        encodings: Any = getattr(inputs, "encodings", None)
        if (
            encodings
            and "special_tokens_mask" not in given
            and all(len(e.ids) == len(encodings[0].ids) for e in encodings)
        ):
            given["special_tokens_mask"] = torch.tensor([e.special_tokens_mask for e in encodings])
        return given
    texts = _strings(inputs)
    if tokenizer is None:
        raise InputError(
            "strings need the model's tokenizer",
            expected="a model from clew.load, LoadedModel(…, tokenizer=…), or tokenizer(texts, return_tensors='pt')",
            got=repr(texts[0])[:60],
        )
    return tokenized(texts, model, tokenizer, limit)


def _strings(inputs: Any) -> list[str] | list[tuple[str, str]]:
    items: list[Any] = (
        [inputs] if isinstance(inputs, (str, tuple)) else list(inputs) if isinstance(inputs, list) else []
    )
    pairs = all(isinstance(i, tuple) and len(i) == 2 and all(isinstance(s, str) for s in i) for i in items)
    if not items or not (pairs or all(isinstance(i, str) for i in items)):
        kinds = sorted({type(i).__name__ for i in items}) or [type(inputs).__name__]
        raise InputError(
            "these inputs cannot be explained",
            expected="a string, a list of strings, pairs (question, context), token numbers, or a tokenizer's output",
            got=", ".join(kinds),
        )
    blank = [i for i, item in enumerate(items) if not "".join(item).strip()]
    if blank:
        raise InputError("there is an empty text", expected="words to explain", got=f"examples {blank}")
    return items


def tokenized(texts: Sequence[Any], model: nn.Module, tokenizer: Tokenizer, limit: int | None = None) -> dict[str, Any]:
    """Texts by the model's own tokenizer, cut to `limit` tokens, and padded on the right."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    cut = {} if limit is None else {"truncation": True, "max_length": limit}
    rows: list[dict[str, list[Any]]] = []
    for text in texts:
        first, second = text if isinstance(text, tuple) else (text, None)
        encoded: Any = tokenizer(
            first, second, return_special_tokens_mask=True, return_offsets_mapping=fast, verbose=False, **cut
        )
        row = {k: list(v) for k, v in encoded.items()}
        if second is not None and fast:  # characters of the second text follow those of the first
            ahead = len(first) + len(BETWEEN)
            parts = encoded.sequence_ids()
            row["offset_mapping"] = [
                (a + ahead, b + ahead) if part == 1 else (a, b)
                for (a, b), part in zip(row["offset_mapping"], parts, strict=True)
            ]
        rows.append(row)
    given = padded_rows(rows, model, tokenizer)
    given["_texts"] = [BETWEEN.join(text) if isinstance(text, tuple) else text for text in texts]
    return given


def padded_rows(rows: list[dict[str, list[Any]]], model: nn.Module, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer gave for each text as tensors, padded on the right."""
    if any(not row["input_ids"] for row in rows):
        raise InputError("there is an empty text", expected="at least one token", got="no tokens")
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": padding_of(model, tokenizer), "special_tokens_mask": 1, "offset_mapping": (0, 0)}
    given: dict[str, Any] = {}
    for name in rows[0]:
        padded = [row[name] + [fill.get(name, 0)] * (longest - len(row[name])) for row in rows]
        given[name] = torch.tensor(padded)
    return given


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


def _filled(given: Mapping[str, Any], length: int, padding: int) -> dict[str, Any]:
    """Token numbers and what goes with them, filled up to a length."""
    ids: Tensor = given["input_ids"]
    more = max(0, length - ids.shape[1])
    fill = {"input_ids": padding, "special_tokens_mask": 1}
    found: dict[str, Any] = {"attention_mask": torch.ones_like(ids), **given}
    for name, value in found.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            found[name] = F.pad(value, (0, 0) * (value.ndim - 2) + (0, more), value=fill.get(name, 0))
    return found


def _as_tokens(
    given: Mapping[str, Any], mask: Tensor, model: nn.Module, tokenizer: Any | None
) -> tuple[dict[str, Any], Tensor]:
    """Padding as special tokens behind the text, wherever it was; the mask says that all tokens are seen."""
    ids: Tensor = given["input_ids"]
    mask = F.pad(mask, (0, ids.shape[1] - mask.shape[1]))
    special = _special(given, ids, model, tokenizer) | ~mask
    ids = ids.masked_fill(~mask, padding_of(model, tokenizer))
    found = {**given, "input_ids": ids, "special_tokens_mask": special, "attention_mask": mask}
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    for name, value in found.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            index = order.view(*order.shape, *[1] * (value.ndim - 2)).expand_as(value)
            found[name] = value.gather(1, index.to(value.device))
    return {k: v for k, v in found.items() if k != "attention_mask"}, torch.ones_like(mask)


def _special(given: Mapping[str, Any], ids: Tensor, model: nn.Module, tokenizer: Any | None) -> Tensor:
    """Which tokens the tokenizer added, (batch, token)."""
    special = given.get("special_tokens_mask")
    if special is None:
        known = torch.tensor(sorted(_special_ids(model, tokenizer)), dtype=ids.dtype, device=ids.device)
        special = torch.isin(ids, known)
    return special.to(ids.device).bool()


def _batch(
    given: Mapping[str, Any],
    ids: Tensor,
    mask: Tensor,
    model: nn.Module,
    tokenizer: Any | None,
    length: int,
) -> TextBatch:
    special = _special(given, ids, model, tokenizer) & mask
    offsets, texts = given.get("offset_mapping"), given.get("_texts", ())
    seen = None if offsets is None or not texts else (offsets * mask[..., None]).flatten(1).amax(1).tolist()
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    if tokenizer is not None:

        def encode_with(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        def decode_with(numbers: Sequence[int]) -> str:
            return str(tokenizer.decode(list(numbers)))

        encode, decode = encode_with, decode_with
    return TextBatch(
        input_ids=ids,
        mask=mask,
        special=special,
        tokens=_token_strings(ids, mask, special, texts, offsets, tokenizer),
        texts=texts,
        offsets=offsets,
        encode=encode,
        decode=decode,
        unseen=[] if seen is None else [len(t.rstrip()) - n for t, n in zip(texts, seen, strict=True)],
        length=length,
    )


def _token_strings(
    ids: Tensor,
    mask: Tensor,
    special: Tensor,
    texts: Sequence[str],
    offsets: Tensor | None,
    tokenizer: Any | None,
) -> list[list[str]]:
    """What each token looks like: its piece of the text where that is known, else what the tokenizer makes of it."""

    def string(i: int, j: int) -> str:
        if not mask[i, j]:
            return ""
        if offsets is not None and texts and not special[i, j]:
            a, b = offsets[i, j].tolist()
            if a < b:
                return texts[i][a:b]
        number = int(ids[i, j])
        return token_string(tokenizer, number) if tokenizer is not None else str(number)

    return [[string(i, j) for j in range(ids.shape[1])] for i in range(ids.shape[0])]


def _special_ids(model: nn.Module, tokenizer: Any | None) -> set[int]:
    if tokenizer is not None:
        return {int(i) for i in tokenizer.all_special_ids}
    config: Any = getattr(model, "config", None)
    found = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep"))
    return {i for i in found if isinstance(i, int)}


def _check_numbers(ids: Tensor, words: Any) -> None:
    known = getattr(words, "num_embeddings", None)
    if known is not None and (int(ids.max()) >= known or int(ids.min()) < 0):
        raise InputError(
            "there are token numbers that the model does not have",
            expected=f"0 to {known - 1}",
            got=f"{int(ids.min())} to {int(ids.max())}",
            todo="use the tokenizer that belongs to the model",
        )


def longest_text(model: nn.Module, bound: Bound | None, tokenizer: Tokenizer | None) -> int | None:
    """How many tokens a text may have: the model's positions, or what the tokenizer or configuration says."""
    hard = position_limit(model, bound)
    said: Any = getattr(tokenizer, "model_max_length", None)
    config: Any = getattr(model, "config", None)
    found = [hard, said, getattr(config, "max_position_embeddings", None)]
    known = [int(n) for n in found if isinstance(n, int) and 0 < n < 10**9]
    return min(known, default=None)


def position_limit(model: nn.Module, bound: Bound | None) -> int | None:
    """The longest text that the model has positions for; None where positions are computed for any length."""
    positions: Any = None if bound is None else bound.position_embeddings
    config: Any = getattr(model, "config", None)
    if isinstance(positions, Tensor):
        return positions.shape[0]
    if positions is not None:
        padding = getattr(positions, "padding_idx", None)
        offset = padding + 1 if padding is not None else 0  # RoBERTa's positions begin after the padding index
        return int(positions.num_embeddings) - offset
    return getattr(config, "max_seq_len", None) or getattr(model, "context", None)  # MPT makes no biases beyond it


def _check_length(longest: int, model: nn.Module, bound: Bound | None) -> None:
    limit = position_limit(model, bound)
    if limit is not None and longest > limit:
        raise InputError(
            "a text is longer than the model's positions",
            expected=f"at most {limit} tokens",
            got=f"{longest} tokens",
            todo="explain its beginning, truncate=True"
            if bound is None or bound.architecture.pair
            else f"explain windows of it, window={limit}, stride={limit // 2}, or its beginning, truncate=True",
        )
