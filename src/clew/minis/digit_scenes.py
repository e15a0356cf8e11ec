"""Scenes with a known answer: a real handwritten digit on a textured background, among distractors.

The digits are the 1,797 scanned 8 x 8 digits that scikit-learn ships. They are split once, before anything is
composed, so no test digit is ever part of a training scene; backgrounds and distractors are drawn from the scene's own
seed, and the splits draw their seeds from disjoint ranges. Whatever a model looks at outside the mask carries no
information about the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..shapes import optional_import

Split = Literal["train", "validation", "test"]
SIZE = 64  # pixels on each side of a scene

# Half-open ranges of the shuffled digits, and the first background seed of each split.
_DIGITS: dict[Split, tuple[int, int]] = {"train": (0, 1297), "validation": (1297, 1497), "test": (1497, 1797)}
_FIRST_SEED: dict[Split, int] = {"train": 0, "validation": 1_000_000_000, "test": 2_000_000_000}
_SEEDS_PER_SPLIT = 1_000_000_000


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
    if not 0 <= index < _SEEDS_PER_SPLIT:
        raise ValueError(f"a scene's index lies in [0, {_SEEDS_PER_SPLIT}), got {index}")
    seed = _FIRST_SEED[split] + index
    rng = np.random.default_rng(seed)
    images, labels = digits(split)
    chosen = int(rng.integers(len(images)))

    canvas = texture(rng, size)
    ink = contrasting(rng, canvas)
    digit = _place_digit(rng, size, images[chosen])
    # Distractors may come close to the digit but never run through it: they must not make another digit of it.
    free = (np.asarray(digit.filter(ImageFilter.MaxFilter(7))) < 64).astype(np.float64)
    for _ in range(int(rng.integers(2, 5))):
        blend(canvas, distractor(rng, size, images), ink, float(rng.uniform(0.5, 0.9)) * free)
    blend(canvas, digit, ink, 1.0)
    mask = np.asarray(digit) > 96
    noisy = canvas + rng.normal(0, 0.02, canvas.shape)
    return Scene((np.clip(noisy, 0, 1) * 255).astype(np.uint8), mask, int(labels[chosen]), seed)


def texture(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
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


def contrasting(rng: np.random.Generator, canvas: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour clearly lighter or darker than the background."""
    bright = canvas.mean() < 0.5
    return rng.uniform(0.8, 1.0, 3) if bright else rng.uniform(0.0, 0.2, 3)


def distractor(rng: np.random.Generator, size: int, images: NDArray[np.float64]) -> Image.Image:
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


def blend(
    canvas: NDArray[np.float64], layer: Image.Image, ink: NDArray[np.float64], strength: float | NDArray[np.float64]
) -> None:
    """Draw a layer in some ink over a canvas."""
    alpha = (strength * np.asarray(layer, dtype=np.float64) / 255)[..., None]
    canvas *= 1 - alpha
    canvas += alpha * ink
