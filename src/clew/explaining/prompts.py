"""Prompts and answers of language models as one row of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, short_repr
from ..inputs import (
    BOOKKEEPING,
    EncodedText,
    Tokenizer,
    decode_incrementally,
    decoder,
    encode_texts,
    read_mask,
    special_ids,
    split_by_spans,
    tokenized,
)
from ..models import forward_signature
from .padding import infer_padding_mask
from .prepare_text import NUMBERS

_TAKEN = "a string, messages of a chat, token numbers of one text, or what a tokenizer returned for it"


@dataclass
class PromptAndAnswer:
    """Token numbers of a prompt and what comes after it: the first `prompt` are the prompt's.

    `text` and `spans`: characters, as far as they are known. `types`: token types of the prompt. `checks` say what was
    left out.
    """

    ids: list[int]
    prompt: int
    text: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    types: list[int] | None = None
    checks: dict[str, Any] = field(default_factory=dict[str, Any])

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """All tokens as `explain` takes them."""
        ids = torch.tensor([self.ids], device=device)
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.types is not None:  # as generation goes on with the last type
            types = (self.types + self.types[-1:] * len(self.ids))[: len(self.ids)]
            found["token_type_ids"] = torch.tensor([types], device=device)
        return found

    def strings(self, tokenizer: Tokenizer | None, model: nn.Module) -> list[str]:
        """What each token looks like: together they are the text."""
        if tokenizer is None:
            return [f"{i} " for i in self.ids]
        special = special_ids(model, tokenizer)
        decode = decoder(tokenizer)
        whole = decode_incrementally(self.ids, decode, special)
        known = len(self.spans)
        if not known:
            return whole
        marked = [i in special for i in self.ids]
        names = [decode([i]) for i in self.ids[:known]]
        return split_by_spans(self.text, self.spans, names, marked[:known], len(self.text)) + whole[known:]


def read_prompt(prompt: Any, model: nn.Module, tokenizer: Tokenizer | None) -> PromptAndAnswer:
    """A prompt as token numbers, without padding, and without what a tokenizer adds at the end of a text.

    Raises `InputError` for what is no prompt, and for several.
    """
    if isinstance(prompt, str) and not prompt.strip():
        raise InputError("the prompt is empty", expected="words to go on from", got=repr(prompt))
    if isinstance(prompt, str) and tokenizer is None:
        raise InputError("a string needs the model's tokenizer", expected="a model from clew.load", got=prompt[:60])
    try:
        found = encode_texts(prompt, model, tokenizer, goes_on=True)
    except InputError as error:
        raise InputError("this is no prompt", expected=_TAKEN, got=f"{type(prompt).__name__}: {error}") from error
    if found.kind == "pairs":
        raise InputError("this is no prompt", expected=_TAKEN, got="a pair of texts")
    values = {k: v[None] if isinstance(v, Tensor) and v.ndim == 1 else v for k, v in found.values.items()}
    ids: Tensor = values["input_ids"]
    if ids.ndim != 2 or len(ids) != 1 or ids.dtype not in NUMBERS or not ids.numel():
        got = f"{ids.dtype} of shape {tuple(ids.shape)}" if ids.ndim != 2 or len(ids) == 1 else f"{len(ids)} prompts"
        raise InputError("this is no prompt", expected=_TAKEN, got=got)
    checks = dict(found.checks)
    usual = ("input_ids", "attention_mask", "token_type_ids", *BOOKKEEPING)
    more = [k for k in values if k not in usual]
    if more:
        raise InputError(
            "a prompt is tokens and their mask",
            expected="input_ids, attention_mask, token_type_ids",
            got=", ".join(values),
            todo=f"leave out {', '.join(more)}",
        )
    mask = read_mask(values.get("attention_mask"), ids)
    if "attention_mask" not in values:
        mask, told = infer_padding_mask(values, ids, model, tokenizer, forward_signature(model), found.kind)
        checks |= told
    columns: list[int] = mask[0].nonzero().flatten().tolist()
    if found.kind != "numbers" and tokenizer is not None:
        kept = columns[: len(columns) - _behind(EncodedText({k: v[0].tolist() for k, v in values.items()}, "", []))]
        if len(kept) < len(columns):
            ends = str(tokenizer.decode([int(ids[0, c]) for c in columns[len(kept) :]]))
            said = f"{ends} at the end of the prompt, which goes on"
            checks["left_out"] = f"{checks['left_out']}; {said}" if "left_out" in checks else said
        columns = kept
    types: Any = values.get("token_type_ids")
    offsets: Any = values.get("offset_mapping")
    numbers: list[int] = ids[0].tolist()
    spans: list[list[int]] = [] if offsets is None or not found.texts else offsets[0].tolist()
    return PromptAndAnswer(
        ids=[numbers[c] for c in columns],
        prompt=len(columns),
        text=found.texts[0] if found.texts else "",
        spans=[(spans[c][0], spans[c][1]) for c in columns] if spans else [],
        types=None if types is None or not bool(types.any()) else types[0, columns].tolist(),
        checks=checks,
    )


def _behind(row: EncodedText) -> int:
    """How many tokens the tokenizer added behind a text."""
    added = row.added
    return next((i for i, one in enumerate(reversed(added)) if not one), len(added)) if not all(added) else 0


def with_answer(prompt: Any, answer: Any, start: PromptAndAnswer, tokenizer: Tokenizer | None) -> PromptAndAnswer:
    """Prompt and answer: words are tokenised together with the prompt's, so that its tokens are those of the whole
    text; a token that has characters of both is the answer's. Raises `InputError` for what is no answer."""
    if not isinstance(answer, str) or not start.text:  # token numbers, which stay what they are
        start.ids = [*start.ids, *answer_ids(answer, start.ids, tokenizer)]
        return start
    assert tokenizer is not None  # which read the prompt
    return _together(start, answer, tokenizer, add=isinstance(prompt, str))


