"""The files of ERASER: every way to give them, rankings written and read again, and what is refused."""

from __future__ import annotations

import json
import math
import random
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import clew
from clew import metrics
from clew.errors import InputError, MissingDependency, OptionError
from clew.metrics.eraser import mask_of
from clew.metrics.eraser_files import ranking, tokens_of

GOLDENS = Path(__file__).parents[1] / "goldens" / "nlp" / "eraser"


def span_rows(spans):
    return [{"start_token": a, "end_token": b} for a, b in spans]


def spans_in(rows):
    return {(row["start_token"], row["end_token"]) for row in rows}


# Files


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), "utf-8")
    return path


def folder(path, documents):
    path.mkdir(parents=True)
    for name, text in documents.items():
        (path / name).write_text(text, "utf-8")
    return path


def zipped(path, documents, inner="docs/"):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in documents.items():
            archive.writestr(inner + name, text)
    return path


def test_files_and_objects_score_the_same(tmp_path):
    said, true = GOLDENS / "predictions_spans.jsonl", GOLDENS / "data" / "test.jsonl"
    predictions, annotations = ([json.loads(line) for line in path.read_text().splitlines()] for path in (said, true))
    documents = {path.name: path.read_text() for path in (GOLDENS / "data" / "docs").iterdir()}
    entries = [{"docid": name, "document": text} for name, text in documents.items()]
    expected = metrics.eraser_scores(predictions, annotations, documents)
    assert expected.keys() >= {"iou_scores", "token_soft_metrics", "classification_scores"}
    for place in (
        GOLDENS / "data", str(GOLDENS / "data"), GOLDENS / "data" / "docs",
        zipped(tmp_path / "plain.zip", documents, ""), zipped(tmp_path / "deep.zip", documents, "movies/docs/"),
        zipped(folder(tmp_path / "zip", {}) / "docs.zip", documents).parent,
        lines(tmp_path / "entries.jsonl", entries), lines(folder(tmp_path / "rows", {}) / "docs.jsonl", entries).parent,
        {name: text.split() for name, text in documents.items()},
    ):  # fmt: skip
        assert metrics.eraser_scores(said, true, place) == expected
    again = [lines(tmp_path / "said.jsonl", predictions), lines(tmp_path / "true.jsonl", annotations)]
    assert metrics.eraser_scores(*map(str, again), documents) == expected


def test_tokens_stand_between_spaces_and_the_ends_of_lines():
    assert tokens_of("one  two , 3\u00a0m\n\n four\tfive \n") == ["one", "two", ",", "3\u00a0m", "four\tfive"]


def test_positions_are_characters_where_asked(tmp_path):
    text = "ab cd\nef"
    soft = [0.1 * i for i in range(len(text))]
    parts = [{"docid": "d", "hard_rationale_predictions": span_rows([(2, 7)]), "soft_rationale_predictions": soft}]
    evidences = [[{"docid": "d", "start_token": 3, "end_token": 8}]]
    rows = [{"annotation_id": "x", "rationales": parts}], [{"annotation_id": "x", "evidences": evidences}]
    released = metrics.eraser_scores(*rows, folder(tmp_path / "docs", {"d": text}), variant="beyond_intuition")
    assert released == metrics.eraser_scores(*rows, {"d": list(text)})
    assert released["token_prf"]["instance_micro"] == pytest.approx({"p": 4 / 5, "r": 4 / 5, "f1": 4 / 5})
    with pytest.raises(InputError, match="<= 3, counting tokens"):
        metrics.eraser_scores(*rows, {"d": text})


@pytest.mark.parametrize("variant", ["paper", "beyond_intuition"])
@pytest.mark.parametrize("seed", range(5))
def test_written_rankings_score_what_f1_at_k_says(tmp_path, seed, variant):
    draw = random.Random(seed)
    words = {f"{n}.txt": [round(draw.random(), 1) for _ in range(draw.randrange(4, 9))] for n in range(6)}
    lengths = {name: len(scores) + draw.randrange(3) for name, scores in words.items()}
    spans = {
        name: [tuple(sorted(draw.choices(range(length + 1), k=2))) for _ in range(draw.randrange(3))]
        for name, length in lengths.items()
    }
    annotations = [
        {"annotation_id": name, "evidences": [[{"docid": name, **one} for one in span_rows(some)]]}
        for name, some in spans.items()
    ]
    documents = {name: "w " * length for name, length in lengths.items()}
    ks = (1, 3, 5, 20)
    paths = metrics.write_top_k(tmp_path / "new" / "folder", words, ks, variant=variant)
    assert [path.name for path in paths] == [f"identifier_results_{k}.json" for k in ks]
    for path, k in zip(paths, ks, strict=True):
        each = [metrics.f1_at_k(mask_of(spans[name], lengths[name]), words[name], k) for name in words]
        found = metrics.eraser_scores(path, annotations, documents)["token_prf"]["instance_macro"]["f1"]
        assert found == pytest.approx(sum(each) / len(each))


