"""An image–text model with what belongs to it: it encodes texts and images, and becomes a classifier of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .borrow import borrowed
from .loaded import LoadedModel
from .pair import Pair, Side, find_pair, tower
from .precise import Precise
from .prepare import prepare
from .shapes import InputError, OptionError, UnknownArchitecture

_CHUNK = 64  # texts or images encoded at a time


@dataclass(frozen=True)
class Things:
    """Several texts or several images, one after the other: `items` are strings, rows of token numbers, or images."""

    side: Side
    items: list[Any]
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    def some(self, indices: Sequence[int]) -> Any:
        """Some of them as `explain` takes them."""
        chosen = [self.items[i] for i in indices]
        if not isinstance(chosen[0], Tensor):
            return chosen
        if self.side == "image":
            return {"pixel_values": torch.stack(chosen), **self.more} if self.more else torch.stack(chosen)
        longest = max(len(row) for row in chosen)
        ids = torch.stack([F.pad(row, (0, longest - len(row))) for row in chosen])
        there = torch.arange(longest)
        return {"input_ids": ids, "attention_mask": torch.stack([there < len(row) for row in chosen]).long()}

    def name(self, index: int) -> str:
        """What one of them is called."""
        item = self.items[index]
        return item if isinstance(item, str) else f"{self.side} {index}"


def things(value: Any) -> Things:
    """A text, an image or several of these. Raises `InputError` for anything else, and for both at once."""
    if isinstance(value, Things):
        return value
    if isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        if isinstance(ids, Tensor) and ids.ndim == 2 and isinstance(mask, Tensor):
            return Things("text", [row[kept.bool()] for row, kept in zip(ids, mask, strict=True)])
        if not isinstance(ids, Tensor) and isinstance(given.get("pixel_values"), Tensor):
            more = {k: v for k, v in given.items() if k != "pixel_values" and v is not None}
            return replace(things(given["pixel_values"]), more=more)
        value = ids
    if isinstance(value, Tensor):
        if value.is_floating_point():
            return Things("image", list(value if value.ndim == 4 else value[None]))
        return Things("text", list(value if value.ndim == 2 else value[None]))
    items: list[Any] = list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]
    if items and all(isinstance(item, str) for item in items):
        return Things("text", items)
    if items and all(isinstance(item, Image.Image) for item in items):
        return Things("image", items)
    if items and all(isinstance(item, Tensor) for item in items):
        several = [things(item) for item in items]
        if len({one.side for one in several}) == 1:
            return Things(several[0].side, [item for one in several for item in one.items])
    kinds = sorted({type(item).__name__ for item in items}) or ["nothing"]
    raise InputError(
        "an image–text model compares texts or images",
        expected="strings, token numbers, PIL images or tensors (batch, channel, height, width), one kind at a time",
        got=", ".join(kinds),
    )


@torch.no_grad()
def encoded(model: LoadedModel, pair: Pair, some: Things, *, precise: bool = False) -> Tensor:
    """Features (item, width) of texts or images, not yet of length 1, without a graph."""
    made = tower(model.model, pair, some.side, torch.zeros(1, 1))
    encode: Any = pair.encode_image if some.side == "image" else pair.encode_text
    found: list[Tensor] = []
    for start in range(0, len(some.items), _CHUNK):
        chunk = some.some(range(start, min(start + _CHUNK, len(some.items))))
        ready = prepare(replace(model, model=made), chunk)
        with borrowed(made), torch.no_grad():
            if precise:
                with Precise(made):
                    found.append(encode(model.model, **ready.inputs))
            else:
                found.append(encode(model.model, **ready.inputs))
    return torch.cat(found)


@dataclass
class LoadedPair(LoadedModel):
    """An image–text model in evaluation mode with its preprocessing and its tokenizer.

    Pass it to `explain` with a `Similarity` as target, or make a classifier of it with `zero_shot`.
    """

    @property
    def pair(self) -> Pair:
        """The declaration of the model. Raises `UnknownArchitecture` where there is none."""
        found = find_pair(self.model)
        if found is None:
            raise UnknownArchitecture(
                f"{type(self.model).__name__} is no image–text model that is known",
                expected="CLIP and its kin",
                todo="declare it: clew.register_pair(clew.Pair(…))",
            )
        return found

    def encode(self, inputs: Any) -> Tensor:
        """Features of texts or images, (item, width), of length 1, without a graph."""
        return F.normalize(encoded(self, self.pair, things(inputs)), dim=-1)

    def zero_shot(self, classes: Sequence[str], template: str | Sequence[str] = "a photo of a {}") -> LoadedModel:
        """A classifier of images whose classes are texts, encoded here and only once; usable wherever a classifier is.

        `template` has a place `{}` for the class; of several templates the mean of the features counts (Radford et al.
        2021, section 3.1.4). Probabilities are the softmax over the classes. Raises `OptionError` for a template
        without a place, and for classes that are no list of different words.
        """
        templates = [template] if isinstance(template, str) else list(template)
        wrong = [t for t in templates if "{}" not in t]
        if wrong or not templates:
            raise OptionError("a template has a place for the class", expected="a photo of a {}", got=wrong or "none")
        if isinstance(classes, str) or len(classes) == 0 or len(set(classes)) != len(classes):
            raise OptionError("these are no classes", expected="different words, in a list", got=repr(classes))
        features = self.encode([one.format(word) for word in classes for one in templates])
        features = features.view(len(classes), len(templates), -1).mean(1)
        made = tower(self.model, self.pair, "image", features)
        facts: dict[str, Any] = {"template": templates}
        return LoadedModel(made, self.preprocess, list(classes), f"{self.name}, zero-shot", facts)
