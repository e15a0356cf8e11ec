"""Write files whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .shapes import ClewError


def write(path: str | Path, writers: Mapping[str, Callable[[], str | bytes]]) -> Path:
    """Write a file by its suffix, into a neighbour first, so that it is whole or not there.

    Raises `ClewError` for a suffix without a writer and for a folder that cannot be written to.
    """
    path = Path(path)
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ClewError(f"cannot save as {path.name!r}", expected=" or ".join(writers), got=path.suffix or "no suffix")
    content = writer()
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ClewError(f"cannot write {path}", got=error, todo="choose a folder that you may write to") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut would leave the name without the content
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def umask() -> int:
    """The bits that new files do not get."""
    current = os.umask(0)
    os.umask(current)
    return current


def slug(text: str) -> str:
    """A name for a file or folder, made of letters, digits, dots and underscores."""
    return re.sub(r"[^\w.]+", "_", text)[-40:].strip("_")
