"""Texts longer than a model's positions: windows that overlap, each explained by itself, put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .assemble import Settings, normalized
from .attribution import Attribution
from .heads import head_of
from .loaded import LoadedModel
from .prepare import unwrap
from .prepare_text import padded_rows
from .shapes import InputError, OptionError
from .targets import each
from .text_attribution import TextAttribution


@dataclass(frozen=True)
class Windows:
    """How to explain texts in windows: of how many tokens, one every so many, and by which call of `explain`.

    `options` are passed to it, `settings` are applied to what was put together.
    """

    explain: Callable[..., Attribution]
    size: int
    stride: int | None
    options: dict[str, Any]
    settings: Settings

    def of(self, model: nn.Module | LoadedModel, inputs: Any, target: Any) -> Attribution:
        """Explain windows of texts and put their scores together: a token's score is the mean over its windows.

        Without a target, the class is the one that the mean of the windows' logits predicts. Raises `InputError` where
        there are no strings with a fast tokenizer, or the model is no classifier.
        """
        texts = [inputs] if isinstance(inputs, str) else inputs
        tokenizer: Any = model.tokenizer if isinstance(model, LoadedModel) else None
        strings = isinstance(texts, list) and bool(texts) and all(isinstance(t, str) for t in cast("list[Any]", texts))
        if not strings or not getattr(tokenizer, "is_fast", False):
            lacks = "no tokenizer" if tokenizer is None else "a tokenizer without offsets"
            raise InputError(
                "windows are cut out of strings",
                expected="a string or a list of strings, and a model with a fast tokenizer (clew.load)",
                got=lacks if strings else type(inputs).__name__,
            )
        given = cast("list[str]", texts)
        targets = each(target, len(given))
        parts = [self._of_one(cast(LoadedModel, model), *pair) for pair in zip(given, targets, strict=True)]
        return TextAttribution.concatenate(parts)

    def _of_one(self, model: LoadedModel, text: str, target: Any) -> Attribution:
        tokenizer: Any = model.tokenizer
        added = int(tokenizer.num_special_tokens_to_add(False))
        inside = self.size - added
        step = max(1, inside // 2) if self.stride is None else self.stride
        if inside < 1 or not 1 <= step <= inside:
            raise OptionError(
                "these windows leave gaps, or hold nothing",
                expected=f"window above {added}, stride from 1 to window - {added}",
                got=f"window={self.size}, stride={self.stride}",
            )
        encoded = tokenizer(
            text,
            truncation=True,
            max_length=self.size,
            stride=inside - step,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        names = [k for k in encoded if k != "overflow_to_sample_mapping"]
        rows = [{name: list(encoded[name][i]) for name in names} for i in range(len(encoded["input_ids"]))]
        given = padded_rows(rows, unwrap(model.model), tokenizer)
        given["_texts"] = [text] * len(rows)
        if target is None and len(rows) > 1:
            named = {k: v for k, v in self.options.items() if k in ("architecture", "compute_dtype")}
            logits = self.explain(model, given, method="raw_attention", checks="off", **named).logits
            if logits is None or logits.ndim != 2:
                raise InputError(
                    "windows are for classifiers", expected="one output for a text", got="outputs of tokens"
                )
            if head_of(unwrap(model.model)).of(logits.shape[1]) != "embedding":  # of which the norm is explained
                target = int(logits.float().mean(0).argmax())
        found = cast(TextAttribution, self.explain(model, given, target=target, **self.options))
        return _joined(found, text, self.settings, f"{len(rows)} of {self.size} tokens, one every {step}")


def _joined(found: TextAttribution, text: str, settings: Settings, windows: str) -> Attribution:
    """The windows of one text as one text: every token once, special tokens left out."""
    assert found.offsets is not None
    sums: dict[tuple[int, int, int], list[float]] = {}
    for i in range(len(found)):
        counted = (found.mask[i] & ~found.special[i]).tolist()
        spans, ids, scores = found.offsets[i].tolist(), found.input_ids[i].tolist(), found.scores[i].tolist()
        for column, kept in enumerate(counted):
            if kept:
                sums.setdefault((*spans[column], ids[column]), []).append(scores[column])
    keys = sorted(sums)
    scores = torch.tensor([[sum(sums[k]) / len(sums[k]) for k in keys]], dtype=found.scores.dtype)
    per_window: Sequence[str] = [k for k, v in found.checks.items() if isinstance(v, Tensor) and v.ndim]
    checks: dict[str, Any] = {k: v for k, v in found.checks.items() if k not in per_window}
    checks["non_finite"] = (~scores.isfinite()).sum(-1)
    checks |= {"windows": windows, "scores_of_windows": ", ".join(f"{s:.4g}" for s in found.score.tolist())}
    real = torch.ones_like(scores, dtype=torch.bool)
    return TextAttribution(
        all_scores=normalized(scores, scores, settings.normalize),
        input_ids=torch.tensor([[k[2] for k in keys]]),
        mask=real,
        special=~real,
        tokens=[[text[k[0] : k[1]] for k in keys]],
        texts=[text],
        offsets=torch.tensor([[k[:2] for k in keys]]),
        logits=None if found.logits is None else found.logits.float().mean(0, keepdim=True),
        method=found.method,
        options=found.options,
        target=[found.name_of_target(0)],
        score=found.score.mean(0, keepdim=True),
        labels=found.labels,
        checks=checks,
        provenance=found.provenance,
    )
