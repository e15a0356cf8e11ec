"""Data sets whose examples stay as they are stored, in files or rows, until they are read; and their labels."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from ..inputs import as_rgb, decode_image
from ..validation import parse_integer
from . import Dataset, Example, joined
from .places import Files, reading, some
from .tables import column, columns

Classes = Sequence[str] | str | Path
Label = int | str | None
Labels = tuple[list[Label], tuple[str, ...] | None]
_CLASSES = 10**6  # lists of their names are made
Ignore = int | Literal["auto"] | None
TEXT = ("text", "sentence", "review", "content", "document")
LABEL = ("label", "labels", "sentiment", "class")
ID = ("id", "idx", "uid")


@dataclass(eq=False, repr=False)
class Stored(Dataset):
    """Rows, and what to `make` of one: fields of `Example`, but for its label where `labels` has them.

    `image` and `mask` are bytes of picture files, decoded when they are read; beside them may be `ignore`, how to read
    a mask, `box`, the part (left, top, right, bottom) that the example is, and `where`, for messages.
    """

    name: str
    rows: Any  # a list, or a table of Hugging Face `datasets`
    make: Callable[[Any], dict[str, Any]]
    ids: Sequence[str] = ()
    labels: Sequence[Label] | None = None
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.ids = self.ids or [str(i) for i in range(len(self.rows))]

    def stored(self, index: int) -> dict[str, Any]:
        """Fields as they are stored."""
        try:
            found = self.make(self.rows[index])
        except InputError as error:
            raise InputError(f"{self.name}: {self.ids[index]}: {error}") from error
        return found if self.labels is None else {**found, "label": self.labels[index]}

    def content(self, index: int) -> bytes:
        return joined({key: value for key, value in self.stored(index).items() if key != "where"})

    def read(self, index: int) -> Example:
        fields = self.stored(index)
        where = fields.pop("where", f"{self.name}: {self.ids[index]}")
        ignore, box = fields.pop("ignore", "auto"), fields.pop("box", None)
        if fields.get("image") is not None:
            image = fields["image"] = as_rgb(decode_image(io.BytesIO(fields["image"]), where), where)
            width, height = image.size
            mask = fields.get("mask")
            if mask is not None:
                mask = fields["mask"] = object_mask(mask, f"the mask of {where}", ignore)
                if mask.shape != (height, width):
                    what, got = f"the mask of {where} has another size than the picture", mask.shape
                    raise InputError(what, expected=f"{width} x {height} pixels", got=f"{got[1]} x {got[0]}")
            if box is not None:
                left, top, right, bottom = box
                if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                    expected = f"within {width} x {height} pixels"
                    raise InputError(f"this crop does not lie in {where}", expected=expected, got=box)
                fields |= {"image": image.crop(box), "mask": None if mask is None else mask[top:bottom, left:right]}
        return Example(id=self.ids[index], **fields)


@dataclass(frozen=True)
class Entry:
    """One example in files: their names, and the part of the picture that it is."""

    files: Files
    id: str
    image: str | None = None
    mask: str | None = None
    text: str | None = None
    box: tuple[int, int, int, int] | None = None
    ignore: Ignore = "auto"
    encoding: str = "utf-8"

    def fields(self) -> dict[str, Any]:
        """What the files hold."""
        found: dict[str, Any] = {} if self.text is None else {"text": self.files.text(self.text, self.encoding)}
        if self.image is not None:
            found |= {"image": self.files.read(self.image), "where": self.files.where(self.image)}
        if self.mask is not None:
            found |= {"mask": self.files.read(self.mask), "ignore": self.ignore}
        return found if self.box is None else found | {"box": self.box}


def in_files(
    files: Files, entries: Sequence[Entry], labels: Sequence[Label] | None = None, classes: Sequence[str] | None = None
) -> Stored:
    """Examples of which each has files of its own."""
    labels = [None] * len(entries) if labels is None else labels
    return Stored(files.path.name, entries, Entry.fields, [entry.id for entry in entries], labels, classes)


@dataclass(frozen=True)
class Columns:
    """What a row's columns mean; pictures are bytes, or a path to them."""

    text: str | None = None
    image: str | None = None
    mask: str | None = None
    label: str | None = None
    id: str | None = None
    ignore: Ignore = "auto"

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        text = None if self.text is None else row[self.text]
        if self.text is not None and not isinstance(text, str):
            what, todo = f"the column {self.text!r} holds no text", "choose another: text=…, or leave this row out"
            raise InputError(what, expected="a string", got=type(text).__name__, todo=todo)
        found: dict[str, Any] = {} if text is None else {"text": text}
        for field, its in (("image", self.image), ("mask", self.mask)):
            if its is not None:
                stored: Any = row[its] if isinstance(row[its], Mapping) else {}
                kinds, todo = (KeyError, TypeError, OSError), "name the column of the pictures"
                with reading(f"the column {its!r}", "bytes, or a path", kinds, said="holds no picture", todo=todo):
                    found[field] = stored.get("bytes") or Path(stored["path"]).read_bytes()
        return found if self.mask is None else {**found, "ignore": self.ignore}


