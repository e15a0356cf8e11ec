"""Which methods the page offers for a model, and what it says of them."""

from __future__ import annotations

import csv
import json
from html import unescape
from pathlib import Path
from statistics import median

import pytest

import clew
from clew.app import offered_methods
from clew.app.offered_methods import Offer, OfferedMethods, cost, described, sentence
from clew.app.page_requests import OfferedModels
from clew.errors import InputError, OptionError

ROOT = Path(__file__).parents[2]
OF_IMAGES = {"augmented", "dave", "tis"}


@pytest.fixture(scope="module")
def models():
    found = OfferedModels()
    found.bundled = []  # as if somebody had brought them
    return found


@pytest.mark.parametrize("name", ["mini:digits", "mini:reviews-bert", "mini:reviews-llama", "mini:digits-clip"])
def test_what_is_known_of_the_bundled_models_is_what_a_trial_finds(models, name):
    offered, known = OfferedMethods(models), OfferedMethods(OfferedModels())
    assert not list(known.trial(name))  # nothing to try
    steps = list(offered.trial(name, seconds=300.0))
    assert steps[-1] == (len(steps), len(offered.offer(name).names))
    assert offered.offer(name) == known.offer(name)
    assert set(known.offer(name).left_out) == (OF_IMAGES if "reviews" in name else set())
    assert not list(offered.trial(name))  # once is enough


def test_what_fails_in_a_trial_is_left_out_with_the_reason(models, monkeypatch):
    def answers(asked, loaded):
        yield InputError("it <fails>", expected="more") if asked.methods[0][0] in ("lrp", "saliency") else None

    monkeypatch.setattr(offered_methods, "explain_request", answers)
    offered = OfferedMethods(models)
    list(offered.trial("mini:digits"))
    found = offered.offer("mini:digits")
    assert set(found.left_out) == {"lrp", "saliency"} == set(clew.methods()) - set(found.names)
    html = described(found, ["attn_lrp", "lrp"])
    assert "2 left out for this model" in html and "it &lt;fails&gt;" in html
    assert html.partition("<details>")[0].count("<dt>") == 1  # what is not offered is not described as chosen


def test_after_some_seconds_what_was_not_tried_stays(models):
    offered = OfferedMethods(models)
    assert len(list(offered.trial("mini:reviews-bert", seconds=0.0))) == 1
    assert set(offered.offer("mini:reviews-bert").left_out) == OF_IMAGES


def test_of_a_model_without_a_declaration_those_stay_that_need_none():
    offered = OfferedMethods(OfferedModels(["mini:reverse"]))
    list(offered.trial("mini:reverse", seconds=300.0))
    found = offered.offer("mini:reverse")
    assert set(found.names) == {name for name, method in clew.methods().items() if method.any_model}
    assert "no declaration fits" in found.left_out["att_cat"]


def test_where_nothing_works_the_trial_did_not_fit(models, monkeypatch):
    monkeypatch.setattr(offered_methods, "explain_request", lambda *_: iter([InputError("two texts are needed")]))
    offered = OfferedMethods(models)
    list(offered.trial("mini:reviews-bert"))
    assert set(offered.offer("mini:reviews-bert").left_out) == OF_IMAGES


def test_what_was_chosen_stays_where_it_works():
    offer = Offer(["a", "b", "c"], {"d": "why"})
    assert offer.kept(["d", "c", "a"], ["b"]) == ["c", "a"]
    assert offer.kept(["d"], ["b", "d"]) == ["b"]
    assert offer.kept([], ["d"]) == ["a"]


def test_every_method_is_told_in_a_sentence_with_its_cost(monkeypatch):
    for name, method in clew.methods().items():
        said = sentence(name)
        assert method.summary[1:] in said and said[0].isupper() and said.endswith(".")
    assert sentence("attn_lrp").endswith(f"Costs {cost('attn_lrp')}.") and " passes of the model" in cost("attn_lrp")
    assert cost("integrated_gradients").endswith("(n_steps=8)")
    monkeypatch.setattr(offered_methods, "_costs", dict)
    assert sentence("tis").endswith("Cost not measured.")
    offer = Offer(list(clew.methods()), {})
    assert all(unescape(described(offer, [])).count(sentence(name)) == 1 for name in clew.methods())
    with pytest.raises(OptionError, match="no such method"):
        sentence("nothing")


@pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="the results are in the repository alone")
def test_costs_are_those_of_the_joint_runs():
    found: dict[str, list[float]] = {}
    for run in ("photographs", "davis", "sst2", "eraser", "stories"):
        with (ROOT / "results" / "joint" / run / "report.csv").open(newline="") as file:
            each = {row["method"]: float(row["cost"]) for row in csv.DictReader(file) if row["cost"]}
        for label, value in each.items():
            found.setdefault(label, []).append(value)
    kept = json.loads((Path(clew.__file__).parent / "explainers" / "costs.json").read_text())
    assert {name for label in found if (name := label.partition("(")[0]) in clew.methods()} == set(kept)
    for name, one in kept.items():
        label = f"{name}({one['options']})" if one["options"] else name
        assert one["passes"] == round(median(found[label]), 1)
