"""Reads the texts or images for one side of an image–text model, in any form that `explain` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, short_repr
from ..inputs import IMAGE_SUFFIXES, as_numbers, described, holds_pictures, one_size, pil_images, refuse_labelled_batch
from ..models import Side


@dataclass(frozen=True)
class SideInputs:
    """Several texts or several images: `items` are strings, rows of token numbers, PIL images, or tensors (channel,
    height, width). `special` says for each row of token numbers which the tokenizer added, where that is known; `more`
    are further arguments that go with images."""

    side: Side
    items: list[Any]
    special: list[Tensor] = field(default_factory=list[Tensor])
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    def select(self, indices: Sequence[int]) -> Any:
        """Some of them as `explain` takes them."""
        chosen = [self.items[i] for i in indices]
        if not isinstance(chosen[0], Tensor):
            return chosen
        if self.side == "image":
            return {"pixel_values": torch.stack(chosen), **self.more} if self.more else torch.stack(chosen)
        longest = max(len(row) for row in chosen)

        def filled(rows: Sequence[Tensor], fill: int) -> Tensor:
            return torch.stack([F.pad(row, (0, longest - len(row)), value=fill) for row in rows])

        found = {"input_ids": filled(chosen, 0), "attention_mask": filled([torch.ones_like(row) for row in chosen], 0)}
        if len(self.special) == len(self.items):
            found["special_tokens_mask"] = filled([self.special[i] for i in indices], 1)
        return found

    def name(self, index: int) -> str:
        """What one of them is called."""
        item = self.items[index]
        return item if isinstance(item, str) else f"{self.side} {index}"

    def same(self, index: int, item: Any) -> bool:
        """Whether one of them is that very item."""
        own = self.items[index]
        if isinstance(own, Tensor) and isinstance(item, Tensor):  # slices of tensors are made anew
            return own.data_ptr() == item.data_ptr() and own.shape == item.shape and own.stride() == item.stride()
        return own is item or (isinstance(own, str) and isinstance(item, str) and own == item)


def side_inputs(value: Any) -> SideInputs:
    """A text, an image or several of these. Raises `InputError` for anything else, and for both at once."""
    if isinstance(value, SideInputs):
        return value
    if isinstance(value, Mapping):
        return _of_mapping(cast("Mapping[str, Any]", value))
    if holds_pictures(value):
        return SideInputs("image", list(pil_images(value, None)))
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype.kind in "OUS" else torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return _of_tensor(value)
    items: list[Any] = list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]
    if items and isinstance(value, (list, tuple)) and all(type(item) is int for item in items):
        return SideInputs("text", [as_numbers(items)])
    if items and all(isinstance(item, str) for item in items):
        files = [item for item in items if item.lower().endswith(IMAGE_SUFFIXES) and Path(item).is_file()]
        if files:
            expected, todo = "a text, or a PIL image", "open it: clew.open_image(path)"
            raise InputError("this is the name of a picture", expected=expected, got=files[0], todo=todo)
        return SideInputs("text", items)
    refuse_labelled_batch(items)
    if items and all(isinstance(item, (Tensor, np.ndarray, list, Mapping)) for item in items):
        several = [side_inputs(item) for item in items]
        if len({(one.side, type(one.items[0])) for one in several}) == 1:
            joined = [item for one in several for item in one.items]
            one_size([item for item in joined if isinstance(item, Tensor)])
            return replace(several[0], items=joined, special=[row for one in several for row in one.special])
    raise InputError(
        "an image–text model compares texts or images",
        expected="strings, token numbers, PIL images or tensors (batch, channel, height, width), one kind at a time",
        got=described(value),
    )


def _of_mapping(given: Mapping[str, Any]) -> SideInputs:
    known = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items() if v is not None}
    ids, pixels = known.get("input_ids"), known.get("pixel_values")
    if "spatial_shapes" in known:
        raise InputError(
            "patches that are laid out already are not taken",
            expected="PIL images, or a tensor (batch, channel, height, width)",
            got=", ".join(known),
        )
    if ids is not None and pixels is not None:
        raise InputError(
            "this holds images and texts",
            expected="what is explained, and in the target what it is compared with",
            got=", ".join(known),
            todo='explain(model, inputs["pixel_values"], target=Similarity(inputs["input_ids"])), or without a target',
        )
    if isinstance(pixels, Tensor):
        return replace(_of_tensor(pixels), more={k: v for k, v in known.items() if k != "pixel_values"})
    if isinstance(ids, Mapping):
        raise InputError(
            "token numbers in a mapping", expected="a tensor (batch, token), or lists", got=short_repr(ids)
        )
    found = side_inputs(ids if ids is not None else [])
    mask, special = known.get("attention_mask"), known.get("special_tokens_mask")
    encodings: Any = getattr(given, "encodings", None)
    if special is None and encodings and len(encodings) == len(found.items):
        special = [torch.tensor(one.special_tokens_mask) for one in encodings]
    if mask is None:
        return found
    try:
        kept = [row.bool() for row in torch.as_tensor(mask).view(len(found.items), -1)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("this is no attention mask", expected="ones and zeros", got=short_repr(mask)) from error
    rows = [row[real] for row, real in zip(found.items, kept, strict=True)]
    added: Any = [] if special is None else [torch.as_tensor(s)[k] for s, k in zip(special, kept, strict=True)]
    return SideInputs("text", rows, added)


def _of_tensor(value: Tensor) -> SideInputs:
    floats = value.is_floating_point()
    picture = value.ndim == 4 or (value.ndim == 3 and value.shape[0] in (1, 3))
    if not (picture if floats else value.ndim in (1, 2)) or not value.numel():
        raise InputError(
            "this tensor holds neither images nor texts",
            expected="floats (batch, channel, height, width) as the model takes them, or token numbers (batch, token)",
            got=described(value),
        )
    several = value if value.ndim == (4 if floats else 2) else value[None]
    return SideInputs("image" if floats else "text", list(several))
