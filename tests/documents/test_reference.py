"""Every public name is documented: it has a docstring, a place in docs/reference, and an example that runs there.

Those of public modules, too, as `clew.metrics.srg`, whose example asserts what it gives. That every page builds, no
link is broken, and what a place renders has its heading, `make docs` sees.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path

import pytest

import clew

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
TEXT = "\n".join(file.read_text() for file in sorted(FOLDER.glob("*.md")))
BLOCKS = [ast.parse(block) for block in re.findall(r"```python\n(.*?)```", TEXT, re.S)]  # which test_docs.py runs
ROOMS = [name for name in clew.__all__ if isinstance(getattr(clew, name), types.ModuleType)]
NAMES = [f"clew.{name}" for name in clew.__all__]
INSIDE = [
    f"clew.{room}.{name}"
    for room in ROOMS
    for name, found in ((name, getattr(getattr(clew, room), name)) for name in getattr(clew, room).__all__)
    if found is not getattr(clew, name, None)  # the same under its short name
]


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


@pytest.mark.parametrize("path", [*NAMES, *INSIDE])
def test_it_has_one_place(path):
    twice = rf"{re.escape(path)}\.{path.rpartition('.')[2]}"  # a function in a file of the same name
    assert len(re.findall(rf"^::: (?:{re.escape(path)}|{twice})$", TEXT, re.M)) == 1


def used(block):
    """Public names that a block uses, by their paths; to import one is not to use it."""
    imported, found = {"clew": "clew"}, set()
    for node in ast.walk(block):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clew":
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module)
    for node in ast.walk(block):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in imported:
            found.add(".".join([imported[node.id], *parts]))
    return found


USED = [used(block) for block in BLOCKS]
ASSERTED = set().union(
    *(u for u, b in zip(USED, BLOCKS, strict=True) if any(isinstance(n, ast.Assert) for n in ast.walk(b)))
)


@pytest.mark.parametrize("path", NAMES)
def test_it_has_an_example(path):
    assert any(path in names for names in USED), f"no block of Python in docs/reference uses {path}"


@pytest.mark.parametrize("path", INSIDE)
def test_it_has_an_example_that_asserts(path):
    assert path in ASSERTED, f"no block of Python in docs/reference that asserts something uses {path}"


def test_what_is_only_imported_is_not_used():
    block = ast.parse("import clew\nfrom clew.rules import Flat, ZBox\nprint(Flat(), clew.metrics.srg)")
    assert used(block) == {"clew", "clew.rules", "clew.rules.Flat", "clew.metrics", "clew.metrics.srg"}
