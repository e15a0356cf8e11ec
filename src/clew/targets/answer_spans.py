"""Answers that are words of a text: from where a model says that they begin and end."""

from __future__ import annotations

import torch
from torch import Tensor

from ..inputs import TextBatch

LONGEST_ANSWER = 15  # tokens, as question answering is commonly read out


def best_answers(start: Tensor, end: Tensor, text: TextBatch) -> tuple[Tensor, str]:
    """First and last tokens of the best answers, (batch, 2): the pair `i <= j < i + LONGEST_ANSWER` of tokens of the
    context with the largest `start_i + end_j`; of equals the first.

    The second value is a word of advice where the model would rather have no answer.
    """
    may = text.mask if text.answers is None else text.answers
    may = text.to_model_order(may.to(torch.long)).bool().to(start.device)
    both = start.masked_fill(~may, -torch.inf)[:, :, None] + end.masked_fill(~may, -torch.inf)[:, None, :]
    places = torch.arange(start.shape[1], device=start.device)
    length = places[None, :] - places[:, None]
    allowed = (length >= 0) & (length < LONGEST_ANSWER)
    # Tokens between that are none of the context part it: an answer does not run over them.
    skipped = (~may).cumsum(1)
    allowed = allowed[None] & (skipped[:, :, None] == skipped[:, None, :])
    best = both.masked_fill(~allowed, -torch.inf).flatten(1).argmax(1)
    rows = torch.stack([best // start.shape[1], best % start.shape[1]], 1)
    first = (start[:, 0] + end[:, 0]).cpu() > both.flatten(1).gather(1, best[:, None])[:, 0].cpu()
    none = (first & text.to_model_order(text.special.to(torch.long))[:, 0].bool().cpu()).nonzero().flatten().tolist()
    if not none:
        return rows, ""
    said = f"of examples {none} the model prefers its first token to any answer, which may mean that there is none"
    return rows, f"{said}; to explain that, target=Span(0, 1)"
