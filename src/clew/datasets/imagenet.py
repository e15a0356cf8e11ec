"""ImageNet's validation pictures, with the forms in which their labels are passed around, and ImageNet-Segmentation."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError, OptionError, optional_import
from ..inputs import IMAGE_SUFFIXES
from ..validation import parse_integer
from . import Dataset, Example, reader
from .places import Files, FolderFiles, Handle, TarFiles, open_files, reading, some, stem
from .stored import Classes, Entry, class_names, in_files, unique
from .tables import column, columns, read_rows

_TAR, _TRUTH, _META = "ILSVRC2012_img_val.tar", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_USUAL = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12", _TRUTH, "val_map.txt", "LOC_val_solution.csv")
_PICTURE = ("ImageId", "image", "picture", "file", "filename", "id")
_CLASS = ("PredictionString", "wnid", "class_index", "label", "class")
_URL = "http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat"
_NAME = "ILSVRC2012_VAL_{:08d}"
_WNID = re.compile(r"n\d{8}")
_OWN = re.compile(r"ILSVRC2012_val_\d{8}", re.IGNORECASE)
Written = str | int  # a WordNet id, or an index from 0


def _sees(files: Files) -> bool:
    names = files.ending(*IMAGE_SUFFIXES)
    if any(name.split("/")[0].endswith("-segmentation") for name in names):  # ImageNet-S
        return False
    own = all(map(wnid_of, names)) or all(_OWN.search(name) and "/" not in name for name in names)
    return _TAR in files.names or (bool(names) and own)


@reader(
    "imagenet",
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
    """ImageNet's validation set: a folder for each class (n01440764/…), one folder, or the .tar as distributed.

    Labels count the 1,000 WordNet ids in sorted order, as trained models do. In folders named by WordNet id, the folder
    is the class. For pictures without folders, or the .tar:
    `labels`: the devkit (ILSVRC2012_devkit_t12.tar.gz, or its folder); its ILSVRC2012_validation_ground_truth.txt,
    with meta.mat beside it or passed as `meta`; a text file with a WordNet id or an index from 0 on each line, line k
    for picture number k, or with "PICTURE LABEL"; or a csv with the columns ImageId and PredictionString, or with one
    for the picture and one for the class. By default one that lies beside the pictures; else there are no labels.
    `wnids`: the 1,000 WordNet ids in order, where fewer classes are there and timm, which knows them, is not installed.
    `classes`: names of the classes in that order; by default their WordNet ids.
    Examples are ordered by class and name, which is what lists of positions (`pert_index.npy`) mean, in every layout.
    """
    beside = files.path if files.path.is_dir() else files.path.parent
    if _TAR in files.names:
        files = open_files(files.path / _TAR)
    names = files.ending(*IMAGE_SUFFIXES)
    names = [name for name in names if name.startswith("val/")] or names
    pictures = [stem(name).rpartition("/")[2] for name in names]
    found: list[Written | None] = [wnid_of(name) for name in names]
    order, named = class_names(wnids), class_names(classes)
    if None in found:
        usual = next((beside / name for name in _USUAL if (beside / name).exists()), None)
        source = Path(labels).expanduser() if labels is not None else usual
        by_name, own = ({}, None) if source is None else _labels(source, meta)
        found, order = [by_name.get(name.upper()) for name in pictures], order or own
        lacking = [name for name, label in zip(names, found, strict=True) if label is None]
        if source is not None and lacking:
            what = f"{source} has no labels for {len(lacking)} of {len(names)} pictures"
            raise InputError(what, expected="a label for each", got=some(lacking, 3))
        several = sorted({name.rpartition("/")[0] for name in names})
        if source is None and len(several) > 1:
            what, todo = f"{files.path} has folders that are no classes of ImageNet", "pass kind='images'"
            raise InputError(what, expected="folders named by WordNet id, or none", got=some(several), todo=todo)
    seen = sorted({label for label in found if isinstance(label, str)})
    order = order or in_order(seen)
    places = {name: i for i, name in enumerate(order or ())}
    if strange := [name for name in seen if name not in places]:
        what, todo = "these are no classes of ImageNet", "pass kind='images' for other classes, or wnids=…"
        raise InputError(what, expected="WordNet ids of its 1,000 classes", got=some(strange), todo=todo)
    if named is not None and len(named) != len(order or named):
        raise OptionError("these are not the names of all classes", expected=len(order or ()), got=len(named))
    indices = [places[label] if isinstance(label, str) else label for label in found]
    rows = sorted(zip(indices, pictures, names, strict=True), key=lambda row: (row[0] or 0, row[1]))
    ids = unique(picture for _, picture, _ in rows)
    entries = [Entry(files, id, image=name) for id, (_, _, name) in zip(ids, rows, strict=True)]
    return in_files(files, entries, [label for label, _, _ in rows], named or order)


def wnid_of(name: str) -> str | None:
    """The WordNet id of the folder that a picture lies in."""
    folder = name.split("/")[-2] if "/" in name else ""
    return folder if _WNID.fullmatch(folder) else None


def in_order(seen: Sequence[str]) -> tuple[str, ...] | None:
    """The 1,000 WordNet ids in their order, of which some were seen; None where none was."""
    if not seen or len(seen) == 1000:
        return tuple(seen) or None
    timm = optional_import("timm.data", extra="timm", purpose="number some of ImageNet's classes (or pass wnids=…)")
    return tuple(timm.ImageNetInfo().label_names())


def _labels(source: Path, meta: str | Path | None) -> tuple[dict[str, Written], tuple[str, ...] | None]:
    """Labels by the names of pictures without suffix, in capitals; with the devkit, also all WordNet ids, sorted."""
    if source.is_dir() or source.name.lower().endswith(".tar.gz"):
        files = FolderFiles(source) if source.is_dir() else TarFiles(source, packed=True)
        inside = {name.rpartition("/")[2]: name for name in files.names}
        if lacking := [name for name in (_TRUTH, _META) if name not in inside]:
            raise InputError(f"no {lacking[0]} in {source}", expected="the ImageNet devkit", got=some(files.names))
        return _devkit(files.text(inside[_TRUTH]), files.read(inside[_META]), source)
    files, name = open_files(source), source.name
    if name.startswith(_TRUTH.removesuffix(".txt")):
        place = Path(meta).expanduser() if meta is not None else source.parent / _META
        if not place.is_file():
            what = f"{source} numbers classes in the devkit's own way, which is not the order of models"
            expected = f"the devkit's {_META}, which says what the numbers mean"
            todo = "pass meta=…, or the whole devkit as labels=…, or a file of WordNet ids or indices from 0"
            raise InputError(what, expected=expected, got=f"no {place}", todo=todo)
        return _devkit(files.text(name), place.read_bytes(), source)
    if source.suffix.lower() == ".txt":
        pairs = [line.split() for line in files.text(name).splitlines() if line.strip()]
        if {len(pair) for pair in pairs} == {1}:
            pairs = [[_NAME.format(i), label] for i, (label,) in enumerate(pairs, 1)]
        if any(len(pair) != 2 for pair in pairs):
            expected, got = "LABEL, or PICTURE LABEL, on each line", " ".join(pairs[0])
            raise InputError(f"{source} is no list of labels", expected=expected, got=got)
    else:
        rows = read_rows(files, name)
        picture, label = (column(columns(rows), usual, str(source)) for usual in (_PICTURE, _CLASS))
        if picture is None or label is None:
            expected = "ImageId and PredictionString; or image, and wnid or class_index"
            raise InputError(f"{source} lacks columns", expected=expected, got=some(columns(rows), 20, "no rows"))
        # What follows the class in a PredictionString are boxes.
        pairs = [[str(row[picture]), [*str(row[label]).split(), ""][0]] for row in rows]
    return {Path(name).stem.upper(): _checked(label, source) for name, label in pairs}, None


def _devkit(truth: str, meta: bytes, source: Path) -> tuple[dict[str, Written], tuple[str, ...]]:
    """The devkit's numbers, 1 to 1,000, to WordNet ids: meta.mat tells; numbers above are groups of classes."""
    scipy_io = optional_import("scipy.io", extra="bench", purpose="read the ImageNet devkit")
    with reading(f"{_META} of {source}", "the devkit's meta.mat", Exception):  # its reader says this and that
        synsets: Any = scipy_io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        fields = [synsets[name].tolist() for name in ("ILSVRC2012_ID", "WNID", "num_children")]
        of_number = {int(n): str(w) for n, w, children in zip(*fields, strict=True) if children == 0}
    written = truth.split()
    if strange := sorted({n for n in written if parse_integer(n) not in of_number}):
        raise InputError(f"{source} has numbers that {_META} does not know", got=some(strange))
    labels: dict[str, Written] = {_NAME.format(i): of_number[int(n)] for i, n in enumerate(written, 1)}
    return labels, tuple(sorted(of_number.values()))


