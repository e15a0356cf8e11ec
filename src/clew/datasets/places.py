"""Where data lie: a folder, one file, a zip or a tar; each gives names and bytes."""

from __future__ import annotations

import gzip
import os
import posixpath
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import ClewError, InputError
from ..files import BROKEN_TAR, BROKEN_ZIP, SMALL, read_zip_entry

T = TypeVar("T")
Errors = type[Exception] | tuple[type[Exception], ...]


@contextmanager
def reading(
    what: object, expected: str, kinds: Errors, *, said: str = "cannot be read", todo: str = "fetch the file again"
) -> Generator[None]:
    """What goes wrong in reading something, of some kinds, as an `InputError`; clew's own errors say more."""
    try:
        yield
    except ClewError:
        raise
    except kinds as error:
        got = f"{type(error).__name__}: {error}"
        raise InputError(f"{what} {said}".rstrip(), expected=expected, got=got, todo=todo) from error


def some(names: Iterable[Any], most: int = 5, none: str = "nothing") -> str:
    """The first of some names in words, for messages."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (" …" if len(shown) > most else "") or none


def stem(name: str) -> str:
    """A file's name without its suffix, its folders kept."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


@dataclass
class Handle(Generic[T]):
    """Something opened on first use, in each process anew: handles that processes share lose their place."""

    opener: Callable[[], T]
    held: tuple[int, T] | None = None

    def get(self) -> T:
        """The open thing."""
        if self.held is None or self.held[0] != os.getpid():
            self.held = os.getpid(), self.opener()
        return self.held[1]

    def __reduce__(self) -> tuple[type[Handle[T]], tuple[Callable[[], T]]]:
        return Handle, (self.opener,)


class Files(ABC):
    """Files under one `path`, by sorted names without hidden ones; of an archive, below the folders that all lie in."""

    def __init__(self, path: Path, names: Iterable[str], *, archive: bool = False) -> None:
        shown = [name for name in names if not any(p.startswith(".") or p == "__MACOSX" for p in name.split("/"))]
        folders = [f"./{name}".rpartition("/")[0] for name in shown if archive]
        common = posixpath.commonpath(folders) if folders else ""
        self._above = f"{common}/" if common else ""
        self._folder = self.path = path
        self.names = tuple(sorted(name[len(self._above) :] for name in shown))

    @abstractmethod
    def _read(self, name: str) -> bytes: ...

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `InputError` where it is not there or cannot be read."""
        where, todo = self.where(name), "check it and its rights, or fetch it again"
        with reading(where, "a file", (*BROKEN_ZIP, *BROKEN_TAR), todo=todo):
            try:
                return self._read(self._above + name)
            except (KeyError, FileNotFoundError) as error:
                raise InputError(f"no file {where}", expected="a file", got="nothing there", todo=todo) from error

    def where(self, name: str) -> str:
        """A file's name, for messages."""
        return str(self._folder / name)

    def text(self, name: str, encoding: str = "utf-8") -> str:
        """A file as text, without a byte order mark. Raises `InputError` for bytes that are no text."""
        data, todo = self.read(name), "write it as UTF-8, or say its encoding where there is that option: encoding=…"
        with reading(self.where(name), encoding, (UnicodeDecodeError, LookupError), said="is no text", todo=todo):
            return data.decode(encoding).removeprefix("\ufeff")

    def ending(self, *suffixes: str) -> list[str]:
        """The names that end in one of some suffixes (".png"), in capitals or not."""
        return [name for name in self.names if name.lower().endswith(suffixes)]


class FolderFiles(Files):
    """The files of a folder, or one of them alone."""

    def __init__(self, folder: Path, only: str | None = None) -> None:
        super().__init__(folder / (only or ""), [only] if only is not None else _below(str(folder)))
        self._folder = folder

    def _read(self, name: str) -> bytes:
        if posixpath.isabs(name) or ".." in name.split("/"):  # as a table may name it
            raise InputError(f"{name} lies outside", expected=f"a file in {self._folder}", got=name, todo="correct it")
        place = self._folder / name
        if place.exists() and not place.is_file():
            raise OSError("neither a file nor a link to one")  # a pipe would be waited for
        return place.read_bytes()


def _below(root: str) -> list[str]:
    """The files in a folder and in those below it, links followed."""
    found: list[str] = []
    above: dict[str, frozenset[str]] = {}  # of each folder, those that it lies in
    seen = Counter[str]()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        seen[real] += 1
        if seen[real] > 100:  # links to folders of links to folders …
            what = f"links in {root} lead to one folder again and again"
            raise InputError(what, expected="at most 100 ways to it", got=folder[:200], todo="remove the links")
        own = above.pop(folder, frozenset()) | {real}
        inner = {name: os.path.join(folder, name) for name in folders if not name.startswith(".")}
        folders[:] = [name for name, path in inner.items() if os.path.realpath(path) not in own]
        above |= {inner[name]: own for name in folders}
        below = folder[len(root) :].replace(os.sep, "/")
        found += [f"{below}/{name}".lstrip("/") for name in files]
    return found


class ZipFiles(Files):
    """The files in a zip."""

    def __init__(self, path: Path) -> None:
        self._zip = Handle(partial(zipfile.ZipFile, path))
        with reading(path, "a zip", BROKEN_ZIP, said="is broken"):
            names = [entry.filename for entry in self._zip.get().infolist() if not entry.is_dir()]
        super().__init__(path, names, archive=True)

    def _read(self, name: str) -> bytes:
        return read_zip_entry(self._zip.get(), name, f"{self.path}, {name}")


class TarFiles(Files):
    """The files in a tar: each is read from its own place. A tar that is `packed`, all before it too: it is small."""

    def __init__(self, path: Path, *, packed: bool = False) -> None:
        self._open: Callable[[], Any] = partial(gzip.open, path) if packed else partial(path.open, "rb")
        self._at: dict[str, tuple[int, int]] = {}
        with reading(path, "a tar without compression", BROKEN_TAR, todo="unpack it"), self._open() as file:
            for entry in tarfile.TarFile(fileobj=file):
                if packed and entry.size > SMALL:
                    raise ValueError(f"{entry.name} of {entry.size:,} bytes, where none has above {SMALL:,}")
                if entry.isreg():  # "./": as `tar c .` writes names
                    self._at[entry.name.removeprefix("./")] = entry.offset_data, entry.size
        super().__init__(path, self._at, archive=True)

    def _read(self, name: str) -> bytes:
        start, size = self._at[name]
        with self._open() as file:
            file.seek(start)  # and room is made for as much as is asked for
            data: bytes = file.read(min(size, max(SMALL, self.path.stat().st_size)))
        if len(data) < size:
            raise EOFError(f"is cut off: {len(data)} bytes of {size}")
        return data


def open_files(path: Path) -> Files:
    """The files at a path. Raises `InputError` for a broken or compressed archive."""
    if path.is_dir():
        return FolderFiles(path)
    if path.suffix.lower() == ".zip":
        return ZipFiles(path)
    if path.name.lower().endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")):
        return TarFiles(path)
    return FolderFiles(path.parent, path.name)
