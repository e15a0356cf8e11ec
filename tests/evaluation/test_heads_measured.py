"""Measures and benchmarks read probabilities as the head makes them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from support import tiny
from support.bench_twins import evaluated
from torch import nn

import clew
from clew import metrics
from clew.errors import OptionError


def told(loaded, problem):
    """A copy of a model whose configuration names the problem that it solves."""
    model = copy.deepcopy(loaded.model)
    model.config.problem_type = problem
    return replace(loaded, model=model)


def sigmoid(y):
    return 1 / (1 + math.exp(-y))


def test_curves_of_labels_that_do_not_exclude_each_other():
    torch.manual_seed(0)
    logits, clean = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    curves, classes = metrics.Curves((0.1, 0.4, 0.7, 1.0), logits, clean, "sigmoid"), torch.tensor([4, 0, 2])
    for s in range(4):
        for i in range(3):
            y, c = logits[s, i].tolist(), int(classes[i])
            p, p0 = [sigmoid(v) for v in y], [sigmoid(v) for v in clean[i].tolist()]
            assert float(curves.probability(classes)[s, i]) == pytest.approx(p[c])
            assert float(curves.log_odds(classes)[s, i]) == pytest.approx(math.log(p[c] / (1 - p[c])))
            assert float(curves.log_ratio_to_second(classes)[s, i]) == pytest.approx(math.log(p[c] / sorted(p)[-2]))
            assert float(curves.change_of_largest_probability()[s, i]) == pytest.approx(max(p) - max(p0))
    none = replace(curves, scale=None)
    for name in ("probability", "log_odds", "log_ratio_to_second", "change_of_largest_probability"):
        with pytest.raises(OptionError, match="no probability"):
            getattr(none, name)(*([classes] if name != "change_of_largest_probability" else []))
    assert torch.equal(none.logit(classes), curves.logit(classes))
    one = metrics.Curves((0.0, 1.0), torch.tensor([[[2.0]], [[-1.0]]]), torch.tensor([[0.5]]), "sigmoid")
    assert one.hits().flatten().tolist() == [1, 0]


def test_measures_ask_the_model():
    vit = tiny.build("hf_vit").float()
    x, maps = torch.rand(2, 3, 32, 32), torch.rand(2, 4, 4)
    ask = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "fractions": (0.0, 0.5)}
    for problem, values in (("multi_label_classification", torch.sigmoid), (None, lambda y: y.softmax(-1))):
        vit.config.problem_type = problem
        with torch.no_grad():
            expected = values(vit((x - 0.5) / 0.5).logits)[:, 2]
        found = metrics.perturbation(vit, x, maps, **ask).probability(torch.tensor([2, 2]))
        torch.testing.assert_close(found[0], expected)
    plain = metrics.perturbation(lambda x: vit(x).logits, x, maps, **ask)
    torch.testing.assert_close(plain.probability(torch.tensor([2, 2]))[0], expected)
    bert = told(clew.load("mini:reviews-bert"), "multi_label_classification")
    ids = bert.tokenizer("a lovely film", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = bert.model(ids).logits[0].sigmoid()
    found = metrics.flipping(bert, ids[0], torch.rand(1, ids.shape[1]), fractions=(0.0, 1.0))
    torch.testing.assert_close(found.probability(torch.tensor([1]))[0, 0], expected[1])


def test_benchmarks_ask_the_model():
    scenes = clew.open_dataset("mini:digits")
    model = told(clew.load("mini:digits"), "multi_label_classification")
    rows, _ = evaluated("perturbation", model, [scenes.read(0)], ["raw_attention"], fractions=(0.0, 0.5, 1.0))
    row = rows[scenes.read(0).id, "raw_attention"]
    head = "predicted/black/positive"
    assert row[f"{head}/probability"] == pytest.approx([sigmoid(y) for y in row[f"{head}/logit"]], rel=1e-5)
    assert row[f"{head}/log_odds"] == pytest.approx(row[f"{head}/logit"], rel=1e-5)

    data = clew.open_dataset("mini:reviews")
    bert, example = told(clew.load("mini:reviews-bert"), "multi_label_classification"), data.read(0)
    rows, _ = evaluated("rationale", bert, [example], ["raw_attention"], thresholds=(1.0,))
    whole = bert.tokenizer(example.text, return_tensors="pt")
    nothing = torch.tensor([[whole["input_ids"][0, 0], whole["input_ids"][0, -1]]])
    with torch.no_grad():
        full, left = bert.model(**whole).logits[0].tolist(), bert.model(nothing).logits[0].tolist()
    expected = sigmoid(full[example.label]) - sigmoid(left[example.label])
    assert rows[example.id, "raw_attention"]["comprehensiveness"] == pytest.approx([expected], rel=1e-4)

    for name, loaded, one in (("perturbation", model, scenes.read(0)), ("rationale", bert, example)):
        with pytest.raises(OptionError, match=r"probabilities of classes(.|\n)*regression"):
            evaluated(name, told(loaded, "regression"), [one], ["raw_attention"])
    model.model.classifier = nn.Identity()
    with pytest.raises(OptionError, match=r"probabilities of classes(.|\n)*embedding"):
        evaluated("perturbation", model, [scenes.read(0)], ["raw_attention"])


def test_windows_of_an_embedding_explain_its_norm():
    bert = clew.load("mini:reviews-bert")
    bert = replace(bert, model=copy.deepcopy(bert.model))
    bert.model.classifier = nn.Identity().eval()
    text = " ".join(review.text for review in clew.reviews(3))
    found = clew.explain(bert, text, method="saliency", window=16)
    assert found.target == ["norm of the embedding"] and "embedding" in found.checks["advice"]
