"""Torch's fused encoder layers: on a GPU they compute another GELU than the layers say. Here the kernel is made to."""

from __future__ import annotations

import pytest
import torch
from support.zoo import build
from torch import nn

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
    assert 1e-4 < found.checks["forward_difference"] < 5e-3
    again = explained(specimen)  # without another call of the model
    assert again.checks["as_called"] == found.checks["as_called"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_where_they_say_the_same_nothing_is_told():
    specimen = build("encoder_batch_first")
    assert "as_called" not in explained(specimen).checks


class Padded(nn.Module):
    """Whose fused kernel gives zeros where padding is, which the mean over all places reads."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        self.words, self.encoder, self.head = nn.Embedding(50, 12), nn.TransformerEncoder(layer, 2), nn.Linear(12, 3)

    def forward(self, ids, mask):
        return self.head(self.encoder(self.words(ids), src_key_padding_mask=mask == 0).mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_another_output_than_rounding_makes_is_refused():
    model, ids = Padded().double().eval(), torch.randint(1, 50, (2, 8))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    with pytest.raises(CheckFailed, match="the model called as its user calls it"):
        clew.explain(model, {"ids": ids, "mask": mask}, method="attn_lrp", target=1)


def test_a_model_that_differs_either_way_is_refused(rounds, monkeypatch):
    specimen = build("encoder_batch_first")
    calls = []

    def restless(module, args, output):
        calls.append(None)
        return output + 0.1 * len(calls)

    specimen.model.head.register_forward_hook(restless)
    with pytest.raises(CheckFailed, match="the model called as its user calls it"):
        explained(specimen)
