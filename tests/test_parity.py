"""The golden arrays that ship with the tests, and the rules that the comparison itself must keep."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import parity
import pytest

import clew

TESTS = Path(__file__).parent
CASES = [case.full_name for case in parity.collect(TESTS / "goldens")]


@pytest.mark.parametrize("part", ["vision", "nlp/bert", "nlp/eraser", "nlp/gpt2", "nlp/qwen2", "nlp/llama"])
def test_the_bundled_golden_arrays_agree(capsys, part, pytestconfig):
    """All, or a fifth of them: CI compares all that there are."""
    cases = sorted(
        parity.collect(TESTS / "goldens" / part), key=lambda c: hashlib.sha256(c.full_name.encode()).hexdigest()
    )
    cases = cases if pytestconfig.getoption("--all-cases") else cases[: math.ceil(len(cases) / 5)]
    only = ",".join(case.full_name for case in cases)
    status = parity.main([str(TESTS / "goldens" / part), "--through", "5", "--only", only])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0, [line for line in lines if line.startswith("FAIL")]
    skipped = [line for line in lines if line.startswith("skip ")]
    assert len(skipped) < len(cases) / 4
    assert lines[-1] == f"{len(cases) - len(skipped)} passed, 0 failed, {len(skipped)} skipped, 0 todo"


def test_they_are_small():
    assert sum(f.stat().st_size for f in (TESTS / "goldens").rglob("*")) < 5_000_000


@pytest.mark.parametrize("file", ["parity.py", *sorted(f"support/{f.name}" for f in TESTS.glob("support/parity_*.py"))])
def test_it_uses_public_names_only_and_computes_nothing(file):
    tree = ast.parse((TESTS / file).read_text())
    imported = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    modules = [a.name for n in imported if isinstance(n, ast.Import) for a in n.names]
    modules += [n.module for n in imported if isinstance(n, ast.ImportFrom)]
    assert not [m for m in modules if m.startswith("clew.")]
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "clew"}
    assert used <= set(clew.__all__)
    called = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    assert not called & {"backward", "grad", "softmax", "matmul", "einsum", "forward"}


def test_a_wrong_array_fails(tmp_path, capsys):
    source = TESTS / "goldens" / "vision" / "vit"
    folder = tmp_path / "vit"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    arrays = parity.arrays_in(folder / "expected.npz")
    arrays["r1__rollout__start0"] = arrays["r1__rollout__start0"] * (1 + 1e-7)
    np.savez(folder / "expected.npz", **arrays)
    assert parity.main([str(folder), "--only", "vit/r1__rollout*"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL vit/r1__rollout__start0" in printed
    assert "ok   vit/r1__rollout__start1" in printed
    assert "attention_rollout" in printed


def test_newer_methods_have_a_mapping_each_or_are_skipped_with_a_reason(tmp_path, capsys, monkeypatch):
    class Family:
        def __init__(self, folder):
            self.arrays = parity.arrays_in(folder / "expected.npz")

        def expected(self, case):
            return self.arrays[case.name]

        def tolerance(self, case):
            return 1e-9

        def run(self, case):
            return parity.Outcome(np.array([1.0, case.entry["second"]]), "a call")

    made = ModuleType("support.parity_made")
    made.__spec__ = ModuleSpec("support.parity_made", None)
    made.Family, made.SKIPPED = Family, {"*|released": "a quirk"}
    monkeypatch.setitem(sys.modules, "support.parity_made", made)
    for folder in ("made", "unmade"):
        (tmp_path / folder).mkdir()
        cases = {
            "m|paper": {"method": "M", "second": 2.0},
            "m|wrong": {"method": "M", "second": 2.1},
            "m|released": {"method": "M", "second": 3.0},
        }
        (tmp_path / folder / "manifest.json").write_text(json.dumps({"cases": cases}))
        np.savez(tmp_path / folder / "expected.npz", **dict.fromkeys(cases, np.array([1.0, 2.0])))
    (tmp_path / "manifest.json").write_text(json.dumps({"folders": {}}))
    assert parity.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   made/m|paper  ") and lines[1].startswith("FAIL made/m|wrong  ")
    assert lines[2] == "skip made/m|released: a quirk"
    said = "not compared by this script: M"
    assert lines[3:-1] == [f"skip unmade/m|{case}: {said}" for case in ("paper", "wrong", "released")]
    assert lines[-1] == "1 passed, 1 failed, 4 skipped, 0 todo"
    assert parity.main([str(tmp_path), "--through", "5", "--only", "made/m|wrong"]) == 0


def test_listing_and_selecting(capsys):
    assert parity.main([str(TESTS / "goldens"), "--list", "--only", "vit/*sub_*"]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == [f"{name}  (issue 1)" for name in CASES if "sub_" in name]
    assert parity.main([str(TESTS / "goldens"), "--only", "clip/*"]) == 1


def test_nan_counts_as_zero_and_shapes_must_agree():
    assert parity.compare(np.array([np.nan, 2.0]), np.array([0.0, 2.0])) == 0
    assert parity.compare(np.array([np.nan, 2.0]), np.array([0.1, 2.0])) == pytest.approx(0.05)
    assert parity.compare(np.zeros(3), np.zeros(2)) == float("inf")
    assert parity.compare(np.zeros(3), np.full(3, 1e-3)) == 1e-3
    assert not parity.compare(np.ones(2), np.array([np.nan, 1.0])) <= 1e9
