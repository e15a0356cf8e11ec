"""Each of the newer methods against its literal twin, in float64, in a batch, through the public API."""

from __future__ import annotations

import pytest
import torch
from support import newer_twins, tiny

import clew

NAMES = ["timm_token", "timm_average", "timm_registers", "timm_layer_scale", "timm_not_square"]
TARGETS = [1, 4, 0]


@pytest.fixture(params=NAMES)
def setting(request):
    return tiny.build(request.param), tiny.images(tiny.TINY[request.param].size)


def assert_same(found, images, twin):
    expected = torch.stack([twin(image, t) for image, t in zip(images, TARGETS, strict=True)]).detach()
    torch.testing.assert_close(found.all_scores, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize(("start", "variant"), [(0, "paper"), (2, "paper"), (0, "att_cat"), (3, "att_cat")])
def test_att_cat(setting, start, variant):
    model, x = setting
    found = clew.explain(model, x, method="att_cat", target=TARGETS, start_layer=start, variant=variant)
    assert_same(found, x, lambda image, t: newer_twins.att_cat(model, image, t, start, variant != "paper"))


@pytest.mark.parametrize(("start", "variant"), [(0, "paper"), (2, "paper"), (3, "le_grad"), (1, "le_grad")])
def test_le_grad(setting, start, variant):
    model, x = setting
    found = clew.explain(model, x, method="le_grad", target=TARGETS, start_layer=start, variant=variant)
    assert_same(found, x, lambda image, t: newer_twins.le_grad(model, image, t, start, variant != "paper"))


@pytest.mark.parametrize("variant", ["paper", "le_grad"])
def test_le_grad_of_an_attention_pool(variant):
    model, x = tiny.build("timm_attention_pool"), tiny.images((32, 32))
    found = clew.explain(model, x, method="le_grad", target=TARGETS, variant=variant)
    assert_same(found, x, lambda image, t: newer_twins.le_grad_of_pool(model, image, t, 2, variant != "paper"))


@pytest.mark.parametrize(("options", "start"), [({}, 3), ({"start_layer": 1}, 1), ({"cosines": False}, 3)])
def test_grad_eclip(setting, options, start):
    model, x = setting
    found = clew.explain(model, x, method="grad_eclip", target=TARGETS, **options)
    more = options.get("cosines", True)
    assert_same(found, x, lambda image, t: newer_twins.grad_eclip(model, image, t, start, more))


@pytest.mark.parametrize("start", [0, 2])
def test_token_tm(setting, start):
    model, x = setting
    found = clew.explain(model, x, method="token_tm", target=TARGETS, start_layer=start)
    assert_same(found, x, lambda image, t: newer_twins.token_tm(model, image, t, start))


@pytest.mark.parametrize("options", [{}, {"gradient": False}, {"mlp": False}, {"start_layer": 2}])
def test_in_flow(setting, options):
    model, x = setting
    found = clew.explain(model, x, method="in_flow", target=TARGETS, **options)
    more = {"start" if key == "start_layer" else key: value for key, value in options.items()}
    assert_same(found, x, lambda image, t: newer_twins.in_flow(model, image, t, **more))


LIBRA = [
    ("libra_input_x_gradient", {}, {}),
    ("libra_full_grad_plus", {"biases": False}, {}),
    ("libra_full_grad_plus", {"biases": False, "start_layer": 2}, {"start": 2}),
    ("libra_x_grad_cam_plus", {}, {}),
    ("libra_x_grad_cam_plus", {"weighted": False, "start_layer": 1}, {"weighted": False, "start": 1}),
    ("libra_att_cat", {"start_layer": 1}, {"start": 1}),
]


@pytest.mark.parametrize(("method", "options", "more"), LIBRA)
def test_the_libra_family(setting, method, options, more):
    model, x = setting
    found = clew.explain(model, x, method=method, target=TARGETS, **options)
    assert_same(found, x, lambda image, t: getattr(newer_twins, method)(model, image, t, **more))


@pytest.mark.parametrize("start", [0, 3])
def test_tokens_and_biases_together_are_the_score(setting, start):
    """So the biases are all there: of every block on the way, of the norm behind and of the head."""
    model, x = setting
    found = clew.explain(model, x, method="libra_full_grad", target=TARGETS, start_layer=start)
    torch.testing.assert_close(found.all_scores.sum(1), found.score, rtol=1e-9, atol=1e-10)
    assert float(found.checks["completeness_gap"].abs().max()) < 1e-9
