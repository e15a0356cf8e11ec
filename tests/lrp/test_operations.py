"""What each operation does to relevance under AttnLRP, against its equation on small tensors; and its account."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.taped import close, random, relevance

from clew.errors import OptionError

# What is a matrix, or a matrix and a constant

W1, W2, W3 = random(4, 3, 2, seed=1), random(4, 3, 2, 2, seed=1), random(4, 3, 2, 2, 2, seed=1)
B = random(4, seed=2)
T1, T2 = random(3, 4, 2, seed=1), random(3, 4, 2, 3, seed=1)
MEAN, VARIANCE, SCALE, SHIFT = (random(4, seed=i) for i in range(3, 7))
VARIANCE = VARIANCE.square() + 0.5
FIXED = random(2, 3, 4, seed=8)
MASK = random(2, 3, 4, seed=9) > 0
ROWS = torch.tensor([2, 0])


def changed(change):
    """A function that changes a copy of its input in place."""

    def function(x):
        y = x * 1.0
        change(y)
        return y

    return function


def _into_zeros(x):
    y = torch.zeros(2, 5, 4, dtype=torch.float64)
    y[:, 1:4] = x
    y[:, 4] = 0.7
    return y


def _put_twice(x):
    """What is written over is lost."""
    y = torch.ones(2, 3, 4, dtype=torch.float64)
    y[:, :2] = x[:, :2]
    y[:, 1:] = x[:, 1:] + 0.5
    y.add_(FIXED).mul_(2.0).sub_(0.3)
    return y


AFFINE = {
    "conv1d": (lambda x: F.conv1d(x, W1, B, stride=2, padding=1), (2, 3, 7)),
    "conv1d dilated": (lambda x: F.conv1d(x, W1, None, dilation=2), (2, 3, 7)),
    "conv1d same": (lambda x: F.conv1d(x, random(4, 3, 4, seed=1), B, padding="same", dilation=2), (2, 3, 7)),
    "conv1d groups": (lambda x: F.conv1d(x, random(4, 2, 3, seed=1), B, groups=2), (2, 4, 6)),
    "conv2d": (lambda x: F.conv2d(x, W2, B, stride=(1, 2), padding=(1, 0)), (2, 3, 4, 5)),
    "conv2d patches": (lambda x: F.conv2d(x, W2, B, stride=2), (2, 3, 4, 5)),
    "conv3d": (lambda x: F.conv3d(x, W3, B, padding=1), (2, 3, 2, 3, 2)),
    "conv3d patches": (lambda x: F.conv3d(x, W3, B, stride=2), (2, 3, 2, 4, 2)),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, T1, B, stride=2, output_padding=1), (2, 3, 4)),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(x, T2, B, stride=2, padding=1), (2, 3, 3, 2)),
    "batch_norm": (lambda x: F.batch_norm(x, MEAN, VARIANCE, SCALE, SHIFT), (2, 4, 3, 3)),
    "batch_norm of a table": (lambda x: F.batch_norm(x, MEAN, VARIANCE), (2, 4)),
    "batch_norm behind a product": (
        lambda x: F.conv2d(F.batch_norm(x, MEAN, VARIANCE, SCALE, SHIFT), random(5, 4, 1, 1)),
        (1, 4, 3, 3),
    ),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 3, 7)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), (2, 3, 4, 4)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (2, 3, 5, 4)),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (2, 3, 3, 2)),
    "interpolate nearest": (lambda x: F.interpolate(x, size=7), (2, 3, 5)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (2, 8, 2, 3)),
    "unfold and fold": (lambda x: F.fold(F.unfold(x, 2), (4, 3), 2), (2, 3, 4, 3)),
    "mean": (lambda x: x.mean((1, 2)), (2, 3, 4)),
    "cumsum": (lambda x: x.cumsum(1), (2, 3, 4)),
    "rfft": (lambda x: torch.fft.irfft(torch.fft.rfft(x)[..., :2], n=4), (2, 3, 4)),
    "fft2 of real": (lambda x: torch.view_as_real(torch.fft.fft2(x)), (2, 3, 4)),
    "pad": (lambda x: F.pad(x, (1, 2), value=0.5), (2, 3, 4)),
    "pad of zeros": (lambda x: F.pad(x, (1, 2, 0, 1)), (2, 3, 4)),
    "pad reflected": (lambda x: F.pad(x, (1, 2), mode="reflect"), (2, 3, 4)),
    "cat": (lambda x: torch.cat([FIXED, x, x], 1), (2, 3, 4)),
    "stack": (lambda x: torch.stack([x, FIXED, x], 1), (2, 3, 4)),
    "stack of products": (lambda x: torch.stack([2 * x, x.flip(1)], -1), (2, 3, 4)),
    "hstack": (lambda x: torch.hstack([x, FIXED]), (2, 3, 4)),
    "setitem": (_into_zeros, (2, 3, 4)),
    "setitem and arithmetic in place": (_put_twice, (2, 3, 4)),
    "copy_": (lambda x: torch.empty(2, 3, 4, dtype=torch.float64).copy_(x), (2, 3, 4)),
    "fill_ of a part": (changed(lambda y: y[:, 1].fill_(0.4)), (2, 3, 4)),
    "copy_ of a constant": (changed(lambda y: y.copy_(FIXED)), (2, 3, 4)),
    "copy_ of a constant to a part": (changed(lambda y: y[:, 1].copy_(FIXED[:, 1])), (2, 3, 4)),
    "add_": (changed(lambda y: y.add_(FIXED, alpha=0.5)), (2, 3, 4)),
    "iadd of a part": (changed(lambda y: y[:, 0].add_(1.5)), (2, 3, 4)),
    "masked_fill_": (changed(lambda y: y.masked_fill_(MASK, 0.3)), (2, 3, 4)),
    "index_put_": (changed(lambda y: y.index_put_((torch.tensor([0, 1]), ROWS), FIXED[:, 0])), (2, 3, 4)),
    "index_fill_": (changed(lambda y: y.index_fill_(1, ROWS, 0.4)), (2, 3, 4)),
    "index_copy_": (changed(lambda y: y.index_copy_(1, ROWS, FIXED[:, :2])), (2, 3, 4)),
    "zero_": (changed(lambda y: y[:, 1].zero_()), (2, 3, 4)),
    "masked_scatter": (lambda x: FIXED.masked_scatter(torch.ones(2, 3, 4).bool(), x), (2, 3, 4)),
    "masked_scatter of constants": (lambda x: x.masked_scatter(MASK, FIXED), (2, 3, 4)),
    "index_put": (lambda x: FIXED.index_put((torch.tensor([[0], [1]]), ROWS[None]), x[:, :2]), (2, 3, 4)),
    "scatter": (lambda x: x.scatter(1, torch.ones(2, 1, 4).long(), FIXED), (2, 3, 4)),
    "scatter_add": (lambda x: FIXED.scatter_add(1, torch.ones(2, 3, 4).long(), x), (2, 3, 4)),
    "index_add": (lambda x: x.index_add(1, ROWS, FIXED[:, :2]), (2, 3, 4)),
    "index_copy": (lambda x: x.index_copy(1, ROWS, FIXED[:, :2]), (2, 3, 4)),
    "select_scatter": (lambda x: torch.select_scatter(x, FIXED[:, 0], 1, 2), (2, 3, 4)),
    "sub": (lambda x: x - FIXED, (2, 3, 4)),
    "rsub": (lambda x: 1.5 - x, (2, 3, 4)),
    "sub of a multiple": (lambda x: torch.sub(FIXED, x, alpha=2), (2, 3, 4)),
    "div by a constant": (lambda x: x / FIXED, (2, 3, 4)),
    "einsum with a constant": (lambda x: torch.einsum("bij,bkj->bik", x, FIXED), (2, 3, 4)),
    "linear in place of its bias": (lambda x: F.linear(x, random(5, 4), random(5, seed=1)), (2, 3, 4)),
    "matmul with a constant": (lambda x: FIXED @ x.mT, (2, 3, 4)),
    "addmm": (lambda x: torch.addmm(random(5), x, random(4, 5, seed=1), beta=0.5, alpha=2.0), (2, 4)),
    "lerp": (lambda x: torch.lerp(x, FIXED, 0.3), (2, 3, 4)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_what_is_a_matrix_and_a_constant_is_its_epsilon_rule(name):
    """`R_i = Σ_j x_i M_ji g_j`; what is left of `Σ_j y_j g_j` is the constant's, and booked."""
    function, shape = AFFINE[name]
    x = random(*shape)
    (found,), y, g, _ = relevance(function, x)
    M = torch.autograd.functional.jacobian(function, torch.zeros_like(x))
    constant = function(torch.zeros_like(x))
    close(y, constant + torch.einsum("ij,j->i", M.flatten(y.ndim).flatten(0, y.ndim - 1), x.flatten()).view_as(y))
    expected = torch.einsum("ij,i->j", M.flatten(y.ndim).flatten(0, y.ndim - 1), g.flatten()).view_as(x) * x
    close(found, expected)


