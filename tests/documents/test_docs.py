"""Every Python block of the README and the docs runs, offline, in a folder of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import clew
from clew.models import pair

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{file.relative_to(ROOT).as_posix()}-{i}")
    for file in FILES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(), re.S))
]


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # All that comes with clew is there before.
    for read in (clew.methods, clew.architectures, clew.benchmarks, pair.pairs):
        read()
    registers = [
        sys.modules[f"clew.{name}"]._registered
        for name in ("explainers", "models.pair", "models.architectures", "evaluation.benchmarks")
    ]
    known = [dict(one) for one in registers]
    try:
        exec(compile(block, "README", "exec", dont_inherit=True), {"__name__": "docs"})
    finally:
        for one, before in zip(registers, known, strict=True):
            one.clear()
            one.update(before)


def test_the_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_what_is_cited_is_this_version():
    assert f"\nversion: {clew.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_links_lead_somewhere():
    for file in FILES:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_methods_on_their_page_are_all_there_are():
    table = (
        (ROOT / "docs" / "which-method.md").read_text().split("## What there is")[1].split("**For and against.**")[0]
    )
    listed = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert {name for name, m in clew.methods().items() if m.function.__module__.startswith("clew.")} == listed
