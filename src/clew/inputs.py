"""What is typed on a command line: files, folders and words, as inputs that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import PICTURES, open_image
from .shapes import InputError

TEXTS = (".txt", ".md", ".text")


@dataclass(frozen=True)
class Item:
    """One input with the name it goes by."""

    name: str
    value: Any


def read_images(words: Sequence[str]) -> list[Item]:
    """Pictures from files, and all those in folders. Raises `InputError` for what is no picture."""
    return [Item(path.name, open_image(path)) for word in words for path in _files(Path(word), PICTURES, "pictures")]


def read_texts(words: Sequence[str], *, as_text: bool = False) -> list[Item]:
    """Texts from files, all those in folders, and words themselves; with `as_text` words only.

    Raises `InputError` for empty texts, and for files that are no text.
    """
    items: list[Item] = []
    for word in words:
        if not word.strip():
            raise InputError("there is an empty text", expected="a file, a folder or words", got=repr(word))
        if as_text or not _exists(word):
            if not as_text and Path(word).suffix in TEXTS:
                raise InputError(f"no file {word}", expected="a text file", got="nothing there", todo="check the path")
            items.append(Item(word if len(word) <= 40 else word[:39] + "…", word))
            continue
        for path in _files(Path(word), TEXTS, "texts"):
            try:
                content = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path} is no text", expected="a file in UTF-8", got=error) from error
            items.append(Item(path.name, content.strip()))
    return items


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long for a name, or with characters that no name has
        return False


def _files(path: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
    if not found:
        raise InputError(f"no {what} in {path}", expected=", ".join(suffixes), got="none")
    return found
