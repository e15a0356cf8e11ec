"""Each method against its literal twin, in float64, in a batch, through the public API."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from support import tiny, twins

import clew
from clew.errors import OptionError
from clew.subject.quadrature import quadrature_rule

NAMES = ["timm_token", "timm_average", "timm_registers", "timm_layer_scale", "timm_not_square"]
SIMPLE = ["raw_attention", "attention_gradcam"]
FROM_LAYER = ["attention_rollout", "generic_attribution", "gradient_attention_rollout"]
BOTH = ["beyond_intuition_head", "beyond_intuition_token"]
TARGETS = [1, 4, 0]


@pytest.fixture(params=NAMES)
def setting(request):
    return tiny.build(request.param), tiny.images(tiny.TINY[request.param].size)


def assert_same(found, model, images, twin):
    expected = torch.stack([twin(image, t) for image, t in zip(images, TARGETS, strict=True)])
    torch.testing.assert_close(
        found.all_scores, expected.detach(), rtol=1e-10, atol=1e-12 * float(expected.detach().abs().max())
    )


@pytest.mark.parametrize("method", SIMPLE)
def test_methods_of_the_last_block(setting, method):
    model, x = setting
    found = clew.explain(model, x, method=method, target=TARGETS)
    assert_same(found, model, x, lambda image, t: getattr(twins, method)(model, image, t))


@pytest.mark.parametrize("start", [0, 2, 3])
@pytest.mark.parametrize("method", FROM_LAYER)
def test_methods_through_the_blocks(setting, method, start):
    model, x = setting
    found = clew.explain(model, x, method=method, target=TARGETS, start_layer=start)
    assert found.options["start_layer"] == start
    assert_same(found, model, x, lambda image, t: getattr(twins, method)(model, image, t, start))


@pytest.mark.parametrize(("rule", "steps"), [("gauss_legendre", 3), ("uniform", 4)])
@pytest.mark.parametrize("method", BOTH)
def test_beyond_intuition(setting, method, rule, steps):
    model, x = setting
    q = quadrature_rule(rule, steps)
    found = clew.explain(
        model, x, method=method, target=TARGETS, start_layer=1, n_steps=steps, quadrature=rule, baselines=0.1
    )
    twin = getattr(twins, method)
    assert_same(found, model, x, lambda image, t: twin(model, image, t, q.points, q.weights, 1, baseline=0.1))


@pytest.mark.parametrize("method", BOTH)
def test_beyond_intuition_without_feedback(setting, method):
    model, x = setting
    found = clew.explain(model, x, method=method, target=TARGETS, feedback=False, start_layer=0)
    twin = getattr(twins, method)
    assert_same(found, model, x, lambda image, t: twin(model, image, t, [], [], with_feedback=False))


def test_default_layers_are_a_quarter_and_a_half_of_the_depth():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    found = [clew.explain(model, x, method=m, n_steps=2).options["start_layer"] for m in BOTH]
    assert found == [1, 2]


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_internal_batch_size_changes_nothing(method, size):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    whole = clew.explain(model, x, method=method, target=TARGETS)
    parts = clew.explain(model, x, method=method, target=TARGETS, internal_batch_size=size)
    torch.testing.assert_close(parts.all_scores, whole.all_scores, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("method", [*BOTH, "integrated_gradients", "smoothgrad"])
def test_a_callable_target_gets_whole_batches(method):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    index = torch.tensor(TARGETS)

    def chosen(logits):
        assert logits.shape == (3, 5)
        return logits[torch.arange(3), index]

    found = clew.explain(model, x, method=method, target=chosen)
    same = clew.explain(model, x, method=method, target=index)
    torch.testing.assert_close(found.all_scores, same.all_scores, rtol=1e-11, atol=1e-14)


def test_gradient_methods():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    grads = torch.stack([twins.input_gradient(model, image, t) for image, t in zip(x, TARGETS, strict=True)])
    expected = {
        "saliency": grads.abs().sum(1),
        "input_x_gradient": (x * grads).sum(1),
    }
    for method, pixels in expected.items():
        found = clew.explain(model, x, method=method, target=TARGETS)
        torch.testing.assert_close(found.pixels, pixels, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(found.heatmap(), found.pixels)
        sums = torch.stack([twins.patch_sums(p, 8) for p in pixels])
        torch.testing.assert_close(found.scores, sums, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rule", ["gauss_legendre", "uniform"])
def test_integrated_gradients(rule):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    q = quadrature_rule(rule, 5)
    expected = []
    for image, t in zip(x, TARGETS, strict=True):
        along = [
            twins.input_gradient(model, 0.2 + a * (image - 0.2), t) * w
            for a, w in zip(q.points, q.weights, strict=True)
        ]
        expected.append(((image - 0.2) * sum(along)).sum(0))
    found = clew.explain(
        model, x, method="integrated_gradients", target=TARGETS, n_steps=5, quadrature=rule, baselines=0.2
    )
    torch.testing.assert_close(found.pixels, torch.stack(expected), rtol=1e-10, atol=1e-13)


def test_integrated_gradients_are_complete_in_the_limit():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    gaps = [
        clew.explain(model, x, method="integrated_gradients", n_steps=n, baselines=1.0).checks["completeness_gap"]
        for n in (4, 16, 64)
    ]
    sizes = [float(gap.abs().max()) for gap in gaps]
    # The path from 1.0 keeps away from layer norm's kink at constant images, so the rule converges exponentially.
    assert sizes[0] > 10 * sizes[1] > 1e6 * sizes[2]


def test_integrated_gradients_equal_captum():
    from captum.attr import IntegratedGradients

    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    theirs = IntegratedGradients(model).attribute(x, target=TARGETS, n_steps=6, method="gausslegendre")
    ours = clew.explain(model, x, method="integrated_gradients", target=TARGETS, n_steps=6)
    # captum computes the points of the path in float32
    torch.testing.assert_close(ours.pixels, theirs.sum(1).detach(), rtol=0, atol=1e-6 * float(ours.pixels.abs().max()))


def test_smoothgrad_is_the_gradient_without_noise_and_repeats_with_its_seed():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    plain = clew.explain(model, x, method="saliency", absolute=False)
    still = clew.explain(model, x, method="smoothgrad", n_samples=3, stdevs=0.0, absolute=False)
    torch.testing.assert_close(still.pixels, plain.pixels, rtol=1e-10, atol=1e-13)
    first, again = (clew.explain(model, x, method="smoothgrad", n_samples=4, seed=3).pixels for _ in range(2))
    other = clew.explain(model, x, method="smoothgrad", n_samples=4, seed=4).pixels
    alone = clew.explain(model, x[1], method="smoothgrad", n_samples=4, seed=3).pixels
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(alone[0], first[1], rtol=1e-10, atol=1e-13)


def test_smoothgrad_is_the_mean_over_its_noise():
    model, x = tiny.build("timm_token"), tiny.images((32, 32), batch=1)
    total = 0
    for k in range(3):
        generator = torch.Generator().manual_seed(5 * 1_000_003 + k)
        noise = torch.randn(x[0].shape, generator=generator, dtype=torch.float32).double()
        total = total + twins.input_gradient(model, x[0] + 0.1 * (x.max() - x.min()) * noise, 2) / 3
    found = clew.explain(model, x, method="smoothgrad", target=2, n_samples=3, stdevs=0.1, seed=5)
    torch.testing.assert_close(found.pixels[0], total.abs().sum(0), rtol=1e-10, atol=1e-13)


def test_random_is_repeatable_and_depends_on_its_seed():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    a, b, c = (clew.explain(model, x, method="random", seed=s).scores for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_integration_error_is_of_the_size_of_the_true_error():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    fine = clew.explain(model, x, target=TARGETS, n_steps=40).all_scores
    coarse = clew.explain(model, x, target=TARGETS, n_steps=6)
    true = (coarse.all_scores - fine).abs().amax(-1) / coarse.all_scores.abs().amax(-1)
    assert (coarse.checks["integration_error"] > 0.3 * true).all()
    assert (coarse.checks["integration_error"] < 30 * true).all()


def test_a_path_that_bends_sharply_is_told_and_more_points_cure_it():
    """A saturated score along the path: all of its change lies between two points of a coarse rule."""
    model, x = tiny.build("timm_token"), tiny.images((32, 32))

    def steep(output):
        return torch.tanh(300 * (output[:, 1] - output[:, 4])) * output[:, 1]

    coarse = clew.explain(model, x, method="beyond_intuition_head", target=steep, n_steps=4)
    assert float(coarse.checks["integration_error"].max()) > 0.1
    assert "n_steps=16" in coarse.checks["advice"]
    fine = clew.explain(model, x, method="beyond_intuition_head", target=1, n_steps=8)
    assert "advice" not in fine.checks


def test_rows_without_positive_evidence_stay_finite_in_an_attention_pool():
    model, x = tiny.build("timm_attention_pool"), tiny.images((32, 32))
    with torch.no_grad():
        model.head.weight.zero_()
    found = clew.explain(model, x, method="gradient_attention_rollout", target=0)
    assert found.checks["non_finite"].tolist() == [0, 0, 0]


def test_released_variants_differ_from_the_default_only_where_they_say():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    for method in ("raw_attention", "attention_gradcam"):
        same = [clew.explain(model, x, method=method, variant=v).scores for v in ("paper", "beyond_intuition")]
        torch.testing.assert_close(*same)
    blocks, G = twins.gradients(model, x[0], 1)
    R = torch.eye(17, dtype=torch.float64)
    for block, dA in zip(blocks, G, strict=True):
        R = R + (dA * block.A).mean(0).clamp(min=0) @ R
    found = clew.explain(model, x[0], method="generic_attribution", target=1, variant="beyond_intuition")
    torch.testing.assert_close(found.all_scores[0], R[0].detach(), rtol=1e-10, atol=1e-13)


def test_gradcam_without_positive_evidence_is_zero_and_normalises_to_zero():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    with torch.no_grad():
        model.head.weight.zero_()
    found = clew.explain(model, x, method="attention_gradcam", normalize="minmax", target=0)
    assert found.scores.abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_layer": 4}, "0 to 3"),
        ({"start_layer": -1}, "0 to 3"),
        ({"start_layer": 1.0}, "int or None"),
        ({"n_steps": 0}, "1 to 1,000"),
        ({"quadrature": "simpson"}, "gauss_legendre"),
        ({"method": "raw_attention", "variant": "chefer"}, "paper or beyond_intuition"),
        ({"method": "raw_attention", "layer": 4}, "0 to 3"),
        ({"method": "smoothgrad", "n_samples": 0}, "1 to 1,000"),
        ({"normalize": "zscore"}, "minmax or max"),
        ({"checks": "some"}, "default, full or off"),
        ({"internal_batch_size": 0}, "1 or more"),
        ({"start_layers": 1}, "did you mean 'start_layer'"),
        ({"baselines": torch.zeros(2, 2)}, "expands to"),
    ],
)
def test_wrong_options_say_what_to_do(options, message, untyped):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    with pytest.raises(OptionError, match=message):
        clew.explain(model, x, **options)


def test_unknown_method_suggests_the_right_one():
    with pytest.raises(OptionError, match="attention_rollout"):
        clew.explain(tiny.build("timm_token"), tiny.images((32, 32)), method="atention_rollout")


def test_a_function_is_a_method_and_a_decorated_one_is_known_by_name():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))

    def value_norm(subject: clew.Subject, *, layer: int = 0):
        return subject.run([layer])[layer].v.norm(dim=-1).sum(1)

    found = clew.explain(model, x, method=value_norm, layer=2)
    assert (found.method, found.options["layer"]) == ("value_norm", 2)
    assert found.scores.shape == (3, 16)
    clew.method(paper="ours", summary="size of the values")(value_norm)
    assert torch.equal(clew.explain(model, x, method="value_norm", layer=2).scores, found.scores)
    with pytest.raises(clew.ClewError, match="registered already"):
        clew.method(paper="ours", summary="again")(value_norm)


@pytest.mark.parametrize("rule", ["uniform", "gauss_legendre"])
def test_a_path_of_one_point(rule):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    found = clew.explain(model, x, method="beyond_intuition_token", n_steps=1, quadrature=rule)
    assert torch.isfinite(found.scores).all() and found.scores.any()


class Adapted(torch.nn.Module):
    """A layer with a low-rank addition beside it, as adapters keep it; its `weight` is the base layer's."""

    def __init__(self, base, a, b):
        super().__init__()
        self.base, self.a, self.b, self.weight = base, a, b, base.weight

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