def _checked(written: str, source: Path) -> Written:
    number = parse_integer(written)
    if _WNID.fullmatch(written) or (number is not None and 0 <= number < 1000):
        return written if number is None else number
    what, expected = f"{source} has a label that is no class", "a WordNet id (n01440764) or an index from 0 to 999"
    todo = "if these are the devkit's numbers, 1 to 1000, pass the devkit itself as labels=…"
    raise InputError(what, expected=expected, got=written[:40] or "nothing", todo=todo)


@reader(
    "imagenet_segmentation",
    get=f"download {_URL} and pass the path of the file",
    sees=lambda files: len(files.names) == 1 and bool(files.ending(".mat")),
    known=("*.mat",),
)
def imagenet_segmentation(files: Files, *, classes: Classes | None = None) -> Dataset:
    """ImageNet-Segmentation, gtsegs_ijcv.mat: a MATLAB 7.3 file (HDF5).

    Ids are ImageNet's names of the pictures and labels WordNet ids ("n01443537"), where the file holds them.
    `classes`: WordNet ids in the order of the model's classes; a label then is a position among them, None for others.
    Needs h5py.
    """
    return _Segmentation(files.path, classes)


class _Segmentation(Dataset):
    """The pictures and masks of `gtsegs_ijcv.mat`: MATLAB keeps axes in reverse, (3, width, height)."""

    def __init__(self, path: Path, classes: Classes | None) -> None:
        self.name, self._path, self.classes = path.name, path, class_names(classes)
        self._file = Handle(partial(_open, path))
        file = self._file.get()
        if "value/img" not in file or "value/gt" not in file:
            what, expected = f"{path} is no ImageNet-Segmentation file", "value/img and value/gt in it"
            raise InputError(what, expected=expected, got=some(file, none="an empty file"), todo=f"download {_URL}")
        with reading(path, "names as MATLAB writes them", Exception):  # h5py says this and that of what is broken
            ids, self._wnids = (self._words(f"value/{name}", len(file["value/img"])) for name in ("id", "target"))
        self.ids = unique(ids or [f"{i:04d}" for i in range(len(file["value/img"]))])

    def read(self, index: int) -> Example:
        file, where = self._file.get(), f"{self._path}: picture {index}"
        with reading(where, "a picture and its mask", Exception):
            image = _array(file[file["value/img"][index, 0]]).T
            mask = file[file["value/gt"][index, 0]]
            mask = _array(file[mask[0, 0]] if mask.dtype == object else mask).T
            picture = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
        if mask.shape != image.shape[:2]:
            what, got = f"{where} has another size than its mask", " x ".join(map(str, mask.shape[::-1]))
            raise InputError(what, expected=f"{image.shape[1]} x {image.shape[0]} pixels", got=got)
        label: Any = None if self._wnids is None else self._wnids[index]
        if self.classes is not None:
            label = self.classes.index(label) if label in self.classes else None
        return Example(id=self.ids[index], image=picture, mask=(mask > 0).astype(np.int8), label=label)

    def _words(self, name: str, count: int) -> list[str] | None:
        """A text for each picture: MATLAB writes characters as 16-bit numbers."""
        file = self._file.get()
        if name not in file or len(file[name]) != count:
            return None
        codes = (_array(file[file[name][i, 0]]).ravel() for i in range(count))
        return ["".join(map(chr, code.tolist())).strip() for code in codes]


def _array(stored: Any) -> Any:
    if stored.size > 3 * (Image.MAX_IMAGE_PIXELS or 2**27):  # it need not be in the file to be counted in its shape
        raise ValueError(f"an array of {stored.shape}")
    return np.asarray(stored)


def _open(path: Path) -> Any:
    h5py = optional_import("h5py", extra="bench", purpose="read MATLAB 7.3 files")
    with reading(path, "a MATLAB 7.3 file (HDF5)", OSError, said="cannot be opened", todo=f"download {_URL} again"):
        return h5py.File(path, "r")