# Norms


def _of_groups(x, groups, eps=1e-5):
    """Each group of channels minus its mean, by its own fixed deviation, and the deviations."""
    parts = x.view(len(x), groups, -1)
    deviation = (parts.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    return parts, deviation


@pytest.mark.parametrize("kind", ["group", "instance"])
def test_norms_of_groups_of_channels_have_their_deviation_fixed(kind):
    x, groups = random(2, 4, 3, 2), {"group": 2, "instance": 4}[kind]
    w, b = SCALE, SHIFT

    def function(x):
        return F.group_norm(x, 2, w, b) if kind == "group" else F.instance_norm(x, weight=w, bias=b)

    (found,), _, g, leaks = relevance(function, x)
    parts, deviation = _of_groups(x, groups)
    share = (g * w.view(1, -1, 1, 1)).view_as(parts) / deviation
    expected = parts * (share - share.mean(-1, keepdim=True))  # Σ_j g_j w_j (δ_ij - 1/n) x_i / σ
    close(found, expected.view_as(x))
    close(leaks["bias"], (g * b.view(1, -1, 1, 1)).flatten(1).sum(1))


def test_features_of_length_1_have_their_length_fixed():
    x = random(2, 3, 4)
    (found,), _, g, leaks = relevance(lambda x: F.normalize(x, dim=-1), x)
    close(found, x / x.norm(dim=-1, keepdim=True) * g)
    assert not leaks
    (found,), y, g, _ = relevance(lambda x: F.local_response_norm(x, 2), x)
    close(found, y * g)


def test_a_norm_that_is_written_out_is_the_norm():
    def written(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    x = random(2, 3, 6)
    close(relevance(written, x)[0][0], relevance(lambda x: F.layer_norm(x, (6,)), x)[0][0])

    def root_mean_square(x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    close(relevance(root_mean_square, x)[0][0], relevance(lambda x: F.rms_norm(x, (6,), eps=1e-5), x)[0][0])
    power = relevance(lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5) ** -0.5, x)
    close(power[0][0], relevance(root_mean_square, x)[0][0])


# Products

a, b, c = random(2, 3, 4), random(2, 4, 3, seed=1), random(2, 3, 3, seed=2)
PRODUCTS = {
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), (a, b), "bij,bjk,bik->bijk"),
    "einsum of three": (lambda a, b, c: torch.einsum("bij,bjk,bik->bi", a, b, c), (a, b, c), "bij,bjk,bik,bi->bijk"),
    "einsum of heads": (lambda a, c: torch.einsum("bij,bik->bjk", a, c), (a, c), "bij,bik,bjk->bijk"),
    "matmul": (lambda a, b: a @ b, (a, b), "bij,bjk,bik->bijk"),
    "bmm": (lambda a, b: torch.bmm(a, b), (a, b), "bij,bjk,bik->bijk"),
    "linear": (lambda a, b: torch.stack([F.linear(x, w.mT) for x, w in zip(a, b, strict=True)]), (a, b),
               "bij,bjk,bik->bijk"),
    "bilinear": (lambda a, c: F.bilinear(a, c, random(5, 4, 3)), (a, c), None),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_factors_that_depend_on_the_input_get_equal_parts(name):
    function, given, equation = PRODUCTS[name]
    found, _, g, leaks = relevance(function, *given)
    if equation is None:
        whole = torch.einsum("bij,bik,ojk,bio->bijk", *given, random(5, 4, 3), g)
        equation = "bij,bik,bio->bijk"
    else:
        whole = torch.einsum(equation, *given, g)  # every contribution by itself
    target = equation.split("->")[1]
    for one, letters in zip(found, equation.split(",")[: len(given)], strict=True):
        close(one, torch.einsum(f"{target}->{letters}", whole) / len(given))
    assert not leaks


def test_weights_that_were_made_of_the_input_are_held_fixed_where_the_rest_depends_on_it():
    x = random(1, 3, 7)

    def weights(x):
        return W1 * x.mean().sin()

    close(relevance(lambda x: F.conv1d(x, weights(x)), x)[0][0], relevance(lambda y: F.conv1d(y, weights(x)), x)[0][0])
    (found,), _, g, _ = relevance(lambda w: F.conv1d(x, w[0]), W1[None])
    J = torch.autograd.functional.jacobian(lambda w: (F.conv1d(x, w) * g).sum(), W1)
    close(found[0], W1 * J)


def test_a_product_and_a_sum_in_one_call():
    x, y, z = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)
    found, _, g, _ = relevance(lambda x, y, z: torch.addcmul(x, y, z, value=0.5), x, y, z)
    for one, expected in zip(found, (x * g, y * z * g / 4, y * z * g / 4), strict=True):
        close(one, expected)
    found, _, g, _ = relevance(lambda x, y, z: torch.addcdiv(x, y, z), x, y, z)
    for one, expected in zip(found, (x * g, y / z * g, torch.zeros(2, 3).double()), strict=True):
        close(one, expected)


