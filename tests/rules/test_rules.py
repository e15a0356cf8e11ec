"""Each rule against its literal twin, and its leaks against what it does not hand on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support import lrp_twins as twin
from torch.autograd import gradcheck

from clew import rules
from clew.errors import ClewError, OptionError
from clew.lrp import operations as operations
from clew.lrp.tape import Tape
from clew.rules import rule_sets

CLOSE = {"rtol": 0, "atol": 1e-10}


def bare(rule_set, batch, place):
    """A tape around any function, without a model."""
    tape = Tape(None, rule_set, batch, level="token")
    tape.place = place
    return tape


def relevance(function, inputs, rule_set, R, *, place="mlp", pixels=False):
    """Relevance of each input of `function(*inputs)` when its output is handed `R`, and the tape."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    tape = bare(rule_set, len(inputs[0]), place)
    if pixels:
        tape.leaf = inputs[0]
    with tape:
        y = function(*inputs)
    found = torch.autograd.grad(y, inputs, R / y.detach(), allow_unused=True, materialize_grads=True)
    tape.close()
    parts = [x.detach() * g for x, g in zip(inputs, found, strict=True)]
    return ([tape.pixels] if tape.pixels is not None else parts), tape


def leaked(tape, *causes):
    entries = [e.values for e in tape.entries if not causes or e.cause in causes]
    return sum(entries, torch.zeros(tape.batch, dtype=torch.float64))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


