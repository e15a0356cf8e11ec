"""How a model's pictures are prepared: resized, cut and normalised as timm, open_clip and transformers do it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..draw import Picture
from ..errors import InputError, LoadError, OptionError, optional_import, short_repr
from ..validation import validate_float
from .image_files import IMAGE_SUFFIXES, as_rgb, open_image
from .preprocessor_config import (
    MOST_PIXELS,
    check_numbers,
    check_sides,
    filter_of,
    floats,
    height_width,
    resampling,
    side,
)

__all__ = ["IMAGE_SUFFIXES", "Backend", "Preprocess", "as_rgb", "open_image"]

logger = logging.getLogger("clew")

Backend = Literal["pil", "torchvision"]
_AS_SIZE = (0, 0)


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise as a model was trained. `size` is (height, width) of its input.

    `mode`: "squash" to `resize` (height, width; default: `size`); "cover" scales the picture until it covers `resize`,
    "contain" until it lies within and its longer side fills it, "within" the same with sizes rounded down; "keep" does
    not resize.
    Then the centre is cut to `size`, with `fill` (0 to 255, for each channel) where the picture is smaller; with
    `crop=False` what was resized stays as it is.

    `channels`: what the model takes, 3 (RGB) or 1 (grey). `longest`: with "cover", the most that the longer side may
    have. `normalize=False` leaves out `mean` and `std`. `pad`: zeros at the right and below, to (height, width).

    `library`: whose arithmetic is followed, to the last bit. "timm" (also open_clip and torchvision: pictures are
    resized by Pillow), "transformers" (its image processors with backend="pil", the slow ones before version 5), or
    "transformers-torchvision" (its default where torchvision is installed: tensors of 8 bits are resized). They round
    differently where a crop has an odd rest, and in the last bits of what is normalised. `rescale_first`: floats are
    made before the picture is resized, not after.
    """

    size: tuple[int, int]
    resize: tuple[int, int] = _AS_SIZE
    mode: Literal["squash", "cover", "contain", "within", "keep"] = "squash"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: Image.Resampling = Image.Resampling.BICUBIC
    rescale: float = 1 / 255
    _: KW_ONLY
    channels: int = 3
    crop: bool = True
    fill: tuple[int, ...] = (0,)
    longest: int | None = None
    normalize: bool = True
    pad: tuple[int, int] | None = None
    library: Literal["timm", "transformers", "transformers-torchvision"] = "timm"
    rescale_first: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "resize", self.size if self.resize is _AS_SIZE else self.resize)
        longest = None if self.longest is None else (1, self.longest)
        check_sides({"size": self.size, "resize": self.resize, "longest_edge": longest, "pad_size": self.pad})
        check_numbers(self.mean, self.std, self.rescale)

    def __call__(self, image: Image.Image) -> tuple[Tensor, Picture]:
        """The model's input (channel, height, width) and the picture with the box of it that the model sees.

        Raises `InputError` for a picture too narrow to be resized so, and for models of neither 1 nor 3 channels.
        """
        shown = as_rgb(image)
        width, height = shown.size
        down, across = self._resized(height, width)
        too_long = self.mode != "keep" and down * across > 4 * MOST_PIXELS
        if not down or not across or too_long:
            raise InputError(
                "this picture is too narrow for the model",
                expected=f"sides that can be resized to {self.resize[0]} × {self.resize[1]}",
                got=f"{width} × {height} pixels, which become {across} × {down}",
                todo="crop it first",
            )
        values = self._scaled(self._in_channels(shown), (down, across))
        top = left = 0
        if self.crop:
            top, left = self._start(down, self.size[0]), self._start(across, self.size[1])
            values = _cut(values, top, left, self.size, self.fill)
        values = self._normalized(values)
        if self.pad is not None:
            values = F.pad(values, (0, self.pad[1] - values.shape[2], 0, self.pad[0] - values.shape[1]))
        x, y = width / across, height / down
        box = (left * x, top * y, (left + values.shape[2]) * x, (top + values.shape[1]) * y)
        return values, Picture(np.asarray(shown), box)

    def batch(self, images: Sequence[Image.Image]) -> tuple[Tensor, list[Picture]]:
        """Several pictures, stacked. Raises `InputError` where they come out in different sizes."""
        done = [self(image) for image in images]
        if len(sizes := sorted({tuple(x.shape[1:]) for x, _ in done})) > 1:
            raise InputError(
                "this model's pictures are not cut to one size",
                expected="pictures of one shape in a call",
                got="after resizing: " + ", ".join(f"{h} × {w}" for h, w in sizes[:5]),
                todo="explain them one at a time",
            )
        return torch.stack([x for x, _ in done]), [p for _, p in done]

    def with_channels(self, channels: int) -> Preprocess:
        """The same for a model of so many channels."""
        if channels == self.channels:
            return self
        mean, std = self.mean, self.std
        if channels == 1 and len(mean) > 1:
            if len(set(mean)) > 1 or len(set(std)) > 1:
                logger.warning(
                    "the model takes one channel, but its pictures are normalised by those of several (mean %s, std "
                    "%s): their averages are taken; pass mean= and std=, one number each, if it was trained otherwise",
                    mean,
                    std,
                )
            mean, std = ((sum(v) / len(v) if len(set(v)) > 1 else v[0],) for v in (mean, std))
        fill = (round(sum(self.fill) / len(self.fill)),) if channels == 1 else self.fill
        return replace(self, mean=mean, std=std, fill=fill, channels=channels)

    def normalized_by(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> Preprocess:
        """The same with another `mean` or `std`, where given; a border of timm's takes the mean's colour.

        Raises `OptionError` for what is no row of numbers, and for a `std` of 0.
        """
        if mean is None and std is None:
            return self
        mean, std = _numbers("mean", mean, -1e6), _numbers("std", std, 1e-6)
        fill = self.fill
        if mean is not None and self.mode == "contain" and self.library == "timm" and fill == _border(self.mean):
            fill = _border(mean)
        mean, std = (new or tuple(map(float, old)) for new, old in ((mean, self.mean), (std, self.std)))
        return replace(self, mean=mean, std=std, fill=fill, normalize=True)

    # Steps

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        down, across = self.resize
        if self.mode == "keep":
            return height, width
        if self.mode == "squash":
            return down, across
        if self.mode == "within":
            scale = min(down / height, across / width)
            return int(height * scale), int(width * scale)
        if self.mode == "contain" or down != across:
            ratios = height / down, width / across
            ratio = max(ratios) if self.mode == "contain" else min(ratios)
            return round(height / ratio), round(width / ratio)
        short, long, side, exact = min(height, width), max(height, width), down, float(down)
        if self.longest is not None and long / short * side > self.longest:
            exact = self.longest * short / long
            side = round(exact)
        if self.longest is not None and short == side:
            return height, width
        other = int(exact * long / short)
        return (side, other) if height <= width else (other, side)

    def _in_channels(self, image: Image.Image) -> Image.Image:
        if self.channels not in (1, 3):
            raise InputError(
                f"this model takes {self.channels} channels, and pictures have three, or one",
                expected=f"a tensor (batch, {self.channels}, height, width), normalised for the model",
                got=f"a picture of {image.width} × {image.height}",
                todo="put the channels together as they were in training, and pass the tensor",
            )
        return image if self.channels == 3 else image.convert("L")

    def _scaled(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The resized picture (channel, height, width), of 8 bits; of floats with `rescale_first`."""
        if self.library != "transformers-torchvision":
            return _pixels(image.resize((size[1], size[0]), self.resample))
        name = "torchvision.transforms.v2.functional"
        functional = optional_import(name, extra="timm", purpose="prepare pictures as transformers does")
        modes = optional_import("torchvision.transforms", extra="timm", purpose="prepare pictures").InterpolationMode
        nearest = self.resample is Image.Resampling.NEAREST
        values = _pixels(image)
        if self.rescale_first:
            values = values * self.rescale
        if tuple(values.shape[1:]) == size:
            return values
        how = modes.NEAREST_EXACT if nearest else modes[self.resample.name]
        return functional.resize(values, list(size), interpolation=how, antialias=True)

    def _start(self, length: int, wanted: int) -> int:
        """Where the centre begins; below 0 where there is too little."""
        spare = length - wanted
        if self.library == "transformers":
            return spare // 2
        if self.library == "timm" and spare > 0:
            return round(spare / 2)
        return int(spare / 2)

    def _normalized(self, values: Tensor) -> Tensor:
        mean, std = (_per_channel(v, self.channels) for v in (self.mean, self.std))
        if self.library == "timm":
            floats = values.to(torch.float32).div(1 / self.rescale)
        elif self.library == "transformers":
            floats = values.double().mul(self.rescale).to(torch.float32)
        elif self.rescale_first:
            floats = values
        elif self.normalize:  # both steps at once
            mean, std = mean * (1.0 / self.rescale), std * (1.0 / self.rescale)
            floats = values.to(torch.float32)
        else:
            floats = values * self.rescale
        return floats.sub(mean).div(std) if self.normalize else floats

    # From configurations

    @staticmethod
    def from_timm(config: Mapping[str, Any]) -> Preprocess:
        """From timm's data configuration (`timm.data.resolve_model_data_config`), as `create_transform` reads it."""
        channels, *wanted = config["input_size"]
        size = height_width(wanted, "input_size")
        crop_pct = floats(config.get("crop_pct") or 0.875, "crop_pct")[0]
        down, across = (math.floor(one / crop_pct) for one in size)
        mode = {"squash": "squash", "border": "contain"}.get(str(config.get("crop_mode")), "cover")
        mean, std = floats(config["mean"]), floats(config["std"])
        name = str(config.get("interpolation") or "bilinear")
        if name == "random":
            logger.warning('timm takes bilinear or bicubic by chance for interpolation="random": bicubic is taken here')
            name = "bicubic"
        fill = _border(mean) if mode == "contain" else (0,)
        made = Preprocess(size, (down, across), cast(Any, mode), mean, std, resampling(name), fill=fill)
        return made.with_channels(channels)

    @staticmethod
    def from_open_clip(config: Mapping[str, Any]) -> Preprocess:
        """From open_clip's configuration (`open_clip.get_model_preprocess_cfg`), as `image_transform` reads it."""
        size: Any = config.get("size", 224)
        height, width = height_width(size[-2:] if isinstance(size, (list, tuple)) else size)
        how = config.get("resize_mode") or "shortest"
        modes = {"squash": "squash", "shortest": "cover", "longest": "contain"}
        if not isinstance(how, str) or how not in modes:
            raise LoadError("pictures cannot be resized as this model wants", expected=", ".join(modes), got=how)
        name = str(config.get("interpolation") or "bicubic")
        if name == "random" or (how == "shortest" and height != width):  # as open_clip has it
            name = "bicubic"
        fill = int(config.get("fill_color") or 0) if how == "longest" else 0
        mean, std = floats(config["mean"]), floats(config["std"])
        sides = (height, width)
        return Preprocess(sides, sides, cast(Any, modes[how]), mean, std, resampling(name), fill=(fill,))

    @staticmethod
    def from_hf(
        config: Mapping[str, Any], image_size: tuple[int, int], *, backend: Backend = "pil", channels: int = 3
    ) -> Preprocess:
        """From a Hugging Face `preprocessor_config.json`; what it leaves out is taken as its class has it, and where it
        names no class as for `ViTImageProcessor`, in the model's `image_size`. `backend`: which of the two kinds of
        image processors of transformers is followed.

        Raises `LoadError` for sizes that transformers does not resize to either.
        """
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        kind = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
        found = processor_settings(kind, config) if kind else {}
        if kind and not found:
            logger.warning("transformers has no %s: pictures are prepared as ViTImageProcessor does", kind)
        plain = not found  # a class that leaves a step open leaves it out
        settings = {**config, **found}
        wanted: Any = settings.get("size") or image_size
        sizes: dict[str, Any] = dict(wanted) if isinstance(wanted, Mapping) else {}
        given = {name for name, value in sizes.items() if value}
        longest: int | None = None
        if not settings.get("do_resize", plain):
            mode, resize = "keep", image_size
        elif not sizes or {"height", "width"} <= given:
            mode, resize = "squash", height_width(wanted)
        elif "shortest_edge" in given:
            mode, resize = "cover", height_width(sizes["shortest_edge"])
            longest = side(sizes["longest_edge"], "longest_edge") if sizes.get("longest_edge") else None
        elif {"max_height", "max_width"} <= given:
            mode, resize = "within", (side(sizes["max_height"], "size"), side(sizes["max_width"], "size"))
        else:
            expected = "height and width, shortest_edge, or max_height and max_width"
            raise LoadError("pictures cannot be resized as this model wants", expected=expected, got=sizes)
        final = resize if mode == "squash" else image_size
        crop = bool(settings.get("do_center_crop", False))
        if crop:
            final = height_width(settings.get("crop_size") or final)
        resample = filter_of(settings.get("resample"))
        if backend == "torchvision" and resample in (Image.Resampling.BOX, Image.Resampling.HAMMING):
            name = resample.name.lower()
            logger.warning("torchvision cannot resize by %s: pictures are prepared as with backend='pil'", name)
            backend = "pil"
        pad = settings.get("pad_size") if settings.get("do_pad") and not kind.startswith("Beit") else None
        normal = settings.get("do_normalize", plain)
        rescaled = bool(settings.get("do_rescale", plain))
        made = Preprocess(
            final,
            resize,
            cast(Any, mode),
            floats(settings.get("image_mean", (0.5, 0.5, 0.5))) if normal else (0.0, 0.0, 0.0),
            floats(settings.get("image_std", (0.5, 0.5, 0.5))) if normal else (1.0, 1.0, 1.0),
            resample,
            floats(settings.get("rescale_factor", 1 / 255), "rescale_factor")[0] if rescaled else 1.0,
            crop=crop,
            longest=longest,
            normalize=bool(normal),
            pad=height_width(pad) if pad else None,
            library="transformers" if backend == "pil" else "transformers-torchvision",
            rescale_first=kind.startswith("DINOv3") and rescaled,
        )
        return made.with_channels(channels)


def processor_settings(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an image processor of transformers, with what its class says where the configuration does not.

    Empty for a class that transformers does not have.
    """
    import transformers

    cls: Any = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind, None)
    if cls is None:
        return {}
    own = {name: value for name, value in config.items() if name not in ("image_processor_type", "auto_map")}
    try:
        return dict(cls(**own).to_dict())
    except Exception as error:
        raise LoadError(f"pictures cannot be prepared as {kind} does", got=error) from error


def _pixels(image: Image.Image) -> Tensor:
    values = torch.from_numpy(np.array(image))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()


def _cut(values: Tensor, top: int, left: int, size: tuple[int, int], fill: Sequence[int]) -> Tensor:
    """A window (height, width) of a picture, with `fill` where it goes beyond."""
    (channels, height, width), (down, across) = values.shape, size
    colour = torch.tensor(fill, dtype=values.dtype, device="cpu")[:, None, None]
    window = colour.expand(channels, down, across).clone()
    y0, y1, x0, x1 = max(top, 0), min(top + down, height), max(left, 0), min(left + across, width)
    window[:, y0 - top : y1 - top, x0 - left : x1 - left] = values[:, y0:y1, x0:x1]
    return window


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    if len(values) not in (1, channels):
        if len(set(values)) > 1:
            raise InputError(
                "mean and std do not fit the channels of the model",
                expected=f"one number, or one for each of {channels}",
                got=tuple(values),
                todo="pass mean= and std= to clew.load",
            )
        values = values[:1]
    return torch.tensor(values, dtype=torch.float32, device="cpu")[:, None, None]


def _numbers(name: str, given: Any, least: float) -> tuple[float, ...] | None:
    """One number for each channel; none of them where nothing was given."""
    if given is None:
        return None
    values: Any = given.tolist() if isinstance(given, (np.ndarray, Tensor)) else given
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise OptionError(f"{name} is a number for each channel", expected="(0.5, 0.5, 0.5)", got=short_repr(given))
    return tuple(validate_float(f"{name} of a channel", value, least, 1e6) for value in cast("Sequence[Any]", values))


def _border(mean: Sequence[float]) -> tuple[int, ...]:
    return tuple(round(255 * value) for value in mean)
