"""Recurrent layers of a twin, which run without cuDNN where they are not on the CPU; here they are taken for such."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import clew
from clew.seam import twin as module
from clew.seam.twin import twin


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(module, "_may_run_by_cudnn", lambda layer: True)


class ByName(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.layer, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(input=x)[0][:, -1])


class TakesAMapping(nn.GRU):
    def forward(self, batch):
        return super().forward(batch["x"])[0]


class OfAMapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = TakesAMapping(6, 8, batch_first=True)

    def forward(self, x):
        return self.layer({"x": x})[:, -1]


def plain(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 1].sum(), x)[0] * x


@pytest.mark.parametrize("make", [ByName, lambda: ByName(nn.GRU), lambda: ByName(nn.RNN), OfAMapping])
def test_however_they_are_called_gradients_are_autograds(make):
    model, x = make().eval(), torch.randn(2, 5, 6)
    found = clew.explain(model, x, method="input_x_gradient", target=1)
    torch.testing.assert_close(found.scores.float(), plain(model, x).detach().float(), rtol=1e-4, atol=1e-6)


def test_cudnn_is_off_inside_alone_and_on_again_after_an_error(monkeypatch):
    model, seen = ByName().eval(), []
    made = twin(model)
    original = nn.LSTM.forward

    def watched(layer, *args, **kwargs):
        seen.append(torch.backends.cudnn.enabled)
        if len(seen) > 1:
            raise ValueError("a fault")
        return original(layer, *args, **kwargs)

    monkeypatch.setattr(nn.LSTM, "forward", watched)
    before = torch.backends.cudnn.enabled
    made(torch.randn(1, 5, 6))
    with pytest.raises(ValueError, match="a fault"):
        made(torch.randn(1, 5, 6))
    assert seen == [False, False] and torch.backends.cudnn.enabled == before


def test_a_twin_of_a_twin_runs_its_own_layer():
    model, x = ByName().eval(), torch.randn(1, 5, 6)
    first = twin(model)
    second = twin(first)
    with torch.no_grad():
        second.layer.weight_ih_l0.mul_(1.0)
        calls = []
        second.layer.register_forward_pre_hook(lambda *_: calls.append(None))
        assert torch.equal(second(x), model(x)) and len(calls) == 1
    plainly = twin(first, as_is=True)
    assert "forward" not in vars(plainly.layer)
    del first
    assert torch.equal(second(x), model(x))


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a switch of torch 2.9")
def test_torchs_newer_switches_of_tf32_are_left_alone():
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        made = twin(ByName().eval())
        made(torch.randn(1, 5, 6))
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
