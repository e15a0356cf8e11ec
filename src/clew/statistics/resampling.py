"""Draw examples again: with replacement for intervals, and with two methods' rows swapped for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import numpy as np

from ..errors import InputError, optional_import

Statistic = Callable[..., np.ndarray]
"""`of(*means)`: (…, *value) each, leading axes alike, to (…) or (…, points)."""
PURPOSE = "compute intervals and tests"

_CELLS = 4_000_000  # numbers held at a time


def stack(values: Mapping[str, Sequence[np.ndarray]]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """(example, method, number): the columns of each method side by side, and the shape of each column's values."""
    shapes = {name: [np.shape(column) for column in columns] for name, columns in values.items()}
    first = next(iter(shapes.values()))
    lengths = {shape[0] for shape in first}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError("no examples in common", expected="columns of one length above 0", got=first)
    if other := [name for name, each in shapes.items() if each != first]:
        raise InputError(f"columns of {other[0]!r} have other shapes", expected=first, got=shapes[other[0]])
    flat = [
        np.concatenate([np.asarray(c, dtype=float).reshape(len(c), -1) for c in columns], axis=1)
        for columns in values.values()
    ]
    stacked = np.stack(flat, axis=1)
    if not np.isfinite(stacked).all():
        raise InputError("a column holds values that are not finite", todo="leave their examples out")
    return stacked, [shape[1:] for shape in first]


def split(means: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """(…, number) back to one array (…, *shape) for each column."""
    ends = np.cumsum([prod(shape) for shape in shapes])[:-1]
    parts = np.split(means, ends, axis=-1)
    return [part.reshape((*means.shape[:-1], *shape)) for part, shape in zip(parts, shapes, strict=True)]


def bootstrap(
    matrix: np.ndarray, of_means: Statistic, level: float, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limits and standard errors of `of_means` for means of examples drawn with replacement."""
    stats = optional_import("scipy.stats", extra="bench", purpose=PURPOSE)
    n, flat = len(matrix), matrix.reshape(len(matrix), -1)

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        rows = drawn.astype(np.int64).reshape(-1, n)
        cells = rows + n * np.arange(len(rows))[:, None]
        counts = np.bincount(cells.ravel(), minlength=rows.size).reshape(rows.shape)
        return np.moveaxis(of_means((counts @ flat / n).reshape((-1, *matrix.shape[1:]))), 0, -1)

    result = stats.bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=n_resamples,
        batch=max(1, _CELLS // (n + flat.shape[1])),
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    limits = result.confidence_interval
    return np.asarray(limits.low), np.asarray(limits.high), np.asarray(result.standard_error)


def permutation(
    stacked: np.ndarray,
    number: Statistic,
    pairs: np.ndarray,
    observed: np.ndarray,
    tolerance: float,
    n_resamples: int,
    seed: int,
) -> np.ndarray:
    """Two-sided p (pair,), all pairs under the same swaps; what scipy's `permutation_test` gives for each alone.

    Swapping rows turns the means m_a, m_b into (m_a + m_b)/2 ± (s_a - s_b)/2, where s is the mean with a sign for each
    example: one matrix product serves all pairs.
    """
    n, first, second = len(stacked), pairs[:, 0], pairs[:, 1]
    means = stacked.mean(0)
    middle = (means[first] + means[second]) / 2
    exact = 2**n <= n_resamples
    total = 2**n if exact else n_resamples
    extreme = np.zeros(len(pairs), dtype=int)
    for signs in _signs(n, total, exact, max(1, _CELLS // (n + 2 * middle.size)), seed):
        signed = (signs @ stacked.reshape(n, -1) / n).reshape((-1, *means.shape))
        half = (signed[:, first] - signed[:, second]) / 2
        swapped = number(middle + half) - number(middle - half)
        extreme += (~(np.abs(swapped) < np.abs(observed) - tolerance)).sum(0)
    return extreme / total if exact else (extreme + 1) / (total + 1)


def _signs(n: int, total: int, exact: bool, batch: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, total, batch):
        stop = min(start + batch, total)
        if exact:
            bits = np.arange(start, stop)[:, None] >> np.arange(n) & 1
        else:
            bits = rng.integers(0, 2, (stop - start, n), dtype=np.int8)
        yield bits * 2.0 - 1.0
