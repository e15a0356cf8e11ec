"""Where token numbers come from, however they are moved before they are looked up; and what is found to enter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.plain_calls import streams_of
from support.zoo_common import loud, tokens
from torch import Tensor, nn

import clew
from clew.errors import InputError
from clew.streams import Provenance

NONE = -1


def followed(move, *given):
    """What a function makes of whole numbers and of their shadows, call by call, as a pass sees it."""
    numbers = {f"argument {i}": value for i, value in enumerate(given)}
    provenance = Provenance(numbers)

    class Follow(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            provenance.follow(func, args, kwargs or {}, result)
            return result

    with Follow():
        made = move(*given)
    return made, provenance.of(made)


A = torch.arange(10, 18).view(2, 4)  # each number is its place plus 10, so that the shadow can be read off
FIRST = torch.tensor([[True, False, False, True], [False, False, True, True]])


def _set(x):
    y = torch.zeros(2, 6, dtype=torch.long)
    y[:, 1:5] = x
    return y


def _shifted(x):
    """As decoders make their own beginning."""
    y = x.new_zeros(x.shape)
    y[:, 1:] = x[:, :-1].clone()
    y[:, 0] = 3
    return y


def _copied(x):
    y = torch.full((2, 4), 5)
    y.copy_(x)
    y.masked_fill_(FIRST, 1)
    return y


MOVES = {
    "pad": lambda x: F.pad(x, (1, 2), value=1),
    "cat": lambda x: torch.cat([torch.full((2, 2), 1), x], 1),
    "stack": lambda x: torch.stack([x, torch.zeros_like(x)], -1),
    "transpose": lambda x: x.transpose(0, 1),
    "property": lambda x: x.T,
    "permute": lambda x: x[None].permute(2, 0, 1),
    "view": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(4, 2),
    "contiguous": lambda x: x.t().contiguous(),
    "clone": lambda x: x.clone().to(torch.int32).long(),
    "where": lambda x: torch.where(FIRST, x, 2),
    "where of a tensor": lambda x: x.where(FIRST, torch.zeros_like(x)),
    "masked_fill": lambda x: x.masked_fill(FIRST, 2),
    "masked_fill_": lambda x: x.clone().masked_fill_(FIRST, 2),
    "setitem": _set,
    "shift": _shifted,
    "copy_": _copied,
    "gather": lambda x: x.gather(1, torch.tensor([[3, 0], [1, 1]])),
    "index": lambda x: x[:, torch.tensor([2, 0])],
    "slice": lambda x: x[1:, ::2],
    "mask": lambda x: x[FIRST],
    "select": lambda x: x.select(1, 2),
    "index_select": lambda x: x.index_select(1, torch.tensor([1, 3])),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "repeat": lambda x: x.repeat(1, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "expand": lambda x: x[:, None].expand(2, 3, 4),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "split": lambda x: x.split([1, 3], 1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "index_put": lambda x: torch.zeros(2, 4).long().index_put((torch.tensor([1]), torch.tensor([2])), x[0, 1]),
    "scatter": lambda x: torch.zeros(2, 4).long().scatter(1, torch.tensor([[3], [0]]), x[:, :1]),
    "masked_scatter": lambda x: torch.zeros(2, 4).long().masked_scatter(FIRST, x),
    "unfold": lambda x: x.unfold(1, 2, 2),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_number_is_followed(name):
    made, shadow = followed(MOVES[name], A)
    assert shadow is not None and shadow.shape == made.shape
    expected = torch.where(made >= 10, made.long() - 10, NONE)
    assert torch.equal(shadow, expected)


def test_numbers_of_several_arguments_are_told_apart():
    B = torch.arange(18, 24).view(2, 3)
    made, shadow = followed(lambda a, b: torch.cat([b, a], 1), A, B)
    assert torch.equal(shadow, made - 10)
    provenance = Provenance({"a": A, "b": B})
    found = provenance.spread(torch.ones(2, 7), shadow)
    assert torch.equal(found["a"], torch.ones(2, 4)) and torch.equal(found["b"], torch.ones(2, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.cumsum(1),
        lambda x: x.argsort(1),
        lambda x: torch.zeros_like(x),
        lambda x: x.new_ones(2, 4),
        lambda x: x.sum(1),
        lambda x: x.float(),
        lambda x: x != 10,
        lambda x: F.pad(torch.arange(3), (0, x[0, 0])),
    ],
)
def test_what_is_made_of_numbers_but_is_not_these_is_not_followed(make):
    assert followed(make, A)[1] is None


# In models


class Words(nn.Module):
    """A recurrence over words, so that each place has a relevance of its own; `prepare` makes what is looked up."""

    def __init__(self, prepare, of_table=None):
        super().__init__()
        self.prepare, self.of_table = prepare, of_table
        self.table, self.cell, self.head = nn.Embedding(64, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, ids: Tensor, **more: Tensor) -> Tensor:
        numbers = self.prepare(ids)
        x = self.table(numbers) if self.of_table is None else self.of_table(self.table.weight, numbers)
        for name, value in more.items():
            x = x + 0.1 * (self.table(value) if not value.is_floating_point() else value[..., None])
            assert name
        return self.head(self.cell(x)[0].mean(1))


def scores(prepare, of_table=None, method="attn_lrp", ids=None, **more):
    torch.manual_seed(3)
    model = loud(Words(prepare, of_table))
    given = {"ids": tokens(4) if ids is None else ids, **more}
    return clew.explain(model, given, method=method, target=1)


BEFORE = {
    "pad": lambda ids: F.pad(ids, (2, 0), value=1),
    "cat": lambda ids: torch.cat([torch.ones_like(ids[:, :2]), ids], 1),
    "setitem": lambda ids: _into(ids.new_ones(2, 6), ids),
    "masked_scatter": lambda ids: ids.new_ones(2, 6).masked_scatter(torch.arange(6).expand(2, 6) > 1, ids),
    "shift": lambda ids: F.pad(ids.t().contiguous().t(), (2, 1), value=1)[:, :6],
    "where": lambda ids: torch.where(torch.arange(6).expand(2, 6) > 1, ids[:, [0, 0, 0, 1, 2, 3]], 1),
    "gather": lambda ids: torch.cat([ids.new_ones(2, 2), ids], 1).gather(1, torch.arange(6).expand(2, 6)),
}


def _into(row, ids):
    row[:, 2:] = ids
    return row


@pytest.mark.parametrize("method", ["attn_lrp", "input_x_gradient"])
@pytest.mark.parametrize("name", BEFORE)
def test_a_beginning_put_before_the_words_within_the_model_changes_no_places(name, method):
    """All of these look up 1, 1 and the words; what the beginning gets is a constant's."""
    reference = scores(lambda ids: torch.cat([torch.ones_like(ids[:, :2]), ids], 1), method=method)
    found = scores(BEFORE[name], method=method)
    assert found.scores.shape == (2, 4)
    torch.testing.assert_close(found.scores, reference.scores, rtol=0, atol=1e-13)
    given = torch.cat([torch.ones(2, 2, dtype=torch.long), tokens(4)], 1)
    whole = scores(lambda ids: ids, method=method, ids=given)
    torch.testing.assert_close(found.scores, whole.scores[:, 2:], rtol=0, atol=1e-12)
    if method == "attn_lrp":
        lost = found.checks["leak_constant"] - whole.checks.get("leak_constant", 0)
        torch.testing.assert_close(lost, whole.scores[:, :2].sum(1), rtol=0, atol=1e-12)


