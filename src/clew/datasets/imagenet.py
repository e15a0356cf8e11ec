"""ImageNet's validation pictures: in a folder for each class, in one folder, or in the archive as distributed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, OptionError, optional_import
from ..inputs import IMAGE_SUFFIXES
from . import Dataset, reader
from .imagenet_labels import find_labels, validation_labels
from .labels import Classes, Label, class_names, unique
from .places import Files, open_files
from .sheets import stem
from .stored import Entries, Entry

_TAR = "ILSVRC2012_img_val.tar"
_WNID = re.compile(r"n\d{8}")
_OWN = re.compile(r"ILSVRC2012_val_\d{8}", re.IGNORECASE)


def _sees(files: Files) -> bool:
    names = files.ending(*IMAGE_SUFFIXES)
    return _TAR in files.names or (
        bool(names) and (all(_folder(n) for n in names) or all(_OWN.search(n) and "/" not in n for n in names))
    )


@reader(
    "imagenet",
    what="ImageNet's validation set: a folder for each class (n01440764/…), one folder, or the .tar as distributed",
    get=f"log in at https://image-net.org/download.php, download {_TAR} (MD5 29b22e2961454d5413ddabcf34fc5622) and, "
    "for the labels, ILSVRC2012_devkit_t12.tar.gz (MD5 fa75699e90414af021442c21a62c3abf) to one folder, and pass that",
    sees=_sees,
    known=("ilsvrc2012*", "imagenet*"),
)
def imagenet(
    files: Files,
    *,
    labels: str | Path | None = None,
    meta: str | Path | None = None,
    wnids: Classes | None = None,
    classes: Classes | None = None,
) -> Dataset:
    """ImageNet's validation pictures. Labels count the 1,000 WordNet ids in sorted order, as trained models do.

    In folders named by WordNet id, the folder is the class. For pictures without folders, or the .tar:
    `labels`: the devkit (ILSVRC2012_devkit_t12.tar.gz, or its folder); its ILSVRC2012_validation_ground_truth.txt,
    whose numbers mean nothing without meta.mat, looked for beside it or passed as `meta`; a text file with a WordNet id
    or an index from 0 on each line, line k for picture number k; one with "PICTURE LABEL" on each line; or a csv with
    the columns ImageId and PredictionString, or with a column for the picture and one for the class. By default one of
    these that lies beside the pictures, by its usual name; without any, examples have no labels.
    `wnids`: the 1,000 WordNet ids in order, where fewer classes are there and timm, which knows them, is not installed.
    `classes`: names of the classes in that order; by default their WordNet ids.

    Examples are ordered by class and name, which is what lists of positions (`pert_index.npy`) mean, in every layout.
    Raises `InputError` for pictures whose label is not known.
    """
    beside = files.path if files.path.is_dir() else files.path.parent
    if _TAR in files.names:
        files = open_files(files.path / _TAR)
    names = files.ending(*IMAGE_SUFFIXES)
    inside = [name for name in names if name.startswith("val/")]
    names = inside or names
    folders = [_folder(name) for name in names]
    order: Sequence[str] | None = None
    found: list[str | int | None]
    if None not in folders:
        found = list(folders)
    else:
        source = Path(labels).expanduser() if labels is not None else find_labels(beside)
        if source is None:
            found = [None] * len(names)
            several = sorted({name.rpartition("/")[0] for name in names})
            if len(several) > 1:
                raise InputError(
                    f"{files.path} has folders that are no classes of ImageNet",
                    expected="folders named by WordNet id, or no folders",
                    got=", ".join(several[:5]),
                    todo="pass kind='images' for folders with names of classes",
                )
        else:
            by_name, order = validation_labels(source, Path(meta).expanduser() if meta is not None else None)
            found = [by_name.get(_name(name).upper()) for name in names]
            lacking = [name for name, label in zip(names, found, strict=True) if label is None]
            if lacking:
                raise InputError(
                    f"{source} has no labels for {len(lacking)} of {len(names)} pictures",
                    expected="a label for each",
                    got=", ".join(lacking[:3]),
                )
    indices, known = _indices(found, class_names(wnids) or order)
    named = class_names(classes)
    if named is not None and len(named) != len(known or named):
        raise OptionError("these are not the names of all classes", expected=f"{len(known or ())}", got=len(named))
    rows = sorted(zip(indices, map(_name, names), names, strict=True), key=lambda row: (row[0] or 0, row[1]))
    ids = unique([name for _, name, _ in rows])
    entries = [Entry(id, image=file, label=label) for id, (label, _, file) in zip(ids, rows, strict=True)]
    return Entries(files, entries, named or known)


def _name(file: str) -> str:
    return stem(file).rpartition("/")[2]


def _folder(name: str) -> str | None:
    """The WordNet id of the folder that a picture lies in."""
    folder = name.split("/")[-2] if "/" in name else ""
    return folder if _WNID.fullmatch(folder) else None


def _indices(
    labels: Sequence[str | int | None], order: Sequence[str] | None
) -> tuple[list[int | None], tuple[str, ...] | None]:
    """Positions in the order of ImageNet's classes, and that order where labels are WordNet ids or it is given."""
    seen = sorted({label for label in labels if isinstance(label, str)})
    if order is None and seen:
        order = seen if len(seen) == 1000 else _all_wnids()
    places: dict[Label, int] = {name: i for i, name in enumerate(order or ())}
    strange = [name for name in seen if name not in places]
    if strange:
        raise InputError(
            "these are no classes of ImageNet",
            expected="WordNet ids of its 1,000 classes",
            got=", ".join(strange[:5]),
            todo="pass kind='images' for other classes, or wnids=…",
        )
    found = [places[label] if isinstance(label, str) else label for label in labels]
    return found, tuple(order) if order else None


def _all_wnids() -> list[str]:
    data = optional_import("timm.data", extra="timm", purpose="number a part of ImageNet's classes (or pass wnids=…)")
    return list(data.ImageNetInfo().label_names())