AFFINE = {
    "epsilon": (rules.Epsilon(), twin.epsilon, {}),
    "epsilon_stabilised": (rules.Epsilon(0.1), twin.epsilon, {"eps": 0.1}),
    "epsilon_unsigned": (rules.Epsilon(0.1, signed=False), twin.epsilon, {"eps": 0.1, "signed": False}),
    "gamma": (rules.Gamma(0.25), twin.gamma, {"gamma": 0.25}),
    "gamma_large": (rules.Gamma(100.0), twin.gamma, {"gamma": 100.0}),
    "z_plus": (rules.AlphaBeta(), twin.alpha_beta, {}),
    "alpha_beta": (rules.AlphaBeta(2.0), twin.alpha_beta, {"alpha": 2.0}),
    "separate": (rules.AlphaBeta(separate=True), twin.separate, {}),
    "z_box": (rules.ZBox(-3.0, 4.0), twin.z_box, {"low": -3.0, "high": 4.0}),
    "flat": (rules.Flat(), twin.flat, {}),
    "w_square": (rules.WSquare(), twin.w_square, {}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", AFFINE)
def test_linear_rules_are_their_equations(name, bias):
    rule, literal, options = AFFINE[name]
    x, W, R = random(2, 3, 5), random(4, 5, seed=1), random(2, 3, 4, seed=2)
    b = random(4, seed=3) if bias else None
    (found,), tape = relevance(lambda x: F.linear(x, W, b), [x], {"linear": rule}, R)
    shift = torch.zeros(4, dtype=torch.float64) if b is None else b
    expected = torch.stack(
        [
            torch.stack([literal(t, W, shift, r, **options) for t, r in zip(*pair, strict=True)])
            for pair in zip(x, R, strict=True)
        ]
    )
    torch.testing.assert_close(found, expected, **CLOSE)
    gap = R.flatten(1).sum(1) - found.flatten(1).sum(1)
    torch.testing.assert_close(leaked(tape), gap, **CLOSE)


@pytest.mark.parametrize("place", [{"stride": 2, "padding": (1, 0)}, {"stride": 2}, {"stride": 1}])
@pytest.mark.parametrize("name", AFFINE)
def test_convolution_rules_are_those_of_the_matrix_that_a_convolution_is(name, place):
    rule, literal, options = AFFINE[name]
    x, W, b = random(2, 3, 7, 4), random(4, 3, 2, 2, seed=1), random(4, seed=3)

    def convolve(x):
        return F.conv2d(x, W, b, **place)

    R = random(*convolve(x).shape, seed=2)
    (found,), tape = relevance(convolve, [x], {"conv": rule}, R, pixels=True)
    M = torch.autograd.functional.jacobian(lambda t: convolve(t[None]).flatten(), torch.zeros(3, 7, 4).double())
    M, shift = M.flatten(1), convolve(torch.zeros(1, 3, 7, 4).double()).flatten()
    expected = torch.stack([literal(t.flatten(), M, shift, r.flatten(), **options) for t, r in zip(x, R, strict=True)])
    expected = expected.view_as(x)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(leaked(tape), (R.flatten(1).sum(1) - found.flatten(1).sum(1)), **CLOSE)


def test_relevance_of_zero_pixels_is_kept_at_the_pixels_and_booked_within_the_model():
    x, W, R = random(1, 3, 4, 4), random(2, 3, 2, 2, seed=1), random(1, 2, 2, 2, seed=2)
    x[0, :, 0, 0] = 0
    (kept,), _ = relevance(lambda x: F.conv2d(x, W, None, 2), [x], {"conv": rules.Flat()}, R, pixels=True)
    assert (kept[0, :, 0, 0] != 0).all()
    (inside,), tape = relevance(lambda x: F.conv2d(x, W, None, 2), [x], {"conv": rules.Flat()}, R)
    lost = kept[0, :, 0, 0].sum()
    torch.testing.assert_close(leaked(tape, "stabiliser").sum(), lost, **CLOSE)
    torch.testing.assert_close(inside.sum() + lost, R.sum(), **CLOSE)


def test_z_box_takes_each_images_own_range_by_default():
    x, W, R = random(2, 3, 4, 4), random(2, 3, 2, 2, seed=1), random(2, 2, 2, 2, seed=2)
    (both,), _ = relevance(lambda x: F.conv2d(x, W, None, 2), [x], {"conv": rules.ZBox()}, R, pixels=True)
    for i in range(2):
        box = rules.ZBox(float(x[i].min()), float(x[i].max()))
        (one,), _ = relevance(
            lambda x: F.conv2d(x, W, None, 2), [x[i : i + 1]], {"conv": box}, R[i : i + 1], pixels=True
        )
        torch.testing.assert_close(both[i : i + 1], one, **CLOSE)


def test_layer_norm_with_fixed_deviation():
    x, w, b, R = random(2, 3, 6), random(6, seed=1), random(6, seed=2), random(2, 3, 6, seed=3)
    (found,), tape = relevance(lambda x: F.layer_norm(x, (6,), w, b, 1e-3), [x], {"norm": rules.FixedStd()}, R)
    expected = torch.stack(
        [
            torch.stack([twin.layer_norm(t, w, b, 1e-3, r) for t, r in zip(*p, strict=True)])
            for p in zip(x, R, strict=True)
        ]
    )
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(leaked(tape, "bias"), (R - found).flatten(1).sum(1), **CLOSE)


def test_rms_norm_with_fixed_deviation_conserves():
    x, w, R = random(2, 3, 6), random(6, seed=1), random(2, 3, 6, seed=3)
    (found,), tape = relevance(lambda x: F.rms_norm(x, (6,), w, 1e-3), [x], {"norm": rules.FixedStd()}, R)
    torch.testing.assert_close(found, R, **CLOSE)
    assert not tape.entries


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: F.layer_norm(x, (6,)), "norm"),
        (F.gelu, "activation"),
        (F.silu, "activation"),
        (torch.tanh, "activation"),
        (lambda x: x.softmax(-1), "softmax"),
    ],
)
def test_identity_hands_on_what_it_got(function, operation):
    x, R = random(2, 3, 6), random(2, 3, 6, seed=1)
    (found,), tape = relevance(function, [x], {operation: rules.Identity()}, R)
    torch.testing.assert_close(found, R, **CLOSE)
    assert not tape.entries or float(abs(leaked(tape)).max()) == 0