def test_what_something_is_divided_by_is_held_fixed_and_alone_it_has_its_own_gradient():
    x, y = random(2, 3), random(2, 3, seed=1)
    (top, under), ratio, g, leaks = relevance(torch.div, x, y)
    close(top, ratio * g)
    assert not under.any() and not leaks
    (found,), ratio, g, leaks = relevance(lambda y: 2.0 / y, y)
    close(found, -ratio * g)  # y · d(2/y)/dy
    close(leaks["nonlinearity"], (2 * ratio * g).sum(1))


def test_the_cosine_is_a_product_of_vectors_of_length_1():
    x, y = random(2, 3, 4), random(2, 3, 4, seed=1)
    found, _, g, leaks = relevance(lambda x, y: F.cosine_similarity(x, y, dim=-1), x, y)
    lengths = x.norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)
    for one in found:
        close(one, x * y / lengths * g[..., None] / 2)
    assert not leaks


def test_where_to_look_and_how_to_mix_are_held_fixed():
    picture, grid = random(2, 3, 4, 4), random(2, 5, 1, 2, seed=1).tanh()
    (found, of_grid), y, g, _ = relevance(lambda x, at: F.grid_sample(x, at, align_corners=False), picture, grid)
    J = torch.autograd.functional.jacobian(lambda x: (F.grid_sample(x, grid, align_corners=False) * g).sum(), picture)
    close(found, picture * J)
    assert not of_grid.any() and float((y * g).sum()) != 0
    L, x = random(2, 3, 3).tril() + 2 * torch.eye(3), random(2, 3, 2, seed=1)
    (mixing, found), _, g, _ = relevance(lambda L, x: torch.linalg.solve_triangular(L, x, upper=False), L, x)
    close(found, x * (torch.linalg.inv(L).mT @ g))
    assert not mixing.any()


