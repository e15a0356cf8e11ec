"""The newer methods against arrays made by their released code, where these arrays are: what `parity.py` compares."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens-newer"  # beside the checkout, as for .ci/run
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden arrays of the newer methods are not here")
SUPPORT = Path(parity.__file__).parent / "support"
FOLDERS = [file.parent.name for file in sorted(GOLDENS.glob("*/expected.npz"))]
MAPPED = [name for name in FOLDERS if (SUPPORT / f"parity_{name}.py").exists()]
# Cases that no call of the public API gives, each with its reason in the mapping.
LEFT_OUT = {"reslrp": 27, "legrad": 1, "legrad_classifier": 6, "grad_eclip": 2}


@pytest.mark.parametrize("folder", MAPPED)
def test_the_golden_arrays_agree(folder, capsys):
    status = parity.main([str(GOLDENS / folder)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0, [line for line in lines if line.startswith("FAIL")]
    assert sum(line.startswith("skip ") for line in lines) == LEFT_OUT.get(folder, 0)


def test_every_mapping_is_for_a_folder():
    assert {"attcat_bert", "decompx", "grad_eclip", "legrad", "legrad_classifier", "libragrad", "reslrp"} <= set(MAPPED)
