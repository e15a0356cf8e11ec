"""Reads entries of archives, and refuses zip bombs."""

from __future__ import annotations

import tarfile
import zipfile
import zlib

from ..errors import InputError

SMALL = 2**26  # bytes that any entry may have
_RATIO = 200  # to what it is packed in; texts are packed to a third or a tenth

BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)  # RuntimeError: encrypted
BROKEN_TAR = (tarfile.TarError, zlib.error, OSError, EOFError, ValueError, OverflowError, MemoryError)


def read_zip_entry(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    """An entry of a zip. Raises `InputError` for one that unfolds to many times what it is, `KeyError` for none."""
    entry = archive.getinfo(name)
    if entry.file_size > max(SMALL, _RATIO * entry.compress_size):
        raise InputError(
            f"{where} unfolds to many times what it is",
            expected=f"at most {_RATIO} times, or {SMALL:,} bytes",
            got=f"{entry.compress_size:,} bytes that become {entry.file_size:,}",
            todo="unpack it yourself if you trust it, and pass the folder",
        )
    return archive.read(entry)
