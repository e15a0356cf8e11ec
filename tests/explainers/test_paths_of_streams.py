"""Integrated gradients and SmoothGrad along all streams of models of which nothing is declared."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.plain_calls import difference, plain_path
from support.zoo import ZOO, build
from torch import nn

import clew

PART = 0.1
DROPS = ("idefics3", "smolvlm")  # pictures that are all zero
# Token numbers that are none of the input are looked up with the others: they stay as they are along the path.
OWN_TOKENS = ("ids_padded_inside",)
NAMES = [name for name in ZOO if name not in OWN_TOKENS]
ALWAYS = [*DROPS, "llava", "qwen2_vl", "mllama", "florence2", "bart", "t5_gated", "whisper", "lxmert"]


def explain(specimen, method="integrated_gradients", **options):
    return clew.explain(specimen.model, copy.deepcopy(specimen.inputs), method=method, target=specimen.score, **options)


def test_tokens_that_are_none_of_the_input_stay():
    """By hand: of what was looked up, rows of the input are scaled, the model's own beginning and padding are not."""
    specimen = build("ids_padded_inside")
    found = explain(specimen, n_steps=3)
    total, nodes = 0.0, np.polynomial.legendre.leggauss(3)
    for alpha, w in zip((nodes[0] + 1) / 2, nodes[1] / 2, strict=True):
        score, words, leaf = _scaled(specimen, float(alpha))
        (g,) = torch.autograd.grad(score.sum(), leaf)
        total = total + w * (words * g)[:, 1:7].sum(-1)
    torch.testing.assert_close(found.scores, total.detach(), rtol=0, atol=1e-10)
    gap = total.sum(1) - (_scaled(specimen, 1.0)[0] - _scaled(specimen, 0.0)[0])
    torch.testing.assert_close(found.checks["completeness_gap"], gap.detach(), rtol=0, atol=1e-10)


def _scaled(specimen, alpha):
    kept = []

    def hook(module, args, output):
        scale = torch.ones(1, output.shape[1], 1, dtype=output.dtype)
        scale[:, 1:7] = alpha
        kept.extend([output.detach(), (scale * output).detach().requires_grad_()])
        return kept[1]

    handle = specimen.model.looked.register_forward_hook(hook)
    try:
        return specimen.score(specimen.run()), *kept
    finally:
        handle.remove()


def equals_the_sum_by_hand(name):
    specimen = build(name)
    found = explain(specimen, n_steps=3)
    least = 1e-12 if name in DROPS else 0.0  # of pictures that are not quite zero
    expected, change = plain_path(specimen, 3, least)
    assert difference(found, expected) < 1e-9
    gap = sum(R.flatten(1).sum(1) for R in expected.values()) - change
    size = torch.stack([R.flatten(1).abs().sum(1) for R in expected.values()]).sum(0)
    assert float(((found.checks["completeness_gap"] - gap).abs() / size).amax()) < (1e-7 if least else 1e-9)
    assert ("path" in found.checks) == (name in DROPS)


@pytest.mark.sampled(PART)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALWAYS])
def test_the_path_and_its_gap_are_those_of_a_sum_by_hand(name):
    equals_the_sum_by_hand(name)


@pytest.mark.parametrize("name", ALWAYS)
def test_the_path_and_its_gap_are_those_of_a_sum_by_hand_for_chat_models_and_encoder_decoders(name):
    equals_the_sum_by_hand(name)


class Picture(nn.Module):
    """Several pictures, on which `look` decides something before a convolution over patches; a table beside them."""

    def __init__(self, look):
        super().__init__()
        torch.manual_seed(0)
        self.look, self.patches, self.column = look, nn.Conv2d(1, 6, 4, 4), nn.Linear(3, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, picture, table):
        seen = torch.tanh(self.patches(self.look(picture.flatten(0, 1))))
        return self.head(torch.sin(seen.mean((0, 2, 3)) * self.column(table)))


def dropped(x):  # of pictures that are left the mean is another, and nothing fails
    return x[(x != 0).flatten(1).any(1)] if bool((x != 0).any()) else x[:1]


def whole_or_half(x):
    return x if float(x.detach().abs().mean()) > 0.2 else x[..., ::2, ::2]


def refused(x):
    if float(x.detach().abs().mean()) < 0.3:
        raise ValueError("this picture is too dark")
    return x


def nowhere(x):
    return torch.where(x.abs().mean() > 0, x, torch.nan)


def given():
    g = torch.Generator().manual_seed(1)
    picture, table = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((1, 2, 1, 8, 8), (1, 3)))
    return {"picture": picture, "table": table}


