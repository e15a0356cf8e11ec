"""Attributions of image–text pairs: both sides of each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from ..draw import Cell, below
from .base import Attribution
from .image import ImageAttribution
from .text import TextAttribution


@dataclass(frozen=True, kw_only=True, repr=False)
class PairAttribution(ImageAttribution):
    """Scores of one method for pairs of an image and a text: the image's patches, and in `text` the text's tokens.

    It is an `ImageAttribution` of the image side, with the text side beside it, pair by pair.
    """

    text: TextAttribution

    kind: ClassVar[str] = "pair"
    nested: ClassVar[tuple[str, ...]] = ("text",)

    @staticmethod
    def of(image: ImageAttribution, text: TextAttribution) -> PairAttribution:
        """Both sides of the same pairs."""
        assert len(image) == len(text)
        return PairAttribution(**{f.name: getattr(image, f.name) for f in fields(image)}, text=text)

    @property
    def streams(self) -> dict[str, Attribution]:
        """Both sides, by name."""
        return {"image": self.image, "text": self.text}

    @property
    def image(self) -> ImageAttribution:
        """The image side alone."""
        return ImageAttribution(**{f.name: getattr(self, f.name) for f in fields(ImageAttribution)})

    def cells(self) -> list[Cell]:
        """One cell per pair: the heatmap, with the words of the text below it."""
        return [replace(cell, words=self.text.pieces(i)) for i, cell in enumerate(super().cells())]

    def to_png(self) -> bytes:
        """The overlays of all pairs, and below them the texts."""
        return below([super().to_png(), self.text.to_png()])

    def facts(self, example: int) -> dict[str, str]:
        """What was explained, verified and chosen on both sides, in plain words."""
        told: dict[str, Any] = super().facts(example)
        own = self.text.facts(example)
        return told | {f"text: {k}": v for k, v in own.items() if told.get(k) != v}
