"""The newer methods against arrays made by their released code, where these arrays are: what `parity.py` compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from parity import arrays_in, collect, compare
from support import flow_twin, parity_ifr_flashtrace

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens-newer"  # beside the checkout, as for .ci/run
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden arrays of the newer methods are not here")
SUPPORT = Path(parity.__file__).parent / "support"
FOLDERS = [file.parent.name for file in sorted(GOLDENS.glob("*/expected.npz"))]
MAPPED = [name for name in FOLDERS if (SUPPORT / f"parity_{name}.py").exists()]
# Cases that no call of the public API gives, each with its reason in the mapping.
LEFT_OUT = {"reslrp": 27, "legrad": 1, "legrad_classifier": 6, "grad_eclip": 2, "ifr_flashtrace": 10,
            "dave": 2, "tis": 1}  # fmt: skip


@pytest.mark.parametrize("folder", MAPPED)
def test_the_golden_arrays_agree(folder, capsys):
    status = parity.main([str(GOLDENS / folder)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0, [line for line in lines if line.startswith("FAIL")]
    assert sum(line.startswith("skip ") for line in lines) == LEFT_OUT.get(folder, 0)


def test_every_mapping_is_for_a_folder():
    assert {
        "attcat_bert",
        "contextcite",
        "dave",
        "decompx",
        "grad_eclip",
        "ifr_flashtrace",
        "inflow",
        "tis",
        "legrad",
        "legrad_classifier",
        "libragrad",
        "reslrp",
    } <= set(MAPPED)


FLOW = GOLDENS / "ifr_flashtrace"


def test_information_flow_in_double_precision():
    """Its arrays have two norms: transformers' is in single precision, that of the values is not. Nothing else differs
    by more than such a norm does."""
    family = parity_ifr_flashtrace.Family(FLOW)
    cases = [one for one in collect(GOLDENS) if one.family == FLOW.name and not one.name.endswith("|float32")]
    assert len(cases) == 10
    for case in cases:
        assert compare(family.expected(case), family.run(case).found) <= 2e-7, case.name


@pytest.mark.parametrize("text", [0, 1, 2])
def test_information_flow_with_norms_of_both_precisions(text):
    """By the literal twin, which makes values by a norm of its own, as the released code does."""
    model, texts = parity_ifr_flashtrace.llama(GOLDENS / "llama")
    flow, expected = flow_twin.of_llama(model, texts[text]), arrays_in(FLOW / "expected.npz")
    for threshold in (0.0, 2.0):
        every = [flow_twin.ifr(flow, {i: 1.0}, threshold=threshold) for i in range(texts.shape[1])]
        array = expected[f"ifr_all|threshold{threshold}"][text]
        assert compare(array, torch.stack(every).numpy()) <= 1e-9
    for hops in (1, 2, 3):
        scores, shares = flow_twin.flash_trace(flow, [11, 12, 13], range(6, 11), hops, list(range(6)))
        assert compare(expected[f"flashtrace|hops{hops}"][text], scores.numpy()) <= 1e-9
        assert compare(expected[f"flashtrace_ratios|hops{hops}"][text], np.array(shares)) <= 1e-9
