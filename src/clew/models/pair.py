"""Image–text models: what has to be said about a family of them, and one of their towers as a classifier.

The similarity of an image and some texts is a classifier of images whose head is the texts' features, and a
classifier of texts whose head is the images'. So everything that explains classifiers explains both towers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ClewError, UnknownArchitecture
from ..targets import Kind
from .architectures import Architecture, architectures

Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")


def _zero(model: Any) -> Tensor | float:
    bias = getattr(model, "logit_bias", None)
    return 0.0 if bias is None else bias


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A declaration of an image–text model: its two towers, and how it compares what they say.

    `classes` are full class names. `image` and `text` give the towers' declarations, with paths from the model (or
    raise `UnknownArchitecture`). `encode_image(model, pixels, …)` and `encode_text(model, input_ids, attention_mask)`
    give features (batch, width) before they are brought to length 1; similarities are multiplied by `scale` and moved
    by `bias`. `context` is the length that all texts are filled up to, if there is one, `reads_padding` says that what
    fills them up is seen like any token.
    """

    name: str
    classes: tuple[str, ...]
    image: Callable[[Any], Architecture]
    text: Callable[[Any], Architecture]
    encode_image: Callable[..., Tensor]
    encode_text: Callable[..., Tensor]
    scale: Callable[[Any], Tensor] = lambda model: model.logit_scale.exp()
    bias: Callable[[Any], Tensor | float] = _zero
    context: Callable[[Any], int | None] = lambda model: None
    reads_padding: Callable[[Any], bool] = lambda model: False

    def head_kind(self, model: Any) -> Kind:
        """What similarities are: trained with a bias (SigLIP), each has a sigmoid of its own, else a softmax."""
        return "labels" if isinstance(self.bias(model), Tensor) else "classes"


_registered: dict[str, Pair] = {}


def register_pair(pair: Pair) -> Pair:
    """Make a declaration known, so that `explain` finds it. Raises `ClewError` for a name that is taken."""
    if pair.name in pairs():
        raise ClewError(f"a pair named {pair.name!r} is registered already", todo="choose another name")
    _registered[pair.name] = pair
    return pair


def pairs() -> dict[str, Pair]:
    """All declarations of image–text models, by name."""
    architectures()  # reads the folder of declarations
    return dict(_registered)


def find_pair(model: nn.Module) -> Pair | None:
    """The declaration for an image–text model: that of the nearest class among its ancestors. None for other models."""
    by_class = {name: pair for pair in pairs().values() for name in pair.classes}
    for cls in type(model).__mro__:
        found = by_class.get(f"{cls.__module__}.{cls.__qualname__}")
        if found is not None:
            return found
    return None


class Tower(nn.Module):
    """One tower of an image–text model as a classifier: its logits are similarities to `features` of the other side.

    `owner` is the whole model, which is shared, not copied. `features` (class, width) have length 1.
    """

    lends = "owner"  # the model that a tower is one of
    side: Side

    def __init__(self, owner: nn.Module, pair: Pair, features: Tensor) -> None:
        super().__init__()
        self.owner, self.pair = owner, pair
        self.register_buffer("features", features)

    @property
    def architecture(self) -> Architecture:
        """The tower's declaration. Raises `UnknownArchitecture` where the tower cannot be explained."""
        found, name = (self.pair.image, "pixel_values") if self.side == "image" else (self.pair.text, "input_ids")
        return found(self.owner).within("owner", pair=True, input_name=name)

    @property
    def config(self) -> Any:
        """The configuration of the tower, where the model has one."""
        name = "vision_config" if self.side == "image" else "text_config"
        return getattr(getattr(self.owner, "config", None), name, None)

    @property
    def head_kind(self) -> Kind:
        """What the outputs are, see `heads`."""
        return self.pair.head_kind(self.owner)

    def compared(self, features: Tensor) -> Tensor:
        """Logits (batch, class) of features (batch, width): `scale · cos + bias`."""
        others: Any = self.features
        bias = torch.as_tensor(self.pair.bias(self.owner), dtype=features.dtype, device=features.device)
        weight = self.pair.scale(self.owner).to(features) * others.to(features)
        return F.linear(F.normalize(features, dim=-1), weight, bias.expand(len(others)))

    def __getstate__(self) -> dict[str, Any]:  # a declaration is functions, which cannot be pickled
        return {k: v for k, v in self.__dict__.items() if k != "pair"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        found = find_pair(self.owner)
        if found is None:
            name = type(self.owner).__name__
            raise UnknownArchitecture(
                f"no pair is declared for {name}", todo="declare it here too: clew.register_pair(…)"
            )
        self.pair = found


class ImageTower(Tower):
    """Logits of images (batch, class)."""

    side = "image"

    def encode(self, pixel_values: Tensor, **more: Any) -> Tensor:
        """Features (batch, width), not of length 1."""
        return self.pair.encode_image(self.owner, pixel_values, **more)

    def forward(self, pixel_values: Tensor, **more: Any) -> Tensor:
        return self.compared(self.encode(pixel_values, **more))


class TextTower(Tower):
    """Logits of texts (batch, class)."""

    side = "text"

    def __init__(self, owner: nn.Module, pair: Pair, features: Tensor) -> None:
        super().__init__(owner, pair, features)
        self.context, self.reads_padding = pair.context(owner), pair.reads_padding(owner)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Features (batch, width), not of length 1."""
        return self.pair.encode_text(self.owner, input_ids, attention_mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.compared(self.encode(input_ids, attention_mask))


def tower(owner: nn.Module, pair: Pair, side: Side, features: Tensor) -> ImageTower | TextTower:
    """The tower of a side in evaluation mode; `features` are those of the other side, or of the same."""
    made = (ImageTower if side == "image" else TextTower)(owner, pair, F.normalize(features, dim=-1))
    made.training = False  # not `eval`, which would reach into the model
    return made


def unsupported(model: nn.Module, side: Side, why: str) -> UnknownArchitecture:
    """The error for a tower that cannot be explained."""
    other = "text" if side == "image" else "image"
    return UnknownArchitecture(
        f"the {side} tower of this {type(model).__name__} cannot be explained",
        got=why,
        todo=f'explain the other side: side="{other}"',
    )
