"""Padding: inferred from token ids where there is no mask, and treated as tokens for models that read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inputs import BOOKKEEPING, Tokenizer, named_token_ids
from ..models import ForwardSignature


def infer_padding_mask(
    given: Mapping[str, Any],
    ids: Tensor,
    model: nn.Module,
    tokenizer: Tokenizer | None,
    taken: ForwardSignature,
    kind: str,
) -> tuple[Tensor, dict[str, Any]]:
    """A mask for token numbers that came without one: runs of the padding token at an end are padding.

    Where that token may also be a word, or the model takes no mask, nothing is masked, and `checks` say so.
    """
    everything = torch.ones_like(ids, dtype=torch.bool)
    if kind != "numbers":
        return everything, {}
    sources = (getattr(model, "config", None), tokenizer)
    pads = set[int]().union(*(named_token_ids(source, "pad") for source in sources))
    others = set[int]().union(*(named_token_ids(s, "bos", "eos", "cls", "sep", "unk", "mask") for s in sources))
    mask = everything
    for pad in sorted(pads):
        is_pad = ids == pad
        ends = is_pad.cumprod(1).bool() | is_pad.flip(1).cumprod(1).flip(1).bool()
        ends &= ~is_pad.all(1, keepdim=True)
        if not bool(ends.any()):
            continue
        counts = ends.sum(1)
        called = f"{int(counts.sum())} tokens at an end have the number {pad}"
        how = "pass attention_mask to say what is padding"
        if pad in others:
            if int(counts.max()) > 1 or len(set(counts.tolist())) > 1:
                what = "which is both padding and a token of the text: they are read as text"
                return everything, {"advice": f"{called}, {what}; {how}"}
            continue
        own = [v for k, v in given.items() if k not in ("input_ids", *BOOKKEEPING) and _splits(v, ends)]
        if "attention_mask" not in taken and not own:
            return everything, {
                "advice": f"{called}, which is padding, but the model takes no attention_mask: read as text"
            }
        mask = mask & ~ends
    if bool(mask.all()):
        return everything, {}
    count = int((~mask).sum())
    return mask, {"padding": f"{count} tokens at an end are read as padding, as there was no attention_mask"}


def _splits(value: Any, ends: Tensor) -> bool:
    """Whether a tensor is a mask of just this padding."""
    if not isinstance(value, Tensor) or value.shape != ends.shape or value.is_floating_point():
        return False
    return bool(((value != 0) == ends).all()) or bool(((value == 0) == ends).all())


def pad_to_length(given: Mapping[str, Any], length: int, padding: int) -> dict[str, Any]:
    """Token numbers and what goes with them, filled up to a length."""
    ids: Tensor = given["input_ids"]
    more = max(0, length - ids.shape[1])
    fill = {"input_ids": padding, "special_tokens_mask": 1}
    found: dict[str, Any] = {"attention_mask": torch.ones_like(ids), **given}
    for name, value in found.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            found[name] = F.pad(value, (0, 0) * (value.ndim - 2) + (0, more), value=fill.get(name, 0))
    return found


def as_tokens(given: Mapping[str, Any], mask: Tensor, special: Tensor, padding: int) -> tuple[dict[str, Any], Tensor]:
    """Padding as special tokens behind the text, wherever it was; the mask says that all tokens are seen."""
    ids: Tensor = given["input_ids"]
    mask = F.pad(mask, (0, ids.shape[1] - mask.shape[1]))
    ids = ids.masked_fill(~mask, padding)
    found = {**given, "input_ids": ids, "special_tokens_mask": special | ~mask, "attention_mask": mask}
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    for name, value in found.items():
        if isinstance(value, Tensor) and value.shape[:2] == ids.shape:
            index = order.view(*order.shape, *[1] * (value.ndim - 2)).expand_as(value)
            found[name] = value.gather(1, index.to(value.device))
    return {k: v for k, v in found.items() if k != "attention_mask"}, torch.ones_like(mask)
