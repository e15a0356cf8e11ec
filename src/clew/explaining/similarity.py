"""Explains the similarities of an image–text model, for the input, for what it is compared with, or for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from ..attributions import Attribution, ImageAttribution, PairAttribution, TextAttribution
from ..errors import OptionError, TargetError, short_repr
from ..models import LoadedModel, Pair, Side, tower
from ..targets import Contrast, Each, Similarity
from .pair_model import encode_features
from .prepare import in_dtype
from .side_inputs import SideInputs, side_inputs

_TAKEN = 'Similarity("a photo of a dog"), Similarity of several texts, an image, or Contrast("a dog", "a cat")'


@dataclass
class _ComparedItems:
    """Everything that inputs are compared with, each thing once."""

    found: SideInputs | None = None
    _known: dict[int, tuple[Any, list[int]]] = field(default_factory=dict[int, tuple[Any, list[int]]])

    def indices(self, value: Any) -> list[int]:
        """Where the texts or images of a value are among all of them."""
        if id(value) not in self._known:  # kept alive, so that no id is used again
            self._known[id(value)] = value, self._added(side_inputs(value))
        return self._known[id(value)][1]

    def _added(self, more: SideInputs) -> list[int]:
        if self.found is None:
            self.found = replace(more, items=[], special=[])
        found = self.found
        kinds = {isinstance(one.items[0], Tensor) for one in (found, more) if one.items}
        if found.side != more.side or len(kinds) > 1:
            what = "texts and images, or words and token numbers, cannot be mixed in one target"
            raise TargetError(what, expected=_TAKEN)
        places: list[int] = []
        for i, item in enumerate(more.items):
            place = next((j for j in range(len(found.items)) if found.same(j, item)), len(found.items))
            if place == len(found.items):
                found.items.append(item)
                found.special.extend(more.special[i : i + 1])
            places.append(place)
        return places


@dataclass(frozen=True)
class SimilarityTargets:
    """What each input is compared with: indices into `others`, (input, target); `against` of contrasts, where given."""

    others: SideInputs
    plus: list[list[int]]
    against: list[list[int]] | None

    @property
    def each(self) -> int:
        """Number of targets of each input."""
        return len(self.plus[0])


def read_similarity_targets(target: Any, count: int) -> SimilarityTargets:
    """Read the target of `count` inputs. Raises `TargetError` where it is no similarity."""
    several = isinstance(target, (list, tuple))
    per_input: list[Any] = list(cast("Sequence[Any]", target)) if several else [target] * count
    if len(per_input) != count:
        todo = "several texts for every input: Similarity([…])"
        raise TargetError("one target per example is needed", expected=count, got=len(per_input), todo=todo)
    others = _ComparedItems()

    def single(value: Any) -> int:
        found = [i for i, _ in pairs_of(value)]
        if len(found) != 1:
            raise TargetError("a contrast is of one text or image and another", expected=_TAKEN, got=short_repr(value))
        return found[0]

    def pairs_of(one: Any) -> list[tuple[int, int | None]]:
        if isinstance(one, Each):
            return [pair for inner in one.targets for pair in pairs_of(inner)]
        if isinstance(one, Contrast):
            return [(single(one.a), single(one.b))]
        if isinstance(one, Similarity):
            return [(i, None) for other in one.others for i in others.indices(other)]
        if one is None or isinstance(one, (int, list, tuple)) or callable(one):
            raise TargetError("an image–text model explains similarities", expected=_TAKEN, got=short_repr(one))
        return [(i, None) for i in others.indices(one)]

    rows = [pairs_of(one) for one in per_input]
    if len({len(row) for row in rows}) != 1:
        raise TargetError("every input needs equally many targets", expected="one number", got=list(map(len, rows)))
    against = [[b for _, b in row if b is not None] for row in rows]
    if any(against) and any(len(b) != len(row) for b, row in zip(against, rows, strict=True)):
        raise TargetError("contrasts cannot be mixed with other targets in one batch", expected="contrasts only")
    assert others.found is not None
    return SimilarityTargets(others.found, [[a for a, _ in row] for row in rows], against if any(against) else None)


@dataclass(frozen=True)
class PairExplainer:
    """How to explain an image–text model: by which call of `explain`, with which `options`."""

    explain: Callable[..., Attribution]
    pair: Pair
    options: dict[str, Any]

    def of(self, model: LoadedModel, inputs: Any, target: Any, side: str | None) -> Attribution:
        """Explain one side, or both. `side` is that of the input by default.

        What a processor made of images and texts is explained image by image for every text, if there is no target.
        Raises `InputError` and `TargetError` where input and target are not texts or images.
        """
        if side not in (None, "image", "text", "both"):
            raise OptionError("unknown side", expected="image, text or both", got=side)
        dtype = self.options.get("compute_dtype")
        if dtype is not None:
            model = replace(model, model=in_dtype(model.model, dtype))
        if target is None and isinstance(inputs, Mapping) and {"pixel_values", "input_ids"} <= inputs.keys():
            both = cast("Mapping[str, Any]", inputs)
            names = ("input_ids", "attention_mask", "special_tokens_mask")
            texts = side_inputs({name: both[name] for name in names if name in both})
            inputs, target = {"pixel_values": both["pixel_values"]}, Similarity(texts)
        given = side_inputs(inputs)
        wanted = read_similarity_targets(target, len(given.items))
        if side in (None, given.side):
            return self._input(model, given, wanted)
        if given.side == wanted.others.side:
            raise OptionError(
                f"both are {given.side}s: what is explained is the input",
                expected=f'side="{given.side}"',
                got=side,
                todo="swap them to explain the other",
            )
        if side == wanted.others.side:
            return self._other(model, given, wanted)
        other = self._other(model, given, wanted)
        found = {given.side: self._input(model, given, wanted), wanted.others.side: other}
        return PairAttribution.of(cast(ImageAttribution, found["image"]), cast(TextAttribution, found["text"]))

    def _input(self, model: LoadedModel, given: SideInputs, target: SimilarityTargets) -> Attribution:
        """The input, compared with the others: every image runs once, texts once for each target."""
        features = self._features(model, target.others)
        labels = [target.others.name(i) for i in range(len(target.others.items))]
        ask: list[list[Any]] = [list(row) for row in target.plus]
        if target.against is not None:
            both = zip(target.plus, target.against, strict=True)
            ask = [[Contrast(a, b) for a, b in zip(*row, strict=True)] for row in both]
        rows = list(range(len(given.items)))
        if given.side == "text":
            rows = [i for i in rows for _ in range(target.each)]
            targets: list[Any] = [one for row in ask for one in row]
        else:
            targets = [Each(*row) if target.each > 1 else row[0] for row in ask]
        return self._explained(model, given.select(rows), given.side, features, labels, targets)

    def _other(self, model: LoadedModel, given: SideInputs, target: SimilarityTargets) -> Attribution:
        """What the input is compared with, in the order of the input's results."""
        if target.against is not None:
            raise TargetError(
                "a contrast has two other sides", expected="Similarity(…), to explain what it is compared with"
            )
        features = self._features(model, given)
        labels = [given.name(i) for i in range(len(given.items))]
        rows = [(i, other) for i, row in enumerate(target.plus) for other in row]
        others, targets = target.others.select([other for _, other in rows]), [i for i, _ in rows]
        return self._explained(model, others, target.others.side, features, labels, targets)

    def _explained(
        self, model: LoadedModel, inputs: Any, side: Side, features: Tensor, labels: list[str], targets: list[Any]
    ) -> Attribution:
        made = tower(model.model, self.pair, side, features)
        try:
            return self.explain(replace(model, model=made, labels=labels), inputs, target=targets, **self.options)
        except OptionError as error:  # towers differ in depth, and texts have no pixels
            raise OptionError(f"the {side} tower: {error}") from error

    def _features(self, model: LoadedModel, some: SideInputs) -> Tensor:
        truncate, dtype = bool(self.options.get("truncate")), self.options.get("compute_dtype")
        return encode_features(model, self.pair, some, precise=dtype == torch.float64, truncate=truncate)
