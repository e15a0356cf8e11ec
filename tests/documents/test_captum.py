"""Every row of docs/captum.md runs, and both sides say the same."""

from __future__ import annotations

import re
from pathlib import Path

import captum.attr
import pytest
import torch

TEXT = (Path(__file__).parents[2] / "docs" / "captum.md").read_text("utf-8")
ROWS = [
    tuple(re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | "))
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| captum")
]
# Of what draws noise, each library draws its own.
SAME = [(a[0], b[0]) for a, b in ROWS if a and ".attribute(" in a[0] and "NoiseTunnel" not in a[0]]
NAMES = sorted({name for theirs, _ in ROWS for name in re.findall(r"\b([A-Z]\w+)\(", " ".join(theirs))})


@pytest.fixture(scope="module")
def names():
    found = {}
    exec(re.search(r"```python\n(.*?)```", TEXT, re.S)[1], found)
    return found


@pytest.mark.parametrize("code", [code for _, ours in ROWS for code in ours])
def test_what_clew_has_for_it_runs(code, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert eval(code, names) is not None
    assert ".save(" not in code or list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Input Tensor")  # captum tells that it sets requires_grad
@pytest.mark.parametrize("pair", SAME, ids=[theirs for theirs, _ in SAME])
def test_both_say_the_same(pair, names):
    theirs, ours = pair
    expected = eval(theirs, {**names, **vars(captum.attr)}).detach()
    expected = expected.abs().sum(1) if "abs" not in theirs and "Saliency" in theirs else expected.sum(1)
    torch.testing.assert_close(eval(ours, names).pixels, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_captum_has_a_name_like_that(name):
    assert hasattr(captum.attr, name)
