"""The bundled models' own data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import LoadError
from .asked_digits import AskedDigits
from .captions import WORDS, with_article
from .film_reviews import Review, compose_review
from .reversal import Reversal, compose_reversal

FIRST_REVIEW = 1_000  # what is before it in the test split measured the models' accuracy


@dataclass(frozen=True)
class BundledScenes:
    """Test scenes of a bundled model: PIL `images`, boolean `masks` (n, H, W) of the evidence, and `labels` (n,)."""

    images: list[Image.Image]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class BundledCaptionedScenes:
    """Test scenes of `mini:digits-clip`: PIL `images` of two digits; for each digit its class in `labels` (n, 2), a
    boolean mask in `masks` (n, 2, H, W), and in `captions` the words that mean it, "a seven"."""

    images: list[Image.Image]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    captions: list[tuple[str, str]]


def captioned_scenes() -> BundledCaptionedScenes:
    """The scenes that ship with `mini:digits-clip`; no training scene shares a digit or a background with them."""
    with resources.files(__name__).joinpath("digits-clip", "scenes.npz").open("rb") as stream, np.load(stream) as data:
        images, labels = [Image.fromarray(image) for image in data["images"]], data["labels"]
        captions = [(with_article(WORDS[a]), with_article(WORDS[b])) for a, b in labels.tolist()]
        return BundledCaptionedScenes(images, data["masks"], labels, captions)


def scenes(name: str = "digits") -> BundledScenes:
    """The scenes that ship with `mini:NAME`; no training scene shares a digit or a background with them."""
    file = resources.files(__name__).joinpath(name, "scenes.npz")
    if not file.is_file():
        raise LoadError(f"no scenes for {name!r}", expected="digits", got=name)
    with file.open("rb") as stream, np.load(stream) as data:
        images = [Image.fromarray(image) for image in data["images"]]
        return BundledScenes(images, data["masks"], data["labels"])


def chat_scenes() -> list[AskedDigits]:
    """The pictures that ship with `mini:digits-chat`, with a question about one of four digits; no training picture
    shares a digit with them."""
    with resources.files(__name__).joinpath("digits-chat", "scenes.npz").open("rb") as stream, np.load(stream) as data:
        rows = zip(data["images"], data["labels"].tolist(), data["quarters"].tolist(), strict=True)
        return [AskedDigits(image, tuple(labels), quarter, i) for i, (image, labels, quarter) in enumerate(rows)]


def reversals(count: int = 48) -> list[Reversal]:
    """Strings for `mini:reverse` with their answers; the letter that decides the j-th letter of an answer is the j-th
    from the end. None of them was seen in training."""
    return [compose_reversal("test", FIRST_REVIEW + i) for i in range(count)]


def reviews(count: int = 48) -> list[Review]:
    """Reviews of films for `mini:reviews-bert` and `mini:reviews-llama`, whose decisive words are known.

    None of them was seen in training. Each has a `text`, a `label` (0 negative, 1 positive) and the characters
    (start, stop) of its `decisive` words.
    """
    return [compose_review("test", FIRST_REVIEW + i) for i in range(count)]
