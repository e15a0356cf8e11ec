"""What is typed on a command line: files, folders and words, as inputs that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets import Dataset, open_dataset
from ..datasets.stored import TEXT
from ..datasets.tables import SUFFIXES as TABLES
from ..errors import InputError, OptionError, short_repr
from ..inputs import IMAGE_SUFFIXES, open_image

TEXTS = (".txt", ".md", ".text")


@dataclass(frozen=True)
class NamedInput:
    """One input with the name it goes by."""

    name: str
    value: Any


@dataclass(frozen=True)
class ReadInputs:
    """What could be read, and an error for each file that could not."""

    items: list[NamedInput]
    errors: list[InputError]

    def __add__(self, other: ReadInputs) -> ReadInputs:
        return ReadInputs([*self.items, *other.items], [*self.errors, *other.errors])

    def require_any(self) -> ReadInputs:
        """The same. Raises `InputError` where nothing at all could be read."""
        if self.items or not self.errors:
            return self
        if len(self.errors) == 1:
            raise self.errors[0]
        shown = [str(error).partition("\n")[0] for error in self.errors]
        more = [f"… ({len(shown)} in all)"] if len(shown) > 5 else []
        raise InputError("none of the inputs can be read", got="; ".join([*shown[:5], *more])) from self.errors[0]


def read_images(words: Sequence[str]) -> ReadInputs:
    """Pictures from files, and all those in folders; what is none is left out with its error."""
    return _read(words, lambda word: _each(word, IMAGE_SUFFIXES, "pictures", open_image))


def read_texts(words: Sequence[str], *, as_text: bool = False) -> ReadInputs:
    """Texts from files, all those in folders, rows of tables, and words themselves; with `as_text` words only.

    Empty texts, and files that are no text, are left out with their errors.
    """

    def read(word: str) -> ReadInputs:
        if not word.strip():
            raise InputError("there is an empty text", expected="a file, a folder or words", got=short_repr(word))
        if as_text or not _exists(word):
            if not as_text and Path(word).suffix.lower() in (*TEXTS, *TABLES):
                raise InputError(f"no file {word}", expected="a text file", got="nothing there", todo="check the path")
            return ReadInputs([NamedInput(word if len(word) <= 40 else word[:39] + "…", word)], [])
        if Path(word).suffix.lower() in TABLES and not Path(word).is_dir():
            return _rows(Path(word), alone=len(words) == 1)
        return _each(word, TEXTS, "texts", _text)

    return _read(words, read)


def _read(words: Sequence[str], read: Callable[[str], ReadInputs]) -> ReadInputs:
    found = ReadInputs([], [])
    for word in words:
        try:
            found += read(word)
        except InputError as error:
            found += ReadInputs([], [error])
    return found


def _each(word: str, suffixes: tuple[str, ...], what: str, opened: Callable[[Path], Any]) -> ReadInputs:
    found = ReadInputs([], [])
    for path in _files(Path(word), suffixes, what):
        try:
            found.items.append(NamedInput(path.name, opened(path)))
        except InputError as error:
            found.errors.append(error)
    return found


def _rows(path: Path, *, alone: bool) -> ReadInputs:
    """The texts of a table's rows, by their ids; of several files with that of the table before them."""
    try:
        table: Dataset = open_dataset(path)
    except OptionError as error:  # that no column is known to be the text, or that it is something else than a table
        said = "; ".join(line.strip() for line in str(error).splitlines() if "to do:" not in line)
        todo = f"call the column of the texts {' or '.join(TEXT)}"
        raise InputError(f"{path} cannot be read as a table of texts", got=said, todo=todo) from error
    found = ReadInputs([], [])
    for i, id in enumerate(table.ids):
        name = id if alone else f"{path.name}: {id}"
        try:
            text = table.read(i).text
            if not (text or "").strip():
                raise InputError(f"{path}: {id} is empty", expected="a text", got="no words")
            found.items.append(NamedInput(name, text))
        except InputError as error:
            found.errors.append(error)
    return found


def _text(path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no text", expected="a file in UTF-8", got=error) from error
    if not content:
        raise InputError(f"{path} is empty", expected="a text", got="no words")
    return content


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long for a name, or with characters that no name has
        return False


def _files(path: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        inside = sorted(path.iterdir())
    except OSError as error:
        raise InputError(
            f"{path} cannot be read", expected="a file or a folder", got=error, todo="check the name and its rights"
        ) from error
    # Hidden files are none that anyone put there: macOS leaves `._x.jpg` beside every x.jpg on foreign disks.
    found = [p for p in inside if p.suffix.lower() in suffixes and not p.name.startswith(".") and not p.is_dir()]
    if not found:
        raise InputError(f"no {what} in {path}", expected=", ".join(suffixes), got="none")
    return found
