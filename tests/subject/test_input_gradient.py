"""Gradients along a path: passes that leave out what the head does not read, against autograd on the plain model."""

import pytest
import torch
import torch.nn.functional as F

import clew
from clew.seam import from_patches, in_patches
from clew.subject import input_gradient as home

MODELS = {
    "mini:digits": lambda: clew.scenes().images[:3],
    "mini:reviews-bert": lambda: [r.text for r in clew.reviews(3)],
    "mini:reviews-llama": lambda: [r.text for r in clew.reviews(3)],
}


@pytest.fixture
def passes(monkeypatch):
    """Which passes were made: (sparse, clean) of each."""
    made, own = [], home._gradient

    def counted(subject, x, rows, *, sparse, clean=False):
        made.append((sparse, clean))
        return own(subject, x, rows, sparse=sparse, clean=clean)

    monkeypatch.setattr(home, "_gradient", counted)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_sparse_passes_give_what_whole_ones_give(name, passes, monkeypatch):
    model, inputs = clew.load(name), MODELS[name]()
    options = {"method": "integrated_gradients", "n_steps": 4, "compute_dtype": torch.float64}
    found = clew.explain(model, inputs, **options)
    assert passes.count((True, False)) > passes.count((False, False)) == 1  # one example was compared
    monkeypatch.setattr(home, "_is_same", lambda *_: False)
    passes.clear()
    whole = clew.explain(model, inputs, **options)
    assert not any(sparse for sparse, _ in passes)
    torch.testing.assert_close(found.all_scores, whole.all_scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.checks["completeness_gap"], whole.checks["completeness_gap"], rtol=0, atol=1e-10)


def test_rows_that_are_wrong_are_seen_and_everything_is_computed(passes, monkeypatch):
    from clew.subject.subject import Subject

    model, image = clew.load("mini:digits"), clew.scenes().images[:2]
    right = clew.explain(model, image, method="integrated_gradients", n_steps=4)
    passes.clear()
    monkeypatch.setattr(Subject, "rows_read", property(lambda self: [3]))
    found = clew.explain(model, image, method="integrated_gradients", n_steps=4)
    assert passes.count((True, False)) == 1, "the one that was compared"
    torch.testing.assert_close(found.all_scores, right.all_scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(4, 4, (12, 8)), ((2, 3), (2, 3), (7, 10))])
def test_patches_are_pulled_back_as_autograd_does(kernel, stride, size):
    conv = torch.nn.Conv2d(3, 5, kernel, stride).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, conv.weight, conv.bias, stride)
    g = torch.randn_like(y)
    assert in_patches(conv.weight, stride, 0, 1, 1)
    torch.testing.assert_close(from_patches(g, conv.weight, size), torch.autograd.grad(y, x, g)[0])


@pytest.mark.parametrize("options", [(3, 0, 1, 1), (4, 1, 1, 1), (4, 0, 2, 1), (4, 0, 1, 3), (4, "same", 1, 1)])
def test_other_convolutions_are_no_patches(options):
    assert not in_patches(torch.zeros(3, 3, 4, 4), *options)