def answer_ids(answer: Any, ids: list[int], tokenizer: Tokenizer | None) -> list[int]:
    """Token numbers of an answer after others that are fixed. Raises `InputError` for what is no answer."""
    if isinstance(answer, str):
        if tokenizer is None:
            raise InputError(
                "an answer in words needs the model's tokenizer", expected="a model from clew.load", got="none"
            )
        return _after(ids, answer, tokenizer)
    try:
        numbers = torch.as_tensor(answer).flatten()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError("this is no answer", expected="words, or token numbers", got=short_repr(answer)) from error
    if numbers.numel() and (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool):
        raise InputError("this is no answer", expected="words, or token numbers", got=f"{numbers.dtype}")
    return [int(i) for i in numbers.tolist()]


def _together(start: PromptAndAnswer, answer: str, tokenizer: Tokenizer, *, add: bool) -> PromptAndAnswer:
    text = start.text + answer
    row = tokenized(text, tokenizer, add=add)
    count = len(row.ids) - _behind(row)
    ids = row.ids[:count]
    if "offset_mapping" in row.values:
        spans: list[tuple[int, int]] = [(a, b) for a, b in row.values["offset_mapping"][:count]]
        first = next((i for i, (a, b) in enumerate(spans) if a < b and b > len(start.text)), count)
    else:  # up to where the tokens of the prompt alone are the same
        spans = []
        first = next((i for i, (a, b) in enumerate(zip(ids, start.ids, strict=False)) if a != b), len(start.ids))
    return PromptAndAnswer(ids, min(first, count), text, spans, None, start.checks)


def ids_of_prompt(text: str, tokenizer: Tokenizer, *, add: bool) -> list[int]:
    """Tokens of a text that an answer goes on from: without what the tokenizer adds behind it."""
    row = tokenized(text, tokenizer, add=add)
    return row.ids[: len(row.ids) - _behind(row)]


def _after(ids: list[int], answer: str, tokenizer: Tokenizer) -> list[int]:
    """Tokens of words that come after others whose tokens are fixed, without a space that is not there."""

    def alone(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    found: list[list[int]] = []
    for before in (str(tokenizer.decode(ids, skip_special_tokens=True)), ".", "\n", "a"):
        own, both = alone(before), alone(before + answer)
        tail = own == both[: len(own)] and (len(before) < 2 or own == ids[len(ids) - len(own) :])
        if own and tail:
            found.append(both[len(own) :])
    found.append(alone(answer))
    whole = "".join(answer.split())  # a tokenizer may have made one token of the words before and the first of these
    kept = (one for one in found if "".join(str(tokenizer.decode(one)).split()) == whole)
    return next(kept, next(filter(None, found), []))


def device_of(model: nn.Module) -> torch.device:
    """Where a model wants its inputs: where its first weights are, or for weights that are put there only for each call
    where their hook puts them."""
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    for module in model.modules():
        device: Any = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device("cpu")
