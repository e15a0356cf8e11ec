"""What rounding may explain, by dtypes, kernels and torch's switches of TF32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clew.verification.rounding import allowed_difference

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONVOLVED, PLAIN = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("model", "device", "allowed"),
    [
        (PLAIN, CPU, 3e-4),
        (CONVOLVED, CPU, 3e-4),
        (PLAIN, GPU, 3e-4),
        (CONVOLVED, GPU, 5e-3),
        (nn.Conv1d(3, 4, 2).double(), GPU, 1e-5),
        (nn.Linear(3, 4).bfloat16(), GPU, 0.1),
    ],
)
def test_by_dtype_and_kernel(model, device, allowed):
    assert allowed_difference(model, device, precise=True) == allowed
    assert allowed_difference(model, device, precise=False) == (3e-4 if model is CONVOLVED else allowed)


def test_recurrent_layers_are_explained_without_the_kernel_that_rounds():
    layer = nn.GRU(3, 4)
    assert allowed_difference(layer, GPU, precise=False) == allowed_difference(layer, GPU, precise=True) == 5e-3
    assert allowed_difference(layer, CPU, precise=False) == 3e-4


def test_products_that_are_rounded_by_the_older_switch():
    before = torch.get_float32_matmul_precision()
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert allowed_difference(PLAIN, GPU, precise=True) == 2e-2
        assert allowed_difference(nn.Linear(3, 4).double(), GPU, precise=True) == 1e-5
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a switch of torch 2.9")
def test_the_newer_switch_after_which_the_older_cannot_be_read():
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"
        assert allowed_difference(CONVOLVED, GPU, precise=True) == 3e-4
        matmul.fp32_precision = "tf32"
        assert allowed_difference(PLAIN, GPU, precise=True) == 2e-2
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
