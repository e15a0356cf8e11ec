"""Reports of runs: which examples count, which runs share a table, and what the page and the tables say."""

import csv
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

import clew
from clew import Curve, Metric
from clew.errors import ClewError, InputError, OptionError
from clew.evaluation.report.groups import build_group, group_runs
from clew.evaluation.report.report import report, summary
from clew.evaluation.report.rows import differing
from clew.evaluation.report.tables import decimal_places, format_number, latex_escaped, ordered
from clew.evaluation.report.words import verdicts
from clew.statistics import compare, interval, letters

VARIANTS = ("paper", "beyond_intuition", "pa_lrp")
METHODS = ("rollout", "random_<b>", "lrp(rule='a|b')")
STEPS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Run:
    manifest: dict[str, Any]
    table: pyarrow.Table
    metrics: tuple[Metric, ...]
    curves: tuple[Curve, ...]
    path: Path


def ratio(inside, around):
    return inside / around


MIOU = Metric(name="miou", columns=("inside", "around"), of=ratio, higher=True, headline=True, what="Of all pixels.")
AREA = Metric(name="area", columns=("curve",), of=lambda c: np.trapezoid(c, STEPS, axis=-1), higher=False)
SIZE = Metric(name="size", columns=("around",), of=lambda m: m, higher=None)
ANSWER = Curve(name="Answer", columns=("curve",), of=lambda c: c, x=STEPS, x_label="share", y_label="answer")
PATH = Curve(
    name="Path", columns=("curve",), of=lambda c: c[..., ::-1], x=lambda c: c, x_label="share", y_label="answer"
)


def rows_of(n=14, methods=METHODS, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "example": f"e{i:02}",
            "method": method,
            "error": None,
            "inside": float(rng.uniform(1, 5) + 3 * place),
            "around": float(rng.uniform(10, 20)),
            "curve": rng.random(3).tolist(),
        }
        for i in range(n)
        for place, method in enumerate(methods)
    ]


