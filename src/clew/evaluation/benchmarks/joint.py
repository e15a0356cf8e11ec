"""The joint table: what several protocols say about one explanation of each example, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ...attributions import Attribution
from ...datasets import Dataset, Example
from ...errors import OptionError
from ...explaining.explain import explain
from ...inputs import word_spans
from ...metrics.curves import TENTHS
from ...models import LoadedModel, find_architecture, is_declared
from . import Again, Batch, Benchmark, Metric, Results, Values, benchmark, label_of, mean_of_column
from .flipping import Flipping
from .mask import Mask
from .perturbation import Perturbation
from .planted import Planted
from .rationale import Rationale
from .texts import text_of


@dataclass(frozen=True)
class Taken:
    """A number of the joint table: that of a protocol by its name there, or of two the first less the second."""

    name: str
    of: tuple[str, ...]
    headline: bool = False
    what: str = ""


_ERASED = "given/channel_mean"
_PRUNED = "probability of the class while words are masked"

# What each part gives, the most telling first.
TAKEN: dict[str, Sequence[Taken]] = {
    "patches": (
        Taken("SRG", (f"{_ERASED}: logit SRG",), True, "logit, least minus most relevant first, mean over steps"),
        Taken("accuracy, most first", (f"{_ERASED}/positive: hits AUC",), True, "area, most relevant patches first"),
        Taken("accuracy, least first", (f"{_ERASED}/negative: hits AUC",), True, "area, least relevant patches first"),
    ),
    "mask": (
        Taken("relevance inside", ("relevance inside",), True),
        Taken("average precision", ("average precision",), True),
        Taken("pointing game", ("pointing game",)),
    ),
    "words": (
        Taken("comprehensiveness", ("comprehensiveness AOPC",), True),
        Taken("sufficiency", ("sufficiency AOPC",), True),
    ),
    "tokens": (
        Taken(
            "flipping", ("prune/least probability AUC", "prune/most probability AUC"), True, "least minus most first"
        ),
        Taken("flipping, most first", ("prune/most probability AUC",), what=_PRUNED),
        Taken("flipping, least first", ("prune/least probability AUC",), what=_PRUNED),
    ),
    "next_token": (
        Taken("flipping", ("generate MERF - LERF",), True, "logit, most minus least relevant words put back first"),
        Taken("AU-MSE, put back", ("generate AU-MSE",), True),
        Taken("AU-MSE, pruned", ("prune AU-MSE",), True),
        Taken("AUAC, pruned", ("prune AUAC",)),
    ),
    "rationale": (
        Taken("agreement", ("average_precision",), True, "average precision of words against the rationale"),
        Taken("agreement, ROC", ("roc_auc",)),
    ),
    "planted": (),  # by what the data calls it
}
_CLASSIFIES = ("patches", "mask", "words", "tokens", "rationale")
_GAP, _WHOLE = "gap", "whole"


@benchmark(
    name="joint",
    version=1,
    modality="",
    paper="Berend et al. 2026 (SRG, relevance inside); Mehri et al. 2025 (most and least first); DeYoung et al. 2020; "
    "Ali et al. 2022; Zhang et al. 2018",
    summary="several protocols on one explanation of each example: all methods, controls, costs, chosen options",
)
@dataclass(frozen=True)
class Joint(Benchmark):
    """Every method explains the given class of each example once, and all that the data allows is measured on that.

    `parts`: "patches" are replaced by the mean colour, most and least relevant first (SRG of the logit, accuracy);
    "mask", heatmaps against masks of the object; of texts "words" are taken away or left alone (comprehensiveness,
    sufficiency), "tokens" masked, "rationale" compared with what humans marked; of language models the "next_token" is
    watched; of models of several inputs it is "planted" what decides. Default: all that model and data allow.
    `fractions`: of patches and tokens that are erased. `resize`: prepare pictures as the "model" was trained, or
    "squash" them whole. `misclassified`: measure also examples that the model gets wrong, which are left out otherwise.
    `choose`: try γ and first blocks too, for `clew.chosen`, which chooses on half of the examples and reports the rest.
    `max_length`: cut texts to so many tokens. `internal_batch_size`: copies at a time.
    `mask`, `rationale`: what to call planted evidence. Default: what the data says.
    The completeness gap is of methods that promise a sum: by how much, as a share, their scores miss it.
    """

    controls: ClassVar[tuple[str, ...]] = ("centred_gaussian", "edge_filter")
    costs: ClassVar[bool] = True

    parts: tuple[str, ...] | None = None
    fractions: tuple[float, ...] = TENTHS
    resize: str = "model"
    misclassified: bool = False
    choose: bool = True
    max_length: int | None = None
    internal_batch_size: int = 64
    mask: str | None = None
    rationale: str | None = None

    @property
    def metrics(self) -> Sequence[Metric]:
        found: list[Metric] = []
        for name, part in self._protocols().items():
            own = {metric.name: metric for metric in part.metrics}
            for one in self._taken(name, part):
                first = own[one.of[0]]
                found.append(
                    Metric(one.name, (one.name,), mean_of_column, first.higher, one.headline, one.what or first.what)
                )
        what = "share of what the scores of such methods should sum to that they miss"
        return [*found, Metric("completeness gap", (_GAP, _WHOLE), _share, False, False, what)]

    def _taken(self, name: str, part: Benchmark) -> Sequence[Taken]:
        """What the table takes from a part."""
        return TAKEN[name] or [Taken(metric.name, (metric.name,), metric.headline) for metric in part.metrics]

    def _protocols(self) -> dict[str, Benchmark]:
        """The protocols that are put together, by part."""
        chunk, cut = self.internal_batch_size, self.max_length
        each: dict[str, Benchmark] = {
            "patches": Perturbation(
                explain=("given",), eraser=("channel_mean",), units="patches", fractions=self.fractions,
                resize=self.resize, internal_batch_size=chunk,
            ),
            "mask": Mask(explain="given", resize=self.resize),
            "words": Rationale(counts=(), max_length=cut, internal_batch_size=chunk),
            "tokens": Flipping(protocol="movies", eraser="mask", fractions=self.fractions, max_length=cut,
                               internal_batch_size=chunk),
            "next_token": Flipping(protocol="wikipedia", eraser="token", fractions=self.fractions, max_length=cut,
                                   internal_batch_size=chunk),
            "rationale": Rationale(counts=(), thresholds=(), max_length=cut),
            "planted": Planted(mask=self.mask, rationale=self.rationale),
        }  # fmt: skip
        return {name: each[name] for name in self.parts or ()}

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        possible = _possible(loaded, dataset)
        parts = possible if self.parts is None else self.parts
        wrong = [name for name in parts if name not in possible]
        if wrong or not parts:
            got = ", ".join(wrong) or "none"
            raise OptionError(f"{loaded.name} and {dataset.name} have no such part", expected=possible, got=got)
        found = replace(self, parts=tuple(parts))
        for part in found._protocols().values():
            fitted = part.fitted(loaded, dataset)
            if isinstance(fitted, Planted):
                found = replace(found, mask=fitted.mask, rationale=fitted.rationale)
        return found

    def grid(self, loaded: LoadedModel) -> Mapping[str, Sequence[Any]]:
        """γ of residual sums, and the upper half of the blocks beside a method's own."""
        if not self.choose:
            return {}
        found: dict[str, Sequence[Any]] = {"gamma": (0.25, 1.0)}
        if is_declared(loaded.model):
            depth = len(find_architecture(loaded.model).bind(loaded.model).blocks)
            found["start_layer"] = (None, depth // 2)
        return found

    def left_out(self, loaded: LoadedModel, examples: Sequence[Example]) -> list[str | None]:
        if self.misclassified or not set(self.parts or ()) & set(_CLASSIFIES):
            return [None] * len(examples)
        wanted = [label_of(example) for example in examples]
        made = self.batch(loaded, examples)
        logits: Any = explain(loaded, made.inputs, method="random", checks="off", **made.more).logits
        said = (logits > 0)[:, 0].int() if logits.shape[-1] == 1 else logits.argmax(-1)
        return [None if a == b else "classified wrong" for a, b in zip(said.tolist(), wanted, strict=True)]

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        held = {name: p.batch(loaded, _as_taken(name, examples)) for name, p in self._protocols().items()}
        first = next(iter(held.values()))
        return Batch(examples, first.inputs, {"": next(iter(first.targets.values()))}, first.more, held)

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        found = {method: [_completeness(result[""], i) for i in range(len(batch.examples))]
                 for method, result in results.items()}  # fmt: skip
        for name, part in self._protocols().items():
            own: Batch = batch.held[name]
            named = {method: dict.fromkeys(own.targets, result[""]) for method, result in results.items()}
            metrics = {metric.name: metric for metric in part.metrics}
            for method, rows in part.measure(loaded, own, named, again).items():
                for row, values in zip(found[method], rows, strict=True):
                    row |= {one.name: _number(one, metrics, values) for one in self._taken(name, part)}
        return found


def _possible(loaded: LoadedModel, dataset: Dataset) -> tuple[str, ...]:
    """The parts that a model and data allow."""
    first, declared = dataset.read(0), is_declared(loaded.model)
    of_pictures = ("patches", *(["mask"] if first.mask is not None else []))
    if not declared:  # a classifier of pictures, or a model of several inputs
        alone = loaded.preprocess is not None and first.image is not None and first.text is None
        return of_pictures if alone else ("planted",)
    architecture = find_architecture(loaded.model)
    if architecture.modality == "image":
        return of_pictures
    if architecture.bind(loaded.model).task == "causal-lm":
        return ("next_token",)
    return ("words", "tokens", *(["rationale"] if first.rationale is not None else []))


def _as_taken(part: str, examples: Sequence[Example]) -> Sequence[Example]:
    """Examples as a part takes them: any text has words, of which the words that humans marked are no matter."""
    if part != "words":
        return examples
    texts = [text_of(example) for example in examples]
    words = [tuple(text[a:b] for a, b in word_spans(text)) for text in texts]
    return [replace(e, words=w, rationale=()) for e, w in zip(examples, words, strict=True)]


def _number(one: Taken, metrics: Mapping[str, Metric], values: Values) -> float | None:
    """The number of one example: what a protocol makes of means, of this example alone."""
    found: list[float] = []
    for name in one.of:
        columns = [values[column] for column in metrics[name].columns]
        if any(column is None for column in columns):
            return None
        found.append(float(metrics[name].of(*(np.asarray(column)[None] for column in columns))[0]))
    return found[0] - found[1] if len(found) > 1 else found[0]


def _completeness(result: Attribution, i: int) -> Values:
    """By how much the scores of one example miss what they should sum to, and that; of methods that promise a sum."""
    checks: Mapping[str, Any] = result.checks
    if "relevance" in checks and "explained" in checks:
        whole = float(checks["explained"][i])
        return {_GAP: abs(whole - float(checks["relevance"][i])), _WHOLE: abs(whole)}
    gap = checks.get("completeness_gap")
    if not isinstance(gap, Tensor) or not gap.ndim:
        return {_GAP: None, _WHOLE: None}
    total = sum(float(part.all_scores[i].double().sum()) for part in result.streams.values())
    return {_GAP: abs(float(gap[i])), _WHOLE: abs(total - float(gap[i]))}


def _share(gap: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(gap) / np.maximum(np.asarray(whole), 1e-300)