def row_examples(name: str, rows: Any, asked: Columns, classes: Classes | None) -> Stored:
    """Rows, as a list or as `datasets` has them, by the columns that are asked for or that have usual names.

    Raises `OptionError` where a column is not there, or none for text and picture.
    """
    features: Mapping[str, Any] = getattr(rows, "features", {})
    have = list(features) or columns(rows)
    pictures = [one for one, feature in features.items() if type(feature).__name__ == "Image" and one != asked.mask]
    image = column(have, pictures, name, "image", asked.image)
    usual = {"text": () if image else TEXT, "mask": (), "label": LABEL, "id": ID}
    text, mask, label, id = (column(have, known, name, key, getattr(asked, key)) for key, known in usual.items())
    if image is None and text is None:
        what, got = f"{name} has no column for the text" + " or the image" * bool(features), some(have, 100, "no rows")
        todo = "say which: text=…, or image=…, in the shell --data-option text=…; of a csv or tsv without a line of "
        todo += "names, name all: columns=…"
        raise OptionError(what, expected=" or ".join(TEXT), got=got, todo=todo)

    def values(column: str) -> list[Any]:
        return list(rows[column]) if features else [row[column] for row in rows]

    labels, names, ids = None, None, () if id is None else row_ids(values(id))
    own: Sequence[str] | None = getattr(features.get(label), "names", None)
    if own is not None:  # -1 means that there is no label
        named = [own[v] if isinstance(v, int) and v >= 0 else None for v in values(label)]
        labels, names = indexed(named, own if classes is None else classes, name, positions=False)
    elif label is not None:
        labels, names = indexed(values(label), classes, name)
    return Stored(name, rows, replace(asked, text=text, image=image, mask=mask), ids, labels, names)


def object_mask(data: bytes, where: str, ignore: Ignore = "auto") -> NDArray[np.int8]:
    """A mask file as int8 (height, width): 1 object, 0 background, -1 not labelled.

    `ignore="auto"`: a picture with a palette holds numbers of classes, above 0 is object and 255 is not labelled; any
    other is black and white, what is brighter than half is object (a picture of 0 and 1 counts as such). A number or
    None: every picture holds numbers of classes, and that number, or none, is not labelled. Raises `InputError` for
    masks that "auto" cannot tell apart, and for coloured ones.
    """
    image = decode_image(io.BytesIO(data), where)
    values = np.asarray(image).astype(np.int64)
    if image.mode == "1":
        values = values * 255
    elif image.mode.startswith("I;16"):
        values = values // 257
    elif values.ndim == 3:
        if image.mode not in ("LA", "PA") and (values[..., :3] != values[..., :1]).any():
            expected = "a mask: one value for each pixel"
            raise InputError(f"{where} is coloured", expected=expected, got=f"mode {image.mode!r}")
        values = values[..., 0]
    if ignore == "auto":
        largest, ignore = int(values.max(initial=0)), 255
        if image.mode != "P" and not 1 < largest < 128:
            return (values > (127 if largest > 1 else 0)).astype(np.int8)
        if image.mode != "P" or (largest == 255 and set(np.unique(values).tolist()) <= {0, 255}):
            what = f"{where} may mean two things: it holds numbers of classes, or is black and white"
            expected = "white objects on black, or a palette and numbers of classes"
            got = "a palette, and the values 0 and 255" if image.mode == "P" else f"values up to {largest}"
            todo = "say which number is not labelled: ignore=255, or ignore=None where all are"
            raise InputError(what, expected=expected, got=got, todo=todo)
    found = (values > 0).astype(np.int8)
    if ignore is not None:
        found[values == ignore] = -1
    return found


