"""A disk that is full, without one: for what Python writes by `clew.files`, and for all that this process writes."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager


class _Full:
    """A file that takes half of what is written."""

    def __init__(self, file, number):
        self.file, self.number = file, number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(self.number, os.strerror(self.number))


def full_after(monkeypatch, count=0, number=errno.ENOSPC):
    """So many files are written, and half of the next ones."""
    real, opened = os.fdopen, []

    def fdopen(*args, **more):
        opened.append(args)
        file = real(*args, **more)
        return file if len(opened) <= count else _Full(file, number)

    monkeypatch.setattr(os, "fdopen", fdopen)


@contextmanager
def longest_file(size):
    """No file grows beyond so many bytes, whoever writes it, also libraries in C++ and Rust."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
