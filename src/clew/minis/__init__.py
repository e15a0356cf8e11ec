"""The bundled models' own data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..shapes import LoadError


@dataclass(frozen=True)
class BundledScenes:
    """Test scenes of a bundled model: PIL `images`, boolean `masks` (n, H, W) of the evidence, and `labels` (n,)."""

    images: list[Image.Image]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]


def scenes(name: str = "digits") -> BundledScenes:
    """The scenes that ship with `mini:NAME`; no training scene shares a digit or a background with them."""
    file = resources.files(__name__).joinpath(name, "scenes.npz")
    if not file.is_file():
        raise LoadError(f"no scenes for {name!r}", expected="digits", got=name)
    with file.open("rb") as stream, np.load(stream) as data:
        images = [Image.fromarray(image) for image in data["images"]]
        return BundledScenes(images, data["masks"], data["labels"])
