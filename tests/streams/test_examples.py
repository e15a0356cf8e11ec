"""Examples that a model keeps apart are explained together; those that share rows one after the other."""

from __future__ import annotations

import pytest
import torch
from support.zoo import build
from support.zoo_common import loud, noise
from torch import nn

import clew


@pytest.mark.parametrize(("name", "kernel"), [("bart", "eager"), ("t5_tied", "eager"), ("dinov3", "eager")])
def test_the_first_call_is_one_pass_of_all_examples(name, kernel):
    """Where examples are is asked by a backward pass of its own, which leaves nothing in the account."""
    specimen = build(name, kernel)
    found = clew.explain(specimen.model, specimen.inputs, method="attn_lrp", target=specimen.score)
    assert "examples" not in found.checks


class Shared(nn.Module):
    """What is common to all examples is added to each."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x.sum(1) + self.norm(x.mean(0)).sum(0))


@pytest.mark.parametrize("method", ["input_x_gradient", "attn_lrp"])
def test_examples_that_share_rows(method):
    model, x = loud(Shared()), noise(2, 3, 4)
    found = clew.explain(model, x, method=method, target=1)
    assert found.scores.shape == (2, 2, 3, 4)  # of each score all that was given
    if method == "input_x_gradient":
        leaf = x.clone().requires_grad_()
        for i, one in enumerate(model(leaf)[:, 1]):
            (g,) = torch.autograd.grad(one, leaf, retain_graph=True)
            torch.testing.assert_close(found.scores[i], (leaf * g).detach(), rtol=0, atol=1e-13)
        return
    assert found.checks["examples"].startswith("one at a time")
    size = float(found.checks["explained"].abs().max())
    assert float(found.checks["unexplained"].abs().max()) < 1e-12 * size
