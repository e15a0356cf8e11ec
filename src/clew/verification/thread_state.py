"""A thread-local flag: whether a result is being verified. Forward passes of checks are not counted as the method's."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class _ThreadState(threading.local):
    value = False


_here = _ThreadState()


@contextmanager
def verifying() -> Generator[None]:
    """While a result is verified, in this thread."""
    before, _here.value = _here.value, True
    try:
        yield
    finally:
        _here.value = before


def is_verifying() -> bool:
    """Whether this thread verifies a result just now."""
    return _here.value
