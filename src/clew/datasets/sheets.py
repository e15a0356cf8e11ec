"""Tables that list pictures, or crops of pictures, with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import InputError, OptionError
from .labels import Classes, labels_of, unique
from .places import Files, open_files
from .stored import Entry
from .tables import Row, column, read_rows

PICTURE = ("image", "frame", "picture", "file", "filename", "id")
CORNERS = ("x0", "y0", "x1", "y1")


def sheet(files: Files, path: str | Path) -> list[Row]:
    """The rows of a table, which lies among the data's files or anywhere. Raises `InputError` where there is none."""
    name = str(path)
    if name in files.names:
        return read_rows(files, name)
    place = Path(name).expanduser()
    if not place.is_file():
        raise InputError(
            f"no table {name}",
            expected=f"a file in {files.path}, or a path",
            got="nothing there",
            todo="check the path",
        )
    return read_rows(open_files(place), place.name)


def stem(name: str) -> str:
    """A file's name without its suffix, its folders kept."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def picked(
    files: Files, path: str | Path, pictures: Mapping[str, Entry], classes: Classes | None, *, crops: bool
) -> tuple[list[Entry], tuple[str, ...] | None]:
    """An example for each row of a table of labels or, with the corners x0, y0, x1, y1 in pixels, of `crops`.

    A row names its picture in a column `image`, `frame`, `picture`, `file`, `filename` or `id`, with or without suffix
    and folders; pictures without a row are left out, and a row whose picture is not there cannot be read. Raises
    `InputError` where no row's picture is there, `OptionError` for missing columns.
    """
    rows = sheet(files, path)
    where = str(path)
    of_picture = column(rows, None, PICTURE, "the picture", where)
    lacking = [name for name in CORNERS if crops and rows and name not in rows[0]]
    if of_picture is None or lacking:
        raise OptionError(
            f"{where} lacks columns",
            expected=f"the picture ({', '.join(PICTURE[:-1])} or id)" + (f" and {', '.join(CORNERS)}" if crops else ""),
            got=", ".join(rows[0]) if rows else "no rows",
            todo="give the table a first line with the names of its columns",
        )
    known = _by_any_name(pictures)
    found = [known.get(str(row[of_picture]), known.get(stem(str(row[of_picture])))) for row in rows]
    if not any(found):
        raise InputError(
            f"{where} names no picture that is there",
            expected=", ".join(list(pictures)[:3]) + (" …" if len(pictures) > 3 else ""),
            got=", ".join(str(row[of_picture]) for row in rows[:3]),
        )
    labels, names = labels_of(rows, classes, where)
    numbers = _numbers(rows, of_picture)
    entries: list[Entry] = []
    for row, entry, label, number in zip(rows, found, labels, numbers, strict=True):
        written = str(row[of_picture])
        entry = replace(entry or Entry(written, image=written), label=label)
        entries.append(replace(entry, id=f"{entry.id}#{number}", box=_box(row, where)) if crops else entry)
    ids = unique([entry.id for entry in entries])
    return [replace(entry, id=id) for entry, id in zip(entries, ids, strict=True)], names


def _by_any_name(pictures: Mapping[str, Entry]) -> dict[str, Entry]:
    """Entries by their ids and, where only one has it, by the last part of it."""
    last: dict[str, list[Entry]] = {}
    for name, entry in pictures.items():
        last.setdefault(name.rpartition("/")[2], []).append(entry)
    return {name: some[0] for name, some in last.items() if len(some) == 1} | dict(pictures)


def _numbers(rows: list[Row], of_picture: str) -> list[str]:
    """What a crop is called within its picture: its `crop`, or how many of that picture came before."""
    before: dict[str, int] = {}
    found: list[str] = []
    for row in rows:
        count = before[row[of_picture]] = before.get(row[of_picture], -1) + 1
        found.append(str(row.get("crop", count)))
    return found


def _box(row: Row, where: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(row[name]) for name in CORNERS)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: a corner is no number", expected="pixels as whole numbers", got=error) from error
    return left, top, right, bottom
