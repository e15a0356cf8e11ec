"""Rationales: do the words with the largest scores agree with those that humans marked? (DeYoung et al. 2020.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ... import metrics as measures
from ...attributions import Attribution
from ...datasets import Dataset, Example
from ...errors import InputError, OptionError
from ...inputs import Word
from ...metrics.eraser import AOPC_THRESHOLDS, mask_of, span_iou, spans_of
from ...models import LoadedModel
from ...targets import head_of, probabilities
from . import (
    Again,
    Batch,
    Benchmark,
    Curve,
    Metric,
    Results,
    Values,
    benchmark,
    label_of,
    mean_of_column,
    needs_probabilities,
    one_of,
)
from .texts import logits_without, shortened, text_of, unpadded, words_of

_COUNTS = tuple(range(5, 85, 5))


_ROC = "how often a marked word is scored above another; random has a half"


@benchmark(
    name="rationale",
    version=1,
    modality="text",
    paper="DeYoung et al. 2020, sec. 4; Chen et al. 2023, sec. 4.3",
    summary="words with the largest scores against rationales that humans marked; and what the model says without them",
    variants=("beyond_intuition",),
)
@dataclass(frozen=True)
class Rationale(Benchmark):
    """Scores of words against rationales that humans marked, and what the model says of the text without them.

    A word's score is the `words`, "max", "sum" or "mean", over its tokens. `counts`: how many words are marked for F1;
    `hard` of them make the spans that are compared by their overlap. `explain`: the "given" or the "predicted" class.
    `thresholds`: fractions of the words that are taken away (comprehensiveness) or left alone (sufficiency); none:
    leave both out. Tokens beyond the model's positions, or `max_length`, are cut: ranking scores are of the words that
    the model saw, F1 counts all. `internal_batch_size`: texts at a time.
    `variant`: "beyond_intuition" sets negative scores to 0 first, as its code does.
    """

    kept: ClassVar[tuple[str, ...]] = ("word_scores",)

    explain: str = "given"
    words: str = "max"
    counts: tuple[int, ...] = _COUNTS
    hard: int = 40
    thresholds: tuple[float, ...] = AOPC_THRESHOLDS
    max_length: int | None = None
    internal_batch_size: int = 16

    @property
    def metrics(self) -> Sequence[Metric]:
        found = [
            Metric(
                "average_precision",
                ("average_precision",),
                mean_of_column,
                True,
                True,
                "how well scores rank the marked words above others, of words that the model saw",
            ),
            Metric(
                f"f1@{self.hard}",
                (f"f1@{self.hard}",),
                mean_of_column,
                True,
                True,
                f"F1 of the {self.hard} best words against the marked ones",
            ),
        ]
        if self.thresholds:
            what = "drop of the class's probability"
            found += [
                Metric(
                    "comprehensiveness AOPC", ("comprehensiveness",), _mean, True, True, f"{what} without the words"
                ),
                Metric("sufficiency AOPC", ("sufficiency",), _mean, False, False, f"{what} with the words alone"),
            ]
        found += [
            Metric(
                "auprc",
                ("auprc",),
                mean_of_column,
                True,
                False,
                "area under precision by recall of marked words, by trapezoids, as ERASER has it",
            ),
            Metric("roc_auc", ("roc_auc",), mean_of_column, True, False, _ROC),
            Metric(
                "iou F1",
                ("iou_precision", "iou_recall", "annotated"),
                _macro,
                True,
                False,
                "of spans of the best words: one is found where half is shared",
            ),
        ]
        kept = [k for k in self.counts if k != self.hard]
        return found + [
            Metric(f"f1@{k}", (f"f1@{k}",), mean_of_column, True, False, f"F1 of the {k} best words") for k in kept
        ]

    @property
    def curves(self) -> Sequence[Curve]:
        columns = tuple(f"f1@{k}" for k in self.counts)
        x = tuple(float(k) for k in self.counts)
        found = [Curve("F1 of the k best words", columns, _stacked, x, "words marked", "token F1")]
        for what in ("comprehensiveness", "sufficiency") if len(self.thresholds) > 1 else ():
            found.append(Curve(what, (what,), np.asarray, self.thresholds, "fraction of the words", what))
        return found

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        one_of("class to explain", self.explain, ("given", "predicted"))
        one_of("reduction of words", self.words, ("max", "sum", "mean"))
        if not all(k >= 1 for k in (*self.counts, self.hard)):
            raise OptionError("counts of words", expected="1 or more", got=(*self.counts, self.hard))
        if not all(0 <= t <= 1 for t in self.thresholds):
            raise OptionError("thresholds are fractions of the words", expected="0 to 1", got=self.thresholds)
        if self.thresholds:
            needs_probabilities(loaded)
        return self

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        for example in examples:
            if example.rationale is None or example.words is None:
                raise InputError(
                    "this protocol needs words that humans marked", expected="data with rationales (ERASER's format)",
                    got=f"{example.id!r}",
                )  # fmt: skip
        targets = [label_of(e) for e in examples] if self.explain == "given" else None
        texts = [shortened(loaded, text_of(e), self.max_length) for e in examples]
        return Batch(examples, texts, {"": targets}, more={"truncate": True})

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        found: dict[str, list[Values]] = {method: [] for method in results}
        for i, example in enumerate(batch.examples):
            cases: list[tuple[str, list[Word]]] = []
            for method, result in results.items():
                words = _words(result[""], i, example, self.words, self.variant == "beyond_intuition")
                scores = [word.score for word in words]
                found[method].append({**self._agreement(example, scores), "word_scores": scores})
                cases.append((method, words))
            if self.thresholds:
                self._faithfulness(loaded, next(iter(results.values()))[""], i, example, cases, found)
        return found

    def _agreement(self, example: Example, scores: Sequence[float]) -> Values:
        """Of one document: numbers that need no model."""
        assert example.words is not None and example.rationale is not None
        true = mask_of(example.rationale, len(example.words))
        seen = true[: len(scores)]
        soft = measures.soft_scores(seen, scores)
        # Where all words, or none, are marked, some of these are not defined.
        row: Values = {name: None if math.isnan(value) else value for name, value in soft._asdict().items()}
        counts = [*self.counts, self.hard]
        row |= {f"f1@{k}": float(v) for k, v in zip(counts, measures.f1_at_k(true, scores, counts), strict=True)}
        best = np.argsort(-np.asarray(scores), kind="stable")[: self.hard]
        marked = np.zeros(len(true), dtype=bool)
        marked[best] = True
        predicted, wanted = spans_of(marked), list(example.rationale)
        hits = [max((span_iou(p, t) for t in wanted), default=0.0) >= 0.5 for p in predicted]
        row["iou_precision"] = sum(hits) / len(hits) if hits else 0.0
        row["iou_recall"] = sum(hits) / len(wanted) if wanted else 0.0
        row["annotated"] = float(bool(wanted))
        return row

    def _faithfulness(
        self,
        loaded: LoadedModel,
        result: Any,
        i: int,
        example: Example,
        cases: Sequence[tuple[str, list[Word]]],
        found: dict[str, list[Values]],
    ) -> None:
        ids, special = unpadded(result, i)
        gone: list[Tensor] = [torch.zeros(len(ids), dtype=torch.bool)]
        for _, words in cases:
            order = np.argsort([-word.score for word in words], kind="stable")
            for threshold in self.thresholds:
                count = math.ceil(threshold * len(words) - 1e-9)
                marked = torch.zeros(len(ids), dtype=torch.bool)
                for w in order[:count].tolist():
                    marked[list(words[w].tokens)] = True
                gone += [marked, ~marked & ~special]
        logits = logits_without(loaded, ids, torch.stack(gone), self.internal_batch_size)
        scale = head_of(loaded.model).scale(logits.shape[-1])
        assert scale is not None  # see `fitted`
        p = probabilities(logits, scale).double()
        c = label_of(example) if self.explain == "given" else int(logits[0].argmax())
        drops = (p[0, c] - p[1:, c]).view(len(cases), len(self.thresholds), 2).tolist()
        for (method, _), drop in zip(cases, drops, strict=True):
            found[method][i]["comprehensiveness"] = [without for without, _ in drop]
            found[method][i]["sufficiency"] = [alone for _, alone in drop]


def _words(result: Attribution, i: int, example: Example, reduce: str, clamp: bool) -> list[Word]:
    return words_of(replace(result, all_scores=result.all_scores.clamp(min=0)) if clamp else result, i, example, reduce)


def _mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).mean(-1)


def _macro(p: np.ndarray, r: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Of the mean precision, and the mean recall over the documents that have a rationale."""
    p, r = np.asarray(p, dtype=float), np.asarray(r, dtype=float)
    r = r / np.maximum(np.asarray(annotated, dtype=float), 1e-300)
    return 2 * p * r / np.maximum(p + r, 1e-300)


def _stacked(*columns: np.ndarray) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)
