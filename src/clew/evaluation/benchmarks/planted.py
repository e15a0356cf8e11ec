"""Planted evidence: where it is known what decides, does a method point at it?"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...attributions import Attribution, ImageAttribution, TextAttribution
from ...datasets import Dataset, Example
from ...errors import InputError, OptionError
from ...metrics.eraser import mask_of
from ...models import LoadedModel
from . import Again, Batch, Benchmark, Metric, Results, Values, benchmark, mean_of_column
from .sanity import redrawn
from .streams import answer_of, arguments_of, refuse_declared, word_columns

_NAMES = {"mask": "image", "rationale": "word"}


@benchmark(
    name="planted",
    version=1,
    modality="",
    paper="Zhang et al. 2018 (pointing game); Adebayo et al. 2018 (weights drawn anew)",
    summary="is the highest patch, or the highest word, where it is known that the answer is decided?",
)
@dataclass(frozen=True)
class Planted(Benchmark):
    """Models of several inputs whose answers are decided by a known part of a picture, and by known words.

    The word or class that an example has as its label is explained. Of the picture the middle of the highest patch
    should lie on the mask; of the words the one with the highest score (the largest of its tokens) should be of the
    rationale. A map that is the same everywhere points nowhere. Bundled: mini:reverse and mini:digits-chat.
    `redraws`: the same with all weights drawn anew (Gaussian, with each tensor's own mean and deviation), where nothing
    decides: so many networks for each example, each of its own, because one network has an arbitrary favourite place.
    `draw`: the seed of the new weights.
    `mask`, `rationale`: what to call the part of the picture and the words that decide. Default: what the data says.
    """

    redraws: int = 0
    draw: int = 0
    mask: str | None = None
    rationale: str | None = None

    @property
    def _names(self) -> dict[str, str]:
        """What decides, by the field of an example that says where."""
        return {field: name for field in _NAMES if (name := getattr(self, field)) is not None}

    @property
    def metrics(self) -> Sequence[Metric]:
        found: list[Metric] = []
        for name in self._names.values():
            what = f"is the highest score at the {name} that decides"
            found.append(Metric(name, (name,), mean_of_column, True, True, what))
            if self.redraws:
                what = "the same with weights drawn anew: by chance"
                found.append(Metric(_anew(name), (_anew(name),), mean_of_column, None, False, what))
        return [*found, Metric("model accuracy", ("correct",), mean_of_column, None, False, "is the label predicted")]

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        refuse_declared(loaded, "clew bench sanity has the pointing game for them")
        if self.redraws < 0:
            raise OptionError("how many networks with new weights?", expected="0 or more", got=self.redraws)
        named = self._names or dict(dataset.evidence or {}) or _seen(dataset)
        if not named:
            expected = "masks of pictures, or rationales of texts"
            raise InputError("it is not known what decides in this data", expected=expected, got=dataset.name)
        return replace(self, **{field: named.get(field) for field in _NAMES})

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        return Batch(examples, arguments_of(loaded, examples), {"": [answer_of(e) for e in examples]})

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        examples = batch.examples
        found = {
            method: [self._points(loaded, r[""], i, e) for i, e in enumerate(examples)] for method, r in results.items()
        }
        for method, rows in found.items():
            result = results[method][""]
            for i, row in enumerate(rows):
                row["correct"] = None if result.logits is None else float(result.score[i] >= result.logits[i].max())
        for i, example in enumerate(examples) if self.redraws else ():
            hits: dict[str, list[Values]] = {method: [] for method in results}
            for k in range(self.redraws):
                other = redrawn(loaded, zlib.crc32(f"{self.draw}/{k}/{example.id}".encode()))
                for method in results:
                    result = again(other, self.batch(loaded, [example]), method)[""]
                    hits[method].append(self._points(loaded, result, 0, example))
            for method, each in hits.items():
                found[method][i] |= {_anew(name): _mean([one[name] for one in each]) for name in self._names.values()}
        return found

    def _points(self, loaded: LoadedModel, result: Attribution, i: int, example: Example) -> Values:
        """Of one example, by what decides, whether the highest score is there; None where that is not known."""
        where = {"mask": _on_mask, "rationale": _on_words}
        return {name: where[field](loaded, result, i, example) for field, name in self._names.items()}


def _seen(dataset: Dataset) -> dict[str, str]:
    """What the first example says about what decides."""
    first = dataset.read(0)
    return {field: name for field, name in _NAMES.items() if getattr(first, field) is not None}


def _anew(name: str) -> str:
    return f"{name} (re-drawn)"


def _mean(values: Sequence[Any]) -> float | None:
    return None if None in values else float(np.mean(values))


def _on_mask(loaded: LoadedModel, result: Attribution, i: int, example: Example) -> float | None:
    """Whether the middle of the highest patch lies on the mask, which is stretched to the model's input."""
    if example.mask is None:
        return None
    part = result["image"]
    if not isinstance(part, ImageAttribution):
        raise InputError("the scores of the picture are in no grid", expected="patches", got=part.shape_in_words())
    (rows, columns), (down, across), (height, width) = part.patch_grid, part.patch_size, part.input_size
    y = np.minimum((np.arange(rows) + 0.5) * down, height - 1) * example.mask.shape[0] // height
    x = np.minimum((np.arange(columns) + 0.5) * across, width - 1) * example.mask.shape[1] // width
    middles = example.mask[np.ix_(y.astype(int), x.astype(int))].reshape(-1)
    return _highest(part.scores[i].detach().cpu().double().numpy()[middles >= 0], middles[middles >= 0] == 1)


def _on_words(loaded: LoadedModel, result: Attribution, i: int, example: Example) -> float | None:
    """Whether the highest word is of the rationale."""
    if example.rationale is None or example.words is None:
        return None
    part = result["text"]
    if not isinstance(part, TextAttribution):
        raise InputError("the scores of the text are of no tokens", expected="tokens", got=part.shape_in_words())
    columns = word_columns(loaded, part.input_ids[i].tolist(), example.words)
    scores = part.scores[i].detach().cpu().double().numpy()
    words = np.array([max((scores[c] for c in own), default=-np.inf) for own in columns])
    return _highest(words, mask_of(example.rationale, len(words)))


def _highest(scores: np.ndarray, true: np.ndarray) -> float | None:
    if not true.any() or true.all():
        return None
    return float(true[int(scores.argmax())] and np.ptp(scores) > 0)
