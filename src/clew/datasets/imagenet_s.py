"""ImageNet-S: validation pictures of ImageNet with masks of the object (Gao et al. 2022)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from ..inputs import IMAGE_SUFFIXES, as_rgb, decode_image
from . import Dataset, Example, joined, reader
from .imagenet import in_order, wnid_of
from .places import Files, some, stem
from .stored import Classes, class_names, unique

_UNLABELLED = 1000
_MASKS = "-segmentation/"


@reader(
    "imagenet_s",
    get="follow https://github.com/LUSSeg/ImageNet-S, which makes ImageNetS50, ImageNetS300 or ImageNetS919 of "
    "ImageNet; pass that folder",
    sees=lambda files: any(_MASKS in name for name in files.ending(".png")),
    known=("imagenets*",),
)
def imagenet_s(
    files: Files, *, split: str = "validation", wnids: Classes | None = None, classes: Classes | None = None
) -> Dataset:
    """ImageNet-S: a folder of pictures for each class in validation/, and masks in validation-segmentation/.

    Labels count ImageNet's 1,000 WordNet ids in sorted order, as trained models do. A mask's pixel holds R + 256 · G:
    0 is background, 1000 is not labelled, all other numbers are the object.
    `split`: "validation", "train-semi" or "test", where its masks are there. `wnids`: the 1,000 WordNet ids in order,
    where timm, which knows them, is not installed. `classes`: names of the classes in that order.
    """
    pictures = {stem(n): n for n in files.ending(*IMAGE_SUFFIXES) if n.startswith(f"{split}/")}
    masks = {stem(n).replace(_MASKS, "/", 1): n for n in files.ending(".png") if n.startswith(f"{split}{_MASKS}")}
    if not masks or set(masks) - set(pictures):
        got = some(sorted(set(masks) - set(pictures)), 3, "no masks")
        what, expected = f"{files.path} has masks without pictures", f"the same names in {split}/ and {split}{_MASKS}"
        raise InputError(what if masks else f"{files.path} has no masks", expected=expected, got=got)
    folders = {name: wnid_of(pictures[name]) for name in masks}
    if strange := [name for name, wnid in folders.items() if wnid is None]:
        raise InputError("pictures lie in folders named by WordNet id", expected="n01440764/…", got=some(strange, 3))
    seen = sorted({wnid for wnid in folders.values() if wnid is not None})
    order = class_names(wnids) or in_order(seen) or ()
    if missing := [wnid for wnid in seen if wnid not in order]:
        raise InputError("these are no classes of ImageNet", expected="WordNet ids of its classes", got=some(missing))
    named = class_names(classes) or order
    if len(named) != len(order):
        raise OptionError("these are not the names of all classes", expected=len(order), got=len(named))
    names = sorted(masks)
    labels = [order.index(str(folders[name])) for name in names]
    ids = unique(name.rpartition("/")[2] for name in names)
    return _Pictures(files, [(pictures[n], masks[n]) for n in names], labels, ids, named)


@dataclass(eq=False, repr=False)
class _Pictures(Dataset):
    """Pictures with coloured masks, read one at a time."""

    files: Files
    pairs: list[tuple[str, str]]
    labels: list[int]
    ids: Sequence[str]
    classes: Sequence[str] | None

    def __post_init__(self) -> None:
        self.name = Path(self.files.path).name

    def content(self, index: int) -> bytes:
        picture, mask = self.pairs[index]
        return joined({"image": self.files.read(picture), "mask": self.files.read(mask), "label": self.labels[index]})

    def read(self, index: int) -> Example:
        picture, mask = self.pairs[index]
        where = self.files.where(picture)
        image = as_rgb(decode_image(io.BytesIO(self.files.read(picture)), where), where)
        found = _object(self.files.read(mask), self.files.where(mask))
        if found.shape != image.size[::-1]:
            what, got = f"the mask of {where} has another size than the picture", found.shape
            raise InputError(what, expected=image.size[::-1], got=got)
        return Example(id=self.ids[index], image=image, mask=found, label=self.labels[index])


def _object(data: bytes, where: str) -> NDArray[np.int8]:
    """1 object, 0 background, -1 not labelled."""
    values = np.asarray(decode_image(io.BytesIO(data), where)).astype(np.int64)
    if values.ndim != 3 or values.shape[2] < 3:
        raise InputError(f"{where} is no mask of ImageNet-S", expected="an RGB picture", got=values.shape)
    numbers = values[..., 0] + 256 * values[..., 1]
    return np.where(numbers == _UNLABELLED, -1, numbers > 0).astype(np.int8)