def test_the_top_words_are_among_those_of_larger_numbers():
    scores = [0.5, 2.0, 0.5, 2.0, -1.0, 0.5]

    def top(k, **options):
        (part,) = metrics.top_k_predictions("d.txt", scores, k, **options)["rationales"]
        assert part["docid"] == "d.txt"
        assert all(one["end_token"] == one["start_token"] + 1 for one in part["hard_rationale_predictions"])
        return [one["start_token"] for one in part["hard_rationale_predictions"]]

    assert [top(k) for k in (1, 2, 3, 5)] == [[1], [1, 3], [1, 3, 0], [1, 3, 0, 2, 5]]
    assert top(6) == top(99) == [1, 3, 0, 2, 5, 4]
    assert top(3, after=(1, 2)) == [1, 1, 3, 1, 3, 0]
    assert metrics.top_k_predictions("d.txt", scores, 1)["annotation_id"] == "d.txt"
    assert metrics.top_k_predictions("d.txt", scores, 1, annotation_id="x")["annotation_id"] == "x"


# What the released code wrote


def word_scores():
    return [json.loads(path.read_text()) for path in sorted(GOLDENS.glob("word_scores_*.json"))]


def test_the_released_codes_rankings(tmp_path):
    expected = {int(k): rows for k, rows in json.loads((GOLDENS / "identifier_results.json").read_text()).items()}
    docids = [row["annotation_id"] for row in expected[5]]
    words = {name: one["scores_per_word"] for name, one in zip(docids, word_scores(), strict=True)}
    assert len(expected) == 4
    released = metrics.write_top_k(tmp_path / "released", words, [*expected], variant="beyond_intuition")
    ours = metrics.write_top_k(tmp_path / "ours", words, [*expected])
    for k, path, own in zip(expected, released, ours, strict=True):
        assert [json.loads(line) for line in path.read_text().splitlines()] == expected[k]
        for row, line in zip(expected[k], own.read_text().splitlines(), strict=True):
            top = {(i, i + 1) for i in ranking(words[row["annotation_id"]])[:k].tolist()}
            once = json.loads(line)["rationales"][0]["hard_rationale_predictions"]
            assert spans_in(row["rationales"][0]["hard_rationale_predictions"]) == spans_in(once) == top
            assert len(once) == k


def test_the_released_codes_scores_of_words():
    cut_short = []
    for one in word_scores():
        text, place, offsets = " ".join(one["words"]), 0, []
        for token in one["tokens"]:
            piece = "" if token in ("[CLS]", "[SEP]") else token.removeprefix("##")
            place = text.index(piece, place)
            offsets.append((place, place + len(piece)))
            place += len(piece)
        special = torch.tensor([[token in ("[CLS]", "[SEP]") for token in one["tokens"]]])
        found = clew.TextAttribution(
            all_scores=torch.tensor([one["scores_per_token"]]).double(), method="golden", options={}, target=["POS"],
            score=torch.zeros(1), input_ids=torch.tensor([one["input_ids"]]), mask=torch.ones_like(special),
            special=special, tokens=[one["tokens"]], texts=[text], offsets=torch.tensor([offsets]),
        ).words("max")[0]  # fmt: skip
        assert [word.text for word in found][:-1] == one["words_covered"][:-1]
        assert [word.score for word in found] == pytest.approx(one["scores_per_word"], rel=1e-7)
        cut_short.append(len(found) < len(one["words"]))
    assert True in cut_short and False in cut_short


# What is refused

TRUE = {"annotation_id": "x", "evidences": [[{"docid": "d", "start_token": 1, "end_token": 3}]], "classification": "A"}
WHERE = {"d": "one two three four five", "e": "six"}
SOME, MANY = {"A": 0.75, "B": 0.25}, ["classification", "classification_scores"]
CURVE = {"thresholded_scores": [{"threshold": 0.1, "sufficiency_classification_scores": SOME}]}


def part(*spans, docid="d", **more):
    return {"docid": docid, "hard_rationale_predictions": span_rows(spans), **more}


def said(*parts, **more):
    return {"annotation_id": "x", "rationales": list(parts), **more}


