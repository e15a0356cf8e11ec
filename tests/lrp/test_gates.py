"""What only scales something else, and recurrent layers, which are made of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.recurrent_twin import gru_cell, lstm_cell
from support.taped import close, random, relevance
from torch import nn

GATES = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "exp": torch.exp,
    "softplus": F.softplus,
    "cos": torch.cos,
    "log": lambda x: x.abs().log(),
    "norm": lambda x: x.norm(dim=-1, keepdim=True),
    "std": lambda x: x.std(-1, keepdim=True),
    "reciprocal": torch.reciprocal,
    "divided by": lambda x: 1 / x,
    "topk": lambda x: x.topk(4).values,
    "negative power": lambda x: x.abs() ** -0.5,
}
MOVED = {
    "as it is": lambda z: z,
    "view": lambda z: z.reshape(2, 12).view(2, 3, 4),
    "index": lambda z: z[:, [2, 0, 1]],
    "transpose": lambda z: z.transpose(1, 2).contiguous().transpose(1, 2),
    "property": lambda z: z.mT.contiguous().mT,
    "chunk": lambda z: torch.Tensor.repeat(z, 1, 2, 1).chunk(2, 1)[0],
    "sum": lambda z: z.sum(1, keepdim=True).expand(2, 3, 4),
    "times a constant": lambda z: z * 0.3,
    "plus a constant": lambda z: z + 0.3,
    "minus a constant": lambda z: z - 0.3,
    "from a constant": lambda z: 1 - z,
    "by a constant": lambda z: z / 3,
    "in place": lambda z: z.mul_(2).add_(0.3),
    "negative": lambda z: -z,
    "squared": lambda z: z.square(),
    "clamped": lambda z: z.clamp(max=0.6),
    "of two": lambda z: z * z.flip(1),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_held_fixed_in_a_product_and_alone_has_its_own_gradient(name):
    gate, x, z = GATES[name], random(2, 3, 4), random(2, 3, 4, seed=1)
    (of_x, of_z), y, g, leaks = relevance(lambda x, z: x * gate(z), x, z)
    close(of_x, y * g)
    assert not of_z.any() and not leaks
    if name == "negative power":  # a length that something is divided by, which no score is made of
        return
    (found,), _, g, _ = relevance(lambda z: gate(z) * 1.0, z)
    leaf = z.clone().requires_grad_()
    close(found, z * torch.autograd.grad(gate(leaf), leaf, g)[0])


@pytest.mark.parametrize("name", MOVED)
def test_a_gate_stays_one_where_it_is_moved_or_changed_by_constants(name):
    x, z = random(2, 3, 4), random(2, 3, 4, seed=1)
    (of_x, of_z), y, g, _ = relevance(lambda x, z: x * MOVED[name](torch.sigmoid(z)), x, z)
    close(of_x, y * g)
    assert not of_z.any()


def test_two_gates_share_and_their_product_is_one():
    x, z, u = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)
    (of_z, of_u), _, g, _ = relevance(lambda z, u: torch.sigmoid(z) * torch.exp(u), z, u)
    s = torch.sigmoid(z)
    close(of_z, z * s * (1 - s) * torch.exp(u) * g / 2)
    close(of_u, u * s * torch.exp(u) * g / 2)
    (of_x, of_z, of_u), y, g, _ = relevance(lambda x, z, u: torch.sigmoid(z) * torch.exp(u) * x, x, z, u)
    close(of_x, y * g)
    assert not of_z.any() and not of_u.any()


@pytest.mark.parametrize("change", ["mul_", "add_", "copy_"])
def test_a_gate_that_becomes_something_else_in_place_is_none_any_more(change):
    x, z, u = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)

    def in_place(x, z, u):
        return getattr(torch.cos(z), change)(x) * u

    def anew(x, z, u):
        s = torch.cos(z)
        return {"mul_": lambda: s * x, "add_": lambda: s + x, "copy_": lambda: x}[change]() * u

    found = relevance(in_place, x, z, u, copies=True)[0]
    for one, other in zip(found, relevance(anew, x, z, u)[0], strict=True):
        close(one, other)


def test_gated_linear_units():
    x = random(2, 6)
    (found,), y, g, _ = relevance(lambda x: F.glu(x, -1), x)
    close(found[:, :3], y * g)
    assert not found[:, 3:].any()


# Recurrent layers


def _along(f, x):
    return x * (f(x) / x).detach()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_layers_are_their_cells(kind):
    """Gates fixed by hand, in the equations of a cell; the account is that of the layer."""
    torch.manual_seed(0)
    layer = (nn.LSTM if kind == "lstm" else nn.GRU)(3, 4, batch_first=True).double().requires_grad_(False)
    W, U, p, q = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
    x = random(2, 5, 3)
    (found,), y, g, leaks = relevance(lambda x: layer(x)[0], x)
    leaf, h, cell, out = x.clone().requires_grad_(), torch.zeros(2, 4).double(), torch.zeros(2, 4).double(), []
    for t in range(5):
        u, v = leaf[:, t] @ W.T + p, h @ U.T + q
        if kind == "lstm":
            i, f, n, o = (u + v).chunk(4, -1)
            i, f, o = (torch.sigmoid(s).detach() for s in (i, f, o))
            cell = f * cell + i * _along(torch.tanh, n)
            h = o * _along(torch.tanh, cell)
        else:
            (r, z, n), (s, w, m) = u.chunk(3, -1), v.chunk(3, -1)
            r, z = torch.sigmoid(r + s), torch.sigmoid(z + w).detach()
            r = r if t == 0 else r.detach()  # before there is a state it scales a constant
            h = (1 - z) * _along(torch.tanh, n + r * m) + z * h
        out.append(h)
    close(torch.stack(out, 1), y)
    (expected,) = torch.autograd.grad(torch.stack(out, 1), leaf, g)
    close(found, (leaf * expected).detach())
    assert _some(leaks) == {"bias", "constant"} | ({"nonlinearity"} if kind == "gru" else set())


def _some(leaks):
    return {cause for cause, values in leaks.items() if float(values.abs().max()) > 1e-12}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_layers_of_all_forms_and_cells(kind):
    """Several layers, both directions, token first, and single cells: of equal relevance."""
    torch.manual_seed(0)
    cell, size = (lstm_cell, 2) if kind == "lstm" else (gru_cell, 1)
    many = (nn.LSTM if kind == "lstm" else nn.GRU)(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    many = many.double().requires_grad_(False)
    x = random(2, 5, 3)
    (found,), y, _, leaks = relevance(lambda x: many(x)[0], x)
    close(y, many(x)[0])
    assert _some(leaks) <= {"bias", "nonlinearity", "constant"} and bool((found != 0).all())
    one = (nn.LSTMCell if kind == "lstm" else nn.GRUCell)(3, 4).double().requires_grad_(False)
    weights = one.weight_ih, one.weight_hh, one.bias_ih, one.bias_hh
    states = [random(2, 4, seed=i) for i in range(size)]

    def by_module(x, *states):
        made = one(x, states if kind == "lstm" else states[0])
        return torch.cat(made, -1) if kind == "lstm" else made

    def by_hand(x, *states):
        return torch.cat(cell(x, *states, *weights), -1)

    for a, b in zip(relevance(by_module, x[:, 0], *states)[0], relevance(by_hand, x[:, 0], *states)[0], strict=True):
        close(a, b)
