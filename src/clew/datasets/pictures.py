"""Picture files as bytes: as RGB, or as a mask of what is object, background and not labelled."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..inputs import as_rgb, decode_image

Ignore = int | Literal["auto"] | None


def picture(data: bytes, where: str) -> Image.Image:
    """A picture in RGB, upright. Raises `InputError`, with where it came from, for a broken or far too large one."""
    return as_rgb(decode_image(io.BytesIO(data), where), where)


def object_mask(data: bytes, where: str, ignore: Ignore = "auto") -> NDArray[np.int8]:
    """A mask file as int8 (height, width): 1 object, 0 background, -1 not labelled.

    `ignore="auto"`: a picture with a palette holds numbers of classes, above 0 is object and 255 is not labelled; any
    other is black and white, what is brighter than half is object (a picture of 0 and 1 counts as such). A number or
    None: every picture holds numbers of classes, and that number, or none, is not labelled. Raises `InputError` for
    masks that "auto" cannot tell apart, and for coloured ones.
    """
    image = decode_image(io.BytesIO(data), where)
    values = _numbers(image, where)
    if ignore != "auto":
        return _of_classes(values, ignore)
    largest = int(values.max(initial=0))
    if image.mode == "P":
        if largest == 255 and set(np.unique(values).tolist()) <= {0, 255}:
            raise InputError(
                f"{where} may mean two things: all of it that is not background is 255",
                expected="a mask with numbers of classes, or black and white without a palette",
                got="a palette, and the values 0 and 255",
                todo="ignore=None where 255 is the object, ignore=255 where it is not labelled",
            )
        return _of_classes(values, 255)
    if 1 < largest < 128:
        raise InputError(
            f"{where} is neither black and white nor a picture with a palette",
            expected="white objects on black, or a palette",
            got=f"values up to {largest}",
            todo="ignore=255 where it holds numbers of classes and 255 is not labelled, ignore=None where all are",
        )
    return (values > (127 if largest > 1 else 0)).astype(np.int8)


def _of_classes(values: NDArray[np.int64], ignore: int | None) -> NDArray[np.int8]:
    found = (values > 0).astype(np.int8)
    if ignore is not None:
        found[values == ignore] = -1
    return found


def _numbers(image: Image.Image, where: str) -> NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if image.mode == "1":
        return values * 255
    if image.mode.startswith("I;16"):
        return values // 257
    if values.ndim == 3:
        grey = image.mode in ("LA", "PA") or (values[..., :3] == values[..., :1]).all()
        if not grey:
            raise InputError(
                f"{where} is coloured", expected="a mask: one value for each pixel", got=f"mode {image.mode!r}"
            )
        return values[..., 0]
    return values