def classed(**more):
    return said(classification="A", **{"classification_scores": SOME, **more})


def marked(**changes):
    return TRUE | {"evidences": [[TRUE["evidences"][0][0] | changes]]}


def refuses(words, error=InputError):
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words.split(" … "))))


def soft(*scores):
    return said({"docid": "d", "soft_rationale_predictions": list(scores)})


@pytest.mark.parametrize(
    ("predictions", "annotations", "options", "words"),
    [
        ([], [TRUE], {}, "no predictions to score … expected: at least one … got:      0"),
        ([said()], [TRUE], {}, "nothing to score … hard_rationale_predictions, soft_rationale_predictions or class"),
        ([said() | {"annotation_id": "xx"}, said()], [TRUE], {}, "1 of 2 predictions … 'xx' … did you mean 'x'?"),
        ([said(), said()], [TRUE], {}, "two predictions have the same annotation_id … one for each … 'x'"),
        ([said()], [TRUE, TRUE], {}, "two annotations have the same annotation_id … one for each … 'x'"),
        ([said(), 7], [TRUE], {}, "row 2 of the predictions lacks 'annotation_id' … a string … None"),
        ([said()], [{"annotation_id": 3}], {}, "row 1 of the annotations lacks 'annotation_id' … a string … 3"),
        ([said({})], [TRUE], {}, "the prediction 'x' lacks 'docid' … a string … None"),
        ([said(part())], [marked(docid=None)], {}, "the annotation 'x' lacks 'docid' … a string … None"),
        ([said(part(), part())], [TRUE], {}, "the prediction 'x' has 2 entries for 'd' … one for a document"),
        ([said(part(docid="f"))], [TRUE], {}, "1 of 2 documents … in the documents given … 'f' … choose from: d, e"),
        ([said(part())], [marked(docid="dd")], {}, "1 of 2 documents are missing … 'dd' … did you mean 'd'?"),
        ([said(part())], [marked(end_token=6)], {}, "annotation 'x' … outside … <= 5, counting tokens … end_token=6"),
        ([said(part((4, 6)))], [TRUE], {}, "prediction 'x' of 'd' … outside its document … <= 5 … =4, end_token=6"),
        ([said(part((-1, 2)))], [TRUE], {}, "outside its document … 0 <= start_token … start_token=-1, end_token=2"),
        ([said(part((3, 2)))], [TRUE], {}, "outside its document … start_token <= end_token … =3, end_token=2"),
        ([said(part((0, 1.5)))], [TRUE], {}, "outside its document … expected … start_token=0, end_token=1.5"),
        ([said({"docid": "d", "hard_rationale_predictions": [[0, 1]]})], [TRUE], {}, "start_token … [0, 1]"),
        ([said(part((2, 2)))], [TRUE], {}, "spans that are empty … start_token below end_token … (2, 2)"),
        ([said(part((2, 4), (0, 3)))], [TRUE], {}, "overlap … equal or have nothing in common … (0, 3) and (2, 4)"),
        ([said(part(), {"docid": "e"})], [TRUE], {}, "some … 'hard_rationale_predictions' … all … 1 of 2 … empty list"),
        ([soft(1, 2)], [TRUE], {}, "soft scores of the prediction 'x' do not fit … 'd' … 5 finite … shape (2,), 0 not"),
        ([soft(1, 2, 3, 4, math.nan)], [TRUE], {}, "do not fit … 5 finite numbers … shape (5,), 1 not finite"),
        ([soft(1, 2, 3, 4, "high")], [TRUE], {}, "these are no numbers … an array of them … 'high'"),
        ([soft(*range(5))], [TRUE, marked(docid="e", end_token=1) | {"annotation_id": "y"}], {},
         "1 annotated documents have no soft scores … scores for each … ('y', 'e') … leave their annotations out"),
        ([said(classification="A"), said() | {"annotation_id": "y"}], [TRUE, TRUE | {"annotation_id": "y"}], {},
         "some predictions have 'classification' … all of them, or none … 1 of 2 … leave it out of all"),
        ([classed()], [TRUE, TRUE | {"annotation_id": "y"}], {},
         "not for all that is annotated … one for each annotation … none for ['y']"),
        ([said(classification_scores=SOME)], [TRUE], {}, "'classification' is missing … ['classification_scores']"),
        ([said(classification="A", **CURVE)], [TRUE], {}, "'classification_scores' is missing … 'thresholded_scores']"),
        ([classed() | {"classification": "C"}], [TRUE], {}, "the prediction 'x' has no known class … ['A', 'B'] … 'C'"),
        ([classed()], [TRUE | {"classification": None}], {}, "the annotation 'x' has no known class … None"),
        ([said(classification=1)], [TRUE], {}, "the prediction 'x' has no known class … a string … 1"),
        ([classed(classification_scores=[1, 0])], [TRUE], {}, "no number for each class … an object … [1, 0]"),
        ([classed(sufficiency_classification_scores={"A": 1})], [TRUE], {},
         "'sufficiency_classification_scores' has no number for each class … ['A', 'B'] … {'A': 1}"),
        ([classed(classification_scores={"A": 1.5, "B": -0.5})], [TRUE], {}, "no probabilities … 0 to 1 … -0.5 to 1.5"),
        ([classed(**CURVE)], [TRUE], {"aopc_thresholds": (0.1, 0.3)},
         "thresholded_scores of the prediction 'x' … each of [0.1, 0.3] once … [0.1] … pass aopc_thresholds"),
        ([classed(thresholded_scores=CURVE["thresholded_scores"] * 2)], [TRUE], {"aopc_thresholds": [0.1]},
         "each of [0.1] once … [0.1, 0.1]"),
        ([classed(thresholded_scores=[{}])], [TRUE], {"aopc_thresholds": [0.1]}, "each of [0.1] once … [None]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(untyped, predictions, annotations, options, words):
    with refuses(words):
        metrics.eraser_scores(predictions, annotations, WHERE, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "papers"}, "unknown variant … papers … did you mean 'paper'?"),
        ({"iou_thresholds": (0.5, 0.0)}, "intersection over union … above 0, at most 1 … [0.5, 0.0]"),
        ({"iou_thresholds": (1.01,)}, "intersection over union … above 0, at most 1 … [1.01]"),
        (
            {"variant": "beyond_intuition"},
            "counts characters … raw text … a list of tokens … pass documents as strings",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with refuses(words, OptionError):
        metrics.eraser_scores([said(part())], [TRUE], {"d": ["a", "b", "c"]}, **options)


def test_what_cannot_be_read_is_refused(tmp_path):
    good, known = lines(tmp_path / "good.jsonl", [said(part())]), lines(tmp_path / "true.jsonl", [TRUE])
    for content, words in (
        (b'{"annotation_id": "x"}\n\n{"annotation_id": \n', "line 3 of … bad.jsonl is no JSON … Expecting value"),
        (b'{"annotation_id": "x"}\n[1, 2]\n', "line 2 of … bad.jsonl is no JSON object … [1, 2]"),
        (b"\xff\xfe", "the predictions cannot be read … bad.jsonl … utf-8 … one JSON object per line"),
        (None, "the predictions cannot be read … bad.jsonl … No such file … one JSON object per line"),
    ):  # fmt: skip
        bad = tmp_path / "bad.jsonl"
        bad.unlink(missing_ok=True) if content is None else bad.write_bytes(content)
        with refuses(words):
            metrics.eraser_scores(bad, known, WHERE)
    with refuses("the annotations cannot be read … nothing.jsonl"):
        metrics.eraser_scores(good, tmp_path / "nothing.jsonl", WHERE)
    for place, words in (
        (folder(tmp_path / "empty", {}), "1 of 1 documents are missing … empty … 'd' … no documents there at all"),
        (folder(tmp_path / "docs", {"dd": "one"}), "1 of 1 documents are missing … docs … 'd' … did you mean 'dd'?"),
        (zipped(tmp_path / "docs.zip", {"e": ""}), "1 of 1 documents are missing … docs.zip … 'd' … choose from: e"),
        (lines(tmp_path / "docs.jsonl", [{"docid": "d"}]), "documents cannot be read … docid and document … KeyError"),
        (good.rename(tmp_path / "good.zip"), "documents cannot be read … a zip file … good.zip: BadZipFile"),
        (tmp_path / "nowhere", "documents cannot be read … a folder with a file for each … FileNotFoundError"),
    ):  # fmt: skip
        with refuses(words):
            metrics.eraser_scores([said(part())], known, place)


@pytest.mark.parametrize(
    ("module", "row"),
    [("sklearn.metrics", soft(*range(5))), ("scipy.stats", classed(sufficiency_classification_scores=SOME))],
)
def test_packages_that_are_missing_are_named(monkeypatch, module, row):
    monkeypatch.setitem(sys.modules, module, None)
    with refuses(f"{module[:5]} … pip install 'clew[bench]'", MissingDependency):
        metrics.eraser_scores([row], [TRUE], WHERE)
