"""Checks that scores are at the right tokens and patches, and that the model's input shows the right pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..draw import Picture
from ..inputs import TextBatch
from ..subject import Discrepancy, Result

_CELLS = 4  # across and down, of which colours are compared


def check_text_placement(text: TextBatch, result: Result, placed: Tensor) -> Iterator[Discrepancy]:
    """Scores of a method in the model's order, against those of the tokens as given."""
    assert result.scores is not None
    scores = result.scores.detach().to(placed)
    real = torch.arange(scores.shape[1], device=scores.device) < text.lengths.to(scores.device)[:, None]
    expected = torch.zeros_like(placed)
    expected[text.mask.to(placed.device)] = scores[real]
    yield Discrepancy.of("placement", expected, placed, "scores of tokens, one by one in the order of the text")


def check_tokenization(
    text: TextBatch, given: Tensor, strings: Sequence[Any] | None, tokenizer: Any
) -> Iterator[Discrepancy]:
    """Token numbers (batch, position) as the model gets them, against the tokenizer's own of each string."""
    if strings is None or not callable(tokenizer):
        return
    wrong, numbers, lengths = 0, given.tolist(), text.lengths.tolist()
    for i, one in enumerate(strings):
        first, second = one if isinstance(one, tuple) else (one, None)
        encoded: Any = tokenizer(first, second, verbose=False)  # which warns of texts that are cut here
        own = list(encoded["input_ids"])
        found = numbers[i][: lengths[i]]
        cut = any(int(text.checks[name][i]) for name in ("characters_cut", "tokens_cut") if name in text.checks)
        doubled = own[:1] == own[1:2] and found == own[1:]  # the beginning that a written-out template brings
        wrong += found[: len(own)] != own and not cut and not doubled
    yield Discrepancy(
        "tokens", torch.tensor(float(wrong)), 0.5, "token numbers, against the tokenizer's own of each text"
    )


def padding_share(text: TextBatch, result: Result) -> Tensor:
    """Share of the scores' sizes, (batch,), that lay at padding before it was left out."""
    assert result.scores is not None
    sizes = result.scores.detach().abs()
    real = torch.arange(sizes.shape[1], device=sizes.device) < text.lengths.to(sizes.device)[:, None]
    total = sizes.sum(-1)
    return torch.where(total > 0, sizes.masked_fill(real, 0.0).sum(-1) / total, 0.0)


def check_patches(
    pixels: Tensor, scores: Tensor, grid: tuple[int, int], patch: tuple[int, int]
) -> Iterator[Discrepancy]:
    """Scores of patches (batch, patch), against sums over the pixels that each covers."""
    expected = torch.zeros_like(scores)
    for row in range(grid[0]):
        for column in range(grid[1]):
            down, across = row * patch[0], column * patch[1]
            window = pixels[:, down : down + patch[0], across : across + patch[1]]
            expected[:, row * grid[1] + column] = window.sum((1, 2))
    yield Discrepancy.of("placement", expected, scores, "scores of patches, summed over their pixels")


def check_pixels(inputs: Tensor, pictures: Sequence[Picture], preprocess: Any) -> Iterator[Discrepancy]:
    """What the model gets, normalisation undone, against the colours of the picture there, cell by cell."""
    mean, std = (np.asarray(v, dtype=np.float64) for v in (preprocess.mean, preprocess.std))
    channels = inputs.shape[1]
    if channels not in (1, 3) or len(mean) not in (1, channels):
        return
    worst = 0.0
    for x, picture in zip(inputs[:2], pictures[:2], strict=False):
        height, width = x.shape[1:]
        rows, columns = (np.linspace(0, n - 1, min(n, 64)).round().astype(int) for n in (height, width))
        seen = x.detach().double().cpu().numpy()[:, rows][:, :, columns]
        seen = seen * std[:, None, None] + mean[:, None, None]
        left, top, right, bottom = picture.box
        down = np.floor(top + (rows + 0.5) / height * (bottom - top)).astype(int)
        across = np.floor(left + (columns + 0.5) / width * (right - left)).astype(int)
        inside_rows = (down >= 0) & (down < picture.pixels.shape[0])
        inside_columns = (across >= 0) & (across < picture.pixels.shape[1])
        shown = picture.pixels[down[inside_rows]][:, across[inside_columns]].astype(np.float64) / 255
        seen = seen[:, inside_rows][:, :, inside_columns]
        colours = shown.transpose(2, 0, 1)
        if channels == 1:
            colours = (np.array([0.299, 0.587, 0.114])[:, None, None] * colours).sum(0, keepdims=True)
        worst = max(worst, float(np.abs(_cells(seen) - _cells(colours)).max(initial=0.0)))
    yield Discrepancy(
        "pixels", torch.tensor(worst), 0.15, "the colours that the model gets, against those of the picture"
    )


def _cells(values: np.ndarray) -> np.ndarray:
    """Means of cells of an array (channel, height, width)."""
    parts = [np.array_split(half, _CELLS, 2) for half in np.array_split(values, _CELLS, 1)]
    return np.array([[cell.mean((1, 2)) for cell in row if cell.size] for row in parts])