def by_hand(model, inputs, n, *, only=("picture", "table"), start=0.0):
    """The path, where `look` is left out: what it does to the input as it is."""
    plain = Picture(lambda x: x).double()
    plain.load_state_dict(model.state_dict())
    totals, fixed = dict.fromkeys(only, 0.0), {k: x for k, x in inputs.items() if k not in only}
    inputs = {k: inputs[k] for k in only}
    nodes, weights = np.polynomial.legendre.leggauss(n)
    for alpha, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        leaves = {k: (start * x + alpha * (1 - start) * x).requires_grad_() for k, x in inputs.items()}
        found = torch.autograd.grad(plain(**leaves, **fixed).sum(), list(leaves.values()))
        totals = {k: totals[k] + w * g * (1 - start) * inputs[k] for k, g in zip(totals, found, strict=True)}
    with torch.no_grad():
        change = plain(**inputs, **fixed) - plain(**{k: start * x for k, x in inputs.items()}, **fixed)
    return totals, change[:, 0]


def in_patches(pixels):
    """Sums over patches of 4 × 4 pixels, picture by picture, row by row."""
    return pixels.view(1, 2, 2, 4, 2, 4).sum((3, 5)).flatten(1)


@pytest.mark.parametrize("look", [dropped, whole_or_half, refused, nowhere])
def test_a_picture_by_whose_values_a_model_decides_is_scaled_behind_its_patches(look):
    model, inputs = Picture(look).double().eval(), given()
    found = clew.explain(model, inputs, method="integrated_gradients", target=0, n_steps=20)
    expected, change = by_hand(model, inputs, 20)
    torch.testing.assert_close(found["picture"].all_scores, in_patches(expected["picture"]), rtol=0, atol=1e-10)
    torch.testing.assert_close(found["table"].scores, expected["table"], rtol=0, atol=1e-10)
    gap = sum(R.flatten(1).sum(1) for R in expected.values()) - change
    torch.testing.assert_close(found.checks["completeness_gap"], gap, rtol=0, atol=1e-10)
    assert float(found.checks["completeness_gap"].abs().amax()) < 1e-6
    said = found.checks["path"]
    assert said.startswith("picture is changed behind patches, which is linear in it")
    assert {"dropped": "patches gives", "whole_or_half": "patches gives", "refused": "too dark", "nowhere": "nan"}[
        look.__name__
    ] in said


def test_the_middle_of_a_path_may_be_where_a_model_decides_otherwise():
    model, inputs = Picture(dropped).double().eval(), given()
    only = Only(model, inputs["table"]).eval()
    options = {"n_steps": 5, "baselines": -inputs["picture"]}  # the third point is zero
    found = clew.explain(only, inputs["picture"], method="integrated_gradients", target=0, **options)
    expected, change = by_hand(model, inputs, 5, only=["picture"], start=-1.0)
    torch.testing.assert_close(found.all_scores, in_patches(expected["picture"]), rtol=0, atol=1e-10)
    gap = expected["picture"].flatten(1).sum(1) - change
    torch.testing.assert_close(found.checks["completeness_gap"], gap, rtol=0, atol=1e-10)
    assert "patches gives" in found.checks["path"]


class Only(nn.Module):
    """Of two inputs the first."""

    def __init__(self, model, table):
        super().__init__()
        self.model, self.table = model, table

    def forward(self, picture):
        return self.model(picture, self.table)


def only_one(x):
    left = dropped(x)
    if len(left) > 1:
        raise ValueError("more pictures than places")
    return left


def test_noise_on_a_padding_picture_does_not_bring_it_back():
    inputs, found = given(), []
    inputs["picture"][:, 1] = 0
    for look in (dropped, lambda x: x[:1], only_one):
        model = Picture(look).double().eval()
        found.append(clew.explain(model, inputs, method="smoothgrad", target=0, n_samples=3))
    assert ["path" in one.checks for one in found] == [True, False, True]
    assert "behind patches, by its derivative there:" in found[2].checks["path"]
    for name, part in found[1].streams.items():
        for other in (found[0], found[2]):
            torch.testing.assert_close(other[name].all_scores, part.all_scores, rtol=0, atol=1e-12)


class Rows(nn.Module):
    """The first two numbers of a patch say in which row and column it is, and are looked up."""

    def __init__(self, fixed=None):
        super().__init__()
        torch.manual_seed(0)
        self.fixed, self.patches, self.rows, self.columns = (
            fixed,
            nn.Linear(5, 6),
            nn.Embedding(4, 6),
            nn.Embedding(4, 6),
        )
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        rows, columns = (x if self.fixed is None else self.fixed)[..., :2].long().unbind(-1)
        return self.head(torch.tanh(self.patches(x[..., 2:]) + self.rows(rows) + self.columns.weight[columns]).mean(1))


