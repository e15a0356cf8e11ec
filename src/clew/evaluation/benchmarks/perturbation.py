"""Perturbation: what happens to the answer while the most, or the least, relevant pixels or entries are erased?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ... import metrics as measures
from ...attributions import Attribution, ImageAttribution, TextAttribution
from ...datasets import Dataset, Example
from ...errors import OptionError
from ...metrics import removed
from ...metrics.curves import TENTHS
from ...metrics.perturbation import (
    copied_logits,
    erasable,
    forward_of,
    normalisation,
    perturbed_logits,
    scale_of,
)
from ...models import LoadedModel
from ...places import Pixels
from ...targets import Scale
from . import Again, Batch, Benchmark, Curve, Metric, Results, Values, benchmark, label_of, needs_probabilities, one_of
from .segmentation import image_of, preprocess_of
from .streams import StreamBatch, answer_of, arguments_of, refuse_declared, stream_of

_HELD = 256 << 20  # bytes of orders of pixels that are kept until the model has seen their copies
_WHAT = ("hits", "logit", "probability", "log_odds")
_VALUES = ("logit", "probability", "log_odds")
_RELEASED = ("log_ratio_to_second", "change_of_largest_logit", "change_of_largest_probability")
_Erase = Callable[[Tensor, Tensor, str], Tensor]  # what is erased, of which example, by what: logits at each step
_SPAN = {"paper": "measured", "beyond_intuition": "beyond_intuition", "pa_lrp": "pa_lrp"}


@benchmark(
    name="perturbation",
    version=1,
    modality="image",
    paper="Chefer et al. 2021; Chen et al. 2023, sec. 4.1; Bakish et al. 2025, sec. 5; Achtibat et al. 2024",
    summary="pixels or patches are erased in the order of the heatmap, and the answer is watched",
    variants=("beyond_intuition", "pa_lrp"),
)
@dataclass(frozen=True)
class Perturbation(Benchmark):
    """Growing fractions of each picture are erased in the order of a heatmap, and the model's answer is watched.

    `direction`: "positive" erases the most relevant first, "negative" the least. `explain`: the heatmap of the
    "predicted" or of the "given" class, or of a class by its number; of the same class the logit, the probability and
    the log-odds are watched, and hits: whether it is still predicted. `eraser`: "black", "blur", "image_mean" or
    "channel_mean". `units`: "pixels" of the bilinear map, or whole "patches". `fractions`: how much is erased at each
    step, 0 to 1. `counts`: so many units instead. `resize`: "squash" whole pictures, as the papers do, or prepare them
    as the "model" was trained.
    `misclassified`: only examples that the model gets wrong. `internal_batch_size`: copies at a time.
    `variant`: "beyond_intuition" counts a hit where the given class is predicted, whatever was explained, and takes
    the area from 0 to 1 with 0 at the end; "pa_lrp" takes the area from 0.1 to 0.9. Both leave equal values to
    `torch.topk`, where the default takes the first in reading order first.
    `stream`: of models of several inputs, of which nothing is declared, the stream that is erased: "image", "audio" or
    the argument's name; all others stay as they are. What is no picture in one piece is erased as its scores are
    arranged (patches of several pictures, frames of sound, entries), by "channel_mean", which is 0. The model's own
    processor prepares it.
    """

    later: ClassVar[tuple[str, ...]] = ("stream",)

    direction: tuple[str, ...] = ("positive", "negative")
    explain: tuple[str | int, ...] = ("predicted",)
    eraser: tuple[str, ...] = ("black",)
    units: str = "pixels"
    fractions: tuple[float, ...] = TENTHS
    counts: tuple[int, ...] | None = None
    resize: str = "squash"
    misclassified: bool = False
    internal_batch_size: int = 64
    stream: str | None = None

    @property
    def _x(self) -> tuple[float, ...]:
        """Where the steps lie on the axis of an area."""
        return self.fractions if self.counts is None else tuple(c / max(self.counts) for c in self.counts)

    def _cases(self) -> list[tuple[str, str, str]]:
        return [(str(c), e, d) for c in self.explain for e in self.eraser for d in self.direction]

    @property
    def metrics(self) -> Sequence[Metric]:
        found: list[Metric] = []
        spans = [span for span in measures.RANGES if _spans(self._x, span)]
        own = _SPAN[self.variant]
        for c, e, d in self._cases():
            key, higher = f"{c}/{e}/{d}", d == "negative"
            erased = f"while {self.units} are replaced by {e}, the {'least' if higher else 'most'} relevant first"
            for span in sorted(spans, key=lambda span: span != own):
                what = f"how often the {_class(c)} is still the first {erased} ({d}): area under that curve, "
                what += measures.RANGES[span]
                name = f"{key}: hits AUC" + ("" if span == own else f" ({span})")
                found.append(Metric(name, (f"{key}/hits",), self._area(span), higher, span == own, what))
            values = {f"{what.replace('_', '-')} AUC": (what, what.replace("_", " ")) for what in _VALUES}
            if self.variant == "beyond_intuition":
                values |= {what: (what, f"{what.replace('_', ' ')}, as the code was released") for what in _RELEASED}
            for name, (column, words) in values.items():
                note = f"of the {_class(c)} {erased}: {words}, area under that curve"
                found.append(
                    Metric(f"{key}: {name}", (f"{key}/{column}",), self._area("measured"), higher, False, note)
                )
        if set(self.direction) == {"positive", "negative"}:
            for c in map(str, self.explain):
                for e in self.eraser:
                    for what in ("logit", "probability"):
                        both = (f"{c}/{e}/negative/{what}", f"{c}/{e}/positive/{what}")
                        more = f"by how much the {what} of the {_class(c)} is higher where the least relevant (LeRF) "
                        more += f"{self.units} are replaced by {e} first than where the most relevant (MoRF) are"
                        of, note = self._between(), f"{more}: area between the curves"
                        found.append(Metric(f"{c}/{e}: {what} area LeRF - MoRF", both, of, True, False, note))
                        note = f"symmetric relevance gain: {more}, mean over steps; random has 0 on average"
                        found.append(Metric(f"{c}/{e}: {what} SRG", both, measures.srg, True, what == "logit", note))
        return found

    def _area(self, span: str) -> Callable[..., Any]:
        return partial(measures.auc, fractions=self._x, span=span)

    def _between(self) -> Callable[..., Any]:
        return partial(measures.area_between, fractions=self._x)

    @property
    def curves(self) -> Sequence[Curve]:
        names = {"hits": "still predicted", "probability": "probability"}
        return [
            Curve(f"{c}/{e}/{d}: {what}", (f"{c}/{e}/{d}/{what}",), np.asarray, self._x, "erased", label)
            for c, e, d in self._cases()
            for what, label in names.items()
        ]

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        for one in self.direction:
            one_of("direction", one, ("positive", "negative"))
        for one in self.explain:
            if isinstance(one, str):
                one_of("class to explain", one, ("predicted", "given"))
        one_of("units", self.units, ("pixels", "patches"))
        one_of("resizing", self.resize, ("squash", "model"))
        erasers = tuple({"mean": "image_mean"}.get(one, one) for one in self.eraser)
        for one in erasers:
            one_of("eraser", one, tuple(measures.ERASERS))
        steps = self.fractions if self.counts is None else self.counts
        if list(steps) != sorted(set(steps)) or len(steps) < 2 or steps[0] < 0 or (not self.counts and steps[-1] > 1):
            raise OptionError("steps of erasing", expected="rising fractions from 0 to 1, or rising counts", got=steps)
        if not _spans(self._x, _SPAN[self.variant]):
            raise OptionError(
                f"variant {self.variant!r} has no area over these steps",
                expected=measures.RANGES[_SPAN[self.variant]], got=steps,
            )  # fmt: skip
        if self.stream is not None:
            refuse_declared(loaded, "leave stream out")
            if self.misclassified or self.variant != "paper":
                got = f"misclassified={self.misclassified}, variant={self.variant!r}"
                raise OptionError("this is no option of streams", expected="the paper's variant, all examples", got=got)
            return replace(self, eraser=erasers)
        needs_probabilities(loaded)
        normalisation(replace(loaded, preprocess=preprocess_of(loaded)), None, None)
        return replace(self, eraser=erasers)

    def left_out(self, loaded: LoadedModel, examples: Sequence[Example]) -> list[str | None]:
        if not self.misclassified:
            return [None] * len(examples)
        x, _ = self._prepared(loaded, examples)
        with torch.no_grad():
            predicted = forward_of(loaded)(x).argmax(-1).tolist()
        return ["classified right" if p == label_of(e) else None for p, e in zip(predicted, examples, strict=True)]

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        answer = label_of if self.stream is None else answer_of
        targets: dict[str, Any] = {}
        for one in self.explain:
            given = [answer(e) for e in examples] if one == "given" else None
            targets[str(one)] = given if isinstance(one, str) else one
        if self.stream is not None:
            return Batch(examples, arguments_of(loaded, examples), targets)
        x, fill = self._prepared(loaded, examples)
        return Batch(examples, x, targets, held={"fill": fill})

    def _prepared(self, loaded: LoadedModel, examples: Sequence[Example]) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures as the model takes them, and what each eraser puts in place of their pixels."""
        preprocess = preprocess_of(loaded, squash=self.resize == "squash")
        raw = replace(preprocess, mean=(0.0,), std=(1.0,))
        parameter = next(loaded.model.parameters())
        pixels = torch.stack([raw(image_of(example))[0] for example in examples]).to(parameter.device)
        both = {eraser: erasable(pixels, eraser, preprocess.mean, preprocess.std) for eraser in self.eraser}
        fills = {eraser: fill.to(parameter.dtype) for eraser, (_, fill) in both.items()}
        return both[self.eraser[0]][0].to(parameter.dtype), fills

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        found: dict[str, list[Values]] = {method: [{} for _ in batch.examples] for method in results}
        erasing = (_of_images if self.stream is None else _of_stream)(self, loaded, batch, results)
        waiting: list[tuple[str, str, str, Tensor]] = []  # method, class, direction, order of units
        for method, result in results.items():
            for name in batch.targets:
                for direction in self.direction:
                    waiting.append((method, name, direction, self._erased(self.part(result[name]), direction)))
                    if sum(order.numel() for *_, order in waiting) > _HELD:
                        self._run(erasing, batch, waiting, found)
                        waiting = []
        if waiting:
            self._run(erasing, batch, waiting, found)
        return found

    def part(self, result: Attribution) -> Any:
        """The result of what is erased. Raises `OptionError` for words."""
        part = result if self.stream is None else stream_of(result, self.stream)
        if isinstance(part, TextAttribution):
            todo = "clew bench flipping erases words"
            raise OptionError("perturbation erases pictures or sound", expected="such a stream", got=part, todo=todo)
        return part

    def _erased(self, result: Any, direction: str) -> Tensor:
        if not isinstance(result, ImageAttribution):
            heat = result.scores[:, None]
        elif self.units == "pixels":
            heat = result.heatmap()
        else:
            heat = result.scores.view(-1, *result.patch_grid)
        units = heat[0].numel()
        fractions = self.fractions if self.counts is None else [min(c / units, 1.0) for c in self.counts]
        ties = "first" if self.variant == "paper" else "topk"
        return removed(heat, fractions, direction=direction, ties=ties)

    def _run(
        self,
        erasing: _Erasing,
        batch: Batch,
        waiting: Sequence[tuple[str, str, str, Tensor]],
        found: dict[str, list[Values]],
    ) -> None:
        """Copies of all cases that wait, together, for each eraser."""
        n = len(batch.examples)
        erased = torch.cat([order for *_, order in waiting])
        owner = torch.arange(n, device=erased.device).repeat(len(waiting))
        for eraser in self.eraser:
            logits = erasing.erase(erased, owner, eraser)
            for k, (method, name, direction, _) in enumerate(waiting):
                curves = measures.Curves(
                    self._x, logits[:, k * n : (k + 1) * n].float(), erasing.clean.float(), erasing.scale
                )
                for column, values in self._values(curves, name, erasing.given).items():
                    for i, row in enumerate(found[method]):
                        row[f"{name}/{eraser}/{direction}/{column}"] = values[:, i].tolist()

    def _values(self, curves: measures.Curves, name: str, given: Tensor | None) -> dict[str, Tensor]:
        classes = None  # the predicted one
        if name == "given":
            classes = given
        elif name != "predicted":
            classes = torch.tensor([int(name)] * len(curves.clean), device=curves.clean.device)
        found = {what: getattr(curves, what)(classes) for what in _WHAT}
        if self.variant == "beyond_intuition":
            assert given is not None
            found |= {"hits": curves.hits(given), "log_ratio_to_second": curves.log_ratio_to_second(given)}
            found |= {what: getattr(curves, what)() for what in _RELEASED[1:]}
        return found


