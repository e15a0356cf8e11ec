"""Scenes with a known answer: a real handwritten digit on a textured background, among distractors.

The digits are the 1,797 scanned 8 x 8 digits that scikit-learn ships. They are split once, before anything is
composed, so no test digit is ever part of a training scene; backgrounds and distractors are drawn from the scene's own
seed, and the splits draw their seeds from disjoint ranges. Whatever a model looks at outside the mask carries no
information about the label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..errors import optional_import

Split = Literal["train", "validation", "test"]
SIZE = 64  # pixels on each side of a scene

# Half-open ranges of the shuffled digits, and the first background seed of each split.
_DIGITS: dict[Split, tuple[int, int]] = {"train": (0, 1297), "validation": (1297, 1497), "test": (1497, 1797)}
_FIRST_SEED: dict[Split, int] = {"train": 0, "validation": 1_000_000_000, "test": 2_000_000_000}
SEEDS_PER_SPLIT = 1_000_000_000


@dataclass(frozen=True)
class Scene:
    """One composed picture: `image` (H, W, 3) uint8, `mask` (H, W) bool, the digit's class and the scene's seed."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    label: int
    seed: int


@cache
def digits(split: Split) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The handwritten digits of one split: intensities (n, 8, 8) in [0, 1] and labels (n,). Needs scikit-learn."""
    datasets = optional_import("sklearn.datasets", extra="bench", purpose="compose new digit scenes")
    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    chosen = order[slice(*_DIGITS[split])]
    return data.images[chosen] / 16.0, data.target[chosen].astype(np.int64)


def compose(split: Split, index: int, *, size: int = SIZE) -> Scene:
    """Scene number `index` of a split, the same picture every time."""
    seed = seed_of(_FIRST_SEED, split, index)
    rng = np.random.default_rng(seed)
    images, labels = digits(split)
    chosen = int(rng.integers(len(images)))
    image, masks = painted(rng, size, images, lambda: [_place_digit(rng, size, images[chosen])], few=(2, 5))
    return Scene(image, masks[0], int(labels[chosen]), seed)


def seed_of(first: Mapping[Split, int], split: Split, index: int) -> int:
    """The seed of a scene, in the range of its split."""
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise ValueError(f"a scene's index lies in [0, {SEEDS_PER_SPLIT}), got {index}")
    return first[split] + index


def painted(
    rng: np.random.Generator,
    size: int,
    images: NDArray[np.float64],
    place: Callable[[], list[Image.Image]],
    few: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The digits that `place` puts on layers of their own, over a background among a `few` distractors, from the first
    number to below the second: the picture (H, W, 3), and a mask of each digit (digit, H, W)."""
    canvas = _texture(rng, size)
    ink = _contrasting(rng, canvas)
    layers = place()
    whole = Image.fromarray(np.maximum.reduce([np.asarray(layer) for layer in layers]))
    # Distractors may come close to a digit but never run through it: they must not make another digit of it.
    free = (np.asarray(whole.filter(ImageFilter.MaxFilter(7))) < 64).astype(np.float64)
    for _ in range(int(rng.integers(*few))):
        _blend(canvas, _distractor(rng, size, images), ink, float(rng.uniform(0.5, 0.9)) * free)
    for layer in layers:
        _blend(canvas, layer, ink, 1.0)
    noisy = canvas + rng.normal(0, 0.02, canvas.shape)
    masks = np.stack([np.asarray(layer) > 96 for layer in layers])
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), masks


def _texture(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Coloured noise at several scales over a grating: (size, size, 3) in [0, 1]."""
    canvas = np.tile(rng.uniform(0.25, 0.75, 3), (size, size, 1))
    for cells, strength in ((3, 0.14), (7, 0.08), (17, 0.06)):
        noise = (rng.uniform(-1, 1, (cells, cells, 3)) * 127 + 128).astype(np.uint8)
        smooth = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
        canvas += strength * (np.asarray(smooth, dtype=np.float64) / 127.5 - 1)
    row, column = np.mgrid[:size, :size]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 14)
    wave = np.sin(2 * np.pi * (row * np.sin(angle) + column * np.cos(angle)) / period)
    return np.clip(canvas + 0.06 * wave[..., None] * rng.uniform(0, 1, 3), 0, 1)


def _contrasting(rng: np.random.Generator, canvas: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour clearly lighter or darker than the background."""
    bright = canvas.mean() < 0.5
    return rng.uniform(0.8, 1.0, 3) if bright else rng.uniform(0.0, 0.2, 3)


def _distractor(rng: np.random.Generator, size: int, images: NDArray[np.float64]) -> Image.Image:
    """Something that is no digit, for the digit's own ink: a stroke, some dots, or a digit cut up and shuffled."""
    kind = rng.integers(3)
    layer = Image.new("L", (size, size))
    draw = ImageDraw.Draw(layer)
    if kind == 0:
        (x, y), (dx, dy) = rng.uniform(0, size, 2), rng.uniform(-size / 3, size / 3, 2)
        draw.line([x, y, x + dx, y + dy], fill=255, width=int(rng.integers(1, 4)))
    elif kind == 1:
        for x, y in rng.uniform(2, size - 4, (int(rng.integers(3, 9)), 2)):
            draw.ellipse([x, y, x + 2, y + 2], fill=255)
    else:
        tiles = images[int(rng.integers(len(images)))].reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 2, 2)
        scrambled = rng.permutation(tiles).reshape(4, 4, 2, 2).transpose(0, 2, 1, 3).reshape(8, 8)
        side = int(rng.integers(12, 20))
        x, y = rng.integers(0, size - side, 2)
        layer.paste(enlarge(scrambled, side), (int(x), int(y)))
    return layer


def _place_digit(rng: np.random.Generator, size: int, digit: NDArray[np.float64]) -> Image.Image:
    """One digit, enlarged and slightly turned, somewhere on an empty layer."""
    side = int(rng.integers(size // 2, size * 11 // 16))
    picture = enlarge(digit, side).rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)
    x, y = (int(v) for v in rng.integers(0, size - side + 1, 2))
    layer = Image.new("L", (size, size))
    layer.paste(picture, (x, y))
    return layer


def enlarge(digit: NDArray[Any], side: int) -> Image.Image:
    """A digit (8, 8) as a picture of `side` pixels."""
    return Image.fromarray((digit * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def _blend(
    canvas: NDArray[np.float64], layer: Image.Image, ink: NDArray[np.float64], strength: float | NDArray[np.float64]
) -> None:
    """Draw a layer in some ink over a canvas."""
    alpha = (strength * np.asarray(layer, dtype=np.float64) / 255)[..., None]
    canvas *= 1 - alpha
    canvas += alpha * ink
