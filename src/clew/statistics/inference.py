"""How sure a number of a benchmark is, and which methods differ: intervals, paired tests, letters, sample sizes.

Every number is a function `of` of means over examples: a mean score of the mean of its column, a mean IoU of the mean
intersections and unions. Examples are what is resampled; seeds, models and data sets are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, inf, nan, sqrt
from typing import Literal

import numpy as np

from ..errors import InputError, OptionError, optional_import
from ..validation import validate_float
from .resampling import PURPOSE, Statistic, bootstrap, permutation, split, stack

Correction = Literal["holm", "fdr"]
"""Of many tests: Holm's, of the chance of any false one, or Benjamini and Yekutieli's ("fdr"), of their rate."""

_FEWEST = 4999  # random swaps of a test
_POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A number, and the percentile interval of its bootstrap over `n` examples; NaN limits for one example.

    `value`, `low` and `high` are in the unit of the number.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Whether method `a` differs from `b`: `difference` is a - b, with its paired bootstrap interval.

    These are in the unit of the number. `p`, 0 to 1, comes from the paired permutation test, `corrected` is for all
    pairs tested together, and `needed` is how many examples would tell these two apart, tested alone, with 80 % power:
    infinite where they do not differ, NaN (as the limits are) for one example.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    needed: float


def interval(
    columns: Sequence[np.ndarray], of: Statistic, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> Interval:
    """The number `of` the means of columns (example, …), and its percentile bootstrap interval over examples.

    Raises `InputError` for no examples, columns of several lengths, and values that are not finite, `OptionError` for a
    level that is not above 0 and below 1.
    """
    return intervals({"": columns}, of, level=level, n_resamples=n_resamples, seed=seed)[""]


def intervals(
    values: Mapping[str, Sequence[np.ndarray]],
    of: Statistic,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """`interval` for several methods, by name, on the same examples, drawn once for all of them.

    Raises what `interval` does, and `InputError` where methods differ in the shapes of their columns.
    """
    limits = bands(values, of, level=level, n_resamples=n_resamples, seed=seed)
    return {
        name: Interval(float(limits[name][0]), float(limits[name][1]), float(limits[name][2]), len(columns[0]))
        for name, columns in values.items()
    }


def bands(
    values: Mapping[str, Sequence[np.ndarray]],
    of: Statistic,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """(3, point): value, lower and upper limit as in `intervals`, for an `of` that gives a curve, point by point.

    NaN limits for one example. Raises what `intervals` does.
    """
    _refuse_level(level)
    stacked, shapes = stack(values)
    middle = np.asarray(of(*split(stacked.mean(0), shapes)), dtype=float)
    low = high = np.full_like(middle, nan)
    if len(stacked) > 1:
        low, high, _ = bootstrap(stacked, lambda means: of(*split(means, shapes)), level, n_resamples, seed)
        constant = (stacked == stacked[:1]).all((0, 2))
        low[constant] = high[constant] = middle[constant]
    return dict(zip(values, np.stack([middle, low, high], axis=1), strict=True))


def compare(
    values: Mapping[str, Sequence[np.ndarray]],
    of: Statistic,
    *,
    correction: Correction | None = "holm",
    level: float = 0.95,
    n_resamples: int | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Test all pairs of methods on the same examples, `values` being each method's columns (example, …).

    The pairs come in the order of the methods, the first with each later one first; of fewer than two there are none.

    The permutation test swaps the two methods' rows of random examples (or of all sets of examples where these are no
    more than `n_resamples`), so that it also holds for pooled numbers; it is two-sided. `correction` is Holm's (1979),
    or "fdr", that of Benjamini and Yekutieli (2001). The intervals, at `level`, are not corrected.

    By default there are at least 4999 swaps, and so many that a corrected p may be as small as a quarter of
    1 - `level`: with fewer, no pair of many could ever be told apart.

    Raises what `intervals` does, and `OptionError` for an unknown correction.
    """
    _refuse_level(level)
    _refuse_correction(correction)
    names = list(values)
    pairs = np.array(list(combinations(range(len(names)), 2)), dtype=int).reshape(-1, 2)
    if not len(pairs):
        return []
    stacked, shapes = stack(values)
    n, first, second = len(stacked), pairs[:, 0], pairs[:, 1]

    def number(means: np.ndarray) -> np.ndarray:
        return np.asarray(of(*split(means, shapes)), dtype=float)

    def differences(means: np.ndarray) -> np.ndarray:
        each = number(means)
        return each[..., first] - each[..., second]

    each = number(stacked.mean(0))
    tolerance = 1e-10 * float(np.abs(each).max())  # sums in another order differ by rounding
    observed = each[first] - each[second]
    low = high = error = np.full(len(pairs), nan)
    if n > 1:
        low, high, error = bootstrap(stacked, differences, level, 2000, seed)
    swaps = n_resamples or _enough(len(pairs), correction, level)
    p = permutation(stacked, number, pairs, observed, tolerance, swaps, seed)
    corrected = corrected_p(p, correction)
    return [
        Comparison(
            names[pair[0]],
            names[pair[1]],
            float(observed[i]),
            float(low[i]),
            float(high[i]),
            float(p[i]),
            float(corrected[i]),
            _needed(0.0 if abs(observed[i]) <= tolerance else float(observed[i]), float(error[i]), n, level),
        )
        for i, pair in enumerate(pairs)
    ]


