"""Residual sums: which sums are seen to be some, and the γ rule at them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import lrp_twins as twin
from support.taped import random

from clew.lrp import operations as operations
from clew.lrp.residual import is_residual
from clew.lrp.tape import Tape
from clew.rules import ResidualGamma
from clew.rules.rule_sets import ATTN_LRP, CP_LRP

W = random(6, 6, seed=5)


def linear(x):
    return F.linear(x, W)


def ruled(function, *inputs, rules, R=None):
    """Relevance of inputs of a function under rules, with the tape."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    tape = Tape(None, rules, len(inputs[0]), level="stream")
    tape.place, tape.keeps_sums = "", True
    with tape:
        y = function(*leaves)
    tape.open()
    g = torch.ones_like(y) if R is None else torch.where(y == 0, 0.0, R / y.detach())
    found = torch.autograd.grad(y, leaves, g, materialize_grads=True, allow_unused=True)
    tape.close()
    return [x.detach() * d for x, d in zip(leaves, found, strict=True)], tape


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0, 10.0])
def test_the_rule_is_its_equation(gamma):
    a, b, R = (random(3, 4, 6, seed=i) for i in range(3))
    b[0, 0] = -a[0, 0] * (1 - 1e-9)  # next to nothing is left of them
    a[0, 1, 0], b[0, 1, 1] = 0.0, 0.0
    found, tape = ruled(torch.add, a, b, rules={**ATTN_LRP, "add": ResidualGamma(gamma)}, R=R)
    expected = [torch.zeros_like(a), torch.zeros_like(b)]
    for at in [(i, j, k) for i in range(3) for j in range(4) for k in range(6)]:
        expected[0][at], expected[1][at] = twin.residual_gamma(float(a[at]), float(b[at]), float(R[at]), gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[0] + found[1], R, rtol=1e-6, atol=1e-10)
    if gamma:
        assert bool((found[0].abs() + found[1].abs() <= (1 + 2 / gamma) * R.abs() * (1 + 1e-9)).all())
    (C,), (A,) = [one.cancellation for one in tape.sums], [one.amplification for one in tape.sums]
    torch.testing.assert_close(C, (a.abs() + b.abs()).flatten(1).sum(1) / (a + b).abs().flatten(1).sum(1))
    torch.testing.assert_close(A, (found[0].abs() + found[1].abs()).flatten(1).sum(1) / R.abs().flatten(1).sum(1))


def test_what_cancels_to_nothing_gets_nothing_and_two_zeros_pass_gradients_on():
    a = torch.tensor([[2.0, 0.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([[-2.0, 0.0, 1.0]], dtype=torch.float64)
    for gamma in (0.5, 1.0):
        leaves = [x.clone().requires_grad_() for x in (a, b)]
        with Tape(None, {**ATTN_LRP, "add": ResidualGamma(gamma)}, 1, level="stream") as _:
            y = leaves[0] + leaves[1]
        found = torch.autograd.grad(y.sum(), leaves)
        assert [g[0].tolist() for g in found] == [[0.0, 1.0, 1.0]] * 2


def in_place(x):
    y = linear(x) * 1.0
    y += x
    return y


def rotated(x):
    first, second = x.chunk(2, -1)
    return x * 0.6 + torch.cat([-second, first], -1) * 0.8


def gelu_written_out(x):
    return x * torch.tanh(x + 0.044715 * torch.pow(x, 3))


def coupled(x):
    first, second = x.chunk(2, -1)
    return first + F.linear(second, W[:3, :3])


def parallel(x):
    return x + (linear(F.layer_norm(x, (6,))) + linear(F.gelu(x)))


RESIDUAL = {
    "before the norm": lambda x: x + linear(F.layer_norm(x, (6,))),
    "branch first": lambda x: linear(F.gelu(linear(x))) + x,
    "after the norm": lambda x: F.layer_norm(x + linear(x), (6,)),
    "scaled": lambda x: 0.5 * x + 0.5 * linear(x) * W[0],
    "moved": lambda x: x.reshape(len(x), -1) + linear(x).reshape(len(x), -1),
    "in place": in_place,
    "attention": lambda x: x + F.scaled_dot_product_attention(x, x, x),
    "mixed by a transform": lambda x: x + torch.fft.fft(x).real,
    "parallel branches": parallel,
}
OTHERS = {
    "functions of single entries": lambda x: x + F.gelu(x),
    "a rotation": rotated,
    "gelu written out": gelu_written_out,
    "a mean taken off": lambda x: linear(x) - linear(x).mean(-1, keepdim=True),
    "two branches": lambda x: linear(x) + linear(F.gelu(x)),
    "a constant": lambda x: linear(x) + W[0],
    "halves that are coupled": coupled,
    "itself": lambda x: x + x,
}


@pytest.mark.parametrize("rules", [ATTN_LRP, CP_LRP])
@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("name", [*RESIDUAL, *OTHERS])
def test_residual_sums_are_seen_in_the_pass(name, leaf, rules):
    function = {**RESIDUAL, **OTHERS}[name]
    x = random(2, 4, 6)
    _, tape = ruled(
        function if leaf else lambda x: function(linear(x)), x, rules={**rules, "add:residual": ResidualGamma()}
    )
    assert len(tape.sums) == (name in RESIDUAL)


def test_of_a_stack_of_blocks_each_sum_is_seen_once():
    def blocks(x):
        for _ in range(3):
            x = x + F.scaled_dot_product_attention(linear(x), linear(x), x)
            x = x + linear(F.gelu(linear(x)))
        return x

    found, tape = ruled(blocks, random(2, 4, 6), rules={**ATTN_LRP, "add:residual": ResidualGamma()})
    assert len(tape.sums) == 6
    plain, tape = ruled(blocks, random(2, 4, 6), rules=ATTN_LRP)
    assert not tape.sums and not torch.allclose(plain[0], found[0])
    same, _ = ruled(blocks, random(2, 4, 6), rules={**ATTN_LRP, "add:residual": ResidualGamma(0.0)})
    torch.testing.assert_close(same, plain)


def test_two_summands_that_come_from_nowhere_are_no_residual_sum():
    a, b = random(3).requires_grad_(), random(3, seed=1).requires_grad_()
    assert not is_residual(a, b)
    assert is_residual(a, b.sum() * a.sum().expand(3))
