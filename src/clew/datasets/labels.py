"""From labels as they were written to indices in a list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..validation import parse_integer
from .tables import Row, column

Classes = Sequence[str] | str | Path
Label = int | str | None
_CLASSES = 10**6  # lists of their names are made


def class_names(classes: Classes | None) -> tuple[str, ...] | None:
    """Names of classes as given, or from a text file with one on each line. Raises `InputError` for a missing file."""
    if classes is None or not isinstance(classes, (str, Path)):
        return None if classes is None else tuple(classes)
    try:
        lines = Path(classes).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"no classes in {classes}", expected="a list of names, or a text file with one on each line", got=error
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def indexed(
    values: Sequence[Any], classes: Classes | None, where: str, *, positions: bool = True
) -> tuple[list[Label], tuple[str, ...] | None]:
    """Labels and the classes that they count: names become positions in `classes`, or in their own sorted list.

    Where all labels are whole numbers, they are positions already, unless told otherwise. None and "" are no label.
    Raises `InputError` for labels that `classes` does not have.
    """
    names = class_names(classes)
    if names is not None and len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        got = f"twice: {', '.join(twice[:5])}"
        raise OptionError("classes have different names", expected="each once", got=got, todo="tell them apart")
    values = [None if v == "" else v for v in values]
    known = [v for v in values if v is not None]
    numbers = [_number(v) for v in known]
    if positions and known and None not in numbers and not set(map(str, known)) & set(names or ()):
        last = len(names) - 1 if names else _CLASSES
        wrong = sorted({n for n in numbers if n is not None and not 0 <= n <= last})
        if wrong:
            expected = f"0 to {last}" if names else f"0 or more, up to {last:,}"
            todo = "correct them, or leave empty what has no label"
            raise InputError(f"{where} has labels that are no class", expected=expected, got=wrong[:5], todo=todo)
        return [None if v is None else _number(v) for v in values], names
    written = [None if v is None else str(v) for v in values]
    if not known:
        return list[Label](written), names
    ordered = names if names is not None else tuple(sorted({v for v in written if v is not None}))
    places = {name: i for i, name in enumerate(ordered)}
    strange = sorted({v for v in written if v is not None and v not in places})
    if strange:
        shown = ", ".join(ordered[:20]) + (" …" if len(ordered) > 20 else "")
        raise InputError(
            f"{where} has labels that are no class",
            expected=shown,
            got=", ".join(strange[:10]),
            todo="give the names as the data have them, in the model's order: classes=[…]",
        )
    return [None if v is None else places[v] for v in written], ordered


def labels_of(rows: Sequence[Row], classes: Classes | None, where: str) -> tuple[list[Label], tuple[str, ...] | None]:
    """Labels of a table of pictures: from `class_index`, or from `class`, `class_name` or `label`.

    Where both are there and no `classes` are given, the names are those of the indices; an index that has no row is
    called "class 7". Without either, there are no labels. Raises `InputError` where names and indices disagree.
    """
    index = column(rows, None, ("class_index", "label_index"), "the index of a class", where)
    name = column(rows, None, ("class_name", "class", "label", "wnid"), "the name of a class", where)
    if index is None or (name is not None and classes is not None):
        return indexed([None if name is None else row[name] for row in rows], classes, where)
    labels, names = indexed([row[index] for row in rows], classes, where)
    if name is None:
        return labels, names
    pairs = {(label, str(row[name])) for label, row in zip(labels, rows, strict=True) if isinstance(label, int)}
    by_index = dict(pairs)
    if not len(pairs) == len(by_index) == len(set(by_index.values())):
        raise InputError(
            f"{where}: {index} and {name} disagree", expected="one name for each index", got=sorted(pairs, key=str)[:6]
        )
    last = max(by_index, default=-1)
    return labels, tuple(by_index.get(i, f"class {i}") for i in range(last + 1))


def by_folder(names: Sequence[str], classes: Classes | None) -> list[str | None]:
    """The class of each file: the first folder that it lies in.

    Files without folders have none, nor have files in one folder alone, unless `classes` are given. Raises
    `InputError` where some lie in folders and some do not.
    """
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    some = {folder for folder in folders if folder is not None}
    if some and None in folders:
        loose = next(name for name in names if "/" not in name)
        raise InputError(
            "some files lie in folders, some do not",
            expected="a folder for each class, or no folders",
            got=f"{loose} beside {', '.join(sorted(some)[:5])}",
            todo="pass the folder that holds nothing but the classes",
        )
    return folders if len(some) > 1 or classes is not None else [None] * len(names)


def unique(ids: Sequence[str]) -> list[str]:
    """Ids that are unique: those that are not get the number of their occurrence, "a", "a#2", …"""
    counted: dict[str, int] = {}
    taken = set(ids)
    found: list[str] = []
    for one in ids:
        number = counted[one] = counted.get(one, 0) + 1
        name = one if number == 1 else f"{one}#{number}"
        while number > 1 and name in taken:
            number = counted[one] = number + 1
            name = f"{one}#{number}"
        taken.add(name)
        found.append(name)
    return found


def row_ids(values: Sequence[Any]) -> list[str]:
    """What rows call themselves; those that do not get their number."""
    return [str(i if value is None or value == "" else value) for i, value in enumerate(values)]


def _number(value: Any) -> int | None:
    """A whole number, written or not."""
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return parse_integer(str(value).strip())
