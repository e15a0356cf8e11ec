"""Every public name is documented: it has a docstring, a place in docs/reference, and an example that runs there.

That every page builds, no link is broken, and what a place renders has its heading, `make docs` sees.
"""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path

import pytest

import clew

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
TEXT = "\n".join(file.read_text() for file in sorted(FOLDER.glob("*.md")))
EXAMPLES = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))  # which test_docs.py runs
ROOMS = [name for name in clew.__all__ if isinstance(getattr(clew, name), types.ModuleType)]
NAMES = [f"clew.{name}" for name in clew.__all__]
INSIDE = [f"clew.{room}.{name}" for room in ROOMS for name in getattr(clew, room).__all__]


def value(path):
    found = clew
    for part in path.split(".")[1:]:
        found = getattr(found, part)
    return found


def undocumented(path, found):
    """What has no docstring: the thing itself, and of a class its own public methods and properties."""
    if not (inspect.isclass(found) or inspect.isroutine(found) or inspect.ismodule(found)):
        return  # of values what stands below them in the source, which only the site reads
    if not inspect.getdoc(found):
        yield path
    fields = getattr(found, "__dataclass_fields__", {})  # some of which hold functions: the class tells of them
    for name in vars(found).keys() - fields.keys() if inspect.isclass(found) else ():
        own = inspect.getattr_static(found, name)
        function = own.fget if isinstance(own, property) else getattr(own, "__func__", own)
        if not name.startswith("_") and inspect.isfunction(function) and not inspect.getdoc(getattr(found, name)):
            yield f"{path}.{name}"


@pytest.mark.parametrize("path", [*NAMES, *INSIDE])
def test_it_has_a_docstring(path):
    assert list(undocumented(path, value(path))) == []


def test_one_without_a_docstring_is_noticed():
    class Bare:
        def method(self):
            return self

    assert list(undocumented("Bare", Bare)) == ["Bare", "Bare.method"]


@pytest.mark.parametrize("path", NAMES)
def test_it_has_one_place(path):
    assert len(re.findall(rf"^::: {re.escape(path)}$", TEXT, re.M)) == 1


@pytest.mark.parametrize("path", NAMES)
def test_it_has_an_example(path):
    used = rf"\b{re.escape(path)}\b|\bfrom {re.escape(path)} import\b"
    assert re.search(used, EXAMPLES), f"no block of Python in docs/reference uses {path}"