def test_numbers_of_a_stream_that_are_looked_up_stay():
    x = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[..., :2] = torch.tensor([[1, 1], [1, 2], [2, 1]])
    model = Rows().double().eval()
    found = clew.explain(model, x, method="integrated_gradients", target=0, n_steps=30)
    expected = clew.explain(Rows(x).double().eval(), x, method="integrated_gradients", target=0, n_steps=30)
    torch.testing.assert_close(found.all_scores, expected.all_scores, rtol=0, atol=1e-12)
    assert float(found.checks["completeness_gap"].abs().amax()) < 1e-9
    said = found.checks["path"]
    assert said.startswith("x is changed behind patches, which is linear in it")
    assert "other rows of rows are looked up" in said
    assert "path" not in expected.checks


def test_what_is_not_linear_before_the_patches_is_told():
    model, inputs = Picture(lambda x: refused(x).tanh()).double().eval(), given()
    found = clew.explain(model, inputs, method="integrated_gradients", target=0, n_steps=40)
    assert "what comes before is not linear in it" in found.checks["path"]
    assert float(found.checks["completeness_gap"].abs().amax()) < 1e-6


def test_an_output_of_another_shape_is_told_where_no_map_is_before_the_decision():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            y = torch.tanh(self.head(x))
            return y[:, : 1 + int(bool((y.abs() > 0.05).any()))].expand(-1, 2 if bool((x != 0).any()) else 1)

    torch.manual_seed(0)
    model, x = Sorted().double().eval(), torch.randn(2, 4, dtype=torch.float64)
    found = clew.explain(model, x, method="integrated_gradients", target=lambda y: y[:, 0], n_steps=20)
    assert "the output is" in found.checks["path"]
    assert float(found.checks["completeness_gap"].abs().amax()) < 1e-6


def test_an_error_of_the_model_that_no_station_mends_is_its_own():
    class Refuses(nn.Module):
        def forward(self, x):
            if not bool((x != 0).any()):
                raise ValueError("nothing there")
            return x.square().sum(-1, keepdim=True)

    with pytest.raises(clew.ClewError, match="nothing there"):
        clew.explain(Refuses().eval(), torch.ones(2, 3), method="integrated_gradients", target=0, n_steps=2)


def test_an_interruption_is_not_taken_for_a_decision():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            if not bool((x != 0).any()):
                raise TimeoutError("too long")
            return self.head(x)

    with pytest.raises(TimeoutError, match="too long"):
        clew.explain(Slow().eval(), torch.ones(2, 3), method="integrated_gradients", target=0, n_steps=2)


class OneNumber(nn.Module):
    """A table, a kind and a dose: one number for each example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.kinds, self.head = nn.Linear(5, 4), nn.Embedding(3, 4), nn.Linear(4, 1)

    def forward(self, x, kind, dose):
        return self.head(torch.tanh(self.table(x) + self.kinds(kind)) * dose[:, None])


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "smoothgrad", "attn_lrp"])
def test_a_stream_may_be_one_number_for_each_example(method):
    model = OneNumber().double().eval()
    x, dose = (torch.randn(*n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for n in ((2, 5), (2,)))
    found = clew.explain(model, {"x": x, "kind": torch.tensor([0, 2]), "dose": dose}, method=method, target=0)
    assert {k: tuple(part.all_scores.shape) for k, part in found.streams.items()} == {
        "x": (2, 5), "kind": (2, 1), "dose": (2, 1),
    }  # fmt: skip
    if method == "input_x_gradient":
        expected = dose * (torch.tanh(model.table(x) + model.kinds.weight[[0, 2]]) @ model.head.weight[0])
        torch.testing.assert_close(found["dose"].all_scores[:, 0], expected.detach(), rtol=0, atol=1e-12)
    if method == "integrated_gradients":
        assert float(found.checks["completeness_gap"].abs().amax()) < 1e-9


@pytest.mark.parametrize("method", ["beyond_intuition_head", "beyond_intuition_token"])
def test_the_path_of_beyond_intuition_is_that_through_the_pixels(method):
    """Gauss' points are in the middle of the path, where no picture is zero: there it can be gone with no help."""
    specimen = build("smolvlm")
    found = explain(specimen, method, n_steps=3)
    assert "patch_embedding" in found.checks["path"]
    expected = explain(build("smolvlm"), method, n_steps=3, baselines=1e-9)
    assert "path" not in expected.checks
    for name, part in found.streams.items():
        size = expected[name].all_scores.abs().amax()
        assert float((part.all_scores - expected[name].all_scores).abs().amax() / size) < 1e-6
