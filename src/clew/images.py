"""Pictures in: open them safely, and turn them into what a model expects while remembering where it looked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .plots import Picture
from .shapes import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_image(path: str | Path) -> Image.Image:
    """Open a picture file as RGB, turned the way its EXIF data says.

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
                return as_rgb(image)
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


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB, upright; what is transparent becomes white."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):  # 16 bits a pixel: `convert` would cut everything above 255
        return Image.fromarray((np.asarray(turned).astype(np.uint16) // 257).astype(np.uint8)).convert("RGB")
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


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise as a model was trained. `size` is (height, width) of its input.

    `mode`: "squash" to `resize` (height, width); "cover" scales the picture until it covers `resize`. What is larger
    than `size` afterwards is cut to the centre.
    """

    size: tuple[int, int]
    resize: tuple[int, int]
    mode: Literal["squash", "cover"]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: Image.Resampling = Image.Resampling.BICUBIC
    rescale: float = 1 / 255

    def __call__(self, image: Image.Image) -> tuple[Tensor, Picture]:
        """The model's input (channel, height, width) and the picture with the box of it that the model sees."""
        image = as_rgb(image)
        width, height = image.size
        down, across = self.resize
        if self.mode == "cover":
            if height * across <= width * down:  # the height is the tighter side
                across = int(down * width / height)
            else:
                down = int(across * height / width)
        resized = image.resize((across, down), self.resample)
        top, left = round((down - self.size[0]) / 2), round((across - self.size[1]) / 2)
        cut = resized.crop((left, top, left + self.size[1], top + self.size[0]))
        x, y = width / across, height / down
        box = (left * x, top * y, (left + self.size[1]) * x, (top + self.size[0]) * y)
        values = torch.from_numpy(np.array(cut, dtype=np.float32)).permute(2, 0, 1) * self.rescale
        mean, std = (torch.tensor(v, dtype=torch.float32, device="cpu")[:, None, None] for v in (self.mean, self.std))
        return (values - mean) / std, Picture(np.asarray(image), box)

    def batch(self, images: Sequence[Image.Image]) -> tuple[Tensor, list[Picture]]:
        """Several pictures, stacked."""
        done = [self(image) for image in images]
        return torch.stack([x for x, _ in done]), [p for _, p in done]

    @staticmethod
    def from_timm(config: Mapping[str, Any]) -> Preprocess:
        """From timm's data configuration (`timm.data.resolve_model_data_config`)."""
        size = (config["input_size"][1], config["input_size"][2])
        crop_pct = config.get("crop_pct") or 1.0
        resize = (int(size[0] // crop_pct), int(size[1] // crop_pct))
        name = str(config.get("interpolation", "bicubic")).upper()
        resample = Image.Resampling[name if name in Image.Resampling.__members__ else "BICUBIC"]
        mode = "squash" if config.get("crop_mode") == "squash" else "cover"
        return Preprocess(size, resize, mode, _floats(config["mean"]), _floats(config["std"]), resample)

    @staticmethod
    def from_hf(config: Mapping[str, Any], image_size: tuple[int, int]) -> Preprocess:
        """From a Hugging Face `preprocessor_config.json`; what it leaves out is taken as for `ViTImageProcessor`."""
        wanted: Any = config.get("size", image_size)
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        # Old configurations of processors that keep the aspect ratio give a number.
        shortest: Any = wanted if isinstance(wanted, int) and "CLIP" in kind else None
        if isinstance(wanted, Mapping):
            shortest = cast("Mapping[str, Any]", wanted).get("shortest_edge")
        cover = shortest is not None
        resize = _height_width(shortest if cover else wanted)
        if not config.get("do_resize", True):
            resize = image_size
        final = resize
        if config.get("do_center_crop", False):
            final = _height_width(config.get("crop_size", resize))
        elif cover:
            final = image_size
        normal = config.get("do_normalize", True)
        return Preprocess(
            final,
            resize,
            "cover" if cover else "squash",
            _floats(config.get("image_mean", (0.5, 0.5, 0.5))) if normal else (0.0, 0.0, 0.0),
            _floats(config.get("image_std", (0.5, 0.5, 0.5))) if normal else (1.0, 1.0, 1.0),
            Image.Resampling(config.get("resample", 2)),
            config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
        )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _height_width(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def picture_of(tensor: Tensor) -> Picture:
    """A picture of one input tensor (channel, height, width), its values stretched to the full range."""
    values = tensor.detach().float().cpu()
    values = values[:3] if values.shape[0] >= 3 else values[:1].expand(3, -1, -1)
    low, high = values.amin(), values.amax()
    scaled = (values - low) / (high - low).clamp(min=1e-12) * 255
    height, width = scaled.shape[1:]
    return Picture(scaled.permute(1, 2, 0).to(torch.uint8).numpy(), (0.0, 0.0, float(width), float(height)))
