"""Pictures as people have them in hand: PIL images, arrays of 8 bits, and floats that are ready for a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, short_repr
from .image_files import IMAGE_SUFFIXES

logger = logging.getLogger("clew")

_RAW = (torch.uint8, torch.uint16)
_DEEPEST = 8
_TARGETS = "clew.targets.kinds"  # which hold what is compared with
_COLOURS = (1, 3, 4)  # grey, RGB, and RGB with transparency

# What makes a module in memory one that takes pictures and words, and names its classes.
OWN_MODEL = "clew.LoadedModel(model, clew.Preprocess(size=(224, 224)), labels=[…]), see docs/any-model.md"


def advice_on(value: Any) -> str | None:
    """What to do about an input of file names, pictures or words where a tensor is needed; None for anything else."""
    first = next(iter(items_of(value)), None)
    if hasattr(first, "__fspath__") or (isinstance(first, str) and first.lower().endswith(IMAGE_SUFFIXES)):
        return "open picture files with clew.open_image(path)"
    if isinstance(first, Image.Image):
        return f"say how pictures become tensors: {OWN_MODEL}; or prepare them yourself"
    if isinstance(first, str):
        return "say how words become tokens: clew.LoadedModel(model, tokenizer=…); or pass what the tokenizer gives"
    return None


def described(value: Any) -> str:
    """What came, with the shapes that it came in."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {tuple(cast(Any, value).shape)}"
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        items: Sequence[Any] = cast("Sequence[Any]", value)
        some = "; ".join(described(item) for item in items[:3]) + ("; …" if len(items) > 3 else "")
        return f"a {type(items).__name__} of {len(items)}: {some}" if items else "nothing"
    return repr(value) if isinstance(value, str) else type(value).__name__


def column_as_list(value: Any) -> Any:
    """A column of a table (a Series of pandas or polars) as a list; anything else as it is."""
    column = hasattr(value, "to_list") and hasattr(value, "to_numpy") and not hasattr(value, "columns")
    return value.to_list() if column else value


