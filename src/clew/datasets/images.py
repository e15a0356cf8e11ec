"""Pictures in a folder for each class, or with a table of labels."""

from __future__ import annotations

from pathlib import Path

from ..inputs import IMAGE_SUFFIXES
from . import Dataset, reader
from .labels import Classes, by_folder, indexed, unique
from .places import Files
from .sheets import picked, stem
from .stored import Entries, Entry


def _sees(files: Files) -> bool:
    return bool(files.ending(*IMAGE_SUFFIXES))


@reader(
    "images",
    what="pictures, in a folder for each class (CLASS/*.png) or with a table of labels",
    get="pass the folder (or zip, or tar) that holds the folders of the classes",
    sees=_sees,
    general=True,
)
def images(files: Files, *, classes: Classes | None = None, labels: str | Path | None = None) -> Dataset:
    """Pictures of a folder, a zip or a tar: the first folder that a picture lies in is its class.

    `classes`: names of the folders in the order of the model's classes, as a list or a text file; by default sorted by
    name. Pictures without folders, or in one folder alone where `classes` is not given, have no label.
    `labels`: a table (csv, tsv, …) with a column for the picture (`image`, `frame`, `file`, …) and one for the class
    (`class_index`, or `class`, `class_name`, `label`); pictures that it does not name are left out.

    Raises `InputError` for classes that are not in `classes`.
    """
    names = files.ending(*IMAGE_SUFFIXES)
    ids = unique([stem(name) for name in names])
    if labels is not None:
        pictures = {id: Entry(id, image=name) for id, name in zip(ids, names, strict=True)}
        return Entries(files, *picked(files, labels, pictures, classes, crops=False))
    found, known = indexed(by_folder(names, classes), classes, str(files.path), positions=False)
    return Entries(files, [Entry(id, image=n, label=c) for id, n, c in zip(ids, names, found, strict=True)], known)