def test_softmax_is_its_taylor_expansion_and_books_the_remainder():
    x, R = random(2, 3, 5), random(2, 3, 5, seed=1)
    (found,), tape = relevance(lambda x: x.softmax(-1), [x], {"softmax": rules.Taylor()}, R)
    torch.testing.assert_close(found, twin.softmax(x, R), **CLOSE)
    s = x.softmax(-1)
    remainder = R / s * (s - torch.einsum("btij,btj->bti", torch.diag_embed(s) - s[..., None] * s[..., None, :], x))
    torch.testing.assert_close(leaked(tape, "softmax"), remainder.flatten(1).sum(1), **CLOSE)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_matrix_products_halve(eps):
    A, V, R = random(2, 3, 4), random(2, 4, 5, seed=1), random(2, 3, 5, seed=2)
    (a, v), tape = relevance(torch.matmul, [A, V], {"matmul": rules.Half(eps, signed=False)}, R)
    for i in range(2):
        for found, expected in zip((a[i], v[i]), twin.matmul(A[i], V[i], R[i], eps=eps), strict=True):
            torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close((R.sum((1, 2)) - a.sum((1, 2)) - v.sum((1, 2))), leaked(tape), **CLOSE)


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("masked", [None, "additive", "boolean", "causal"])
def test_attention_is_the_literal_rule_whichever_kernel_runs(masked, written_out):
    q, k, v, R = (random(2, 1, 4, 3, seed=i) for i in range(4))
    mask = {"additive": random(4, 4, seed=5), "boolean": torch.ones(4, 4).tril().bool()}.get(masked)

    def attend(q, k, v):
        if not written_out:
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=masked == "causal")
        logits = q @ k.mT * 3**-0.5
        added = mask
        if masked in ("boolean", "causal"):
            added = torch.zeros(4, 4).double().masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf)
        return (logits if added is None else logits + added).softmax(-1) @ v

    found, tape = relevance(attend, [q, k, v], rule_sets.ATTN_LRP, R, place="attention")
    if masked is None:
        for i in range(2):
            *expected, remainder = twin.attention(q[i, 0], k[i, 0], v[i, 0], 3**-0.5, R[i, 0])
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one[i, 0], other, **CLOSE)
            torch.testing.assert_close(leaked(tape, "softmax")[i], remainder, **CLOSE)
    gap = R.flatten(1).sum(1) - sum(x.flatten(1).sum(1) for x in found)
    torch.testing.assert_close(leaked(tape), gap, **CLOSE)
    if masked == "additive":
        x = q @ k.mT * 3**-0.5 + mask
        o = x.softmax(-1) @ v
        G = (R / o) @ v.mT / 2
        g = x.softmax(-1) * (G - (x.softmax(-1) * G).sum(-1, keepdim=True))
        torch.testing.assert_close(leaked(tape, "attention_bias"), (mask * g).flatten(1).sum(1), **CLOSE)


@pytest.mark.parametrize("written_out", [False, True])
def test_stopped_attention_hands_everything_to_the_values_or_books_the_half_it_drops(written_out):
    q, k, v, R = (random(2, 1, 4, 3, seed=i) for i in range(4))

    def attend(q, k, v):
        return (q @ k.mT).softmax(-1) @ v if written_out else F.scaled_dot_product_attention(q, k, v)

    found, tape = relevance(attend, [q, k, v], rule_sets.CP_LRP, R, place="attention")
    assert not found[0].any() and not found[1].any()
    torch.testing.assert_close(found[2].sum((1, 2, 3)), R.sum((1, 2, 3)), **CLOSE)
    assert not tape.entries
    halved = {**rule_sets.CP_LRP, "matmul": rules.Half(halve_stopped=True)}
    found, tape = relevance(attend, [q, k, v], halved, R, place="attention")
    torch.testing.assert_close(found[2].sum((1, 2, 3)), R.sum((1, 2, 3)) / 2, **CLOSE)
    torch.testing.assert_close(leaked(tape, "stopped"), R.sum((1, 2, 3)) / 2, **CLOSE)


@pytest.mark.parametrize("form", ["masked_fill", "where", "where_constant", "method"])
def test_what_a_mask_puts_in_place_is_booked(form):
    x, R = random(2, 3, 4), random(2, 3, 4, seed=1)
    mask = random(2, 3, 4, seed=2) > 0
    fill = torch.full((), 0.3, dtype=torch.float64)
    forms = {
        "masked_fill": lambda x: x.masked_fill(mask, 0.3),
        "where": lambda x: torch.where(~mask, x, fill),
        "where_constant": lambda x: torch.where(mask, 0.3, x),
        "method": lambda x: x.where(~mask, fill),
    }
    (found,), tape = relevance(forms[form], [x], rule_sets.ATTN_LRP, R)
    torch.testing.assert_close(found, torch.where(mask, 0.0, R), **CLOSE)
    torch.testing.assert_close(leaked(tape, "constant"), torch.where(mask, R, 0.0).sum((1, 2)), **CLOSE)


