"""Pictures and texts in folders: one for each class, or one of pictures and one of masks; with tables of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError, OptionError
from ..inputs import IMAGE_SUFFIXES
from . import Dataset, reader
from .places import Files, open_files, reading, some, stem
from .stored import Classes, Entry, Ignore, Labels, in_files, indexed, unique
from .tables import SUFFIXES, Row, column, columns, read_rows

_ABOUT = ("readme", "notice", "license", "licence")
_PICTURE = ("image", "frame", "picture", "file", "filename", "id")
_CORNERS = ("x0", "y0", "x1", "y1")
# Folders of pictures and of masks, the more special first.
_LAYOUTS = (
    ("images", "masks"),
    ("JPEGImages/480p", "Annotations/480p"),
    ("JPEGImages/Full-Resolution", "Annotations/Full-Resolution"),
    ("JPEGImages", "SegmentationClass"),
    ("JPEGImages", "Annotations"),
)


@reader(
    "images",
    get="pass the folder (or zip, or tar) that holds the folders of the classes",
    sees=lambda files: bool(files.ending(*IMAGE_SUFFIXES)),
    general=True,
)
def images(files: Files, *, classes: Classes | None = None, labels: str | Path | None = None) -> Dataset:
    """Pictures, in a folder for each class (CLASS/*.png) or with a table of labels.

    `classes`: names of the folders in the order of the model's classes, as a list or a text file; by default sorted by
    name. Pictures without folders, or in one folder alone where `classes` is not given, have no label.
    `labels`: a table (csv, tsv, …) with a column for the picture (`image`, `frame`, `file`, …) and one for the class
    (`class_index`, or `class`, `class_name`, `label`); pictures that it does not name are left out.
    """
    names = files.ending(*IMAGE_SUFFIXES)
    entries = [Entry(files, id, image=name) for id, name in zip(unique(map(stem, names)), names, strict=True)]
    if labels is not None:
        return in_files(files, *_picked(files, labels, entries, classes))
    return in_files(files, entries, *_classes(files, names, classes))


@reader(
    "texts",
    get="pass the folder (or zip, or tar) of the texts",
    sees=lambda files: bool(files.ending(".txt")) and not files.ending(*IMAGE_SUFFIXES, *SUFFIXES),
    general=True,
)
def texts(files: Files, *, classes: Classes | None = None, encoding: str = "utf-8") -> Dataset:
    """Texts in .txt files, as written, in a folder for each class or not.

    `classes`: as for kind "images". `encoding`: of the files. README.txt and files of that sort beside the folders are
    left out.
    """
    names = [name for name in files.ending(".txt") if stem(name).lower() not in _ABOUT]
    ids = unique(map(stem, names))
    entries = [Entry(files, id, text=name, encoding=encoding) for id, name in zip(ids, names, strict=True)]
    return in_files(files, entries, *_classes(files, names, classes))


def _classes(files: Files, names: Sequence[str], classes: Classes | None) -> Labels:
    """The label of each file, its first folder, and the classes; none for one folder alone unless they are given."""
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    several = {folder for folder in folders if folder is not None}
    if several and None in folders:
        loose = next(name for name in names if "/" not in name)
        expected, got = "a folder for each class, or no folders", f"{loose} beside {some(sorted(several))}"
        todo = "pass the folder that holds nothing but the classes"
        raise InputError("some files lie in folders, some do not", expected=expected, got=got, todo=todo)
    labelled = folders if len(several) > 1 or classes is not None else [None] * len(names)
    return indexed(labelled, classes, str(files.path), positions=False)


def _layout(files: Files) -> tuple[str, str] | None:
    pictures = files.ending(*IMAGE_SUFFIXES)
    there = {folder for pair in _LAYOUTS for folder in pair if any(n.startswith(f"{folder}/") for n in pictures)}
    return next((pair for pair in _LAYOUTS if there.issuperset(pair)), None)


@reader(
    "masks",
    get="DAVIS: https://davischallenge.org; PASCAL VOC: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; unpack it and "
    "pass the folder in which JPEGImages lies",
    sees=lambda files: _layout(files) is not None,
    known=("*davis*", "*voc*"),
)
def masks(
    files: Files,
    *,
    images: str | None = None,
    masks: str | None = None,
    ignore: Ignore = "auto",
    split: str | None = None,
    labels: str | Path | None = None,
    crops: str | Path | None = None,
    classes: Classes | None = None,
) -> Dataset:
    """Pictures and masks of the same names in two folders (images/ and masks/, DAVIS, PASCAL VOC).

    Folders below (one for each sequence) belong to the name; a mask without its picture raises `InputError` when read.
    `images`, `masks`: the two folders, where they are not called images/ and masks/, JPEGImages/ and Annotations/
    (of 480p, where there are several sizes) or JPEGImages/ and SegmentationClass/.
    `ignore`: how to read masks. "auto": a picture with a palette holds numbers of classes, of which 255 is not labelled
    and all others above 0 are the object; any other is black and white. A number or None: all masks hold numbers of
    classes, and that one (or none) is not labelled; 255 for VOC's SegmentationClass.
    `split`: only what ImageSets/…/SPLIT.txt lists, pictures or sequences; a path below the data names one of several.
    `labels`: a table, as for kind "images". `crops`: such a table with the corners `x0`, `y0`, `x1`, `y1` in pixels:
    one example for each row.
    `classes`: names in the order of the model's classes, by which the tables' names are numbered.
    """
    found = _layout(files) or ("images", "masks")
    folders = of_images, of_masks = (images or found[0]).strip("/"), (masks or found[1]).strip("/")
    pictures, marked = (
        {stem(n.removeprefix(f"{folder}/")): n for n in files.ending(*IMAGE_SUFFIXES) if n.startswith(f"{folder}/")}
        for folder in folders
    )
    if not marked or not pictures:
        got = some(sorted({name.partition("/")[0] for name in files.names}), 8, "an empty folder")
        expected, todo = f"pictures in {of_images}/ and in {of_masks}/", "name the folders: images=…, masks=…"
        raise OptionError(f"{files.path} has no pictures with masks", expected=expected, got=got, todo=todo)
    kept: set[str] | None = None
    if split is not None:
        every = [n for n in files.names if n.startswith("ImageSets/")]
        lists = [n for n in every if n.endswith(f"/{split}.txt")]
        # VOC has lists for other tasks too, with pictures that have no masks.
        lists = [n for n in files.names if n == split] or [n for n in lists if "/Segmentation/" in n] or lists
        if len(lists) != 1:
            what = f"{files.path} has {'several lists' if lists else 'no list'} for split {split!r}"
            got, todo = some(lists or every, 8, "no ImageSets/"), "pass the path of a list below the data: split=…"
            raise OptionError(what, expected="one list, ImageSets/…/NAME.txt", got=got, todo=todo)
        listed = [line.split()[0].lstrip("/") for line in files.text(lists[0]).splitlines() if line.strip()]
        kept = {stem(name.removeprefix(f"{of_images}/")) if "." in name else name for name in listed}
    if of_masks.startswith("SegmentationClass") and ignore == "auto":
        ignore = 255
    ids = [id for id in marked if kept is None or {id, id.partition("/")[0]} & kept]
    entries = [Entry(files, id, pictures.get(id, f"{of_images}/{id}.jpg"), marked[id], ignore=ignore) for id in ids]
    sheet = labels if crops is None else crops
    if None not in (labels, crops):
        raise OptionError("labels and crops are two tables of examples", expected="one of them", got="both")
    if sheet is None:
        return in_files(files, entries)
    return in_files(files, *_picked(files, sheet, entries, classes, crops=crops is not None))


def _picked(
    files: Files, path: str | Path, pictures: Sequence[Entry], classes: Classes | None, *, crops: bool = False
) -> tuple[list[Entry], Sequence[int | str | None], tuple[str, ...] | None]:
    """An example for each row of a table of labels, which lies among the files or anywhere, or of `crops`; the labels
    and the classes.

    A row names its picture with or without suffix and folders; pictures without a row are left out, and a row whose
    picture is not there cannot be read.
    """
    where, place = str(path), Path(path).expanduser()
    if where not in files.names and not place.is_file():
        expected = f"a file in {files.path}, or a path"
        raise InputError(f"no table {where}", expected=expected, got="nothing there", todo="check the path")
    rows = read_rows(files, where) if where in files.names else read_rows(open_files(place), place.name)
    have = columns(rows)
    of_picture = column(have, _PICTURE, where)
    if of_picture is None or (crops and rows and not set(have) >= set(_CORNERS)):
        expected = f"{', '.join(_PICTURE[:-1])} or id" + (f"; and {', '.join(_CORNERS)}" if crops else "")
        got, todo = some(have, 20, "no rows"), "give the table a first line with the names of its columns"
        raise OptionError(f"{where} lacks columns", expected=expected, got=got, todo=todo)
    written = [str(row[of_picture]) for row in rows]
    last = Counter(entry.id.rpartition("/")[2] for entry in pictures)  # by the last part of a name, where one has it
    known = {end: entry for entry in pictures if last[end := entry.id.rpartition("/")[2]] == 1}
    known |= {entry.id: entry for entry in pictures}
    found = [known.get(name, known.get(stem(name))) for name in written]
    if not any(found):
        expected = some((entry.id for entry in pictures), 3)
        raise InputError(f"{where} names no picture that is there", expected=expected, got=some(written, 3))
    entries = [entry or Entry(files, name, image=name) for entry, name in zip(found, written, strict=True)]
    before, said = Counter[str](), "has a corner that is no number"
    for i, (entry, row, name) in enumerate(zip(entries, rows, written, strict=True) if crops else ()):
        with reading(where, "pixels as whole numbers", (ValueError, TypeError), said=said, todo="correct it"):
            left, top, right, bottom = (int(row[corner]) for corner in _CORNERS)
        id = f"{entry.id}#{row.get('crop', before[name])}"
        entries[i] = replace(entry, id=id, box=(left, top, right, bottom))
        before[name] += 1
    ids = unique(entry.id for entry in entries)
    return [replace(entry, id=id) for entry, id in zip(entries, ids, strict=True)], *_labels(rows, classes, where)


def _labels(rows: Sequence[Row], classes: Classes | None, where: str) -> Labels:
    """Labels of a table of pictures, by number or by name, and the classes.

    Where both are there and no `classes` are given, the names are those of the indices; an index that has no row is
    called "class 7".
    """
    index = column(columns(rows), ("class_index", "label_index"), where)
    name = column(columns(rows), ("class_name", "class", "label", "wnid"), where)
    of = name if index is None or (name is not None and classes is not None) else index
    labels, names = indexed([row.get(of) for row in rows], classes, where)
    if name is None or of != index:
        return labels, names
    pairs = {(label, str(row[name])) for label, row in zip(labels, rows, strict=True) if isinstance(label, int)}
    by_index = dict(pairs)
    if not len(pairs) == len(by_index) == len(set(by_index.values())):
        what, got = f"{where}: {index} and {name} disagree", sorted(pairs, key=str)[:6]
        raise InputError(what, expected="one name for each index", got=got)
    return labels, tuple(by_index.get(i, f"class {i}") for i in range(max(by_index, default=-1) + 1))