# Functions of single numbers

FUNCTIONS = {
    "pow": lambda x: x.pow(3),
    "square": torch.square,
    "operator": lambda x: x**2,
    "sqrt": lambda x: x.abs().sqrt(),
    "expm1": torch.expm1,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "in place": lambda x: F.elu(x * 1.0, inplace=True),
    "relu_": lambda x: (x * 1.0).relu_(),
    "silu_": lambda x: F.silu(x * 1.0, True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_functions_that_are_0_at_0_all_relevance_goes_through(name):
    x = random(2, 3, 4)
    (found,), y, g, leaks = relevance(FUNCTIONS[name], x)
    close(found, y * g)
    assert not leaks


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("activation", [F.relu, F.elu, F.leaky_relu])
def test_an_activation_in_place_changes_its_argument(activation, kept):
    def function(x):
        y = x * 1.0
        z = activation(y, inplace=True)
        return z * 2 if kept else y * 2

    (found,), y, g, _ = relevance(function, random(2, 3, 4))
    close(y, 2 * activation(random(2, 3, 4)))
    close(found, y * g)


def test_a_bound_gets_the_relevance_of_what_it_takes_the_place_of():
    x = random(2, 3, 4)
    (found,), y, g, leaks = relevance(lambda x: x.clamp(-0.5, 0.7), x)
    inside = (x > -0.5) & (x < 0.7)
    close(found, torch.where(inside, x * g, 0.0))
    close(leaks["constant"], torch.where(inside, 0.0, y * g).sum((1, 2)))
    close(relevance(lambda x: (x * 1.0).clamp_(min=0.2), x)[0][0], relevance(lambda x: x.clamp(min=0.2), x)[0][0])


def test_bounds_that_depend_on_the_input_get_what_they_give():
    x, low, high = random(3, 4), random(3, 4, seed=1), torch.full((3, 4), 0.9, dtype=torch.float64)
    (found, bound), y, g, _ = relevance(lambda x, low: torch.clamp(x, min=low, max=high), x, low)
    expected = torch.minimum(torch.maximum(x, low), high)
    close(y, expected)
    inside = expected < 0.9
    close(found, torch.where((x >= low) & inside, x * g, 0.0))
    close(bound, torch.where((x < low) & inside, low * g, 0.0))


def test_of_two_the_larger_hands_on():
    x, y = random(2, 3), random(2, 3, seed=1)
    for function, larger in ((torch.maximum, x >= y), (torch.minimum, x <= y), (torch.max, x >= y)):
        found, _, g, leaks = relevance(function, x, y)
        close(found[0], torch.where(larger, x * g, 0.0))
        close(found[1], torch.where(larger, 0.0, y * g))
        assert all(float(v.abs().max()) == 0 for v in leaks.values())


POOLS = {
    "max_pool1d": lambda x: F.max_pool1d(x, 2),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x, 3),
    "amax": lambda x: x.amax(-1),
    "max": lambda x: x.max(-1).values,
    "sort": lambda x: x.sort(-1).values[..., -2:],
    "median": lambda x: x.median(-1).values,
}


@pytest.mark.parametrize("name", POOLS)
def test_what_is_chosen_hands_on(name):
    x = random(2, 3, 6)
    (found,), y, g, leaks = relevance(POOLS[name], x)
    expected = torch.zeros_like(x)
    for place in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        at = (x[tuple(place[:2])] == y[tuple(place)]).nonzero().item()
        expected[(*place[:2], at)] += (y * g)[tuple(place)]
    close(found, expected)
    assert not leaks


def test_steps_hand_on_nothing_and_logarithms_of_softmaxes_their_own_gradient():
    x = random(2, 3, 4)
    (found,), _, g, leaks = relevance(lambda x: torch.round(x) * 0 + x, x)
    close(found, x * g)
    (found,), y, g, leaks = relevance(lambda x: x.log_softmax(-1), x)
    close(found, x * (g - x.softmax(-1) * g.sum(-1, keepdim=True)))
    close(leaks["softmax"], (y * g - found).flatten(1).sum(1))
    (found,), y, g, _ = relevance(lambda x: x.logsumexp(-1), x)
    close(found, x * x.softmax(-1) * g[..., None])


def test_training_statistics_of_a_batch_are_refused():
    with pytest.raises(OptionError, match="batch_norm"):
        relevance(lambda x: F.batch_norm(x, None, None, training=True), random(2, 4, 3))
