"""What benchmarks of texts share: cutting, tokens without padding, and what the model says without some of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...attributions import Attribution
from ...datasets import Example
from ...errors import InputError, OptionError
from ...inputs import Word, padding_of, word_spans
from ...models import LoadedModel
from ...seam import in_callers_modes
from ...targets import logits_of

# What curves of flipped words are of, and their steps, in words. Of AUAC, the area under the activation curve, that is
# the answer's probability; AU-MSE is the area under the mean squared error.
WATCHED = {
    "hits": "how often the answer is the first",
    "evidence": "probability (activation) of the answer",
    "logit": "logit of the answer",
    "squared_error": "mean squared error (MSE) from what the whole text gives",
}
FLIPPED = {"generate": "put back into an empty text", "prune": "taken out of the text"}
BETWEEN = "logit of the answer while words are put back, most relevant first (MERF) minus least first (LERF): area"


def text_of(example: Example) -> str:
    """The text. Raises `InputError` where there is none."""
    if example.text is None or not example.text.strip():
        got = f"an empty text for {example.id!r}" if example.text is not None else f"{example.id!r} without a text"
        raise InputError("this data has no texts", expected="a data set of texts", got=got)
    return example.text


def tokenizer_of(loaded: LoadedModel) -> Any:
    """The tokenizer, which gives offsets. Raises `OptionError` for a model without one."""
    if loaded.tokenizer is None or not getattr(loaded.tokenizer, "is_fast", False):
        raise OptionError(
            "this protocol needs the model's (fast) tokenizer", expected="a model of texts from clew.load",
            got=f"{loaded.name} without one",
        )  # fmt: skip
    return loaded.tokenizer


def shortened(loaded: LoadedModel, text: str, max_length: int | None) -> str:
    """The beginning of a text that makes at most `max_length` tokens, special ones included."""
    if max_length is None:
        return text
    found = tokenizer_of(loaded)(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    ends = [end for _, end in found["offset_mapping"]]
    return text[: max(ends)] if len(ends) == max_length else text


def unpadded(result: Any, i: int) -> tuple[Tensor, Tensor]:
    """Token numbers of one text without padding, and which of them are special, both on the CPU.

    Padding comes last in what our own tokenization gives, so that columns stay what they are.
    """
    real = result.mask[i].cpu()
    return result.input_ids[i].cpu()[real], result.special[i].cpu()[real]


def words_of(result: Attribution, i: int, example: Example, reduce: str) -> list[Word]:
    """The words of one text up to the last that the model saw, each in its place in `example.words`.

    A word without a token (tokenizers drop control characters) gets the least score. Raises `InputError` where the
    example's words are not those of its text.
    """
    text, words = text_of(example), example.words or ()
    spans = word_spans(text)
    if [text[a:b] for a, b in spans] != list(words):
        expected = f"{len(spans)} words between white space"
        raise InputError("the words are not those of the text", expected=expected, got=f"{len(words)}: {example.id!r}")
    found = {word.start: word for word in result[i].words(reduce)[0]}
    least = min((word.score for word in found.values()), default=0.0)
    return [found.get(a) or Word(text[a:b], a, b, least, ()) for a, b in spans if a <= max(found, default=-1)]


def logits_without(loaded: LoadedModel, ids: Tensor, gone: Tensor, chunk: int) -> Tensor:
    """Logits (copy, class), on the CPU, of a classifier that reads a text without the tokens that are `gone` (copy,
    token).

    Copies of similar length go together; where nothing is left the model reads the text's first token alone.
    """
    device = next(loaded.model.parameters()).device
    rows = [ids[~one] if not bool(one.all()) else ids[:1] for one in gone]
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
    padding = padding_of(loaded.model, loaded.tokenizer)
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), chunk):
        some = order[start : start + chunk]
        longest = max(len(rows[k]) for k in some)
        batch = torch.full((len(some), longest), padding)
        mask = torch.zeros(len(some), longest, dtype=torch.long)
        for row, k in enumerate(some):
            batch[row, : len(rows[k])], mask[row, : len(rows[k])] = rows[k], 1
        with torch.no_grad(), in_callers_modes():
            out = logits_of(loaded.model(input_ids=batch.to(device), attention_mask=mask.to(device)))
        found |= dict(zip(some, out.float().cpu(), strict=True))
    return torch.stack([found[k] for k in range(len(rows))])


def next_token_logits(loaded: LoadedModel, text: str) -> Tensor:
    """Logits (token,) of what comes after a text."""
    given = loaded.tokenizer(text, return_tensors="pt")
    device = next(loaded.model.parameters()).device
    with torch.no_grad(), in_callers_modes():
        out = loaded.model(input_ids=given["input_ids"].to(device))
    return logits_of(out)[0, -1].float().cpu()
