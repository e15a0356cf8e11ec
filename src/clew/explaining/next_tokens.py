"""Targets of models of which nothing is declared that write texts: next tokens, and tokens that are already there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import TargetError
from ..inputs import TextBatch, decode_incrementally, decoder, special_ids
from ..streams import ModelCall
from ..targets import Each, Span, Token


def mask_of(call: ModelCall, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """Which token numbers of an argument are no padding, as libraries name it: `decoder_attention_mask` belongs to
    `decoder_input_ids`. None where there is no such mask of that shape."""
    found = call.tensors().get(name.replace("input_ids", "attention_mask"))
    return found.ne(0) if found is not None and name.endswith("input_ids") and tuple(found.shape) == shape else None


def written_name(call: ModelCall) -> str:
    """The argument of the tokens that a model goes on from: of an encoder with a decoder those of the decoder."""
    return "decoder_input_ids" if any(name.startswith("decoder_") for name in call.tensors()) else "input_ids"


def steps_without_tokens(shape: Sequence[int], tokenizer: Any, targets: Any) -> TextBatch:
    """The steps (batch, step) of an output that no tokens of the input belong to, as of a model that hears letters.

    Raises `TargetError` for spans, which are of tokens that are there already.
    """
    several: list[Any] = list(cast("list[Any]", targets)) if isinstance(targets, (list, tuple)) else [targets]
    if any(isinstance(one, Span) for one in several):
        todo = "a letter or class at a step: Token(step, 'e')"
        raise TargetError("a span is of tokens that are given", expected="Token", got=targets, todo=todo)
    ids = torch.zeros(tuple(shape[:2]), dtype=torch.long)
    real = torch.ones_like(ids, dtype=torch.bool)
    return TextBatch(ids, real, ~real, [[""] * shape[1]] * shape[0], **_tokenizing(tokenizer))


def written_text(
    call: ModelCall, shape: Sequence[int], model: nn.Module, tokenizer: Any, target: Any
) -> TextBatch | None:
    """The tokens (batch, token) that logits of a shape go on from; None where they are no argument of the call.

    Where a target names words, the texts are spelled out, so that these can be found.
    """
    name = written_name(call)
    ids = call.tensors().get(name)
    if ids is None or tuple(ids.shape) != tuple(shape[:2]) or ids.is_floating_point():
        return None
    ids = ids.detach().cpu().long()
    mask = mask_of(call, name, tuple(ids.shape))
    more = _tokenizing(tokenizer)
    if tokenizer is not None and _names_words(target):
        special = special_ids(model, tokenizer)
        strings = [decode_incrementally(row, more["decode"], special) for row in ids.tolist()]
        more |= {"texts": ["".join(row) for row in strings], "offsets": torch.tensor(list(map(_spans, strings)))}
    return TextBatch(
        input_ids=ids,
        mask=torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu(),
        special=torch.zeros_like(ids, dtype=torch.bool),
        tokens=[[""] * ids.shape[1]] * len(ids),
        **more,
    )


def _tokenizing(tokenizer: Any) -> dict[str, Any]:
    """How words become tokens, and tokens words."""
    if tokenizer is None:
        return {}

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return {"encode": encode, "decode": decoder(tokenizer)}


def in_given_order(text: TextBatch, rows: Tensor) -> Tensor:
    """Where rows (batch, row) of texts without their padding are among the tokens as they were given; -1 stays."""
    return torch.where(rows >= 0, text.order.gather(1, rows.clamp(min=0)), -1)


def _names_words(target: Any) -> bool:
    if isinstance(target, Each):
        return any(map(_names_words, target.targets))
    if isinstance(target, (list, tuple)):
        return any(map(_names_words, cast("list[Any]", target)))
    return isinstance(target, (Span, Token)) and isinstance(
        target.start if isinstance(target, Span) else target.where, str
    )


def _spans(strings: Sequence[str]) -> list[tuple[int, int]]:
    found, at = list[tuple[int, int]](), 0
    for one in strings:
        found.append((at, at + len(one)))
        at += len(one)
    return found
