"""Registers whose entries are the files of a folder."""

from __future__ import annotations

import importlib
import pkgutil
import sys

_read: set[str] = set()


def import_submodules(package: str) -> None:
    """Import every file of a package, once, so that what they register is known."""
    if package not in _read:
        _read.add(package)
        for module in pkgutil.iter_modules(sys.modules[package].__path__):
            importlib.import_module(f"{package}.{module.name}")