class Added(torch.nn.Module):
    """A parametrisation: the weight and something more."""

    def __init__(self, more):
        super().__init__()
        self.more = more

    def forward(self, weight):
        return weight + self.more


@pytest.mark.parametrize("how", ["adapter", "parametrization"])
def test_values_are_projected_by_what_the_model_applies(how):
    """The same model twice: with its output projections in two parts, and with the two parts added by hand."""
    model, merged = tiny.build("timm_token"), tiny.build("timm_token")
    x = tiny.images((32, 32))
    for one, other in zip(model.blocks, merged.blocks, strict=True):
        layer, whole = one.attn.proj, other.attn.proj
        a, b = torch.randn(2, layer.in_features).double() / 3, torch.randn(layer.out_features, 2).double() / 3
        with torch.no_grad():
            whole.weight.add_(b @ a)
        if how == "adapter":
            one.attn.proj = Adapted(layer, a, b)
        else:
            torch.nn.utils.parametrize.register_parametrization(layer, "weight", Added(b @ a))
    for method in ("beyond_intuition_token", "beyond_intuition_head"):
        one, other = (clew.explain(m.eval(), x, method=method, target=1, n_steps=3) for m in (model, merged))
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("first", ["lrp", "over_copies", "token_tm"])
def test_any_file_of_methods_may_be_the_first_that_is_read(first):
    code = f"import clew.explainers.{first}, clew; print(*clew.methods())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [name for name, m in clew.methods().items() if m.function.__module__.startswith("clew.")]
