"""Write files whole or not at all, and say of a file that cannot be written what the system says."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import ClewError, WriteError, short_repr
from .surrogates import without_halves

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)


def write(path: str | Path, writers: Mapping[str, Callable[[], str | bytes]], *, then: str | None = None) -> Path:
    """Write a file by its suffix.

    Raises `ClewError` for a suffix without a writer, `WriteError` (which says what to do, and `then`) where it cannot
    be written: then all is as it was.
    """
    refuse_names(path)
    path = Path(path)
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ClewError(f"cannot save as {path.name!r}", expected=" or ".join(writers), got=path.suffix or "no suffix")
    return write_all({path: writer()}, then=then)[0]


def write_all(contents: Mapping[Path, str | bytes], *, then: str | None = None) -> list[Path]:
    """Write files that belong together: none takes its place before all are on the disk. Raises `WriteError`."""
    with ExitStack() as kept:
        moves: list[tuple[Path, Path]] = []
        for path, content in contents.items():
            with write_errors(path, then=then):
                moves.append((_beside(path, content, kept), path))
        for temporary, path in moves:
            with write_errors(path, then=then):
                os.replace(temporary, path)
    return list(contents)


def _beside(path: Path, content: str | bytes, kept: ExitStack) -> Path:
    """A neighbour of a file, whole and on the disk, that is gone at the end of `kept`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    temporary = Path(name)
    kept.callback(temporary.unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file:
        file.write(without_halves(content).encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # or a power cut would leave the name without the content
    os.chmod(temporary, 0o666 & ~umask())
    return temporary


@contextmanager
def write_errors(path: str | Path, *, then: str | None = None) -> Generator[None]:
    """Around what writes `path`: an error of the system is a `WriteError` that says which file, why, and what to do.

    Also errors of libraries that do not raise `OSError`: safetensors, tokenizers, torch.
    """
    try:
        yield
    except ClewError:
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        todo = _todo(number) + (f"; then {then}" if then is not None else "")
        found = WriteError(f"cannot write {path}", got=error, todo=todo)
        found.errno = number
        raise found from error


def _number(error: Exception) -> int | None:
    """The system's number of an error, 0 where it is not told; None for an error that is not the system's."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))  # as Rust writes it
    if told is not None:
        return int(told[1])
    # Of torch.save, which does not say why.
    return errno.ENOSPC if re.search(r"inline_container|PytorchStreamWriter|iostream error", str(error)) else None


def _todo(number: int) -> str:
    if number in NO_ROOM:
        return "make room there, or write to another disk"
    if number in _NOT_ALLOWED:
        return "choose a folder that you may write to"
    if number in _IN_THE_WAY:
        return "choose another name: a file or folder is in the way"
    return "choose a shorter name" if number == errno.ENAMETOOLONG else "see to that, or write elsewhere"


def temporary_folder(prefix: str) -> Path:
    """A new and empty folder for what does not last. Raises `WriteError`."""
    with write_errors("a temporary folder", then="do it again, or set TMPDIR to a folder with room"):
        return Path(tempfile.mkdtemp(prefix=prefix))


def refuse_names(path: str | Path) -> None:
    """Raise `WriteError` for what no file or folder is called."""
    if not isinstance(path, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WriteError("this is no path", expected="a name of a file", got=short_repr(path))
    if not is_valid_filename(path):
        raise WriteError(
            "no file has such a name", expected="a shorter one, of whole characters", got=ascii(str(path)[:60])
        )


def is_valid_filename(name: str | Path) -> bool:
    """Whether a file could have this name: not if it is too long, or of characters that no name has."""
    try:
        os.lstat(name)
    except ValueError:
        return False
    except OSError as error:
        return error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
    return True


def umask() -> int:
    """The bits that new files do not get."""
    with suppress(OSError, StopIteration):  # asking the system means changing it, which other threads would see
        lines = Path("/proc/self/status").read_text("ascii", "ignore").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    current = os.umask(0)
    os.umask(current)
    return current


def slug(text: str) -> str:
    """A name for a file or folder, made of letters, digits, dots and underscores."""
    return re.sub(r"[^\w.]+", "_", text)[-40:].strip("_")
