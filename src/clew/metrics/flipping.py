"""Flipping of tokens: prune or insert them in the order of their scores, and watch the model."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import InputError, OptionError
from ..inputs import refuse_unreadable
from ..models import LoadedModel
from ..seam import in_callers_modes
from ..targets import head_of, logits_of
from ..validation import validate_arguments, validate_call, validate_float, validate_integer, validate_size
from .curves import TENTHS, Curves

ERASERS = ("mask", "zero")
_OPTIONS = {
    "mode": ("prune", "generate"),
    "first": ("most", "least"),
    "ranking": ("value", "magnitude"),
    "rounding": ("ceil", "floor"),
}


@validate_call
def flipping(
    model: nn.Module | LoadedModel,
    input_ids: Int[Tensor, " token"],
    scores: Float[Tensor, "case token"],
    *,
    mode: str = "prune",
    first: str = "least",
    ranking: str = "value",
    eraser: int | str = "mask",
    fractions: Sequence[float] = TENTHS,
    attention_mask: Int[Tensor, " token"] | None = None,
    keep: Bool[Tensor, " token"] | None = None,
    rounding: str = "ceil",
    mask_id: int | None = None,
    erased: Bool[Tensor, "case step token"] | None = None,
    internal_batch_size: int = 32,
) -> Curves:
    """Take tokens away, or put them back, in the order of their scores (Ali et al. 2022, sec. 4; Bakish et al. 2025).

    Gives `Curves` with logits (step, case, class).

    Args:
        model: a text classifier or a language model; of the latter the logits of the next token are watched. The model
            runs as it is: a causal mask stays on.
        input_ids: one text; `scores` has a row for each case, an order of the text's tokens.
        mode: "prune" takes tokens out of the text; "generate" starts without any and puts them back.
        first: begin with the "most" or the "least" relevant.
        ranking: compare scores by "value" or by "magnitude". Ties: the first token comes first.
        eraser: what comes in a token's place: a token's number; "mask", attention is not paid to it; "zero", its
            word embedding is 0.
        fractions: how much of what may be flipped is flipped at each step, from 0 to 1.
        attention_mask: 0 at padding, which is never flipped (and `keep` decides whether it counts).
        keep: tokens that stay as they are and do not count: special tokens, parts of a prompt. Default: padding.
        rounding: a fraction of n tokens is "ceil" or "floor" of it.
        mask_id: with "mask", the number that a masked token gets too; default: its own.
        erased: the tokens that are gone at each step, where they are known already (`flipped_tokens`).
        internal_batch_size: copies of the text that the model sees at a time.

    Raises:
        InputError, OptionError: scores of another text, unknown options, nothing that may be flipped.
    """
    validate_arguments({"input_ids": input_ids, "scores": scores}, flipping)
    for name, values in (("input_ids", input_ids), ("scores", scores), ("mask", attention_mask), ("keep", keep)):
        refuse_unreadable(values, name)
        if name in ("mask", "keep") and values is not None and values.shape != input_ids.shape:
            raise InputError(f"{name} is not of this text", expected=tuple(input_ids.shape), got=tuple(values.shape))
        if name != "scores" and values is not None and (values.is_floating_point() or values.is_complex()):
            raise InputError(f"{name} holds whole numbers", expected="integers, or truth values", got=values.dtype)
    fractions = tuple(validate_float("a fraction", one, 0, 1) for one in fractions)
    words: Any = getattr(getattr(model, "model", model), "get_input_embeddings", lambda: None)()
    for name, number in (("eraser", eraser), ("mask_id", mask_id)):
        if number is not None and not isinstance(number, str):
            validate_integer(name, number, 0, getattr(words, "num_embeddings", 2**31) - 1)
    if not fractions:
        raise OptionError("there is no step to flip at", expected="fractions, from 0 to 1", got="none")
    _refuse_unknown(mode=mode, first=first, ranking=ranking, rounding=rounding)
    if input_ids.ndim != 1 or scores.ndim != 2 or scores.shape[1] != len(input_ids):
        raise InputError("scores are not of this text", expected=("case", len(input_ids)), got=tuple(scores.shape))
    module = model.model if isinstance(model, LoadedModel) else model
    device = next(module.parameters()).device
    attention = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    kept = (attention == 0) if keep is None else keep
    if erased is None:
        erased = flipped_tokens(scores, kept, fractions, mode=mode, first=first, ranking=ranking, rounding=rounding)
    if isinstance(eraser, str) and eraser not in ERASERS:
        raise OptionError("unknown eraser", expected="a token's number, mask or zero", got=eraser)
    forward = _Forward(module, input_ids.to(device), attention.to(device), eraser, mask_id)
    rows = erased.transpose(0, 1).reshape(-1, len(input_ids)).to(device)
    with torch.no_grad():
        logits = torch.cat(
            [forward(part) for part in rows.split(validate_size("internal_batch_size", internal_batch_size))]
        )
        clean = forward(torch.zeros_like(rows[:1]))
    logits, scale = logits.view(len(fractions), len(scores), -1), head_of(module).scale(clean.shape[-1])
    return Curves(tuple(fractions), logits, clean.expand(len(scores), -1), scale)


def flipped_tokens(
    scores: Float[Tensor, "case token"],
    keep: Bool[Tensor, " token"],
    fractions: Sequence[float],
    *,
    mode: str = "prune",
    first: str = "least",
    ranking: str = "value",
    rounding: str = "ceil",
) -> Bool[Tensor, "case step token"]:
    """Which tokens are erased at each step: true where one is gone. The options are those of `flipping`.

    Raises `InputError` where every token is to be kept, `OptionError` for an unknown option.
    """
    _refuse_unknown(mode=mode, first=first, ranking=ranking, rounding=rounding)
    free = (~keep).nonzero().flatten().to(scores.device)
    if not len(free):
        raise InputError("no token of this text may be flipped", expected="tokens outside `keep`", got="none")
    values = scores[:, free]
    values = values.abs() if ranking == "magnitude" else values
    order = values.argsort(dim=1, descending=first == "most", stable=True)
    places = torch.arange(len(free), device=scores.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    n = len(free)  # 0.7 · 90 is 63, whatever binary fractions make of it
    whole = [math.ceil(f * n) if rounding == "ceil" else math.floor(f * n + 1e-9) for f in fractions]
    counts = torch.tensor(whole, device=scores.device)
    chosen = ranks[:, None] < counts[None, :, None]
    found = torch.zeros(len(scores), len(fractions), scores.shape[1], dtype=torch.bool, device=scores.device)
    found[:, :, free] = ~chosen if mode == "generate" else chosen
    return found


def _refuse_unknown(**options: str) -> None:
    for name, value in options.items():
        if value not in _OPTIONS[name]:
            raise OptionError(f"unknown {name}", expected=" or ".join(_OPTIONS[name]), got=value)


class _Forward:
    """From which tokens are erased, (copy, token), to logits (copy, class).

    The numbers of the tokens stay as they are, and what is looked up for them is replaced: a model that searches its
    input for the last token that is no padding reads the same one at every step.
    """

    def __init__(
        self, module: nn.Module, ids: Tensor, attention: Tensor, eraser: int | str, mask_id: int | None
    ) -> None:
        self.module, self.ids, self.attention = module, ids, attention
        self.masks = eraser == "mask"
        self.replacement = mask_id if self.masks else eraser
        self.last = int(attention.nonzero().max())

    def __call__(self, erased: Tensor) -> Tensor:
        ids, attention = self.ids.expand(len(erased), -1), self.attention.expand(len(erased), -1)
        if self.masks:
            attention = attention.masked_fill(erased, 0)
        with _replaced(self.module, erased, self.replacement), in_callers_modes():
            logits = logits_of(self.module(input_ids=ids, attention_mask=attention))
        return logits[:, self.last] if logits.ndim == 3 else logits


@contextmanager
def _replaced(module: nn.Module, erased: Tensor, by: int | str | None) -> Generator[None]:
    """Word embeddings of some tokens as those of another token, or as zeros, for as long as it lasts."""
    if by is None:
        yield
        return
    words: Any = getattr(module, "get_input_embeddings", lambda: None)()
    if words is None:
        raise OptionError("this model's word embeddings are not known", expected="a Hugging Face model", got=by)

    def hook(_module: nn.Module, _given: Any, found: Tensor) -> Tensor:
        other = words.forward(torch.tensor(by, device=erased.device)) if isinstance(by, int) else found.new_zeros(())
        return torch.where(erased[..., None], other.to(found), found)

    handle = words.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
