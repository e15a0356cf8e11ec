"""Returns freed memory to the system after work on large pictures; glibc would keep it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager


def settle() -> None:
    """Say that what lives now stays, so that `release_memory` takes milliseconds.

    Else it would look through half a million objects of the libraries each time, while no other thread can run.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def release_memory(cycles: bool = True) -> Generator[None]:
    """Memory that was freed by the end of this goes back to the system, where it can be told to do so (glibc).

    Pillow's blocks of 16 MB lie in the heap, not in mappings of their own, as soon as one of them was freed (glibc
    raises its threshold to their size), and a heap gives back its top alone. Results are held by cycles, too;
    `cycles=False` does not look for any.
    """
    try:
        yield
    finally:
        if cycles:
            gc.collect()
        if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # musl has none
            library.malloc_trim(0)