@dataclass(frozen=True)
class _Erasing:
    """How copies of a batch are erased and read, what it says as it is, and the given classes where they count."""

    erase: _Erase
    clean: Tensor
    scale: Scale | None
    given: Tensor | None


def _of_images(own: Perturbation, loaded: LoadedModel, batch: Batch, results: Results) -> _Erasing:
    """Of a model of images, see `_Erasing`."""
    forward, x = forward_of(loaded), batch.inputs
    with torch.no_grad():
        clean = forward(x)
    given = None
    if "given" in batch.targets or own.variant == "beyond_intuition":
        given = torch.tensor([label_of(e) for e in batch.examples], device=clean.device)

    def erase(erased: Tensor, owner: Tensor, eraser: str) -> Tensor:
        fill = batch.held["fill"][eraser]
        return perturbed_logits(forward, x, fill, erased, owner, own.internal_batch_size)

    return _Erasing(erase, clean, scale_of(loaded, clean.shape[-1]), given)


def _of_stream(own: Perturbation, loaded: LoadedModel, batch: Batch, results: Results) -> _Erasing:
    """Of one stream of a model of several inputs, see `_Erasing`."""
    whole = StreamBatch.of(loaded, batch.inputs)
    first = next(iter(next(iter(results.values())).values()))
    part = own.part(first)
    name = part.stream_name
    x = whole.arguments[name]
    by_pixel = isinstance(part, ImageAttribution) and own.units == "pixels"
    places = Pixels((1, 1)) if by_pixel else whole.places(name)
    fills = {eraser: _fill(loaded, x, eraser, isinstance(part, ImageAttribution)) for eraser in own.eraser}

    def erase(erased: Tensor, owner: Tensor, eraser: str) -> Tensor:
        def of(case: Tensor, step: Tensor) -> Tensor:
            mine, keep = owner[case], ~erased[case, step].flatten(1)
            return whole.logits({name: whole.erased(name, places, keep, mine, fills[eraser])}, mine)

        return copied_logits(of, len(erased), erased.shape[1], own.internal_batch_size, erased.device)

    given = whole.classes(batch.targets["given"]) if "given" in batch.targets else None
    return _Erasing(erase, whole.clean, whole.scale, given)


def _fill(loaded: LoadedModel, x: Tensor, eraser: str, is_picture: bool) -> Tensor:
    """What comes in place of what is erased from a stream, for each example."""
    if eraser == "channel_mean":
        return torch.zeros_like(x)
    if not is_picture:
        raise OptionError("only pictures have colours", expected="eraser='channel_mean', which is 0", got=eraser)
    processor = getattr(loaded.processor, "image_processor", None)
    both = normalisation(loaded, getattr(processor, "image_mean", None), getattr(processor, "image_std", None))
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in both)
    return erasable(x.float() * std + mean, eraser, *both)[1].to(x.dtype)


def _spans(x: Sequence[float], span: str) -> bool:
    try:
        measures.auc(np.zeros(len(x)), x, span=span)
    except OptionError:
        return False
    return True


def _class(explained: str) -> str:
    """The class that is explained, in words."""
    return f"{explained} class" if explained in ("predicted", "given") else f"class {explained}"
