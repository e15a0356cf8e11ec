"""Pictures of four handwritten digits, one in each quarter, and a question about one of them.

Only the digit in the asked quarter says the answer; the other three are drawn by themselves. Made of the same digits,
split in the same way, as `digit_scenes.py`; seeds are drawn from ranges of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .captions import WORDS
from .digit_scenes import Split, digits, enlarge, seed_of

SIZE = 48  # pixels on each side of a picture
QUARTERS = ("upper left", "upper right", "lower left", "lower right")
_FIRST_SEED: dict[Split, int] = {"train": 6_000_000_000, "validation": 7_000_000_000, "test": 8_000_000_000}


@dataclass(frozen=True)
class AskedDigits:
    """One picture: `image` (H, W, 3) uint8, the classes `labels` of its four digits, the `question` about the one in
    `quarter`, its `answer`, and a boolean `mask` (H, W) of that quarter."""

    image: NDArray[np.uint8]
    labels: tuple[int, int, int, int]
    quarter: int
    seed: int

    @property
    def question(self) -> str:
        """What is asked."""
        return f"which {QUARTERS[self.quarter]} digit ?"

    @property
    def decisive(self) -> tuple[int, int]:
        """The words [start, end) of the question that say which digit."""
        return 1, 1 + len(QUARTERS[self.quarter].split())

    @property
    def answer(self) -> str:
        """The word for the digit that is asked for."""
        return WORDS[self.labels[self.quarter]]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The quarter that is asked for."""
        return quarter_mask(self.quarter)


def quarter_mask(quarter: int) -> NDArray[np.bool_]:
    """Pixels of a quarter, (H, W)."""
    half = SIZE // 2
    found = np.zeros((SIZE, SIZE), bool)
    row, column = half * (quarter // 2), half * (quarter % 2)
    found[row : row + half, column : column + half] = True
    return found


def compose_asked(split: Split, index: int) -> AskedDigits:
    """Picture number `index` of a split with its question, the same every time."""
    seed = seed_of(_FIRST_SEED, split, index)
    rng = np.random.default_rng(seed)
    images, classes = digits(split)
    chosen = rng.integers(len(images), size=4)
    half = SIZE // 2
    cells = (rng.uniform(-1, 1, (4, 4, 3)) * 127 + 128).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float64)
    dark = bool(rng.integers(2))
    canvas = rng.uniform(0.2, 0.35, 3) + 0.1 * (smooth / 127.5 - 1)
    ink = rng.uniform(0.75, 1.0, 3)
    alpha = np.zeros((SIZE, SIZE))
    for quarter, one in enumerate(chosen):
        side = int(rng.integers(18, half))
        turned = enlarge(images[one], side).rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
        row, column = (int(v) for v in rng.integers(0, half - side + 1, 2))
        row, column = row + half * (quarter // 2), column + half * (quarter % 2)
        alpha[row : row + side, column : column + side] = np.asarray(turned, dtype=np.float64) / 255
    canvas = canvas * (1 - alpha[..., None]) + ink * alpha[..., None]
    canvas = (1 - canvas if dark else canvas) + rng.normal(0, 0.03, canvas.shape)
    a, b, c, d = (int(classes[one]) for one in chosen)
    return AskedDigits((np.clip(canvas, 0, 1) * 255).astype(np.uint8), (a, b, c, d), int(rng.integers(4)), seed)
