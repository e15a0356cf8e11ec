"""`clew.quantus_explain` by the contract that Quantus keeps to; Quantus itself is not needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import tiny

import clew
from clew.errors import InputError, OptionError


def evaluated(model, x_batch, y_batch, explain_func, explain_func_kwargs=None, device=None):
    """A stand-in for a metric of Quantus: it calls by name, hands on the device, and looks at what comes."""
    kwargs = {**(explain_func_kwargs or {}), **({} if device is None else {"device": device})}
    a_batch = explain_func(model=model, inputs=x_batch, targets=y_batch, **kwargs)
    assert type(a_batch) is np.ndarray
    assert len(a_batch) == len(x_batch)
    assert a_batch.shape[-2:] == x_batch.shape[-2:]
    assert a_batch.ndim == x_batch.ndim
    assert len(np.unique(a_batch)) > 1
    np.broadcast_to(a_batch, x_batch.shape)  # masks of one channel are laid over all
    return a_batch


@pytest.mark.parametrize("method", ["beyond_intuition_token", "integrated_gradients(n_steps=2)", "attn_lrp"])
def test_images(method):
    model, x, y = tiny.build("timm_token"), tiny.images((32, 32)), np.array([0, 2, 1])
    found = evaluated(model, x.numpy(), y, clew.quantus_explain, {"method": method}, device="cpu")
    expected = clew.explain(model, x, method=method, target=[0, 2, 1]).heatmap()[:, None]
    assert found.shape == (3, 1, 32, 32)
    np.testing.assert_array_equal(found, expected.numpy())
    other = evaluated(model, x.numpy(), (y + 1) % 3, clew.quantus_explain, {"method": method})
    assert not np.array_equal(other[2], found[2])  # another target is another map


def test_series_and_tables_have_a_score_for_each_entry():
    torch.manual_seed(1)
    series = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(18, 4))
    x = np.random.default_rng(0).normal(size=(5, 2, 8)).astype(np.float32)
    found = evaluated(series.eval(), x, np.arange(5) % 4, clew.quantus_explain, {"method": "input_x_gradient"})
    leaf = torch.tensor(x, requires_grad=True)
    series(leaf)[torch.arange(5), torch.arange(5) % 4].sum().backward()
    np.testing.assert_allclose(found, (leaf * leaf.grad).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_options_are_told_and_predictions_are_the_default():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    found = clew.quantus_explain(model, x, method="raw_attention")
    np.testing.assert_array_equal(found[:, 0], clew.explain(model, x, method="raw_attention").heatmap().numpy())
    with pytest.raises(OptionError):
        clew.quantus_explain(model, x, method="raw_attention", nothing_known=1)


def test_scores_of_other_things_are_refused():
    model = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    ids = np.array([[1, 2, 3]])
    assert clew.quantus_explain(model, ids, 1, method="input_x_gradient").shape == (1, 3)
    with pytest.raises(InputError, match="not of the entries"):
        clew.quantus_explain(model, ids, 1, method="input_x_gradient", at="0")
