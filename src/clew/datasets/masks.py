"""Pictures with masks of their objects, in two folders: DAVIS, PASCAL VOC, and what looks like them."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError
from ..inputs import IMAGE_SUFFIXES
from . import Dataset, reader
from .labels import Classes
from .pictures import Ignore
from .places import Files
from .sheets import picked, stem
from .stored import Entries, Entry

# Folders of pictures and of masks, the more special first.
_LAYOUTS = (
    ("images", "masks"),
    ("JPEGImages/480p", "Annotations/480p"),
    ("JPEGImages/Full-Resolution", "Annotations/Full-Resolution"),
    ("JPEGImages", "SegmentationClass"),
    ("JPEGImages", "Annotations"),
)


def _layout(files: Files) -> tuple[str, str] | None:
    def there(folder: str) -> bool:
        return any(name.startswith(f"{folder}/") and name.lower().endswith(IMAGE_SUFFIXES) for name in files.names)

    return next(((i, m) for i, m in _LAYOUTS if there(i) and there(m)), None)


def _sees(files: Files) -> bool:
    return _layout(files) is not None


@reader(
    "masks",
    what="pictures and masks of the same names in two folders (images/ and masks/, DAVIS, PASCAL VOC)",
    get="DAVIS: https://davischallenge.org; PASCAL VOC: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; unpack it and "
    "pass the folder in which JPEGImages lies",
    sees=_sees,
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
    """Pictures that have a mask, by the names of the masks; folders below (one for each sequence) belong to the name.

    `images`, `masks`: the two folders, where they are not called images/ and masks/, JPEGImages/ and Annotations/
    (of 480p, where there are several sizes) or JPEGImages/ and SegmentationClass/.
    `ignore`: how to read masks. "auto": a picture with a palette holds numbers of classes, of which 255 is not labelled
    and all others above 0 are the object; any other is black and white. A number or None: all masks hold numbers of
    classes, and that one (or none) is not labelled; 255 for VOC's SegmentationClass.
    `split`: only what ImageSets/…/SPLIT.txt lists, pictures or sequences; a path below the data names one of several.
    `labels`: a table with a column for the picture and one for the class (`class_index`, or `class`, `class_name`,
    `label`); pictures that it does not name are left out.
    `crops`: such a table with the corners `x0`, `y0`, `x1`, `y1` in pixels: one example for each row.
    `classes`: names in the order of the model's classes, by which the tables' names are numbered.

    A mask without its picture raises `InputError` when it is read.
    """
    found = _layout(files) or ("images", "masks")
    of_images, of_masks = (images or found[0]).strip("/"), (masks or found[1]).strip("/")
    pictures = {
        stem(n.removeprefix(f"{of_images}/")): n for n in files.ending(*IMAGE_SUFFIXES) if n.startswith(f"{of_images}/")
    }
    entries = {
        id: Entry(id, image=pictures.get(id, f"{of_images}/{id}.jpg"), mask=name)
        for name in files.ending(*IMAGE_SUFFIXES)
        if name.startswith(f"{of_masks}/")
        for id in [stem(name.removeprefix(f"{of_masks}/"))]
    }
    if not entries or not pictures:
        raise OptionError(
            f"{files.path} has no pictures with masks",
            expected=f"pictures in {of_images}/ and in {of_masks}/",
            got=", ".join(sorted({name.partition("/")[0] for name in files.names})[:8]) or "an empty folder",
            todo="name the folders: images=…, masks=…",
        )
    if split is not None:
        listed = _listed(files, split, of_images)
        entries = {id: e for id, e in entries.items() if id in listed or id.partition("/")[0] in listed}
    if of_masks.partition("/")[0].startswith("SegmentationClass") and ignore == "auto":
        ignore = 255
    if labels is not None and crops is not None:
        raise OptionError("labels and crops are two tables of examples", expected="one of them", got="both")
    sheet = crops if crops is not None else labels
    if sheet is None:
        return Entries(files, list(entries.values()), ignore=ignore)
    return Entries(files, *picked(files, sheet, entries, classes, crops=crops is not None), ignore=ignore)


def _listed(files: Files, split: str, of_images: str) -> set[str]:
    """The pictures or sequences that a list of a split names."""
    lists = [n for n in files.names if n.startswith("ImageSets/") and n.endswith(f"/{split}.txt")]
    # VOC has lists for other tasks too, with pictures that have no masks.
    chosen = [n for n in files.names if n == split] or [n for n in lists if "/Segmentation/" in n] or lists
    if len(chosen) != 1:
        raise OptionError(
            f"{files.path} has {'several lists' if chosen else 'no list'} for split {split!r}",
            expected="one list, ImageSets/…/NAME.txt",
            got=", ".join(chosen or [n for n in files.names if n.startswith("ImageSets/")][:8]) or "no ImageSets/",
            todo="pass the path of a list below the data: split=…",
        )
    written = [line.split()[0].lstrip("/") for line in files.text(chosen[0]).splitlines() if line.strip()]
    return {stem(name.removeprefix(f"{of_images}/")) if "." in name else name for name in written}
