"""Texts longer than a model's positions: windows that overlap, each explained by itself, put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..attributions import Attribution, TextAttribution, normalized
from ..errors import InputError, OptionError
from ..inputs import EncodedText, collate, tokenized
from ..models import LoadedModel
from ..targets import head_of, targets_per_example
from ..validation import validate_size
from ..verification import verify_windows
from .assemble import Settings
from .prepare import unwrap

MOST_WINDOWS = 10_000  # of a text; all run as one batch


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
                got=lacks
                if strings
                else type(cast("list[Any]", texts)[0]).__name__
                if isinstance(texts, list) and texts
                else type(inputs).__name__,
                todo=None if strings else "cut pairs with truncate=True",
            )
        given = cast("list[str]", texts)
        targets = targets_per_example(target, len(given))
        parts = [self._of_one(cast(LoadedModel, model), *pair) for pair in zip(given, targets, strict=True)]
        return TextAttribution.concatenate(parts)

    def _of_one(self, model: LoadedModel, text: str, target: Any) -> Attribution:
        tokenizer: Any = model.tokenizer
        added = int(tokenizer.num_special_tokens_to_add(False))
        inside = validate_size("window", self.size) - added
        step = max(1, min(inside, self.size // 2)) if self.stride is None else validate_size("stride", self.stride)
        if inside < 1 or not 1 <= step <= inside:
            raise OptionError(
                "these windows leave gaps, or hold nothing",
                expected=f"window above {added}, stride from 1 to window - {added}",
                got=f"window={self.size}, stride={self.stride}",
            )
        row = tokenized(text, tokenizer)
        # Windows are cut out of what is between the special tokens at both ends, and get those again.
        inner = [column for column, added in enumerate(row.added) if not added]
        if not inner:
            raise InputError("there is no token to explain", expected="words", got=repr(text)[:60])
        first, behind = inner[0], inner[-1] + 1
        starts = [first]
        while starts[-1] + inside < behind:
            starts.append(starts[-1] + step)
        if len(starts) > MOST_WINDOWS:
            expected, todo = f"at most {MOST_WINDOWS:,}", "larger windows, or a larger stride"
            raise OptionError("a text of too many windows", expected=expected, got=f"{len(starts):,}", todo=todo)
        rows: list[EncodedText] = []
        for start in starts:
            ends = (row.some(0, first), row.some(start, min(start + inside, behind)), row.some(behind, len(row.ids)))
            values = {name: [one for part in ends for one in part[name]] for name in row.values}
            rows.append(EncodedText(values, text, [0] * len(values["input_ids"])))
        given = collate(rows, unwrap(model.model), tokenizer)
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
        windows = [(start - first, min(start + inside, behind) - start) for start in starts]
        told = f"{self.size} tokens, one every {step}"
        joined = _joined(found, first, windows, text, self.settings, told)
        if self.settings.checks != "off" and self.settings.normalize is None:
            own = list(tokenizer(text, verbose=False)["input_ids"])[first : first + behind - first]
            verify_windows(windows, found.scores[:, first:], joined.scores[0], joined.input_ids[0].tolist(), own)
        return joined


def _joined(
    found: TextAttribution, first: int, windows: Sequence[tuple[int, int]], text: str, settings: Settings, told: str
) -> TextAttribution:
    """Windows (where they start, how many tokens) of one text as one text: every token once.

    What the tokenizer adds at both ends is left out, `first` tokens before those of each window.
    """
    assert found.offsets is not None
    count = max(start + length for start, length in windows)
    sums = torch.zeros(count, dtype=torch.float64)
    seen = torch.zeros(count, dtype=torch.float64)
    places: list[tuple[int, int]] = [(0, 0)] * count  # a window and a column of it, for each token
    for i, (start, length) in enumerate(windows):
        sums[start : start + length] += found.scores[i, first : first + length].cpu().double()
        seen[start : start + length] += 1
        places[start : start + length] = [(i, first + k) for k in range(length)]
    scores = (sums / seen).to(found.scores.dtype)[None]

    def each(values: Tensor) -> Tensor:
        return torch.stack([values[place] for place in places])[None]

    real = torch.ones_like(scores, dtype=torch.bool)
    per_window: Sequence[str] = [k for k, v in found.checks.items() if isinstance(v, Tensor) and v.ndim]
    checks: dict[str, Any] = {k: v for k, v in found.checks.items() if k not in per_window}
    checks["non_finite"] = (~scores.isfinite()).sum(-1)
    checks |= {"windows": torch.tensor([len(windows)]), "window": told}
    checks["scores_of_windows"] = found.score.detach().float().cpu()[None]
    return TextAttribution(
        all_scores=normalized(scores, scores, settings.normalize),
        input_ids=each(found.input_ids),
        mask=real,
        special=each(found.special),
        tokens=[[found.tokens[i][column] for i, column in places]],
        texts=[text],
        offsets=each(found.offsets),
        logits=None if found.logits is None else found.logits.float().mean(0, keepdim=True),
        method=found.method,
        options=found.options,
        target=[found.name_of_target(0)],
        score=found.score.mean(0, keepdim=True),
        labels=found.labels,
        checks=checks,
        provenance=found.provenance,
    )
