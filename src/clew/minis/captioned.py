"""Scenes with two different digits, and captions: what a text names has a known place, and so has what it does not.

Made of the same digits, split in the same way, as `digit_scenes.py`; seeds are drawn from ranges of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .captions import WORDS, with_article
from .digit_scenes import Split, digits, enlarge, painted, seed_of

SIZE = 80  # pixels on each side of a scene
OF_ONE = (
    "{}", "{}", "a photo of {}", "a picture of {}", "a drawing of {}", "a scene with {}", "this is {}", "{} on a wall",
    "there is {} in the picture", "somebody wrote {} here",
)  # fmt: skip
OF_BOTH = ("{} and {}", "{} and {}", "a photo of {} and {}", "a scene with {} and {}", "{} next to {}")
_FIRST_SEED: dict[Split, int] = {"train": 3_000_000_000, "validation": 4_000_000_000, "test": 5_000_000_000}


@dataclass(frozen=True)
class CaptionedScene:
    """One picture: `image` (H, W, 3) uint8; for each of its two digits its class and `masks` (digit, H, W) bool; and a
    caption that names the digits `named`."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: tuple[int, int]
    caption: str
    named: tuple[int, ...]
    seed: int


def compose_captioned(split: Split, index: int, *, size: int = SIZE) -> CaptionedScene:
    """Scene number `index` of a split with its caption, the same every time."""
    seed = seed_of(_FIRST_SEED, split, index)
    rng = np.random.default_rng(seed)
    images, labels = digits(split)
    first = int(rng.integers(len(images)))
    second = int(rng.choice(np.flatnonzero(labels != labels[first])))
    image, masks = painted(rng, size, images, lambda: _apart(rng, size, [images[first], images[second]]), few=(1, 4))
    found = int(labels[first]), int(labels[second])
    caption, named = _caption(rng, found)
    return CaptionedScene(image, masks, found, caption, named, seed)


def _apart(rng: np.random.Generator, size: int, pictures: list[NDArray[np.float64]]) -> list[Image.Image]:
    """Digits, enlarged and slightly turned, on layers of their own, at places that do not meet."""
    sides = [int(rng.integers(size * 2 // 5, size * 19 // 40 + 1)) for _ in pictures]
    while True:
        corners = [rng.integers(0, size - side + 1, 2) for side in sides]
        places = [(int(x), int(y)) for x, y in corners]
        (x, y), (u, v) = places
        if x + sides[0] <= u or u + sides[1] <= x or y + sides[0] <= v or v + sides[1] <= y:
            break
    layers: list[Image.Image] = []
    for picture, side, place in zip(pictures, sides, places, strict=True):
        layer = Image.new("L", (size, size))
        layer.paste(enlarge(picture, side).rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC), place)
        layers.append(layer)
    return layers


def _caption(rng: np.random.Generator, labels: tuple[int, int]) -> tuple[str, tuple[int, ...]]:
    """Words about one of two digits, or about both in either order."""
    order = labels if rng.integers(2) else labels[::-1]
    named = order[:1] if rng.random() < 0.75 else order
    forms = OF_ONE if len(named) == 1 else OF_BOTH
    said = [with_article(WORDS[label], "an" if rng.integers(2) else "a") for label in named]
    return forms[int(rng.integers(len(forms)))].format(*said), named
