"""Image–text models: what the input, or what it is compared with, owes to its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from .attribution import Attribution
from .image_attribution import ImageAttribution
from .loaded import LoadedModel
from .pair import Pair, Side, tower
from .pair_attribution import PairAttribution
from .pair_model import Things, encoded, things
from .prepare import in_dtype
from .shapes import OptionError, TargetError
from .target_kinds import Contrast, Each, Similarity
from .text_attribution import TextAttribution

_TODO = 'target=Similarity("a photo of a dog"), a list of texts, an image, or Contrast("a dog", "a cat")'


@dataclass(frozen=True)
class Asked:
    """What each input is compared with: indices into `others`, (input, target); `against` of contrasts, where given."""

    others: Things
    plus: list[list[int]]
    against: list[list[int]] | None

    @property
    def each(self) -> int:
        return len(self.plus[0])


def asked(target: Any, count: int) -> Asked:
    """Read the target of `count` inputs. Raises `TargetError` where it is no similarity."""
    per_input: list[Any] = (
        list(cast("Sequence[Any]", target))
        if isinstance(target, (list, tuple)) and not all(isinstance(one, str) for one in cast("Sequence[Any]", target))
        else [target] * count
    )
    if len(per_input) != count:
        raise TargetError("one target per example is needed", expected=count, got=len(per_input))
    items: list[Any] = []
    sides: set[Side] = set()

    def index(other: Any) -> int:
        one = things(other)
        sides.add(one.side)
        if len(one.items) != 1:
            raise TargetError("this is not one text or image", expected=_TODO, got=other)
        for i, item in enumerate(items):
            if item is one.items[0] or (isinstance(item, str) and item == one.items[0]):
                return i
        items.append(one.items[0])
        return len(items) - 1

    def single(one: Any) -> int:
        others = _others(one)
        if len(others) != 1:
            raise TargetError("a contrast is of one text or image and another", expected=_TODO, got=one)
        return index(others[0])

    plus: list[list[int]] = []
    against: list[list[int]] = []
    for one in per_input:
        if isinstance(one, Contrast):
            plus.append([single(one.a)])
            against.append([single(one.b)])
        else:
            plus.append([index(other) for other in _others(one)])
    if len({len(row) for row in plus}) != 1:
        raise TargetError("every input needs equally many targets", expected="one number", got=list(map(len, plus)))
    if against and len(against) != count:
        raise TargetError("contrasts cannot be mixed with other targets in one batch", expected="contrasts only")
    if len(sides) != 1:
        raise TargetError("texts and images cannot be mixed in one target", expected=_TODO, got=target)
    return Asked(Things(sides.pop(), items), plus, against or None)


def _others(one: Any) -> list[Any]:
    if isinstance(one, (str, Image.Image)):
        return [one]
    if isinstance(one, Similarity):
        found: list[Any] = []
        for other in one.others:
            found += things(other).items if isinstance(other, Tensor) else [other]
        return found
    if isinstance(one, (list, tuple)) and one and all(isinstance(word, str) for word in cast("Sequence[Any]", one)):
        return list(cast("Sequence[Any]", one))
    raise TargetError("an image–text model explains similarities", expected=_TODO, got=repr(one))


@dataclass(frozen=True)
class Pairs:
    """How to explain an image–text model: by which call of `explain`, with which `options`."""

    explain: Callable[..., Attribution]
    pair: Pair
    options: dict[str, Any]

    def of(self, model: LoadedModel, inputs: Any, target: Any, side: str | None) -> Attribution:
        """Explain one side, or both. `side` is that of the input by default.

        Raises `InputError` and `TargetError` where input and target are not texts or images.
        """
        dtype = self.options.get("compute_dtype")
        if dtype is not None:
            model = replace(model, model=in_dtype(model.model, dtype))
        given = things(inputs)
        target = asked(target, len(given.items))
        if side not in (None, "image", "text", "both"):
            raise OptionError("unknown side", expected="image, text or both", got=side)
        if side in (None, given.side):
            return self._input(model, given, target)
        if given.side == target.others.side:
            raise OptionError(
                f"both are {given.side}s: what is explained is the input",
                expected=f'side="{given.side}"',
                got=side,
                todo="swap them to explain the other",
            )
        other = self._other(model, given, target)
        if side == target.others.side:
            return other
        both = {given.side: self._input(model, given, target), target.others.side: other}
        return PairAttribution.of(cast(ImageAttribution, both["image"]), cast(TextAttribution, both["text"]))

    def _input(self, model: LoadedModel, given: Things, target: Asked) -> Attribution:
        """The input, compared with the others: every image runs once, texts once for each target."""
        features = self._features(model, target.others)
        labels = [target.others.name(i) for i in range(len(target.others.items))]
        ask: list[Any] = [list(row) for row in target.plus]
        if target.against is not None:
            ask = [[Contrast(a, b)] for (a,), (b,) in zip(target.plus, target.against, strict=True)]
        rows = list(range(len(given.items)))
        if given.side == "text":
            rows = [i for i in rows for _ in range(target.each)]
            targets: list[Any] = [one for row in ask for one in row]
        else:
            targets = [Each(*row) if target.each > 1 else row[0] for row in ask]
        return self._explained(model, given.some(rows), given.side, features, labels, targets)

    def _other(self, model: LoadedModel, given: Things, target: Asked) -> Attribution:
        """What the input is compared with, in the order of the input's results."""
        if target.against is not None:
            raise TargetError(
                "a contrast has two other sides", expected="Similarity(…), to explain what it is compared with"
            )
        features = self._features(model, given)
        labels = [given.name(i) for i in range(len(given.items))]
        rows = [(i, other) for i, row in enumerate(target.plus) for other in row]
        others, targets = target.others.some([other for _, other in rows]), [i for i, _ in rows]
        return self._explained(model, others, target.others.side, features, labels, targets)

    def _explained(
        self, model: LoadedModel, inputs: Any, side: Side, features: Tensor, labels: list[str], targets: list[Any]
    ) -> Attribution:
        made = tower(model.model, self.pair, side, features)
        return self.explain(replace(model, model=made, labels=labels), inputs, target=targets, **self.options)

    def _features(self, model: LoadedModel, some: Things) -> Tensor:
        return encoded(model, self.pair, some, precise=self.options.get("compute_dtype") == torch.float64)