TABLES = {
    "weight[ids]": lambda W, ids: W[ids],
    "index_select": lambda W, ids: W.index_select(0, ids.flatten()).view(*ids.shape, -1),
    "F.embedding": lambda W, ids: F.embedding(ids, W),
    "torch.embedding": lambda W, ids: torch.embedding(W, ids),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_may_be_read_in_any_way(name):
    reference, found = scores(lambda ids: ids), scores(lambda ids: ids, TABLES[name])
    torch.testing.assert_close(found.scores, reference.scores, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["attention_mask", "position_ids", "token_type_ids", "segment_ids", "labels"])
def test_arguments_about_the_input_are_no_streams(name):
    number = torch.ones(2, 4, dtype=torch.long)
    for value in (number, number.double()):
        assert set(streams_of(scores(lambda ids: ids, **{name: value}))) == {"ids"}


@pytest.mark.parametrize("name", ["speaker", "features"])
def test_other_arguments_are(name):
    number = torch.ones(2, 4, dtype=torch.long)
    for value in (number, number.double()):
        assert set(streams_of(scores(lambda ids: ids, **{name: value}))) == {"ids", name}


def test_numbers_that_the_model_only_counts_with_are_no_stream():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x, lengths):
            seen = torch.arange(4) < lengths[:, None]
            return self.head(x.double() * seen)

    x, lengths = torch.randn(2, 4, dtype=torch.float64), torch.tensor([3, 4])
    found = clew.explain(loud(Counted()), {"x": x, "lengths": lengths}, method="attn_lrp", target=0)
    assert set(streams_of(found)) == {"x"}
    assert float(found.scores[0, 3]) == 0 and bool((found.scores[1] != 0).all())
    with pytest.raises(InputError, match="no input was seen to enter"):
        clew.explain(loud(Counted()), (torch.ones(2, 4).long(), lengths), method="attn_lrp", target=0)


