"""What an evaluation is asked for: benchmarks, methods, classes, grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.running import run

import clew
from clew.errors import InputError, OptionError
from clew.evaluation import evaluate as evaluation

# What is asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmark": "segmentatoin"}, "segmentation"),
        ({"colour": "red"}, "no option 'colour'"),
        ({"variant": "chefer"}, "beyond_intuition"),
        ({"methods": ["raw_atention"]}, "raw_attention"),
        ({"methods": ["raw_attention(depth=3)"]}, "no option 'depth'"),
        ({"methods": ["random", "random"]}, "twice"),
        ({"methods": []}, "no method"),
        ({"engine": "spark"}, "ray"),
        ({"workers": 3}, "engine='ray'"),
        ({"batch_size": 0}, "1 or more"),
        ({"grid": {"gamma_linear": (0.1,)}}, "no method has the option"),
        ({"zero_shot": "a {}"}, "image–text"),
        ({"benchmark": "rationale"}, "models of texts"),
        ({"data": "nowhere"}, "no data at"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(digits, options, message):
    with pytest.raises(clew.ClewError, match=message):
        run(digits, **options)


def test_labels_of_the_data_become_the_models_classes(caplog):
    numbers = evaluation.class_numbering
    assert numbers(["cat", "dog"], ["Dog", "bird", "cat"]) == {0: 2, 1: 0}
    assert numbers(["cat", "newt"], ["dog", "cat", "bird"]) == {0: 1, 1: None} and "newt" in caplog.text
    assert numbers(["tench", "jay"], ["jay", "tench, Tinca tinca"]) == {0: 1, 1: 0}
    assert numbers(["crane", "x", "crane"], ["crane", "x", "crane"]) is None
    assert numbers(["tench", "jay_bird"], ["tench", "jay"]) is None  # as many, and no name stands elsewhere
    assert numbers(["NEG", "POS"], ["NEGATIVE", "POSITIVE"]) is None
    assert numbers(["a", "b", "c"], ["x", "y"]) == {0: None, 1: None, 2: None}
    assert numbers(None, ["X", "y"]) == {"X": 0, "x": 0, "y": 1}
    assert numbers(["a"], None) is None


def test_without_methods_all_that_work_are_run(digits, caplog):
    found = run(digits, methods=None, limit=1, benchmark="segmentation")
    assert {"raw_attention", "attn_lrp", "smoothgrad"} <= set(found.manifest["methods"])


# Parameter search


def test_options_are_chosen_on_one_half_and_reported_on_the_other(digits, tmp_path):
    grid = {"gamma_linear": (0.0, 1.0), "gamma_conv": (0.25, 100.0)}
    found = run(digits, tmp_path, ["lrp(rules='gamma')", "random"], grid=grid, limit=8)
    assert len(found.manifest["methods"]) == 5
    picked = clew.chosen(found, "map")
    assert [c.method for c in picked.choices] == ["lrp(rules='gamma')", "random"]
    one = picked.choices[0]
    aps, ids, labels = (found.table.column(n).to_pylist() for n in ("average_precision", "example", "method"))
    from clew.statistics import split_half

    choosing, reporting = split_half([str(i) for i in range(8)])
    for label, value in one.tried.items():
        mine = [a for a, i, m in zip(aps, ids, labels, strict=True) if m == label and int(i) in choosing]
        assert value == pytest.approx(np.mean(mine))
    assert one.chosen == max(one.tried, key=one.tried.get) and len(one.tried) == 4
    assert {int(i) for i in picked.table.column("example").to_pylist()} == set(reporting)
    rows = {(r["method"], r["metric"]): r for r in picked.summary()}
    mine = [a for a, i, m in zip(aps, ids, labels, strict=True) if m == one.chosen and int(i) in reporting]
    assert rows[one.chosen, "map"]["value"] == pytest.approx(np.mean(mine))
    assert [p.name for p in picked.report()] == ["chosen.html", "chosen.csv", "chosen.md", "chosen.tex"]
    with pytest.raises(InputError, match="nothing to choose"):
        clew.chosen(run(digits, methods=["random"], limit=2))


def test_values_of_a_grid_may_be_anything(digits):
    sets = [{**clew.RULE_SETS["gamma"], "linear": clew.rules.Gamma(g)} for g in (0.0, 1.0)]
    found = run(digits, methods=["lrp", "lrp(rules='z_plus')"], grid={"rules": [*sets, "epsilon"]}, limit=8)
    picked = clew.chosen(found)
    assert [(c.method, len(c.tried)) for c in picked.choices] == [("lrp", 3), ("lrp(rules='z_plus')", 1)]
    for wrong in ("epsilon", ()):
        with pytest.raises(OptionError, match="values to try"):
            run(digits, methods=["lrp"], grid={"rules": wrong})


def test_the_gamma_of_a_set_can_be_set(digits):
    x = digits.preprocess(clew.scenes("digits").images[0])[0][None]
    rules = {**clew.RULE_SETS["gamma"]}
    rules |= {"linear": clew.rules.Gamma(0.7), "conv": clew.rules.Gamma(3.0)}
    mine = clew.explain(digits, x, method="lrp", rules=rules).scores
    torch.testing.assert_close(
        clew.explain(digits, x, method="lrp", rules="gamma", gamma_linear=0.7, gamma_conv=3.0).scores, mine
    )
    with pytest.raises(OptionError, match="gamma_conv"):
        clew.explain(digits, x, method="lrp", rules="epsilon", gamma_conv=0.1)


# Zero-shot


def test_an_image_text_model_is_evaluated_as_a_classifier_of_the_datas_classes():
    pair = clew.load("mini:digits-clip")
    found = run(pair, data="mini:digits", limit=4, zero_shot="{}", explain="given")
    assert found.failed == 0 and "zero-shot" in found.manifest["model"]["name"]
    with pytest.raises(OptionError, match="zero_shot"):
        run(pair, limit=1)
    data = clew.open_dataset("mini:digits", limit=4)
    classifier = evaluation.classifier_of(pair, data, "{}")
    assert "data:image/jpeg" in clew.Shown(found, classifier, data)("1", "raw_attention")


def test_the_best_words_are_written_as_eraser_reads_them(tmp_path):
    found = run(clew.load("mini:reviews-bert"), data="mini:reviews", benchmark="rationale", thresholds=(), limit=4)
    files = found.predictions(tmp_path / "top", "raw_attention", [5, 40])
    assert [f.name for f in files] == ["identifier_results_5.json", "identifier_results_40.json"]
    data = clew.open_dataset("mini:reviews", limit=4)
    examples = [data.read(i) for i in range(4)]
    annotations = [
        {
            "annotation_id": e.id,
            "evidences": [[{"docid": e.id, "start_token": a, "end_token": b} for a, b in e.rationale]],
        }
        for e in examples
    ]
    scores = clew.metrics.eraser_scores(files[1], annotations, {e.id: list(e.words) for e in examples})
    of_run = next(r for r in found.summary() if r["metric"] == "f1@40" and r["method"] == "raw_attention")
    assert scores["token_prf"]["instance_macro"]["f1"] == pytest.approx(of_run["value"])
    with pytest.raises(OptionError, match="random"):
        found.predictions(tmp_path, "randon")
