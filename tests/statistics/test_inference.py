"""Intervals, paired tests, letters and halves, against slow twins and scipy."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from clew.errors import InputError, OptionError
from clew.statistics import Comparison, bands, compare, corrected_p, interval, intervals, letters, split_half


def mean(m):
    return m


def pooled(inside, around):
    """A number that is no mean over examples: the ratio of two totals."""
    return inside / around


def pooled_columns(rng, n, quality):
    around = rng.uniform(50, 400, n)
    return [around * np.clip(quality + rng.normal(0, 0.1, n), 0, 1), around]


# Intervals


def test_an_interval_is_the_percentile_bootstrap_of_the_pooled_number():
    rng = np.random.default_rng(1)
    inside, around = pooled_columns(rng, 40, 0.5)
    got = interval([inside, around], pooled, level=0.9, n_resamples=3000, seed=3)
    drawn = np.random.default_rng(3).integers(0, 40, (3000, 40))
    each = [inside[rows].sum() / around[rows].sum() for rows in drawn]
    assert got.value == pytest.approx(inside.sum() / around.sum())
    assert got.n == 40
    assert got.low == pytest.approx(np.quantile(each, 0.05), abs=0.002)
    assert got.high == pytest.approx(np.quantile(each, 0.95), abs=0.002)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        got = interval([rng.exponential(1.0, 60)], mean, level=0.8, n_resamples=400, seed=trial)
        hits += got.low <= 1.0 <= got.high
    assert 0.7 < hits / 200 < 0.87


def test_resampling_keeps_the_columns_of_an_example_together():
    inside = np.random.default_rng(0).uniform(1, 9, 30)
    got = interval([inside, 2 * inside], pooled)
    assert (got.value, got.low, got.high) == pytest.approx((0.5, 0.5, 0.5))
    assert interval([inside], mean).low < interval([inside], mean).high


def test_equal_examples_have_an_interval_of_no_width():
    got = interval([np.full(20, 0.3)], mean)
    assert got.value == got.low == got.high == pytest.approx(0.3)


def test_one_example_has_no_interval():
    got = interval([np.array([0.3])], mean)
    assert got.value == 0.3 and np.isnan(got.low) and np.isnan(got.high) and got.n == 1


def test_the_same_seed_gives_the_same_interval():
    values = [np.random.default_rng(0).random(25)]
    assert interval(values, mean, seed=1) == interval(values, mean, seed=1)
    assert interval(values, mean, seed=1) != interval(values, mean, seed=2)


def test_methods_together_have_the_intervals_that_they_have_alone():
    rng = np.random.default_rng(0)
    values = {"a": pooled_columns(rng, 30, 0.4), "b": pooled_columns(rng, 30, 0.6), "c": [np.full(30, 0.3)] * 2}
    together = intervals(values, pooled, seed=5)
    for name, columns in values.items():
        alone = interval(columns, pooled, seed=5)
        got = together[name]
        assert (got.value, got.low, got.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert together["c"].low == together["c"].high == together["c"].value


def test_a_band_is_an_interval_at_each_point():
    values = {name: [np.random.default_rng(i).random((30, 4))] for i, name in enumerate("ab")}
    for name, (value, low, high) in bands(values, mean, seed=5).items():
        for point in range(4):
            alone = interval([values[name][0][:, point]], mean, seed=5)
            assert (value[point], low[point], high[point]) == pytest.approx((alone.value, alone.low, alone.high))


@pytest.mark.parametrize("columns", [[np.zeros(0)], [np.zeros(3), np.zeros(4)], [np.array([0.1, np.nan])]])
def test_an_interval_of_what_has_none_is_refused(columns):
    with pytest.raises(InputError):
        interval(columns, lambda *means: means[0])


# Paired tests


def literal_p(a, b, of):
    """Every way to swap the rows of two methods."""
    n = len(a[0])
    observed = abs(of(*(c.mean() for c in a)) - of(*(c.mean() for c in b)))
    extreme = 0
    for swap in product([False, True], repeat=n):
        first = [np.where(swap, y, x).mean() for x, y in zip(a, b, strict=True)]
        second = [np.where(swap, x, y).mean() for x, y in zip(a, b, strict=True)]
        extreme += abs(of(*first) - of(*second)) >= observed - 1e-12
    return extreme / 2**n


def test_few_examples_are_swapped_in_every_way():
    rng = np.random.default_rng(0)
    values = {name: pooled_columns(rng, 8, quality) for name, quality in [("x", 0.4), ("y", 0.45), ("z", 0.6)]}
    got = compare(values, pooled, correction=None)
    assert [(c.a, c.b) for c in got] == [("x", "y"), ("x", "z"), ("y", "z")]
    for c in got:
        assert c.p == c.corrected == literal_p(values[c.a], values[c.b], pooled)
        x, y = values[c.a], values[c.b]
        assert c.difference == pytest.approx(x[0].sum() / x[1].sum() - y[0].sum() / y[1].sum())


def test_swaps_that_tie_with_what_was_seen_count():
    a, b = np.array([0.1, 0.2, 0.3, 0.7]), np.array([0.3, 0.4, 0.5, 0.5])  # differences of one size
    (got,) = compare({"a": [a], "b": [b]}, mean)
    assert got.p == literal_p([a], [b], mean) == 10 / 16


def test_random_swaps_agree_with_scipy():
    rng = np.random.default_rng(4)
    a = pooled_columns(rng, 40, 0.5)
    b = pooled_columns(rng, 40, 0.53)

    def statistic(i, j, axis):
        both = [np.concatenate([x, y]) for x, y in zip(a, b, strict=True)]
        return pooled(*(c[i].mean(axis) for c in both)) - pooled(*(c[j].mean(axis) for c in both))

    theirs = stats.permutation_test(
        (np.arange(40), 40 + np.arange(40)), statistic, permutation_type="samples", n_resamples=9999, random_state=0
    )
    (got,) = compare({"a": a, "b": b}, pooled, n_resamples=9999)
    assert 0.01 < theirs.pvalue < 0.9
    assert got.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert got.difference == pytest.approx(theirs.statistic)


def test_random_swaps_agree_with_all_swaps():
    rng = np.random.default_rng(0)
    values = {"a": [rng.random(12)], "b": [rng.random(12) + 0.15]}
    exact, drawn = (compare(values, mean, n_resamples=n)[0].p for n in (4096, 4095))
    assert exact != drawn
    assert exact == literal_p(values["a"], values["b"], mean)
    assert drawn == pytest.approx(exact, abs=0.03)


def test_where_nothing_differs_small_p_are_rare():
    rng = np.random.default_rng(0)
    p = []
    for trial in range(150):
        shared = rng.random(30)
        values = {name: [shared + rng.normal(0, 0.2, 30)] for name in "ab"}
        p.append(compare(values, mean, n_resamples=199, seed=trial)[0].p)
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.09)


def test_the_test_is_paired():
    hard = np.linspace(0, 10, 40)
    noise = np.random.default_rng(0).normal(0, 0.05, 40)
    paired = compare({"a": [hard], "b": [hard + 0.1 + noise]}, mean)[0]
    shuffled = compare({"a": [hard], "b": [(hard + 0.1 + noise)[::-1]]}, mean)[0]
    assert paired.p < 0.001 < 0.5 < shuffled.p
    assert paired.low < paired.difference < paired.high < 0


def test_the_interval_of_a_difference_is_that_of_the_differences():
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    got = compare({"a": [a], "b": [b]}, mean, seed=7)[0]
    alone = interval([a - b], mean, seed=7)
    assert (got.difference, got.low, got.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_equal_methods_are_never_told_apart():
    a = np.random.default_rng(0).random(30)
    (got,) = compare({"a": [a], "b": [a.copy()]}, mean)
    assert (got.difference, got.low, got.high, got.p, got.corrected) == (0, 0, 0, 1, 1)
    assert got.needed == np.inf


def test_a_difference_of_rounding_alone_is_none():
    (got,) = compare({"a": [np.array([0.1, 0.2, 0.3])], "b": [np.array([0.3, 0.2, 0.1])]}, mean)
    assert got.difference != 0.0 and abs(got.difference) < 1e-15
    assert got.p == 1 and got.needed == np.inf


def test_one_example_proves_nothing():
    (got,) = compare({"a": [np.array([0.1])], "b": [np.array([0.9])]}, mean)
    assert got.p == got.corrected == 1
    assert np.isnan(got.low) and np.isnan(got.high) and np.isnan(got.needed)


def test_one_method_makes_no_pair():
    assert compare({"a": [np.ones(3)]}, mean) == []


def test_many_methods_can_still_be_told_apart():
    rng = np.random.default_rng(0)
    values = {f"m{i:02}": [i + rng.normal(0, 0.1, 30)] for i in range(24)}  # 276 pairs: 4999 swaps would not do
    for correction in ("holm", "fdr"):
        assert all(c.corrected < 0.05 for c in compare(values, mean, correction=correction))


def test_values_of_several_numbers_are_compared_by_what_is_made_of_their_means():
    rng = np.random.default_rng(0)
    curves = {name: [rng.random((9, 5)), rng.random(9)] for name in "ab"}

    def area(curve, scale):
        return np.trapezoid(curve, axis=-1) * scale

    def literal(c):
        return [np.trapezoid(c[0].mean(0)) * c[1].mean()]

    (got,) = compare(curves, area)
    assert got.difference == pytest.approx(literal(curves["a"])[0] - literal(curves["b"])[0])
    extreme = 0
    for swap in product([False, True], repeat=9):
        keep = ~np.array(swap)
        x = [np.where(keep.reshape(-1, *[1] * (u.ndim - 1)), u, v) for u, v in zip(*curves.values(), strict=True)]
        y = [np.where(keep.reshape(-1, *[1] * (u.ndim - 1)), v, u) for u, v in zip(*curves.values(), strict=True)]
        extreme += abs(literal(x)[0] - literal(y)[0]) >= abs(got.difference) - 1e-12
    assert got.p == extreme / 512


def test_columns_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="'b'"):
        compare({"a": [np.ones((3, 2))], "b": [np.ones((3, 4))]}, mean)
    with pytest.raises(InputError):
        compare({"a": [np.ones(3)], "b": [np.ones(4)]}, mean)


def test_an_unknown_correction_is_refused(untyped):
    with pytest.raises(OptionError, match="bonferroni"):
        compare({"a": [np.ones(3)], "b": [np.ones(3)]}, mean, correction="bonferroni")
    with pytest.raises(OptionError, match="bonferroni"):
        corrected_p(np.ones(3), "bonferroni")


# Corrections


def literal_holm(p):
    """Holm (1979): the k-th smallest p times the number of hypotheses left, never below an earlier one."""
    result, largest = {}, 0.0
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, (len(p) - k) * p[i])
        result[i] = min(1.0, largest)
    return [result[i] for i in range(len(p))]


def literal_by(p):
    """Benjamini & Yekutieli (2001): the smallest of m c(m) p_(j) / j over all j from its own rank on."""
    m, order = len(p), sorted(range(len(p)), key=lambda i: p[i])
    c = sum(1 / i for i in range(1, m + 1))
    result = {i: min(min(1.0, m * c * p[order[j]] / (j + 1)) for j in range(k, m)) for k, i in enumerate(order)}
    return [result[i] for i in range(m)]


@pytest.mark.parametrize(("correction", "literal"), [("holm", literal_holm), ("fdr", literal_by)])
def test_corrections_follow_their_papers(correction, literal):
    for seed in range(20):
        p = np.random.default_rng(seed).random(7) ** 4
        p[3] = p[1]
        assert corrected_p(p, correction) == pytest.approx(literal(p))
    assert corrected_p(p, None) is p


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_a_level_is_above_0_and_below_1(level):
    column = [np.arange(4.0)]
    for wrong in (
        lambda: interval(column, mean, level=level),
        lambda: compare({"a": column, "b": column}, mean, level=level),
    ):
        with pytest.raises(OptionError, match="level"):
            wrong()


# Sample sizes


def test_the_number_of_examples_needed_gives_the_power():
    rng = np.random.default_rng(0)
    pilot = rng.normal(0.25, 1.0, 4000)
    (got,) = compare({"a": [pilot], "b": [np.zeros(4000)]}, mean)
    assert got.needed == pytest.approx(((1.959964 + 0.841621) * pilot.std() / pilot.mean()) ** 2, rel=0.08)
    n = int(got.needed)
    rejected = [stats.ttest_1samp(rng.normal(0.25, 1.0, n), 0.0).pvalue <= 0.05 for _ in range(400)]
    assert np.mean(rejected) == pytest.approx(0.8, abs=0.07)


# Letters


def compared(ranked, different):
    return [
        Comparison(a, b, 0.1, 0.0, 0.2, p, p, 10.0)
        for i, a in enumerate(ranked)
        for b in ranked[i + 1 :]
        for p in [0.01 if {a, b} in different else 0.6]
    ]


def test_methods_that_share_a_letter_are_those_not_told_apart():
    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(9)]
    for _ in range(30):
        different = [{a, b} for i, a in enumerate(names) for b in names[i + 1 :] if rng.random() < 0.5]
        comparisons = compared(names, different)
        got = letters(names, comparisons)
        assert all(got[name] for name in names)
        for c in comparisons:
            assert bool(set(got[c.a]) & set(got[c.b])) == ({c.a, c.b} not in different)


def test_letters_start_at_the_best():
    different = [{"best", "worst"}]
    assert letters(["best", "middle", "worst"], compared(["best", "middle", "worst"], different)) == {
        "best": "a",
        "middle": "ab",
        "worst": "b",
    }
    assert letters(["worst", "middle", "best"], compared(["best", "middle", "worst"], different))["worst"] == "a"


def test_letters_depend_on_the_level():
    pair = [Comparison("a", "b", 0.1, 0.0, 0.2, 0.03, 0.03, 10.0)]
    assert letters(["a", "b"], pair, level=0.95) == {"a": "a", "b": "b"}
    assert letters(["a", "b"], pair, level=0.99) == {"a": "a", "b": "a"}


def test_after_z_letters_are_two():
    names = [f"m{i}" for i in range(54)]
    everything = [{a, b} for i, a in enumerate(names) for b in names[i + 1 :]]
    got = letters(names, compared(names, everything))
    assert [got[names[i]] for i in (0, 25, 26, 27, 51, 52, 53)] == ["a", "z", "aa", "ab", "az", "ba", "bb"]
    shared = compared(names, [pair for pair in everything if pair != {"m25", "m26"} and pair != {"m26", "m27"}])
    assert letters(names, shared)["m26"] == "z aa"


def test_a_method_alone_has_a_letter():
    assert letters(["only"], []) == {"only": "a"}


# Halves


def test_halves_part_the_examples_and_depend_on_no_other_example():
    ids = [f"n{i:05}" for i in range(400)]
    first, second = split_half(ids, seed=3)
    assert sorted(first + second) == list(range(400))
    assert 150 < len(first) < 250
    fewer, _ = split_half(ids[:50], seed=3)
    assert fewer == [i for i in first if i < 50]
    assert split_half(ids, seed=4)[0] != first


def test_too_few_examples_make_no_halves():
    with pytest.raises(InputError):
        split_half(["only"])
