"""Where data lie: a folder, one file, a zip or a tar; each gives names and bytes."""

from __future__ import annotations

import os
import posixpath
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import InputError
from ..files import BROKEN_TAR, BROKEN_ZIP, read_zip_entry

T = TypeVar("T")
_LINKS = 100


class Handle(Generic[T]):
    """Something opened on first use, in each process anew: handles that processes share lose their place."""

    def __init__(self, opener: Callable[[], T]) -> None:
        self._opener = opener
        self._held: tuple[int, T] | None = None

    def get(self) -> T:
        """The open thing."""
        if self._held is None or self._held[0] != os.getpid():
            self._held = os.getpid(), self._opener()
        return self._held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_opener": self._opener, "_held": None}


class Files(ABC):
    """Files under one `path`, by relative names with forward slashes, sorted. Hidden files are left out.

    Of an archive, folders that everything lies in are left out of the names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(sorted(name for name in self._listed() if not _hidden(name)))

    @abstractmethod
    def _listed(self) -> Iterable[str]: ...

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `InputError` where it is not there or cannot be read."""

    def where(self, name: str) -> str:
        """A file's name, for messages."""
        return str(self.path / name)

    def text(self, name: str, encoding: str = "utf-8") -> str:
        """A file as text, without a byte order mark. Raises `InputError` for bytes that are no text."""
        try:
            return self.read(name).decode(encoding).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError) as error:
            raise InputError(
                f"{self.where(name)} is no text",
                expected=encoding,
                got=error,
                todo="write it as UTF-8, or say its encoding where there is that option: encoding=…",
            ) from error

    def ending(self, *suffixes: str) -> list[str]:
        """The names that end in one of some suffixes (".png"), in capitals or not."""
        return [name for name in self.names if name.lower().endswith(suffixes)]

    def _absent(self, name: str) -> InputError:
        return InputError(
            f"no file {self.where(name)}", expected="a file", got="nothing there", todo="fetch it again, or check names"
        )


class FolderFiles(Files):
    """The files of a folder, or one of them alone."""

    def __init__(self, path: Path, only: str | None = None) -> None:
        super().__init__(path if only is None else path / only)
        self._root, self._only = path, only

    def _listed(self) -> Iterable[str]:
        if self._only is not None:
            return [self._only]
        found: list[str] = []
        above: dict[str, frozenset[str]] = {}  # of each folder, those that it lies in, links followed
        seen = Counter[str]()
        for folder, folders, files in os.walk(self._root, followlinks=True):
            real = os.path.realpath(folder)
            seen[real] += 1
            if seen[real] > _LINKS:  # links to folders of links to folders …
                raise InputError(
                    f"links in {self._root} lead to one folder again and again",
                    expected=f"at most {_LINKS} ways to a folder",
                    got=folder[:200],
                    todo="remove the links",
                )
            own = above.pop(folder, frozenset()) | {real}
            inner = [name for name in folders if not name.startswith(".")]
            folders[:] = [name for name in inner if os.path.realpath(os.path.join(folder, name)) not in own]
            above |= {os.path.join(folder, name): own for name in folders}
            below = os.path.relpath(folder, self._root).replace(os.sep, "/")
            found += files if below == "." else [f"{below}/{name}" for name in files]
        return found

    def where(self, name: str) -> str:
        return str(self._root / name)

    def read(self, name: str) -> bytes:
        if posixpath.isabs(name) or ".." in name.split("/"):  # as a table may name it
            raise InputError(f"{name} lies outside", expected=f"a file in {self._root}", got=name, todo="correct it")
        try:
            if (self._root / name).exists() and not (self._root / name).is_file():
                raise OSError("neither a file nor a link to one")  # a pipe would be waited for
            return (self._root / name).read_bytes()
        except FileNotFoundError as error:
            raise self._absent(name) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.where(name)} cannot be read", expected="a file", got=error, todo="check it and its rights"
            ) from error


class ZipFiles(Files):
    """The files in a zip."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zip = Handle(partial(zipfile.ZipFile, path))
        try:
            entries = [e.filename for e in self._zip.get().infolist() if not e.is_dir() and not _hidden(e.filename)]
        except BROKEN_ZIP as error:
            raise InputError(f"{path} is broken", expected="a zip", got=error, todo="fetch it again") from error
        self._common = _common(entries)

    def _listed(self) -> Iterable[str]:
        cut = len(self._common)
        return [e.filename[cut:] for e in self._zip.get().infolist() if not e.is_dir() and not _hidden(e.filename)]

    def read(self, name: str) -> bytes:
        try:
            return read_zip_entry(self._zip.get(), self._common + name, self.where(name))
        except KeyError as error:
            raise self._absent(name) from error
        except InputError:
            raise
        except BROKEN_ZIP as error:
            raise InputError(
                f"{self.where(name)} cannot be read", expected="a file in a zip", got=error, todo="fetch the zip again"
            ) from error


class TarFiles(Files):
    """The files in a tar that is not compressed: each is read from its own place."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with tarfile.open(path, "r:") as tar:
                members = {m.name.removeprefix("./"): m for m in tar if m.isreg()}  # "./": as `tar c .` writes them
        except BROKEN_TAR as error:
            raise InputError(
                f"{path} cannot be read", expected="a tar without compression", got=error, todo="unpack it"
            ) from error
        shown = [name for name in members if not _hidden(name)]
        cut = len(_common(shown))
        self._at = {name[cut:]: (members[name].offset_data, members[name].size) for name in shown}

    def _listed(self) -> Iterable[str]:
        return self._at

    def read(self, name: str) -> bytes:
        if name not in self._at:
            raise self._absent(name)
        start, size = self._at[name]
        try:
            there = max(0, min(size, self.path.stat().st_size - start))  # room is made for as much as is asked for
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(there)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read", expected="a tar", got=error, todo="check it and its rights"
            ) from error
        if len(data) < size:
            raise InputError(
                f"{self.where(name)} is cut off", expected=f"{size} bytes", got=len(data), todo="fetch the tar again"
            )
        return data


def open_files(path: Path) -> Files:
    """The files at a path. Raises `InputError` for a broken or compressed archive."""
    if path.is_dir():
        return FolderFiles(path)
    if path.suffix.lower() == ".zip":
        return ZipFiles(path)
    if path.suffix.lower() in (".tar", ".tgz") or path.name.lower().endswith((".tar.gz", ".tar.bz2", ".tar.xz")):
        return TarFiles(path)
    return FolderFiles(path.parent, path.name)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _common(names: list[str]) -> str:
    """The folders, with their last slash, that all names lie in."""
    folders = [f"./{name}".rpartition("/")[0] for name in names]
    shared = posixpath.commonpath(folders) if folders else ""
    return f"{shared}/" if shared else ""
