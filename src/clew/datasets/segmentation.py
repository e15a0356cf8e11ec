"""ImageNet-Segmentation: 4,276 pictures with masks in one MATLAB file (Guillaumin, Küttel & Ferrari 2014)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError, optional_import
from . import Dataset, Example, reader
from .labels import Classes, class_names, unique
from .places import Files, Handle

_URL = "http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat"


def _sees(files: Files) -> bool:
    return len(files.names) == 1 and files.names[0].lower().endswith(".mat")


@reader(
    "imagenet_segmentation",
    what="ImageNet-Segmentation, gtsegs_ijcv.mat",
    get=f"download {_URL} and pass the path of the file",
    sees=_sees,
    known=("*.mat",),
)
def imagenet_segmentation(files: Files, *, classes: Classes | None = None) -> Dataset:
    """ImageNet-Segmentation from `gtsegs_ijcv.mat`, a MATLAB 7.3 file (HDF5).

    Ids are ImageNet's names of the pictures and labels WordNet ids ("n01443537"), where the file holds them.
    `classes`: WordNet ids in the order of the model's classes; a label then is a position among them, None for others.

    Needs h5py. Raises `InputError` for a file of another kind.
    """
    return GuillauminSegmentation(files.path, classes)


class GuillauminSegmentation(Dataset):
    """The pictures and masks of `gtsegs_ijcv.mat`: MATLAB keeps axes in reverse, (3, width, height)."""

    def __init__(self, path: Path, classes: Classes | None = None) -> None:
        self.name, self._path = path.name, path
        self._file = Handle(partial(_open, path))
        self.classes = class_names(classes)
        file = self._file.get()
        lacking = [name for name in ("value/img", "value/gt") if name not in file]
        if lacking:
            raise InputError(
                f"{path} is no ImageNet-Segmentation file",
                expected="value/img and value/gt in it",
                got=", ".join(file) or "an empty file",
                todo=f"download {_URL}",
            )
        try:
            self._count = len(file["value/img"])
            ids, self._wnids = self._words("value/id"), self._words("value/target")
        except Exception as error:  # h5py says this and that of what is broken
            raise InputError(f"{path} cannot be read", expected="names as MATLAB writes them", got=error) from error
        self.ids = unique(ids) if ids is not None else [f"{i:04d}" for i in range(self._count)]

    def read(self, index: int) -> Example:
        file = self._file.get()
        try:
            image = _array(file[file["value/img"][index, 0]]).T
            mask = file[file["value/gt"][index, 0]]
            mask = _array(file[mask[0, 0]] if mask.dtype == object else mask).T
            picture = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
        except Exception as error:  # h5py says this and that of what is broken
            expected = "a picture and its mask"
            raise InputError(f"{self._path}: picture {index} cannot be read", expected=expected, got=error) from error
        if mask.shape != image.shape[:2]:
            raise InputError(
                f"{self._path}: the mask of picture {index} has another size",
                expected=f"{image.shape[1]} x {image.shape[0]} pixels",
                got=" x ".join(map(str, mask.shape[::-1])),
            )
        label: Any = None if self._wnids is None else self._wnids[index]
        if self.classes is not None:
            label = self.classes.index(label) if label in self.classes else None
        return Example(id=self.ids[index], image=picture, mask=(mask > 0).astype(np.int8), label=label)

    def _words(self, name: str) -> list[str] | None:
        """A text for each picture: MATLAB writes characters as 16-bit numbers."""
        file = self._file.get()
        if name not in file or len(file[name]) != self._count:
            return None
        codes = (_array(file[file[name][i, 0]]).ravel() for i in range(self._count))
        return ["".join(map(chr, code.tolist())).strip() for code in codes]


def _array(stored: Any) -> Any:
    """The values of an array, which need not be in the file to be counted in its shape."""
    if stored.size > 3 * (Image.MAX_IMAGE_PIXELS or 2**27):
        raise ValueError(f"an array of {stored.shape}")
    return np.asarray(stored)


def _open(path: Path) -> Any:
    h5py = optional_import("h5py", extra="bench", purpose="read MATLAB 7.3 files")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened", expected="a MATLAB 7.3 file (HDF5)", got=error, todo=f"download {_URL} again"
        ) from error
