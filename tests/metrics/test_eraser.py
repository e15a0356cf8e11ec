"""The scores of ERASER against slow twins written from their definitions."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
import torch

from clew import metrics
from clew.errors import InputError, OptionError
from clew.metrics.eraser import mask_of, spans_of
from clew.metrics.eraser_files import ranking

LABELS = ("NEG", "POS", "SO-SO")
STEPS = (0.1, 0.5)
SEEDS = range(5)


# Twins


def harmonic(p, r):
    return 2 * p * r / (p + r) if p + r else 0.0


def literal_prf(true, found):
    both = len(true & found)
    p, r = both / len(found) if found else 0.0, both / len(true) if true else 0.0
    return p, r, harmonic(p, r)


def literal_agreement(true, found):
    keys = [key for key in {*true, *found} if true.get(key) or found.get(key)]
    each = [literal_prf(true.get(key, set()), found.get(key, set())) for key in keys]
    whole = [{(key, one) for key, some in side.items() for one in some} for side in (true, found)]
    return {"instance_macro": [sum(one[i] for one in each) / len(each) for i in range(3)],
            "instance_micro": literal_prf(*whole)}  # fmt: skip


def literal_iou(true, found, limit):
    hits = dict.fromkeys({*true, *found}, 0)
    for key, spans in found.items():
        for span in spans:
            said = set(range(*span))
            hits[key] += any(
                len(said & set(range(*t))) / len(said | set(range(*t))) >= limit for t in true.get(key, ())
            )
    sides = [{key: len(spans) for key, spans in side.items() if spans} for side in (found, true)]
    micro = [sum(hits.values()) / sum(side.values()) for side in sides]
    macro = [sum(hits[key] / n for key, n in side.items()) / len(side) for side in sides]
    return {name: (*pair, harmonic(*pair)) for name, pair in (("micro", micro), ("macro", macro))}


def literal_areas(rationale, scores):
    """AUPRC by trapezoids from (recall 0, precision 1), recall being 1 where there is nothing to find; AP; ROC."""
    words = range(len(scores))
    true = {i for i in words if rationale[i]}
    points = []
    for limit in sorted(set(scores), reverse=True):
        found = {i for i in words if scores[i] >= limit}
        points.append((len(true & found) / len(true) if true else 1.0, len(true & found) / len(found)))
    auprc = average = before = 0.0
    last = 1.0
    for recall, precision in points:
        auprc += (recall - before) * (precision + last) / 2
        average += (recall - before) * precision
        before, last = recall, precision
    pairs = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i in true for j in words if j not in true]
    return (auprc, average, sum(pairs) / len(pairs)) if pairs else (auprc, math.nan, math.nan)


def whole(p):
    return {label: value / sum(p.values()) for label, value in p.items()}


def entropy(p):
    return -sum(v * math.log(v) for v in whole(p).values())


def divergence(p, q):
    return sum(v * math.log(v / whole(q)[label]) for label, v in whole(p).items())


def mean(values):
    return sum(values) / len(values)


# Corpora


def cut(draw, length):
    edges = sorted(draw.sample(range(length + 1), 2 * draw.randrange(4)))
    return list(zip(edges[::2], edges[1::2], strict=True))


def span_rows(spans):
    return [{"start_token": a, "end_token": b} for a, b in spans]


def probabilities(draw):
    odds = [draw.random() + 0.05 for _ in LABELS]
    return {label: round(one / sum(odds), 2) for label, one in zip(LABELS, odds, strict=True)}


def reduced(draw):
    return {f"{name}_classification_scores": probabilities(draw) for name in ("comprehensiveness", "sufficiency")}


def corpus(seed, complete=True):
    """Predictions, annotations and documents; `complete`: with soft scores and classes, and no document left out."""
    draw = random.Random(seed)
    documents, annotations, predictions = {}, [], []
    for n in range(7):
        evidences, rationales = [], []
        for docid in [f"{n}_{part}.txt" for part in range(draw.choice((1, 2)))]:
            length = draw.randrange(6, 16)
            documents[docid] = "".join(f"w{i}" + draw.choice((" ", "  ", "\n", " \n\n")) for i in range(length))
            true = cut(draw, length)
            found = true[:2] * 2 if draw.random() < 0.3 else cut(draw, length)
            true += [(draw.randrange(length),) * 2] * (draw.random() < 0.3)
            evidences.append([{"docid": docid, **one} for one in span_rows(true)])
            if complete or draw.random() < 0.8:
                soft = {"soft_rationale_predictions": [round(draw.random(), 1) for _ in range(length)]}
                part = {"docid": docid, "hard_rationale_predictions": span_rows(found)}
                rationales.append(part | (soft if complete else {}))
        annotations.append({"annotation_id": str(n), "evidences": evidences, "classification": draw.choice(LABELS)})
        classes = {"classification": draw.choice(LABELS), "classification_scores": probabilities(draw), **reduced(draw)}
        classes["thresholded_scores"] = [{"threshold": t, **reduced(draw)} for t in draw.sample((0.1, 0.2, 0.5), 3)]
        if complete or n == 0 or draw.random() < 0.8:
            row = {"annotation_id": str(n), "rationales": rationales}
            predictions.append(row | (classes if complete else {}))
    return predictions, annotations, documents


def truth_of(annotations):
    found = {}
    for row in annotations:
        for one in (piece for group in row["evidences"] for piece in group):
            found.setdefault((row["annotation_id"], one["docid"]), set()).add((one["start_token"], one["end_token"]))
    return found


def found_of(predictions):
    return {
        (row["annotation_id"], part["docid"]): {
            (one["start_token"], one["end_token"]) for one in part["hard_rationale_predictions"]
        }
        for row in predictions
        for part in row["rationales"]
    }


def words_in(spans):
    return {key: {word for span in some for word in range(*span)} for key, some in spans.items()}


def listed(scores):
    return {name: list(values.values()) for name, values in scores.items() if name != "threshold"}


# One document


@pytest.mark.parametrize("seed", SEEDS)
def test_marked_words_are_counted(seed):
    draw = random.Random(seed)
    for density in (0, 0.2, 0.7, 1):
        true, found = ([draw.random() < density for _ in range(9)] for _ in range(2))
        sets = [{i for i in range(9) if mask[i]} for mask in (true, found)]
        assert metrics.token_prf(true, found) == pytest.approx(literal_prf(*sets))
        assert metrics.token_prf(np.array(true, int), torch.tensor(found)) == metrics.token_prf(true, found)
    assert metrics.token_prf([True, False], [False, False]) == metrics.token_prf([0, 0], [1, 0]) == (0, 0, 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seen", [12, 7, 1])
def test_f1_of_the_top_words_with_ties_and_words_unseen(seed, seen):
    draw = random.Random(seed)
    rationale = [draw.random() < 0.4 for _ in range(12)]
    scores = [draw.choice((-1.0, 0.0, 0.5)) for _ in range(seen)]
    order = sorted(range(seen), key=lambda i: (-scores[i], i))
    ks = (1, 2, 5, 9, 12, 40)
    expected = [literal_prf({i for i in range(12) if rationale[i]}, set(order[:k]))[2] for k in ks]
    assert metrics.f1_at_k(rationale, scores, ks) == pytest.approx(expected)
    assert [metrics.f1_at_k(rationale, scores, k) for k in ks] == pytest.approx(expected)
    assert isinstance(metrics.f1_at_k(rationale, scores, 3), float)
    assert metrics.f1_at_k([False] * 12, scores, ks).tolist() == [0] * 6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("digits", [0, 1, 5])
def test_areas_are_summed_threshold_by_threshold(seed, digits):
    draw = random.Random(seed)
    scores = [round(draw.random(), digits) for _ in range(11)]
    for rationale in ([i in draw.sample(range(11), 4) for i in range(11)], [True] * 11, [False] * 11, [1] + [0] * 10):
        found = metrics.soft_scores(rationale, scores)
        assert found == pytest.approx(literal_areas(rationale, scores), nan_ok=True)
    assert math.isnan(metrics.soft_scores([False] * 11, scores).roc_auc)


def test_the_earlier_of_equal_words_comes_first():
    assert ranking([0.5, 2, 0.5, 2, -1, 0.5]).tolist() == [1, 3, 0, 2, 5, 4]
    assert ranking(np.zeros(100)).tolist() == list(range(100))


def test_masks_and_spans_are_each_other():
    mask = [1, 1, 0, 0, 1, 0, 1]
    assert spans_of(mask) == [(0, 2), (4, 5), (6, 7)]
    assert mask_of(spans_of(mask), 7).tolist() == [bool(one) for one in mask]
    assert mask_of([(1, 4), (3, 5), (2, 2)], 6).tolist() == [False, True, True, True, True, False]
    assert spans_of([0, 0]) == [] and spans_of([1]) == [(0, 1)]


# Probabilities


@pytest.mark.parametrize("drop", [metrics.comprehensiveness, metrics.sufficiency])
def test_the_drop_of_a_probability(drop):
    draw = np.random.default_rng(0)
    full, less = draw.dirichlet(np.ones(4), 6), draw.dirichlet(np.ones(4), (3, 6))
    likeliest = [max(range(4), key=lambda c, i=i: full[i][c]) for i in range(6)]
    assert drop(full, less[0]).tolist() == [full[i][c] - less[0][i][c] for i, c in enumerate(likeliest)]
    assert drop(full, less[0], [1] * 6).tolist() == [full[i][1] - less[0][i][1] for i in range(6)]
    aopc = [mean([full[i][c] - less[t][i][c] for t in range(3)]) for i, c in enumerate(likeliest)]
    assert drop(full, less).mean(0) == pytest.approx(aopc)
    assert float(drop(full[0], less[0, 0])) == full[0][likeliest[0]] - less[0][0][likeliest[0]]


# Many documents


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_hard_predictions_of_many_documents(seed, complete):
    """Among them documents without evidence or prediction, evidence of no token, and spans given twice."""
    predictions, annotations, documents = corpus(seed, complete)
    true, found = truth_of(annotations), found_of(predictions)
    scores = metrics.eraser_scores(
        predictions, annotations, documents, iou_thresholds=(0.2, 0.5, 1.0), aopc_thresholds=STEPS
    )
    assert [one["threshold"] for one in scores["iou_scores"]] == [0.2, 0.5, 1.0]
    for one in scores["iou_scores"]:
        for name, expected in literal_iou(true, found, one["threshold"]).items():
            assert list(one[name].values()) == pytest.approx(expected)
    for name, sides in (("rationale_prf", (true, found)), ("token_prf", (words_in(true), words_in(found)))):
        expected = literal_agreement(*sides)
        assert listed(scores[name]).keys() == expected.keys()
        for level, values in listed(scores[name]).items():
            assert values == pytest.approx(expected[level])
    assert complete == ("token_soft_metrics" in scores) == ("classification_scores" in scores)
    assert complete or true.keys() - found.keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_soft_predictions_of_many_documents(seed):
    predictions, annotations, documents = corpus(seed)
    marked = words_in(truth_of(annotations))
    each = []
    for row in predictions:
        for part in row["rationales"]:
            scores = part["soft_rationale_predictions"]
            words = marked.get((row["annotation_id"], part["docid"]), set())
            each.append(literal_areas([i in words for i in range(len(scores))], scores))
    both = [one for one in each if not math.isnan(one[1])]
    assert 0 < len(both) < len(each)
    expected = [mean([one[0] for one in each]), *(mean([one[i] for one in both]) for i in (1, 2))]
    found = metrics.eraser_scores(predictions, annotations, documents, aopc_thresholds=STEPS)["token_soft_metrics"]
    assert list(found) == ["auprc", "average_precision", "roc_auc_score"]
    assert list(found.values()) == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_and_their_probabilities(seed):
    predictions, annotations, documents = corpus(seed)
    found = metrics.eraser_scores(predictions, annotations, documents, aopc_thresholds=STEPS)["classification_scores"]
    true, said = ([row["classification"] for row in rows] for rows in (annotations, predictions))
    assert found["accuracy"] == pytest.approx(mean([a == b for a, b in zip(true, said, strict=True)]))
    for label in {*true, *said}:
        sides = [{i for i, one in enumerate(row) if one == label} for row in (true, said)]
        report = found["prf"][label]
        assert [report[k] for k in ("precision", "recall", "f1-score")] == pytest.approx(literal_prf(*sides))
        assert report["support"] == len(sides[0])
    full = [row["classification_scores"] for row in predictions]
    assert found["aopc_thresholds"] == list(STEPS)
    for name in ("comprehensiveness", "sufficiency"):
        less = [row[f"{name}_classification_scores"] for row in predictions]
        assert found[name] == pytest.approx(mean([p[c] - q[c] for p, q, c in zip(full, less, said, strict=True)]))
        pairs = list(zip(full, less, strict=True))
        assert found[f"{name}_entropy"] == pytest.approx(mean([entropy(p) - entropy(q) for p, q in pairs]))
        assert found[f"{name}_kl"] == pytest.approx(mean([divergence(q, p) for p, q in pairs]))
        points = []
        for t in STEPS:
            steps = [next(s for s in row["thresholded_scores"] if s["threshold"] == t) for row in predictions]
            kept = [step[f"{name}_classification_scores"] for step in steps]
            points.append(mean([p[c] - q[c] for p, q, c in zip(full, kept, said, strict=True)]))
        assert found[f"{name}_aopc_points"] == pytest.approx(points)
        assert found[f"{name}_aopc"] == pytest.approx(mean(points))


def test_what_the_predictions_lack_is_left_out():
    predictions, annotations, documents = corpus(0)

    def names(keep, **options):
        rows = [{k: v for k, v in row.items() if k in ("annotation_id", *keep)} for row in predictions]
        return metrics.eraser_scores(rows, annotations, documents, **options)

    assert list(names(["rationales"])) == ["iou_scores", "rationale_prf", "token_prf", "token_soft_metrics"]
    assert list(names(["classification"])["classification_scores"]) == ["accuracy", "prf"]
    classes = ["classification", "classification_scores"]
    assert list(names(classes)["classification_scores"]) == ["accuracy", "prf"]
    without = names([*classes, "comprehensiveness_classification_scores"])["classification_scores"]
    assert list(without)[2:] == ["comprehensiveness", "comprehensiveness_entropy", "comprehensiveness_kl"]
    for row in predictions:
        for step in row["thresholded_scores"]:
            del step["sufficiency_classification_scores"]
    curve = names([*classes, "thresholded_scores"], aopc_thresholds=STEPS)["classification_scores"]
    assert list(curve)[2:] == ["aopc_thresholds", "comprehensiveness_aopc", "comprehensiveness_aopc_points"]
    assert list(names([*classes, "thresholded_scores"], aopc_thresholds=())["classification_scores"]) == [
        "accuracy",
        "prf",
    ]


def test_nothing_found_of_nothing_marked():
    rows = [{"annotation_id": "x", "rationales": [{"docid": "d", "hard_rationale_predictions": []}]}]
    scores = metrics.eraser_scores(rows, [{"annotation_id": "x", "evidences": []}], {"d": "a b"})
    nothing = {"p": 0, "r": 0, "f1": 0}
    assert scores["iou_scores"] == [{"threshold": 0.5, "micro": nothing, "macro": nothing}]
    assert scores["rationale_prf"] == scores["token_prf"] == {"instance_macro": nothing, "instance_micro": nothing}


# What is refused


def refuses(words, error=InputError):
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words.split(" … "))))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.token_prf([1, 0], [1, 0, 0]), "words of different documents … (2,) … (3,)"),
        (lambda: metrics.token_prf([[1, 0]], [1, 0]), "marks no words … (word,) true or false … int64 (1, 2)"),
        (lambda: metrics.token_prf([1, 0], [0.5, 0]), "marks no words … true or false … float64 (2,)"),
        (lambda: metrics.f1_at_k(["a", "b"], [1, 2], 1), "marks no words … true or false … <U1 (2,)"),
        (lambda: metrics.f1_at_k([1, 0], [1, 2, 3], 1), "not of this document … 1 to 2 words … 3"),
        (lambda: metrics.f1_at_k([1, 0], [], 1), "not of this document … 1 to 2 words … 0"),
        (lambda: metrics.f1_at_k([1, 0], [1, math.nan], 1), "cannot be ranked … one number for each … (2,), 1 NaN"),
        (lambda: metrics.f1_at_k([1, 0], [[1, 2]], 1), "cannot be ranked … one number for each word … (1, 2), 0 NaN"),
        (lambda: metrics.f1_at_k([1, 0], [1, 2], (3, 0)), "no number of words … integers of at least 1 … (3, 0)"),
        (lambda: metrics.f1_at_k([1, 0], [1, 2], 1.5), "no number of words … integers of at least 1 … 1.5"),
        (lambda: metrics.soft_scores([1, 0], [1, 2, 3]), "do not fit … 2 finite scores … (3,), 0 not finite"),
        (lambda: metrics.soft_scores([1, 0], [1, math.inf]), "do not fit … 2 finite scores … (2,), 1 not finite"),
        (lambda: metrics.soft_scores([], []), "do not fit … at least 1 … (0,)"),
        (lambda: mask_of([(0, 2), (3, 6)], 5), "out of its document … 0 to 5 … (3, 6)"),
        (lambda: metrics.comprehensiveness([0.5, 1.1], [0.5, 0.5]), "no probabilities … from 0 to 1 … 0.5 to 1.1"),
        (lambda: metrics.sufficiency([0.5, 0.5], [-0.1, 0.5]), "no probabilities … from 0 to 1 … -0.1 to 0.5"),
        (lambda: metrics.sufficiency([0.5, 0.5], [math.nan, 0.5]), "no probabilities … from 0 to 1 … nan"),
        (lambda: metrics.sufficiency(0.5, 0.5), "no probabilities … (…, class) … 0.5 to 0.5"),
        (lambda: metrics.sufficiency([[]], [[]]), "no probabilities … (…, class) … shape (1, 0)"),
        (lambda: metrics.sufficiency([0.5, 0.5], [1.0]), "of different classes … 2 … 1"),
        (lambda: metrics.sufficiency([0.5, 0.5], [0.5, 0.5], 2), "no classes … integers from 0 to 1 … 2"),
        (lambda: metrics.sufficiency([0.5, 0.5], [0.5, 0.5], 0.0), "no classes … integers from 0 to 1 … 0.0"),
        (lambda: metrics.sufficiency([[1, 0]] * 2, [[1, 0]] * 3), "do not belong together … (2, 2) … (3, 2)"),
        (lambda: metrics.sufficiency([[1, 0]] * 2, [[1, 0]] * 2, [0] * 3), "do not belong together … (3,)"),
        (lambda: metrics.top_k_predictions("d", ["high"], 1), "no numbers … 'high'"),
        (lambda: metrics.top_k_predictions("d", [1.0], 0), "no number of words … at least 1 … 0"),
        (lambda: metrics.top_k_predictions("d", [1.0], 1, after=(-1,)), "no number of words … at least 1 … -1"),
        (lambda: metrics.write_top_k("unused", {}, variant="bi"), "unknown variant … bi … beyond_intuition, paper"),
    ],
)  # fmt: skip
def test_what_is_no_mask_score_or_probability_is_refused(untyped, call, words):
    with refuses(words, (InputError, OptionError)):
        call()