def class_names(classes: Classes | None) -> tuple[str, ...] | None:
    """Names of classes as given, or from a text file with one on each line. Raises `InputError` for a missing file."""
    if not isinstance(classes, (str, Path)):
        return None if classes is None else tuple(classes)
    what, expected = f"no classes in {classes}", "a list of names, or a text file with one on each line"
    with reading(what, expected, (OSError, UnicodeDecodeError), said="", todo="check the path"):
        lines = Path(classes).expanduser().read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def indexed(values: Iterable[Any], classes: Classes | None, where: str, *, positions: bool = True) -> Labels:
    """Labels and the classes that they count: names become positions in `classes`, or in their own sorted list.

    Where all labels are whole numbers, they are positions already, unless told otherwise. None and "" are no label.
    Upper and lower case are the same where no two classes differ in that alone.
    Raises `InputError` for labels that `classes` does not have.
    """
    names = class_names(classes)
    if twice := [name for name, count in Counter(names or ()).items() if count > 1]:
        got = f"twice: {some(twice)}"
        raise OptionError("classes have different names", expected="each once", got=got, todo="tell them apart")
    values = [None if v == "" else v for v in values]
    numbers = [None if v is None else _number(v) for v in values]
    written = {str(v) for v in values if v is not None}
    found: list[Label] = [*numbers]
    if positions and written and numbers.count(None) == values.count(None) and not written & set(names or ()):
        last = len(names) - 1 if names else _CLASSES
        wrong: Any = sorted({n for n in numbers if n is not None and not 0 <= n <= last})[:5]
        expected = f"0 to {last}" if names else f"0 or more, up to {last:,}"
        todo = "correct them, or leave empty what has no label"
    else:
        names = tuple(sorted(written)) if names is None and written else names
        exact, loose = _places(names or ())
        place = {label: exact.get(label, loose.get(label.lower())) for label in written}
        found = [None if v is None else place[str(v)] for v in values]
        wrong, expected = some(sorted(k for k, i in place.items() if i is None), 10, ""), some(names or (), 20)
        given = ",".join(sorted(written)[:5]) + ",…" * (len(written) > 5)
        todo = "give the names as the data have them, in the model's order: "
        todo += f"classes={given.split(',')}, or in the shell --data-option classes={given}"
    if wrong:
        raise InputError(f"{where} has labels that are no class", expected=expected, got=wrong, todo=todo)
    return found, names


def _places(names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Where each name stands, and where in lower case those that no other equals in it."""
    lower = [name.lower() for name in names]
    counted = Counter(lower)
    loose = {name: i for i, name in enumerate(lower) if counted[name] == 1}
    return {name: i for i, name in enumerate(names)}, loose


def unique(written: Iterable[str]) -> list[str]:
    """Ids that are unique: those that are not get the number of their occurrence, "a", "a#2", …"""
    ids, counted, found = list(written), Counter[str](), list[str]()
    taken = set(ids)
    for name in ids:
        counted[name] += 1
        found.append(name if counted[name] == 1 else f"{name}#{counted[name]}")
        while counted[name] > 1 and found[-1] in taken:
            counted[name] += 1
            found[-1] = f"{name}#{counted[name]}"
        taken.add(found[-1])
    return found


def row_ids(values: Iterable[Any]) -> list[str]:
    """What rows call themselves, each once; those that do not get their number."""
    return unique(str(i if value is None or value == "" else value) for i, value in enumerate(values))


def _number(value: Any) -> int | None:
    """A whole number, written or not."""
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return parse_integer(str(value).strip())
