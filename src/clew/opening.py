"""Pictures from files and from memory: opened safely, and as RGB."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .shapes import InputError

logger = logging.getLogger("clew")

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_image(path: str | Path, *, tell: Callable[[str], None] = logger.warning) -> Image.Image:
    """Open a picture file as RGB, turned the way its EXIF data says.

    `tell` is told of a picture that comes out nearly black, 10 or 12 bits in 16; default: a warning in the log.
    Raises `InputError` for a missing, empty, broken or unreasonably large file.
    """
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise InputError(f"no image file {path}", expected="a picture file", got=got, todo="check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty", expected="a picture file", got="0 bytes", todo="fetch the file again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return as_rgb(image, str(path), tell)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} is too large to open", got=error, todo="shrink it first") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is no picture that Pillow can read", expected="PNG, JPEG, WebP, …", got=f"suffix {path.suffix!r}"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is broken", got=error, todo="fetch or export the file again") from error


def as_rgb(
    image: Image.Image, where: str = "this picture", tell: Callable[[str], None] = logger.warning
) -> Image.Image:
    """RGB, upright; what is transparent becomes white. `where` it came from is for messages."""
    turned = ImageOps.exif_transpose(image)
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
