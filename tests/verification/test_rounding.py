"""What rounding may explain, by dtypes, kernels and torch's switches of TF32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clew.verification.rounding import allowed_difference, rounds_to_tf32

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONVOLVED, PLAIN = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("model", "device", "allowed", "rounds"),
    [
        (PLAIN, CPU, 3e-4, False),
        (CONVOLVED, CPU, 3e-4, False),
        (PLAIN, GPU, 3e-4, False),
        (CONVOLVED, GPU, 3e-4, True),
        (nn.Linear(3, 4).double(), GPU, 1e-5, False),
        (nn.Linear(3, 4).bfloat16(), GPU, 0.1, False),
    ],
)
def test_by_dtype_and_kernel(model, device, allowed, rounds):
    assert allowed_difference(model, device) == allowed
    assert rounds_to_tf32(model, device) == rounds


def test_products_that_are_rounded_by_the_older_switch():
    before = torch.get_float32_matmul_precision()
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert allowed_difference(PLAIN, GPU) == 2e-2 and rounds_to_tf32(PLAIN, GPU)
        assert allowed_difference(nn.Linear(3, 4).double(), GPU) == 1e-5
        assert allowed_difference(PLAIN, CPU) == 3e-4 and not rounds_to_tf32(PLAIN, CPU)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a switch of torch 2.9")
def test_the_newer_switch_after_which_the_older_cannot_be_read():
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"
        assert not rounds_to_tf32(CONVOLVED, GPU)
        matmul.fp32_precision = "tf32"
        assert allowed_difference(PLAIN, GPU) == 2e-2 and rounds_to_tf32(PLAIN, GPU)
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
