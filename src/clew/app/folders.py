"""Where the page writes: all in one folder, which goes when the page is closed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..files import write_errors

_VARIABLE = "GRADIO_TEMP_DIR"  # where Gradio keeps uploads, and copies of what it serves


@contextmanager
def own_folder() -> Generator[Path]:
    """A folder for all temporary files of this process: the page's, Gradio's and other libraries'; none are left.

    It lies where `GRADIO_TEMP_DIR` says, or among the temporary files of the system. Raises `WriteError`.
    """
    named, usual = os.environ.get(_VARIABLE), tempfile.tempdir
    with write_errors("a temporary folder"):
        if named is not None:
            Path(named).mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="clew-ui-", dir=named, ignore_cleanup_errors=True)
    with made as folder:
        tempfile.tempdir, os.environ[_VARIABLE] = folder, str(Path(folder, "gradio"))
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = usual
            if named is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = named


class Folders:
    """Folders below `root` for what the page writes: those of the last results, and those that are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last: deque[Path] = deque()

    def new(self, keep: bool = False) -> Path:
        """A new and empty one."""
        with write_errors("a temporary folder"):
            made = Path(tempfile.mkdtemp(dir=self._root))
        if not keep:
            self._last.append(made)
            if len(self._last) > 8:  # Gradio makes its copies at once, so that older ones are not needed
                shutil.rmtree(self._last.popleft(), ignore_errors=True)
        return made