def test_a_choice_between_two_values_hands_each_what_it_gave():
    x, y, R = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)
    chosen = random(2, 3, seed=3) > 0
    (a, b), tape = relevance(lambda x, y: torch.where(chosen, x, y), [x, y], rule_sets.ATTN_LRP, R)
    torch.testing.assert_close(a, torch.where(chosen, R, 0.0), **CLOSE)
    torch.testing.assert_close(b, torch.where(chosen, 0.0, R), **CLOSE)
    torch.testing.assert_close(leaked(tape), torch.zeros(2, dtype=torch.float64), **CLOSE)


def test_a_sum_and_product_in_one_call_is_a_sum_of_a_product():
    A, B, c, R = random(2, 3, 4), random(2, 4, 5, seed=1), random(2, 3, 5, seed=2), random(2, 3, 5, seed=3)
    (a, b, added), tape = relevance(
        lambda A, B, c: torch.baddbmm(c, A, B, beta=0.5, alpha=2.0), [A, B, c], rule_sets.ATTN_LRP, R
    )
    product = 2 * A @ B
    total = product + 0.5 * c
    torch.testing.assert_close(added, 0.5 * c * R / total, **CLOSE)
    for i in range(2):
        expected = twin.matmul(A[i], B[i], (product * R / total)[i])
        torch.testing.assert_close(a[i], expected[0], **CLOSE)
        torch.testing.assert_close(b[i], expected[1], **CLOSE)
    torch.testing.assert_close(leaked(tape), torch.zeros(2, dtype=torch.float64), **CLOSE)


def test_a_transposed_linear_layer_is_a_linear_layer():
    """`addmm`, as the layers of GPT-2 are written."""
    x, W, b, R = random(3, 4), random(4, 5, seed=1), random(5, seed=2), random(3, 5, seed=3)
    (found,), tape = relevance(lambda x: torch.addmm(b, x, W), [x], {"linear": rules.Epsilon(0.1)}, R)
    expected = torch.stack([twin.epsilon(t, W.T, b, r, eps=0.1) for t, r in zip(x, R, strict=True)])
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(leaked(tape), R.sum(1) - found.sum(1), **CLOSE)


def test_products_of_activations():
    a, b, R = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)
    found, _ = relevance(lambda a, b: a * b, [a, b], {"product": rules.Uniform()}, R)
    for one in found:
        torch.testing.assert_close(one, R / 2, **CLOSE)
    gated, _ = relevance(lambda a, b: F.silu(a) * b, [a, b], rule_sets.CP_LRP, R)
    assert not gated[0].any()
    torch.testing.assert_close(gated[1], R, **CLOSE)


def test_sums_proportional_and_by_absolute_sums_per_example():
    a, b, R = random(2, 3, 4), random(2, 3, 4, seed=1), random(2, 3, 4, seed=2)
    found, _ = relevance(torch.add, [a, b], {"add": rules.Epsilon()}, R)
    torch.testing.assert_close(found[0], a * R / (a + b), **CLOSE)
    found, _ = relevance(torch.add, [a, b], {"add": rules.ByAbsoluteSum()}, R)
    for i in range(2):
        for one, expected in zip(found, twin.by_absolute_sum(a[i], b[i], R[i]), strict=True):
            torch.testing.assert_close(one[i], expected, **CLOSE)


