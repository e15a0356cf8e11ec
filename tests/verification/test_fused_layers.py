"""Torch's fused encoder layers: on a GPU they compute another GELU than the layers say. Here the kernel is made to."""

from __future__ import annotations

import pytest
import torch
from support.zoo import build

import clew
from clew.errors import CheckFailed


@pytest.fixture
def rounds(monkeypatch):
    """Let the fused kernel be off by a thousandth, as GELU by tanh is."""
    own = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *given: 1.001 * own(*given))


def explained(specimen, **options):
    return clew.explain(specimen.model, specimen.inputs, method="attn_lrp", target=specimen.score, **options)


def test_what_the_layers_say_is_explained_and_it_is_told(rounds):
    specimen = build("encoder_batch_first")
    found = explained(specimen)
    assert found.checks["as_called"].startswith("torch's fused encoder layers say something else, by ")
    assert found.checks["forward_difference"] < 1e-12
    again = explained(specimen)  # without another call of the model
    assert again.checks["as_called"] == found.checks["as_called"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_where_they_say_the_same_nothing_is_told():
    specimen = build("encoder_batch_first")
    assert "as_called" not in explained(specimen).checks


def test_a_model_that_differs_either_way_is_refused(rounds, monkeypatch):
    specimen = build("encoder_batch_first")
    calls = []

    def restless(module, args, output):
        calls.append(None)
        return output + 0.1 * len(calls)

    specimen.model.head.register_forward_hook(restless)
    with pytest.raises(CheckFailed, match="the model called as its user calls it"):
        explained(specimen)
