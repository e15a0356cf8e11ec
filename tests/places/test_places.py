"""Places: how the entries of a stream are arranged, and what erasing them leaves."""

from __future__ import annotations

import torch

from clew.places import Entries, Pixels, Places, Words

COMMON = {"method": "m", "options": {}, "target": ["t"], "score": torch.zeros(2)}


def test_pixels_add_up_to_patches_and_are_erased_by_patch():
    torch.manual_seed(0)
    scores, x = torch.randn(2, 5, 6, 9), torch.randn(2, 5, 6, 9)
    places = Pixels((4, 4))
    a = places.attribution(scores, COMMON)
    assert a.patch_grid == (2, 3)
    for row in range(2):
        for column in range(3):
            window = scores[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].sum((1, 2, 3))
            torch.testing.assert_close(a.scores[:, 3 * row + column], window)
    torch.testing.assert_close(a.heatmap(), scores.sum(1))
    keep = torch.ones(2, 6, dtype=torch.bool)
    keep[1, 4] = False  # the second row's middle patch
    erased = places.erase(x, keep, 7.0)
    assert torch.equal(erased[0], x[0])
    assert bool((erased[1, :, 4:, 4:8] == 7).all())
    erased[1, :, 4:, 4:8] = x[1, :, 4:, 4:8]
    assert torch.equal(erased, x)


def test_words_leave_padding_out_and_sum_over_coordinates():
    ids = torch.tensor([[5, 6, 0], [7, 8, 9]])
    mask = ids > 0
    places = Words(ids, mask, torch.zeros_like(mask), [["a", "b", ""], ["c", "d", "e"]])
    scores = torch.arange(24.0).view(2, 3, 4)
    a = places.attribution(scores, COMMON)
    torch.testing.assert_close(a.scores, scores.sum(2) * mask)
    kept = torch.tensor([[True, False, True], [False, True, True]])
    assert places.erase(ids, kept, 1).tolist() == [[5, 1, 0], [1, 8, 9]]


def test_columns_and_entries_of_any_shape():
    table = Entries(["age", "height"])
    a = table.attribution(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), COMMON)
    assert [(one.name, one.score) for one in a.top(1, absolute=True)[0]] == [("height", -3.0)]
    x = torch.randn(2, 3, 4)
    series = Entries()
    b = series.attribution(x, COMMON)
    assert torch.equal(b.scores, x)
    assert torch.equal(series.erase(x, x > 0, 0.0), x.clamp(min=0))
    assert b.chart(0)[:4] == a.chart(0)[:4] == b"\x89PNG"
    for one in (table, series, Pixels(), Words(*(torch.zeros(1, 1, dtype=torch.long),) * 3, [[""]])):
        assert isinstance(one, Places)
