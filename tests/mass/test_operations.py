"""What mass does at single operations, in models of a few lines, against matrices that are written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clew
from clew.errors import OptionError

WIDTH, TOKENS = 6, 4
EYE = torch.eye(TOKENS, dtype=torch.float64)


class Model(nn.Module):
    """One attention with whatever is done to what it gives; class 1 of the mean of all tokens is explained."""

    def __init__(self, around):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH).double() for _ in range(4))
        self.head = nn.Linear(WIDTH, 3).double()
        self.around = around
        self.register_buffer("table", torch.rand(TOKENS, TOKENS, dtype=torch.float64))
        self.eval().requires_grad_(False)

    def probabilities(self, x, scale=1.0):
        return (scale * self.q(x) @ self.k(x).mT).softmax(-1)

    def forward(self, x):
        return self.head(self.around(self, x)).mean(1)


def given():
    return torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens(model, method="attention_rollout", **options):
    """What each token got."""
    found = clew.explain(model, given(), method=method, target=1, **options)
    return found.all_scores.view(2, TOKENS, WIDTH).sum(-1)


def of_all(matrix):
    """Rows of tokens, averaged as the head does."""
    return matrix.mean(1)


def positive(model, forward):
    """`max(∂s/∂A ⊙ A, 0)` of attention probabilities that `forward(x)` gives beside the score."""
    score, maps = forward(given())
    gradients = torch.autograd.grad(score.sum(), maps)
    return [(G * A).clamp(min=0).detach() for A, G in zip(maps, gradients, strict=True)]


def check(found, expected):
    torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=1e-12)


def halves_in_a_buffer(model, x):
    A = model.probabilities(x)
    out = torch.zeros_like(x)
    out[:, :2] = model.out(A[:, :2] @ model.v(x))
    out[:, 2:] = model.out(A[:, 2:] @ model.v(x))
    return x + out


def halves_put_together(model, x):
    A = model.probabilities(x)
    return x + model.out(torch.cat([A[:, :2] @ model.v(x), A[:, 2:] @ model.v(x)], 1))


@pytest.mark.parametrize("around", [halves_in_a_buffer, halves_put_together])
def test_an_attention_in_parts_has_one_residual(around):
    model = Model(around)
    A = model.probabilities(given())
    check(tokens(model), of_all((A + EYE) / 2))

    def forward(x):
        A = model.probabilities(x).detach().requires_grad_()
        return model.head(x + model.out(A @ model.v(x))).mean(1)[:, 1], [A]

    check(tokens(model, "generic_attribution"), of_all(EYE + positive(model, forward)[0]))


def two_beside_each_other(model, x):
    return x + (model.out(model.probabilities(x) @ model.v(x)) + model.out(model.probabilities(x, 3.0) @ model.v(x)))


def test_two_attentions_that_are_added():
    model = Model(two_beside_each_other)
    one, other = model.probabilities(given()), model.probabilities(given(), 3.0)
    check(tokens(model), of_all(EYE / 2 + one / 4 + other / 4))

    def forward(x):
        maps = [model.probabilities(x, s).detach().requires_grad_() for s in (1.0, 3.0)]
        return model.head(x + sum(model.out(A @ model.v(x)) for A in maps)).mean(1)[:, 1], maps

    check(tokens(model, "generic_attribution"), of_all(EYE + sum(positive(model, forward))))
    with pytest.raises(OptionError, match="cannot be followed"):
        tokens(model, "gradient_attention_rollout")


def table_in_the_dtype_of_probabilities(model, x):
    A = model.probabilities(x)
    mixed = model.table.type_as(A) @ model.v(x)  # a fixed matrix, no attention
    return x + model.out(A @ model.v(x)) + 0 * torch.zeros_like(A) @ mixed


def test_what_is_brought_to_the_dtype_of_probabilities_is_none():
    model = Model(table_in_the_dtype_of_probabilities)
    found = clew.explain(model, given(), method="attention_rollout", target=1)
    assert found.checks["sites"] == 1
    assert not vars(model.table)
    assert not any(vars(p) for p in model.parameters())


def fixed_matrix(model, x):
    x = x + model.out(model.probabilities(x) @ model.v(x))
    return model.table @ x


def written_as_a_sum(model, x):
    x = x + model.out(model.probabilities(x) @ model.v(x))
    return torch.einsum("ij,bjd->bid", model.table, x)


@pytest.mark.parametrize("around", [fixed_matrix, written_as_a_sum])
def test_a_fixed_matrix_shares_by_its_entries(around):
    model = Model(around)
    A, share = model.probabilities(given()), model.table / model.table.sum(-1, keepdim=True)
    check(tokens(model), of_all(share @ ((A + EYE) / 2)))


def similar_to_the_first(model, x):
    x = x + model.out(model.probabilities(x) @ model.v(x))
    return x, x[:, 0]


@pytest.mark.parametrize("form", [
    lambda a, b: torch.einsum("bnd,bd->bn", a, b).mean(1),
    lambda a, b: torch.einsum("...nd,...d->...n", a, b).mean(1),
    lambda a, b: (a @ b[..., None])[..., 0].mean(1),
    lambda a, b: torch.stack([one @ other for one, other in zip(a, b, strict=True)]).mean(1),
    lambda a, b: F.cosine_similarity(a, b[:, None], dim=-1).mean(1),
    lambda a, b: (a * b[:, None]).sum(-1).mean(1),
])  # fmt: skip
def test_both_sides_of_a_similarity_get_half(form):
    class Similar(Model):
        def forward(self, x):
            return self.around(self, x)

    model = Similar(similar_to_the_first)
    M = (model.probabilities(given()) + EYE) / 2
    found = clew.explain(model, given(), method="attention_rollout", target=lambda out: form(*out))
    check(found.all_scores.view(2, TOKENS, WIDTH).sum(-1), (M.mean(1) + M[:, 0]) / 2)


def scattered(model, x):
    x = x + model.out(model.probabilities(x) @ model.v(x))
    index = torch.tensor([1, 0, 3])[None, :, None].expand(2, 3, WIDTH)
    return torch.zeros_like(x).scatter_add(1, index, x[:, :3])  # three of four


def test_what_is_scattered_comes_back_from_where_it_went():
    model = Model(scattered)
    found = clew.explain(model, given(), method="attention_rollout", target=1)
    M = (model.probabilities(given()) + EYE) / 2
    check(found.all_scores.view(2, TOKENS, WIDTH).sum(-1), M[:, [1, 0, 2]].sum(1) / TOKENS)
    assert found.checks["constants"] == pytest.approx(1 / TOKENS)


def changed_in_place(model, x):
    y = model.out(model.probabilities(x) @ model.v(x))
    y.sinh_()
    y += x
    return y


def test_changes_in_place():
    model = Model(changed_in_place)
    check(tokens(model), of_all((model.probabilities(given()) + EYE) / 2))


def test_numbers_of_attentions():
    model = Model(lambda model, x: x + model.out(model.probabilities(x) @ model.v(x)))
    for wrong in (1, -1):
        with pytest.raises(OptionError, match="there is no attention"):
            tokens(model, "raw_attention", layer=wrong)
        with pytest.raises(OptionError, match="there is no attention"):
            tokens(model, start_layer=wrong)
    check(tokens(model, "raw_attention", layer=0), of_all(model.probabilities(given())))


def no_residual_around_the_first(model, x):
    x = model.out(model.probabilities(x) @ model.v(x))
    return x + model.out(model.probabilities(x, 2.0) @ model.v(x))


def test_what_comes_from_an_attention_may_go_past_another():
    model = Model(no_residual_around_the_first)
    one = model.probabilities(given())
    other = model.probabilities(model.out(one @ model.v(given())), 2.0)
    check(tokens(model), of_all((other + EYE) / 2 @ one))

    def forward(x):
        first = one.detach().requires_grad_()
        y = model.out(first @ model.v(x))
        second = model.probabilities(y, 2.0)
        return model.head(y + model.out(second @ model.v(y))).mean(1)[:, 1], [first, second]

    first, second = positive(model, forward)
    check(tokens(model, "generic_attribution"), of_all((EYE + second) @ first))
    first, second = first / first.sum(-1, keepdim=True), (EYE + second) / (EYE + second).sum(-1, keepdim=True)
    check(tokens(model, "gradient_attention_rollout"), of_all(second @ first))


class Unseen(torch.autograd.Function):
    """A function that no torch call shows: `x³`, or each token with the next."""

    @staticmethod
    def forward(ctx, x, mixes):
        ctx.save_for_backward(x)
        ctx.mixes = mixes
        return x + x.roll(1, -2) if mixes else x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (g + g.roll(-1, -2) if ctx.mixes else 3 * x**2 * g), None


class Layer(nn.Module):
    def __init__(self, mixes):
        super().__init__()
        self.mixes = mixes

    def forward(self, x):
        return Unseen.apply(x, self.mixes)


def behind_unseen(mixes):
    model = Model(lambda model, x: x + model.layer(model.probabilities(x) @ model.v(x)))
    model.layer = Layer(mixes).eval()
    return model


def test_a_function_of_the_models_own_keeps_the_mass_of_each_token():
    model = behind_unseen(mixes=False)
    A = model.probabilities(given())
    check(tokens(model), of_all(0.5 * (EYE + A)))


def test_a_function_of_the_models_own_that_mixes_tokens_is_refused():
    with pytest.raises(OptionError, match="mixes tokens"):
        tokens(behind_unseen(mixes=True))


def test_what_is_explained_may_be_the_length_of_an_embedding():
    model = Model(lambda model, x: model.probabilities(x) @ model.v(x))
    found = tokens(model)
    by_length = (
        clew.explain(model, given(), method="attention_rollout", target=lambda output: output.norm(dim=-1))
        .all_scores.view(2, TOKENS, WIDTH)
        .sum(-1)
    )
    check(by_length, found)