@pytest.mark.parametrize("name", ["proportional", "by_absolute_sum"])
def test_the_positional_share_is_kept(name):
    x, p, R = random(2, 3, 4), random(1, 3, 4, seed=1), random(2, 3, 4, seed=2)
    rule = rules.Epsilon() if name == "proportional" else rules.ByAbsoluteSum()
    (found,), tape = relevance(lambda x: x + p, [x], {"add": rule}, R, place="embedding")
    if name == "proportional":
        expected = x * R / (x + p), p * R / (x + p)
    else:
        expected = [
            torch.stack(t) for t in zip(*(twin.by_absolute_sum(x[i], p[0], R[i]) for i in range(2)), strict=True)
        ]
    torch.testing.assert_close(found, expected[0], **CLOSE)
    torch.testing.assert_close(tape.positions[0], expected[1], **CLOSE)
    torch.testing.assert_close(tape.entering, R, **CLOSE)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.linear(x, random(4, 5, seed=1), random(4, seed=2)),
        lambda x: x.softmax(-1),
        lambda x: F.scaled_dot_product_attention(x[:, None], random(2, 1, 3, 5, seed=1), random(2, 1, 3, 5, seed=2)),
    ],
)
def test_rules_that_are_gradients_are_gradients(function):
    allowed = {**rule_sets.ATTN_LRP}

    def taped(x):
        with bare(allowed, 2, "attention"):
            return function(x)

    assert gradcheck(taped, random(2, 3, 5).requires_grad_())


def test_an_operation_without_a_rule_is_an_error_only_if_relevance_reaches_it():
    x, R = random(2, 3) / 4, random(2, 3, seed=1)
    with pytest.raises(OptionError, match=r"operation 'erfinv', outside the blocks \(mlp\)"):
        relevance(torch.erfinv, [x], rule_sets.ATTN_LRP, R)
    relevance(lambda x: x + x.erfinv().detach(), [x], rule_sets.ATTN_LRP, R)
    (found,), tape = relevance(torch.erfinv, [x], {**rule_sets.ATTN_LRP, "erfinv": rules.PlainGradient()}, R)
    y = torch.erfinv(x)
    handed = x * R / y * math.sqrt(math.pi) / 2 * y.square().exp()
    torch.testing.assert_close(found, handed, **CLOSE)
    torch.testing.assert_close(leaked(tape, "nonlinearity"), (R - handed).sum(1), **CLOSE)


def test_several_results_of_one_call_are_refused_too():
    x, R = random(4, 4), random(4, 4, seed=1)
    with pytest.raises(OptionError, match=r"operation '(linalg_)?qr'"):
        relevance(lambda x: torch.linalg.qr(x)[0], [x], rule_sets.ATTN_LRP, R)


def test_rule_sets_are_checked(untyped):
    for wrong, match in [
        ("attn_lpr", "attn_lrp"),
        ({"linear": rules.Half()}, "does not fit 'linear'"),
        ({"linear": "epsilon"}, "does not fit"),
        ({"linear:attn": rules.Epsilon()}, "attention"),
        (3, "a name or a dict"),
    ]:
        with pytest.raises(ClewError, match=match):
            rule_sets.rule_set(wrong)
    assert rule_sets.rule_set(dict(rule_sets.CP_LRP))[0] == "cp_lrp"


def test_the_nearest_rule_counts():
    chosen = {"linear": rules.Epsilon(), "linear:attention": rules.Gamma(1.0)}
    assert rule_sets.rule_for(chosen, "linear", "attention") == rules.Gamma(1.0)
    assert rule_sets.rule_for(chosen, "linear", "mlp") == rules.Epsilon()
    assert rule_sets.rule_for(chosen, "conv", "mlp") is None


def test_released_quirks_are_booked():
    x, R = random(2, 3, 4), random(2, 4, seed=1)
    (found,), tape = relevance(lambda x: x.mean(1), [x], {"mean": rules.CopyToAll()}, R)
    torch.testing.assert_close(found, R[:, None].expand(2, 3, 4), **CLOSE)
    torch.testing.assert_close(leaked(tape, "copies"), -2 * R.sum(1), **CLOSE)
    a, b, R = random(2, 4), random(2, 4, seed=1), random(2, 4, 2, seed=2)
    found, _ = relevance(lambda a, b: torch.stack([a, b], -1), [a, b], {"stack": rules.AsConcatenated()}, R)
    torch.testing.assert_close(torch.cat(found, 1), R.flatten(1), **CLOSE)
