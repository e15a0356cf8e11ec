"""Settings of how pictures are prepared, as configurations write them: sides, numbers for channels, filters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from PIL import Image

from ..errors import LoadError

MOST_PIXELS, MOST_SIDE = 2**24, 2**14  # of a picture as a model takes it; the largest that are known take 2**22


def height_width(size: Any, name: str = "size") -> tuple[int, int]:
    """Height and width: of one side, of two, or by their names. Raises `LoadError` for what is neither."""
    found: Any = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else size
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        found = (found, found)
    if isinstance(found, (list, tuple)) and len(cast("list[Any]", found)) == 2:
        return side(found[0], name), side(found[1], name)
    raise _wrong(name, "one side, or height and width, in pixels", size)


def side(value: Any, name: str) -> int:
    """A side in pixels. Raises `LoadError` for what is no whole number above 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 1:
        return int(value)
    raise _wrong(name, "pixels, a whole number above 0", value)


def floats(values: Any, name: str = "mean and std") -> tuple[float, ...]:
    """A number, or one for each channel. Raises `LoadError` for what is no number."""
    some = cast("list[Any]", values) if isinstance(values, (list, tuple)) else [values]
    if not some or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in some):
        raise _wrong(name, "a number, or one for each channel", values)
    return tuple(map(float, some))


def resampling(name: str) -> Image.Resampling:
    """Pillow's filter by its name. Raises `LoadError` for another one."""
    known = {one.name.lower(): one for one in Image.Resampling}
    if name.lower() not in known:
        raise LoadError("pictures cannot be resized as this model wants", expected=", ".join(known), got=name)
    return known[name.lower()]


def filter_of(value: Any) -> Image.Resampling:
    """Pillow's filter by number or name; bilinear where neither is given. Raises `LoadError` for another one."""
    if value is None:
        return Image.Resampling.BILINEAR
    if isinstance(value, str):
        return resampling(value)
    if isinstance(value, int) and value in set(Image.Resampling):
        return Image.Resampling(value)
    raise _wrong(
        "resample", "one of " + ", ".join(f"{one.value} ({one.name.lower()})" for one in Image.Resampling), value
    )


def check_sides(sides: Mapping[str, Sequence[int] | None]) -> None:
    """Raise `LoadError` for sides of less than a pixel, or of more pixels than any model takes."""
    for name, found in sides.items():
        if found is None or (min(found) >= 1 and max(found) <= MOST_SIDE and math.prod(found) <= MOST_PIXELS):
            continue
        expected = f"sides of 1 to {MOST_SIDE:,} pixels, {MOST_PIXELS:,} pixels in all"
        raise _wrong(name, expected, " × ".join(map(str, found)))


def check_numbers(mean: Sequence[float], std: Sequence[float], rescale: float) -> None:
    """Raise `LoadError` for a mean that is none, and for what cannot be divided by."""
    floats(list(mean), "mean")
    if not all(floats(list(std), "std")):
        raise _wrong("std", "numbers other than 0", list(std))
    if not (math.isfinite(rescale) and rescale > 0):
        raise _wrong("rescale_factor", "a number above 0", rescale)


def _wrong(name: str, expected: str, got: object) -> LoadError:
    shown = str(got)
    return LoadError(
        f"pictures cannot be prepared with this {name}",
        expected=expected,
        got=shown if len(shown) < 100 else shown[:100] + " …",
        todo="correct it in the model's configuration, or fetch the model again",
    )
