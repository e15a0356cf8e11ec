"""Each of the newer methods against its literal twin, in float64, in a batch, through the public API."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from support import newer_twins, tiny, tiny_text

import clew
from clew.errors import OptionError

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


def llama_states(model, ids):
    """What its blocks get, attend to and give, one text, in one graph."""
    found, kept = newer_twins.States([], [], [], [], [], [], []), []
    for layer in model.model.layers:
        kept.append(layer.register_forward_pre_hook(lambda module, args: found.x.append(args[0][0])))
        kept.append(layer.self_attn.register_forward_hook(lambda module, args, out: found.o.append(out[0][0])))
    kept.append(model.model.norm.register_forward_pre_hook(lambda module, args: found.x.append(args[0][0])))
    found.A = list(model(ids[None], output_attentions=True).attentions)
    for hook in kept:
        hook.remove()
    found.mid = [x + u for x, u in zip(found.x[:-1], found.o, strict=True)]
    return found


@pytest.fixture
def reader():
    """A language model, a text and what it may go on with; the score of what leaves a block, at the last token."""
    model, ids, target = tiny_text.build_text("llama", "eager"), tiny_text.texts()[0], 7
    return model, ids, target, lambda left: model.lm_head(model.model.norm(left[-1]))[target]


@pytest.mark.parametrize(("start", "padding"), [(0, 0), (2, 3)])
def test_le_grad_of_next_tokens_asks_the_token_that_the_head_reads(reader, start, padding):
    model, ids, target, own = reader
    found = llama_states(model, ids)
    maps = []
    for block in range(start, len(found.A)):
        G = torch.autograd.grad(own(found.x[block + 1]), found.A[block], retain_graph=True)[0][0]
        maps.append(G.clamp(min=0).mean((0, 1)))
    expected = sum(maps) / len(maps)
    given = {
        "input_ids": torch.nn.functional.pad(ids, (padding, 0))[None],
        "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), (padding, 0))[None],
    }
    seen = clew.explain(model, given, method="le_grad", target=target, start_layer=start).all_scores[0, padding:]
    torch.testing.assert_close(seen / seen.sum(), expected / expected.sum(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gradient", [True, False])
def test_in_flow_of_next_tokens_asks_the_token_that_the_head_reads(reader, gradient):
    model, ids, target, own = reader
    found = llama_states(model, ids)
    P = newer_twins.flow(found, own(found.x[-1]), own, gradient=gradient)
    seen = clew.explain(model, ids[None], method="in_flow", target=target, gradient=gradient).all_scores[0]
    torch.testing.assert_close(seen, P[-1].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["paper", "le_grad"])
def test_le_grad_of_an_attention_pool(variant):
    model, x = tiny.build("timm_attention_pool"), tiny.images((32, 32))
    found = clew.explain(model, x, method="le_grad", target=TARGETS, variant=variant)
    assert_same(found, x, lambda image, t: newer_twins.le_grad_of_pool(model, image, t, 2, variant != "paper"))


def test_le_grad_is_corrected_by_the_last_target():
    model, x = tiny.build("timm_attention_pool"), tiny.images((32, 32))
    found = clew.explain(model, x, method="le_grad", target=[clew.Each(1, 4, 0)] * 3, correction=0.4)
    for i, image in enumerate(x):
        one, other, last = (newer_twins.le_grad_of_pool(model, image, target, 2) for target in (1, 4, 0))
        patches = last[model.num_prefix_tokens :]
        taken = (last - patches.min()) / (patches.max() - patches.min()) > 0.4
        taken[: model.num_prefix_tokens] = False
        assert 0 < taken.sum() < len(taken)
        expected = torch.stack([one * ~taken, other * ~taken, last]).detach()
        torch.testing.assert_close(found.all_scores[3 * i : 3 * i + 3], expected)
    with pytest.raises(OptionError, match="compares targets"):
        clew.explain(model, x, method="le_grad", target=1, correction=0.4)


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


@pytest.mark.parametrize(
    "method", ["generic_attribution", "gradient_attention_rollout", "attention_gradcam", "token_tm"]
)
def test_gradients_of_attention_under_rules(setting, method):
    """Which hold attention fixed; and under the rules that are none, and for several targets."""
    model, x = setting
    options, more = ({}, {}) if method == "attention_gradcam" else ({"start_layer": 1}, {"start": 1})
    twin = partial(getattr(newer_twins, method), model, **more)
    options |= {"method": method}
    found = clew.explain(model, x, target=TARGETS, rules="libra", **options)
    assert_same(found, x, lambda image, t: twin(image, t, fixed=True))
    assert found.options["rules"] == "libra" and "attention" in found.checks["verified"]
    plain = clew.explain(model, x, target=TARGETS, rules="gradient", **options)
    assert_same(plain, x, lambda image, t: twin(image, t))
    several = clew.explain(model, x, target=[clew.Each(t, 2) for t in TARGETS], rules="libra", **options)
    torch.testing.assert_close(several.all_scores[::2], found.all_scores)


def test_rules_are_for_declared_models():
    x = tiny.images((32, 32))
    model = torch.nn.Sequential(torch.nn.Identity(), tiny.build("torchvision_vit")).eval()
    for method in ("generic_attribution", "gradient_attention_rollout", "attention_gradcam"):
        with pytest.raises(OptionError, match="declared"):
            clew.explain(model, x, method=method, target=1, rules="libra", at="1")


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