def run_of(rows=None, path="runs/one", metrics=(MIOU, AREA, SIZE), curves=(ANSWER, PATH), **given):
    rows = rows_of() if rows is None else rows
    methods = list(dict.fromkeys(row["method"] for row in rows))
    shard = {"sha256": "5" * 64, "rows": len(rows) // 2, "notes": ["kept & noted"]}
    manifest = {
        "format": 1,
        "benchmark": "segmentation",
        "version": 1,
        "protocol": {"threshold": "mean", "target": None},
        "model": {"name": "deit", "hash": "m1"},
        "data": {"name": "scenes", "hash": "d1", "classes": [f"class {i}" for i in range(100)]},
        "methods": methods,
        "seed": 0,
        "versions": {"clew": "0.2"},
        "shards": {
            name: {**shard, "seconds": dict.fromkeys(methods, second), "forwards": dict.fromkeys(methods, 7)}
            for name, second in (("part-00000.parquet", 3.5), ("part-00001.parquet", 7.0))
        },
        "complete": True,
    }
    return Run(manifest | given, pyarrow.Table.from_pylist(rows), metrics, curves, Path(path))


def failed(rows, fails, message="ValueError: no <mask>"):
    nothing = dict.fromkeys(("inside", "around", "curve")) | {"error": message}
    return [row | nothing if fails(row) else row for row in rows]


def literal(rows, method, columns, left_out=()):
    """The columns of one method, by example."""
    kept = [r for r in rows if r["method"] == method and r["example"] not in left_out]
    return [np.array([r[c] for r in kept]) for c in columns]


def by_key(rows):
    return {(row["run"], row["method"], row["metric"]): row for row in rows}


def page_of(*runs, tmp_path, **options):
    return report(*runs, out=tmp_path / "r.html", **options)[0].read_text()


# Numbers


def test_numbers_are_made_of_the_means_of_their_columns():
    rows = rows_of()
    got = by_key(summary(run_of(rows)))
    assert len(got) == 9
    for method in METHODS:
        inside, around = literal(rows, method, ("inside", "around"))
        expected = interval([inside, around], ratio)
        row = got["runs/one", method, "miou"]
        assert row["value"] == pytest.approx(inside.sum() / around.sum())
        assert (row["low"], row["high"], row["n"]) == (pytest.approx(expected.low), pytest.approx(expected.high), 14)
        (curve,) = literal(rows, method, ("curve",))
        assert got["runs/one", method, "area"]["value"] == pytest.approx(np.mean(curve @ [0.25, 0.5, 0.25]))


def test_headline_metrics_have_the_letters_of_the_paired_tests():
    rows = rows_of()
    got = by_key(summary(run_of(rows)))
    ranked = sorted(METHODS, key=lambda m: -got["runs/one", m, "miou"]["value"])
    pairs = compare({m: literal(rows, m, MIOU.columns) for m in ranked}, ratio)
    expected = letters(ranked, pairs)
    assert {m: got["runs/one", m, "miou"]["letters"] for m in METHODS} == expected
    assert len(set(expected.values())) > 1
    assert all(got["runs/one", m, "area"]["letters"] == "" for m in METHODS)


def test_an_example_that_one_method_lacks_counts_for_none():
    rows = failed(rows_of(), lambda r: (r["example"], r["method"]) in {("e03", "rollout"), ("e05", METHODS[2])})
    got = by_key(summary(run_of(rows)))
    for method in METHODS:
        inside, around = literal(rows, method, ("inside", "around"), left_out=("e03", "e05"))
        row = got["runs/one", method, "miou"]
        assert (row["value"], row["n"]) == (pytest.approx(inside.sum() / around.sum()), 12)


def test_a_row_with_an_error_has_no_value_whatever_it_holds():
    rows = rows_of()
    rows[0] = rows[0] | {"error": "RuntimeError: on the way"}
    assert {row["n"] for row in summary(run_of(rows))} == {13}


def test_a_method_that_always_fails_leaves_the_others_their_examples():
    rows = failed(rows_of(), lambda r: r["method"] == "rollout")
    got = by_key(summary(run_of(rows)))
    none = got["runs/one", "rollout", "miou"]
    assert (none["value"], none["low"], none["n"], none["letters"]) == (None, None, 0, "")
    assert got["runs/one", METHODS[1], "miou"]["n"] == 14


def test_values_that_are_no_numbers_leave_out_the_example_for_their_metric_alone():
    rows = rows_of()
    rows[4]["inside"] = float("nan")
    rows[8]["inside"] = float("inf")
    rows[9]["curve"] = None
    got = by_key(summary(run_of(rows)))
    assert [got["runs/one", METHODS[0], name]["n"] for name in ("miou", "area", "size")] == [12, 13, 14]


def test_rows_belong_to_examples_and_methods_whatever_their_order():
    rows = rows_of()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    manifest = {"methods": list(METHODS)}
    expected, got = summary(run_of(rows, **manifest)), summary(run_of(shuffled, **manifest))
    for a, b in zip(expected, got, strict=True):
        assert a["value"] == pytest.approx(b["value"]) and a["letters"] == b["letters"]


def test_costs_are_per_example():
    run = run_of()
    row = summary(run)[0]
    assert (row["seconds"], row["forwards"]) == (pytest.approx(10.5 / 14), 1.0)
    del run.manifest["shards"]["part-00001.parquet"]["seconds"]["rollout"]
    assert summary(run)[0]["seconds"] is None


def test_better_may_be_lower_or_neither():
    column = {c.metric.name: c for c in build_group([run_of()]).columns}
    area = column["area"]
    values = [area.numbers[label].value for label in area.ranked]
    assert values == sorted(values) and list(area.best) == [area.ranked[0]]
    assert list(column["miou"].best) == [column["miou"].ranked[0]]
    assert column["miou"].numbers[column["miou"].ranked[0]].value == max(
        n.value for n in column["miou"].numbers.values()
    )
    assert not column["size"].best


def test_a_run_without_a_common_example_has_no_numbers(tmp_path):
    rows = failed(rows_of(2), lambda r: (r["example"] == "e00") == (r["method"] == "rollout"))
    assert {row["n"] for row in summary(run_of(rows))} == {0}
    assert "2 of 2 examples are left out" in page_of(run_of(rows), tmp_path=tmp_path)


def test_one_example_has_values_and_no_limits(tmp_path):
    row = summary(run_of(rows_of(1)))[0]
    assert row["value"] is not None and (row["low"], row["high"]) == (None, None)
    page = page_of(run_of(rows_of(1)), tmp_path=tmp_path)
    assert "Shaded" not in page and "nan" not in page.lower().replace("nano", "")


def test_examples_are_ranked_by_their_own_value():
    rows = rows_of()
    inside, around = literal(rows, "rollout", MIOU.columns)
    order = np.argsort(-inside / around)
    best, worst = build_group([run_of(rows)], examples=2).extremes["rollout"]
    assert [name for name, _ in best] == [f"e{i:02}" for i in order[:2]]
    assert [name for name, _ in worst] == [f"e{i:02}" for i in order[::-1][:2]]
    assert best[0][1] == pytest.approx((inside / around).max())


def test_curves_are_of_the_means():
    rows = rows_of()
    answer, path = build_group([run_of(rows)]).curves
    (curve,) = literal(rows, "rollout", ("curve",))
    x, limits = answer.lines["rollout"]
    assert x.tolist() == list(STEPS)
    assert limits[0] == pytest.approx(curve.mean(0))
    assert (limits[1] < limits[0]).all() and (limits[0] < limits[2]).all()
    x, limits = path.lines["rollout"]
    assert x == pytest.approx(curve.mean(0)) and limits[0] == pytest.approx(curve.mean(0)[::-1])


# Several runs


def test_runs_share_a_table_only_where_they_measured_the_same():
    one = run_of()
    same = run_of(path="runs/two", model={"name": "other"}, seed=4)
    assert [len(g) for g in group_runs([one, same])] == [2]
    for change in (
        {"benchmark": "flipping"},
        {"version": 2},
        {"protocol": {"threshold": "otsu"}},
        {"data": {"hash": "d2"}},
    ):
        assert [len(g) for g in group_runs([one, run_of(path="runs/two", **change)])] == [1, 1]
    unknown = [run_of(data={"name": "scenes"}), run_of(path="runs/two", data={"name": "scenes"})]
    assert [len(g) for g in group_runs(unknown)] == [1, 1]


def test_models_on_the_same_examples_are_compared_in_pairs():
    first, second = rows_of(), rows_of(seed=1)[::-1]
    runs = [run_of(first), run_of(second, path="runs/two", model={"name": "vit"}, methods=list(METHODS))]
    table = build_group(runs)
    assert [row.label for row in table.rows] == [f"{m} · {method}" for m in ("deit", "vit") for method in METHODS]
    pair = next(c for c in table.columns[0].comparisons if {c.a, c.b} == {"deit · rollout", "vit · rollout"})
    a, b = literal(first, "rollout", MIOU.columns), literal(second[::-1], "rollout", MIOU.columns)
    expected = abs(a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum())
    assert abs(pair.difference) == pytest.approx(expected)
    assert len(table.columns[0].comparisons) == 15


def test_runs_of_one_model_are_named_after_their_folders():
    table = build_group([run_of(path="a/x"), run_of(path="a/y")])
    assert [row.label for row in table.rows][::3] == ["x · rollout", "y · rollout"]
    table = build_group([run_of(path="a/x"), run_of(path="b/x")])
    assert [row.label for row in table.rows][::3] == ["a/x · rollout", "b/x · rollout"]


def test_examples_that_one_run_has_not_reached_count_for_none():
    for runs in (
        [run_of(), run_of(rows_of()[:27], path="runs/two")],
        [run_of(rows_of()[:27]), run_of(path="runs/two")],
    ):
        assert {row["n"] for row in summary(*runs)} == {9}
        assert build_group(runs).examples == 14


def test_what_runs_were_given_differently_is_listed():
    other = run_of(
        path="runs/two", model={"name": "deit", "hash": "m2"}, protocol={"threshold": "otsu", "target": None, "k": 1}
    )
    assert differing([run_of(), other]) == {
        "protocol.threshold": ["mean", "otsu"],
        "model.hash": ["m1", "m2"],
        "protocol.k": ["–", "1"],
    }


def test_runs_that_differ_stand_in_tables_of_their_own(tmp_path):
    runs = [run_of(), run_of(path="runs/two", protocol={"threshold": "otsu"})]
    page = page_of(*runs, tmp_path=tmp_path)
    assert "What differs between the runs" in page and "protocol.threshold" in page
    assert page.count('aria-label="results:') == 2
    assert (tmp_path / "r.md").read_text().count("## ") == 2
    assert "What differs" not in page_of(run_of(), tmp_path=tmp_path)
    together = page_of(run_of(), run_of(path="runs/two", seed=3), tmp_path=tmp_path)
    assert together.count('aria-label="results:') == 1


# The page


VOID = {"meta", "br", "img", "link"}


class Checked(HTMLParser):
    """Every element is closed in its turn, no id occurs twice, nothing comes from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.elsewhere: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.elsewhere.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(tmp_path):
    rows = failed(rows_of(), lambda r: r["example"] == "e01")
    page = page_of(run_of(rows), run_of(path="runs/two", version=2), tmp_path=tmp_path)
    checked = Checked()
    checked.feed(page)
    checked.close()
    assert not checked.open and not checked.elsewhere
    assert len(checked.ids) == len(set(checked.ids))
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_names_and_messages_are_shown_as_they_are_written(tmp_path):
    rows = failed(rows_of(), lambda r: r["example"] == "e01", "ValueError: no <script>alert(1)</script>")
    page = page_of(run_of(rows), tmp_path=tmp_path)
    assert "random_&lt;b&gt;" in page and "random_<b>" not in page
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page


def test_the_page_says_what_failed_and_how_many_examples_are_left(tmp_path):
    rows = failed(rows_of(), lambda r: (r["example"], r["method"]) in {("e01", "rollout"), ("e02", "rollout")})
    page = page_of(run_of(rows), tmp_path=tmp_path)
    assert "2 of 14 examples are left out" in page and "12 of 14" in page
    assert "2 rows that failed" in page and "ValueError: no &lt;mask&gt;" in page
    clean = page_of(run_of(), tmp_path=tmp_path)
    assert "left out" not in clean and "that failed" not in clean


def test_the_page_says_what_was_run(tmp_path):
    page = page_of(run_of(), tmp_path=tmp_path)
    for words in (
        "threshold",
        "mean",
        "d1",
        "m1",
        "5" * 64,
        "kept &amp; noted",
        "0.2",
        "Of all pixels.",
        "(100 in all)",
    ):
        assert words in page, words
    assert "not complete" not in page
    assert "not complete" in page_of(run_of(complete=False), tmp_path=tmp_path)


def test_each_method_has_a_line_in_each_curve_and_a_name_for_it(tmp_path):
    page = page_of(run_of(), tmp_path=tmp_path)
    for curve in range(2):
        assert [f'id="curve-0-{curve}-{i}"' in page for i in range(4)] == [True, True, True, False]
    assert re.findall(r'data-style="(\d)"', page) == ["0", "1", "2"]
    assert "currentColor" in page and "#010203" not in page


def test_pairs_are_told_with_their_difference_and_p(tmp_path):
    run = run_of()
    page = page_of(run, tmp_path=tmp_path, correction=None)
    assert "all 3 pairs of methods" in page
    (column, *_) = build_group([run], correction=None).columns
    digits = decimal_places(column)
    for c in column.comparisons:
        assert f"<td>{format_number(c.difference, digits)}</td>" in page
    assert page.count("<td>&lt; 0.001</td>") == 2 * sum(c.p < 0.001 for c in column.comparisons) > 0
    assert "not corrected for the number of pairs" in page


def test_examples_are_drawn_by_what_is_given(tmp_path):
    asked = []

    def show(example, method):
        asked.append((example, method))
        return f"<b class='drawn'>{example}</b>"

    run = run_of()
    page = page_of(run, tmp_path=tmp_path, show=show, examples=2)
    expected = {
        (name, label)
        for label, sides in build_group([run], examples=2).extremes.items()
        for side in sides
        for name, _ in side
    }
    assert set(asked) == expected
    assert page.count("<b class='drawn'>") == 12


def test_several_runs_are_drawn_each_by_its_own(tmp_path):
    runs = [run_of(), run_of(path="runs/two", model={"name": "vit"})]
    page = page_of(*runs, tmp_path=tmp_path, show={"runs/two": lambda example, method: "<i>two</i>"}, examples=1)
    assert page.count("<i>two</i>") == 6
    with pytest.raises(OptionError, match="mapping"):
        page_of(*runs, tmp_path=tmp_path, show=lambda example, method: "")
    with pytest.raises(OptionError, match="runs/three"):
        page_of(*runs, tmp_path=tmp_path, show={"runs/three": lambda example, method: ""})


def test_the_same_runs_give_the_same_page(tmp_path):
    assert page_of(run_of(), tmp_path=tmp_path) == page_of(run_of(), tmp_path=tmp_path)


def test_a_run_without_curves_or_headline_is_reported(tmp_path):
    page = page_of(run_of(metrics=(replace(MIOU, headline=False),), curves=()), tmp_path=tmp_path)
    assert "Curves" not in page and "pairs of methods" not in page
    assert "Best first by miou" in page


# Tables


def test_files_are_written_beside_the_page(tmp_path):
    assert report(run_of(), out=tmp_path / "a.b.html") == [tmp_path / f"a.b.{s}" for s in ("html", "csv", "md", "tex")]
    assert report(run_of(), out=tmp_path / "new")[0] == tmp_path / "new" / "report.html"


def test_the_csv_holds_the_summary(tmp_path):
    rows = failed(rows_of(), lambda r: r["method"] == "rollout")
    page_of(run_of(rows), tmp_path=tmp_path)
    with (tmp_path / "r.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    for got, expected in zip(read, summary(run_of(rows)), strict=True):
        assert got == {k: "" if v is None else str(v) for k, v in expected.items()}


def test_markdown_rows_have_the_cells_of_the_header(tmp_path):
    page_of(run_of(), tmp_path=tmp_path)
    lines = [line for line in (tmp_path / "r.md").read_text().splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    assert len(lines) == 5 and len({len(c) for c in cells}) == 1
    table = build_group([run_of()])
    assert [c[1].strip() for c in cells[2:]] == [f"`{label}`".replace("|", r"\|") for label in ordered(table)]
    column = table.columns[0]
    best = column.numbers[column.best[0]]
    digits = decimal_places(column)
    assert (
        cells[2][2].strip().startswith(f"**{format_number(best.value, digits)}** [{format_number(best.low, digits)}, ")
    )
    assert lines[0].split(" | ")[1:4] == ["miou ↑", "area ↓", "size"]


def test_latex_rows_have_the_cells_of_the_header(tmp_path):
    rows = failed(rows_of(), lambda r: r["example"] == "e01")
    page_of(run_of(rows), tmp_path=tmp_path)
    text = (tmp_path / "r.tex").read_text()
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 4
    assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {6}
    assert r"\begin{tabular}{lrrrrr}" in text and r"\toprule" in text and r"\bottomrule" in text
    assert r"random\_\textless{}b\textgreater{}" in text
    assert "13 examples; 1 left out" in text
    assert text.count(r"\textbf{") == 2 and r"miou $\uparrow$" in text


def test_latex_has_no_sign_of_its_own_left():
    assert latex_escaped("50%_{a}&b#$~^\\<|>") == (
        r"50\%\_\{a\}\&b\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}\textbar{}\textgreater{}"
    )


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.12345, 3, "0.123"),
        (-0.5, 1, "−0.5"),
        (-0.0001, 2, "0.00"),
        (12.6, 0, "13"),
        (np.nan, 2, "–"),
        (np.inf, 0, "∞"),
    ],
)
def test_numbers_are_written_with_so_many_decimals(value, decimals, text):
    assert format_number(value, decimals) == text


def test_decimals_follow_the_intervals():
    column = build_group([run_of()]).columns[0]

    def scaled(size):
        numbers = {
            k: replace(n, value=n.value, low=n.value - size, high=n.value + size) for k, n in column.numbers.items()
        }
        return decimal_places(replace(column, numbers=numbers))

    assert [scaled(size) for size in (12.0, 1.2, 0.12, 0.012, 1e-9)] == [0, 1, 2, 3, 6]


# What is refused


def test_runs_are_given_once_each(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        report(out=tmp_path)
    with pytest.raises(InputError, match="twice"):
        report(run_of(), run_of(path="runs/../runs/one"), out=tmp_path)


def test_a_missing_column_is_named():
    rows = [{k: v for k, v in row.items() if k != "inside"} for row in rows_of()]
    with pytest.raises(InputError, match="'inside'"):
        summary(run_of(rows))


def test_lists_of_several_lengths_are_refused():
    rows = rows_of()
    rows[5]["curve"] = [0.1]
    with pytest.raises(InputError, match="'curve'"):
        summary(run_of(rows))


def test_a_report_is_a_page(tmp_path):
    with pytest.raises(OptionError, match=r"\.html"):
        report(run_of(), out=tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_probability(level, tmp_path):
    with pytest.raises(ClewError, match="level"):
        report(run_of(), out=tmp_path, level=level)


# In sentences


def scored(**means):
    """Rows of ten examples whose `inside / around` is about a method's mean."""
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, (10, len(means)))
    return [
        {"example": f"e{i}", "method": m, "error": None, "inside": v + noise[i, k], "around": 1.0, "curve": [0.0] * 3}
        for i in range(10)
        for k, (m, v) in enumerate(means.items())
    ]


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"a": 3.0, "random": 1.0}, "a is best, and told apart from all others; a is better than random."),
        ({"a": 3.0, "b": 3.0, "random": 1.0}, "is best, and not told apart from [ab]; [ab] and [ab] are better"),
        (
            {"a": 1.0, "b": 1.0, "random": 1.0},
            "from any other; no method is told apart from random on 10 examples: take",
        ),
        ({"a": 1.0, "random": 3.0}, "random is best, .*all others; none is better than random, a is worse."),
        ({"a": 3.0, "b": 0.0, "random": 1.0}, "; a is better than random, b is worse."),
        ({"a": 3.0, "b": 1.0}, "By miou a is best, and told apart from all others."),
    ],
)
def test_the_letters_are_said_in_words(means, said, tmp_path):
    run = run_of(scored(**means))
    (words,) = verdicts(build_group([run]))
    assert re.search(said, words), words
    assert words in page_of(run, tmp_path=tmp_path)


def test_one_method_alone_is_compared_with_nothing():
    assert verdicts(build_group([run_of(scored(a=1.0))])) == []


def test_a_run_without_random_is_compared_with_that_of_another():
    (words,) = verdicts(build_group([run_of(scored(a=3.0)), run_of(scored(random=1.0), path="runs/two")]))
    assert words.endswith("; one · a is better than random.")


def test_every_column_of_every_protocol_says_what_it_is():
    options = {"flipping": {"protocol": ("wikipedia", "arc_easy", "movies")}, "perturbation": {"variant": VARIANTS}}
    for name, cls in clew.benchmarks().items():
        for option, values in options.get(name, {"variant": ("paper",)}).items():
            for value in values:
                metrics = clew.evaluation.benchmarks.make_benchmark(name, {option: value}).metrics
                assert all(len(metric.what) > 15 for metric in metrics), (name, value)
        assert cls.summary