class Joined(nn.Module):
    """Two texts become one before they are looked up."""

    def __init__(self):
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(64, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, question, answer):
        return self.head(self.cell(self.table(torch.cat([question, answer], 1)))[0].mean(1))


@pytest.mark.parametrize("method", ["attn_lrp", "input_x_gradient", "saliency"])
def test_texts_that_are_joined_before_the_look_up_keep_their_own_scores(method):
    torch.manual_seed(3)
    model, ids = loud(Joined()), tokens(7)
    found = clew.explain(model, {"question": ids[:, :3], "answer": ids[:, 3:]}, method=method, target=1)
    torch.manual_seed(3)
    whole = scores(lambda ids: ids, method=method, ids=ids)
    parts = streams_of(found)
    assert set(parts) == {"question", "answer"}
    joined = torch.cat([parts["question"].scores, parts["answer"].scores], 1)
    torch.testing.assert_close(joined, whole.scores, rtol=0, atol=1e-13)


# Looked up more than once


class Twice(nn.Module):
    """Words are looked up in a second table, too, as models with embeddings of each layer do."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Embedding(50, 8), nn.Embedding(50, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids):
        x = torch.tanh(self.mix(self.first(input_ids)))
        return self.head((x + self.again(input_ids)).sum(1))


def test_tokens_that_are_looked_up_again_are_told():
    model, ids = loud(Twice()), tokens(5)
    found = clew.explain(model, ids, method="attn_lrp", target=1)
    again, weights = found.details["input_ids.looked_up_again"], model.head.weight[1]
    torch.testing.assert_close(again, model.again(ids) @ weights, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.checks["leak_looked_up_again"], again.sum(1), rtol=0, atol=1e-13)
    size = float(found.checks["explained"].abs().max())
    assert float(found.checks["unexplained"].abs().max()) < 1e-12 * size
    x = torch.tanh(model.mix(model.first(ids)))
    part = model.mix(model.first(ids)) - model.mix.bias
    ratio = x / model.mix(model.first(ids))
    torch.testing.assert_close(found.scores, (part * ratio) @ weights, rtol=0, atol=1e-13)
    assert "more than once" in found.checks["advice"]
    gradients = clew.explain(model, ids, method="input_x_gradient", target=1)
    torch.testing.assert_close(gradients.details["input_ids.looked_up_again"], again, rtol=0, atol=1e-13)


def test_numbers_in_several_tables_each_once_are_not_looked_up_again():
    """As codes of sound are: a table for each row."""

    class Codes(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(50, 8) for _ in range(2))
            self.head = nn.Linear(8, 3)

        def forward(self, codes):
            return self.head(sum(table(codes[:, i]) for i, table in enumerate(self.tables)).sum(1))

    model, codes = loud(Codes()), torch.stack([tokens(5), tokens(5, seed=1)], 1)
    found = clew.explain(model, {"codes": codes}, method="attn_lrp", target=1)
    expected = torch.stack([table(codes[:, i]) @ model.head.weight[1] for i, table in enumerate(model.tables)], 1)
    assert not found.details and "leak_looked_up_again" not in found.checks
    torch.testing.assert_close(found.scores, expected.sum(-1), rtol=0, atol=1e-13)  # by row: (batch, row, token)
