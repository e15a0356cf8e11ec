"""Pictures from files and from memory: opened safely, and as RGB."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from ..files import is_valid_filename

logger = logging.getLogger("clew")

_KINDS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "PCX", "SGI",
)  # fmt: skip
# Modes whose pixels can be averaged: not palettes, nor images with a transparent colour.
_SMOOTH = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr")
_LANCZOS = Image.Resampling.LANCZOS
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_image(
    path: str | Path, *, tell: Callable[[str], None] = logger.warning, longest: int | None = None
) -> Image.Image:
    """Open a picture file as RGB, turned the way its EXIF data says.

    `tell` is told of a picture that comes out nearly black, 10 or 12 bits in 16; default: a warning in the log.
    `longest`: shrink it to at most so many pixels a side, to look at: takes far less memory than the whole picture.
    Raises `InputError` for a missing, empty, broken or unreasonably large file.
    """
    if not is_valid_filename(path):
        raise InputError("no file has such a name", expected="a picture file", got=ascii(str(path)[:60]))
    path = Path(path)
    if not os.path.isfile(path):
        got = "a folder" if os.path.isdir(path) else "nothing there"
        raise InputError(f"no image file {str(path)[:200]}", expected="a picture file", got=got, todo="check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty", expected="a picture file", got="0 bytes", todo="fetch the file again")
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened", expected="a picture", got=error, todo="check its rights"
        ) from error
    with file:
        found = as_rgb(decode_image(file, str(path), longest), str(path), tell)
    if longest is not None:
        found.thumbnail((longest, longest), _LANCZOS, reducing_gap=2)
    return found


def decode_image(source: io.BytesIO | io.BufferedReader, where: str, longest: int | None = None) -> Image.Image:
    """A picture of one of the usual kinds, decoded: its first frame, at most about `longest` pixels a side.

    Raises `InputError` for what is none, broken, or unreasonably large. Other kinds that Pillow knows are left out:
    it starts another program to draw PostScript.
    """
    Image.init()
    try:
        image = Image.open(source, formats=[kind for kind in _KINDS if kind in Image.OPEN])
        # Pillow's own warning is no error of its own accord, and filters of warnings are those of all threads.
        most, count = Image.MAX_IMAGE_PIXELS, image.width * image.height
        if most is not None and count > most:
            raise Image.DecompressionBombError(f"{count:,} pixels")
        if longest is not None and image.mode in _SMOOTH and "transparency" not in image.info:
            image.thumbnail((longest, longest), _LANCZOS, reducing_gap=2)  # JPEG: decoded at a fraction
        image.load()
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        expected = f"at most {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        raise InputError(
            f"{where} is too large to open", expected=expected, got=error, todo="shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        got = f"suffix {Path(where).suffix!r}, but other bytes"
        raise InputError(
            f"{where} is no picture that Pillow can read", expected="PNG, JPEG, WebP, …", got=got, todo="convert it"
        ) from error
    except Exception as error:  # decoders say this and that of what is broken
        raise _broken(where, error) from error


def _broken(where: str, error: Exception) -> InputError:
    got = f"{type(error).__name__}: {error}"
    return InputError(f"{where} is broken", expected="a picture", got=got, todo="fetch or export the file again")


def as_rgb(
    image: Image.Image, where: str = "this picture", tell: Callable[[str], None] = logger.warning
) -> Image.Image:
    """RGB, upright; what is transparent becomes white. `where` it came from is for messages.

    Raises `InputError` for a picture that breaks while it is decoded, and for one without a fixed range of values.
    """
    try:
        return _as_rgb(image, where, tell)
    except InputError:
        raise
    except Exception as error:  # one that Pillow opened may be read no sooner than here
        raise _broken(where, error) from error


def _as_rgb(image: Image.Image, where: str, tell: Callable[[str], None]) -> Image.Image:
    image.load()
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # EXIF of nonsense says nothing of which side is up
        turned = image
    if turned.mode.startswith("I;16"):  # 16 bits a pixel: `convert` would cut everything above 255
        values = np.asarray(turned).astype(np.uint16)
        if said := _dark(int(values.max(initial=0))):
            tell(f"{where} {said}")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if turned.mode in ("I", "F"):
        raise InputError(
            "this picture's values have no fixed range",
            expected="8 or 16 bits a pixel",
            got=f"mode {turned.mode!r}",
            todo="scale it to 8 bits yourself",
        )
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        clear = turned.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return turned.convert("RGB")


def _dark(largest: int) -> str:
    """Cameras and scanners of 10, 12 or 14 bits write their numbers into 16 as they are: far from white."""
    bits = largest.bit_length()
    if not 0 < bits <= 14:
        return ""
    return (
        f"has 16 bits a pixel, but no value above {largest} ({bits} bits are used): it comes out "
        f"{'nearly black' if bits <= 12 else 'dark'}. If its white is {(white := 2 ** max(bits, 8) - 1)}, scale it "
        f"first: Image.fromarray((np.asarray(image) / {white} * 255).astype(np.uint8))"
    )