def corrected_p(p: np.ndarray, correction: Correction | None) -> np.ndarray:
    """p (test,), 0 to 1, for all tests together: Holm's, Benjamini and Yekutieli's ("fdr"), or as they are (None).

    Raises `OptionError` for an unknown correction.
    """
    _refuse_correction(correction)
    if correction is None:
        return p
    if correction == "fdr":
        return optional_import("scipy.stats", extra="bench", purpose=PURPOSE).false_discovery_control(p, method="by")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]))
    result = np.empty(len(p))
    result[order] = stepped
    return result


def letters(ranked: Sequence[str], comparisons: Sequence[Comparison], level: float = 0.95) -> dict[str, str]:
    """Letters for each method, best first: two that share one were not told apart at `level` (Piepho 2004).

    A letter is a largest set of methods of which no two differ; after z comes aa, and then letters stand apart.
    """
    import networkx  # comes with torch

    graph = networkx.Graph()
    graph.add_nodes_from(ranked)
    alike = [(c.a, c.b) for c in comparisons if not c.corrected <= 1 - level]
    graph.add_edges_from((a, b) for a, b in alike if a in graph and b in graph)
    place = {name: i for i, name in enumerate(ranked)}
    groups = sorted(sorted(place[name] for name in clique) for clique in networkx.find_cliques(graph))
    between = " " if len(groups) > 26 else ""
    return {name: between.join(_letter(i) for i, g in enumerate(groups) if place[name] in g) for name in ranked}


def split_half(ids: Sequence[str], seed: int = 0) -> tuple[list[int], list[int]]:
    """Positions of two halves, by a bit of a hash of each id: the half of an example depends on no other example.

    For choosing options on one half and reporting the other. Raises `InputError` where few ids leave a half empty.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    for position, name in enumerate(ids):
        halves[hashlib.sha256(f"{seed}:{name}".encode()).digest()[0] & 1].append(position)
    if not all(halves):
        raise InputError("the examples do not make two halves", got=f"{len(ids)} examples", todo="take more of them")
    return halves


def _refuse_level(level: float) -> None:
    if validate_float("level", level, 0, 1, above=True) == 1:
        raise OptionError("level is out of range", expected="a number above 0 and below 1", got=level)


def _refuse_correction(correction: Correction | None) -> None:
    if correction not in ("holm", "fdr", None):
        raise OptionError("unknown correction", expected="'holm', 'fdr' or None", got=correction)


def _enough(pairs: int, correction: Correction | None, level: float) -> int:
    tests = {"holm": pairs, "fdr": pairs * float(np.sum(1 / np.arange(1, pairs + 1))), None: 1}[correction]
    return max(_FEWEST, ceil(4 * tests / (1 - level)))


def _needed(difference: float, error: float, n: int, level: float) -> float:
    """`((z_(1-α/2) + z_power) σ / δ)²`, with σ = standard error · √n."""
    if difference == 0.0:
        return inf
    if n == 1:
        return nan
    normal = optional_import("scipy.stats", extra="bench", purpose=PURPOSE).norm
    z = float(normal.ppf((1 + level) / 2) + normal.ppf(_POWER))
    return float(max(2, ceil((z * error * sqrt(n) / difference) ** 2)))


def _letter(index: int) -> str:
    """A, b, …, z, aa, ab, …"""
    name = ""
    while index >= 0:
        index, rest = divmod(index, 26)
        name, index = chr(ord("a") + rest) + name, index - 1
    return name