def refuse_unreadable(value: Any, what: str = "the input") -> None:
    """Raise `InputError` for lists in lists deeper than any input is, perhaps themselves in themselves, and for tensors
    whose values are not in memory one after the other: sparse ones, those of the device "meta"."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        one, level = waiting.pop()
        if isinstance(one, Tensor):
            if one.layout != torch.strided or one.is_meta:
                got = "a tensor on the device meta" if one.is_meta else f"a tensor of the layout {one.layout}"
                todo = None if one.is_meta else "tensor.to_dense()"
                raise InputError(
                    f"{what} has no values that can be read", expected="a dense tensor", got=got, todo=todo
                )
        elif level > _DEEPEST:
            expected = f"at most {_DEEPEST} lists in lists"
            raise InputError(f"{what} is nested too deep", expected=expected, got=short_repr(value))
        elif isinstance(one, (list, tuple)):
            some = cast("Sequence[Any]", one)
            waiting += [(inner, level + 1) for inner in some if not isinstance(inner, (int, float, str))]
        elif isinstance(one, Mapping):
            waiting += [(inner, level + 1) for inner in cast("Mapping[Any, Any]", one).values()]
        elif type(one).__module__ == _TARGETS:
            waiting += [(inner, level + 1) for inner in vars(one).values()]


def holds_pictures(value: Any) -> bool:
    """Whether there is a raw picture: a PIL image, or an array or tensor of 8 bits (grey also of 16)."""
    return any(isinstance(item, Image.Image) or _is_raw(item) for item in items_of(value))


def pil_images(value: Any, channels: int | None) -> list[Image.Image]:
    """PIL images of raw pictures, one or several.

    A stack (n, height, width) holds grey pictures, unless its first axis can be that of colours and the model takes
    these. Raises `InputError` for pictures beside other things.
    """
    items = items_of(value)
    refuse_labelled_batch(items)
    if not all(map(holds_pictures, items)):
        raise InputError(
            "these are pictures and something else",
            expected="pictures of one kind: PIL images, arrays of 8 bits, or floats that are normalised for the model",
            got=described(value),
        )
    found: list[Image.Image] = []
    for item in items:
        found += [item] if isinstance(item, Image.Image) else _opened(item, channels, alone=len(items) == 1)
    return found


def batch_of(value: Any, channels: int | None) -> Tensor:
    """Floats that are ready for a model, (batch, channel, height, width): a batch, one picture, or a list of these.

    For a model of one channel (batch, height, width) and (height, width) are grey pictures. Raises `InputError` for
    anything else, in the shapes that it came in.
    """
    if not isinstance(value, (list, tuple)):
        if not isinstance(value, (Tensor, np.ndarray)):
            raise _no_images(value)
        return check_image_batch(_with_batch(_tensor(value), channels, alone=True), channels, value)
    items = items_of(value)
    refuse_labelled_batch(items)
    if not items or not all(isinstance(item, (Tensor, np.ndarray)) for item in items):
        raise _no_images(value)
    several = [check_image_batch(_with_batch(_tensor(item), channels, alone=False), channels, item) for item in items]
    one_size([x[0] for x in several])
    return torch.cat([x.to(several[0]) for x in several])


def check_image_batch(x: Tensor, channels: int | None, given: Any) -> Tensor:
    """The batch itself. Raises `InputError`, with what was `given`, where it is no batch of images for this model."""
    wrong = x.ndim != 4 or not x.is_floating_point() or 0 in x.shape
    if wrong or (channels and x.shape[1] != channels):
        raise InputError(
            "the input is not a batch of images for this model",
            expected=f"floats of shape (batch, {channels or 'channel'}, height, width), normalised for the model",
            got=described(given),
            todo=_advice(x, channels, one=isinstance(given, (Tensor, np.ndarray)) and given.ndim == 3),
        )
    return x


def one_size(items: Sequence[Tensor]) -> None:
    """Raise `InputError` for images of several sizes; what is no image does not count."""
    sizes = {tuple(item.shape) for item in items if item.is_floating_point()}
    if len(sizes) > 1:
        raise InputError(
            "images in one call have one size",
            expected="equal shapes",
            got=", ".join(map(str, sorted(sizes))),
            todo="resize them, or pass PIL images to a model from clew.load",
        )


def refuse_labelled_batch(items: Sequence[Any]) -> None:
    """Raise `InputError` for [x, y], a batch as a `DataLoader` gives it."""
    if len(items) < 2:
        return
    (first, second), several = items[:2], 0
    if not isinstance(first, Image.Image):
        several = cast(Any, first).ndim if isinstance(first, (Tensor, np.ndarray)) else 0
        if several < 3:
            return
    classes = isinstance(second, (int, np.integer))
    labels = classes or isinstance(second, (list, Mapping)) or (isinstance(second, tuple) and several > 3)
    if isinstance(second, (Tensor, np.ndarray)) and several:
        axes: int = cast(Any, second).ndim
        labels = axes < 2 or (axes == 2 and several == 4)
        classes = axes < 2 and not _tensor(second).is_floating_point()
    if labels:
        one = several < 4
        raise InputError(
            f"this is {'a picture with its label' if one else 'a batch with its labels'}, as a "
            f"{'data set' if one else 'DataLoader'} gives it",
            expected="the images alone",
            got=described(items),
            todo="pass its first part: explain(model, batch[0]" + (", target=batch[1])" if classes else ")"),
        )


def items_of(value: Any) -> list[Any]:
    """What a list or tuple holds, or the one thing that it is."""
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]


def _is_raw(value: Any) -> bool:
    """Whether these are colours of 8 bits, or greys of 16, as files have them."""
    if isinstance(value, np.ndarray):
        return value.dtype in (np.uint8, np.uint16) and value.ndim > 1
    return isinstance(value, Tensor) and value.dtype in _RAW and value.ndim > 1


def _opened(value: Any, channels: int | None, *, alone: bool) -> list[Image.Image]:
    array: Any = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    shape: tuple[int, ...] = array.shape
    last, first = shape[len(shape) - 1] in _COLOURS, len(shape) > 2 and shape[-3] in _COLOURS
    stack = len(shape) == 3 and not last and (not first or channels == 1)
    if len(shape) not in (2, 3, 4) or 0 in shape or (len(shape) == 4 and not (last or first)):
        raise InputError(
            "these are no pictures",
            expected="(height, width, 3) in RGB order, (height, width) for grey, or several of these",
            got=described(value),
        )
    if len(shape) == 2 or stack:
        pictures = [array] if len(shape) == 2 else list(array)
    else:
        if not last or (first and isinstance(value, Tensor)):  # tensors have their channels first
            if alone and len(shape) == 3 and shape[0] > 1 and not isinstance(value, Tensor):
                _say_one_picture(shape)
            array = np.moveaxis(array, -3, -1)
        elif isinstance(value, np.ndarray) and shape[len(shape) - 1] == 3:
            _say_order()
        pictures = [array] if len(shape) == 3 else list(array)
    if array.dtype == np.uint16 and pictures[0].ndim == 3 and pictures[0].shape[-1] > 1:
        raise InputError(
            "colours have 8 bits here", expected="uint8, or one channel of uint16", got=described(value),
            todo="scale them: (x / x.max() * 255).astype(numpy.uint8)",
        )  # fmt: skip
    squeezed = [p[..., 0] if p.ndim == 3 and p.shape[-1] == 1 else p for p in pictures]
    return [Image.fromarray(np.ascontiguousarray(p)) for p in squeezed]


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:  # objects, words
        raise _no_images(value) from error


def _with_batch(x: Tensor, channels: int | None, *, alone: bool) -> Tensor:
    if x.ndim == 2 and channels == 1:
        return x[None, None]
    if x.ndim != 3:
        return x
    if channels == 1:  # grey pictures, one after the other; (1, height, width) is one either way
        return x if x.shape[-1] == 1 and x.shape[0] != 1 else x[:, None]
    if alone and x.shape[0] > 1 and (channels is None or x.shape[0] == channels) and x.is_floating_point():
        _say_one_picture(tuple(x.shape))
    return x[None]


def _advice(x: Tensor, channels: int | None, *, one: bool) -> str:
    """What to do about a tensor that is no batch of images for a model; `one`: it came without an axis for these."""
    load = "or pass a PIL image to a model from clew.load"
    if x.numel() == 0:
        return "pass at least one picture"
    if not x.is_floating_point():
        if x.dtype in _RAW:
            return (
                "pass it to a model from clew.load, which prepares pictures of 8 bits (RGB), or normalise it yourself"
            )
        return "turn whole numbers into floats and normalise them, or pass pictures of 8 bits to a model from clew.load"
    if x.ndim > 4:
        return "pass single pictures (frames, slices), or a model that takes them on four axes"
    if x.ndim < 3 or channels is None:
        return f"give it four axes: (batch, channel, height, width), {load}"
    have = x.shape[-3]
    if x.shape[-1] == channels and have != channels:
        order = "2, 0, 1" if x.ndim == 3 or one else "0, 3, 1, 2"
        return f"put the channels first: x.permute({order})"
    if have == 1 and channels == 3:
        return f"repeat the grey channel: x.expand(-1, 3, -1, -1), {load}"
    if have == 3 and channels == 1:
        return f"turn it grey, one channel: x.mean(1, keepdim=True), {load}"
    if have == 4 and channels == 3:
        return f"leave out the fourth channel (transparency) if it is one: x[:, :3], {load}"
    return f"pass {channels} channel{'s' if channels > 1 else ''}, as in training; grey pictures are (batch, 1, …)"


def _no_images(value: Any) -> InputError:
    kinds = {type(item) for item in items_of(value)}
    path = any(isinstance(item, str) or hasattr(item, "__fspath__") for item in items_of(value))
    numbers = bool(kinds) and kinds <= {int, float, list, tuple}
    if path:
        todo = "open picture files with clew.open_image(path)"
    elif numbers:
        todo = "make a tensor of it: torch.tensor(x)"
    else:
        todo = "pass floats that are normalised for the model, or pictures to a model from clew.load"
    return InputError(
        "these inputs cannot be explained",
        expected="a tensor or array (batch, channel, height, width), a list or mapping of these, or PIL images",
        got=described(value),
        todo=todo,
    )


@cache
def _say_one_picture(shape: tuple[int, ...]) -> None:
    logger.warning(
        "%s is taken as one picture of %d channels (channel, height, width), not as %d grey pictures",
        shape,
        shape[0],
        shape[0],
    )


@cache
def _say_order() -> None:
    logger.warning("arrays of 8 bits are read as RGB; cv2.imread gives BGR, so turn that round: image[..., ::-1]")
