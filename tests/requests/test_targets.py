"""Targets as they are typed: labels come before numbers, and may hold what else divides two of them."""

import dataclasses

import pytest
import torch
from typer.testing import CliRunner

import clew
from clew.app.page_requests import PageRequest, explain_request, predictions, snippet
from clew.cli import main as cli
from clew.errors import TargetError
from clew.inputs import token_number
from clew.requests.results import explain_items, items_for, labels_of
from clew.requests.targets import target_of
from clew.targets.classes import class_index

NUMBERS = ["7", "3", "10", "0", "cat / dog", "dog", "1 / 2", "1, one", "cat", "-5"]


@pytest.fixture(scope="module")
def numbered():
    return clew.load("mini:digits", labels=NUMBERS)


TYPED = {
    "7": (0, None),
    "3": (1, None),
    "0": (3, None),
    "4": (4, None),  # no label: an index
    "1": (7, None),  # one of a label's names
    "cat / dog": (4, None),
    "CAT / dog": (4, None),
    "dog / cat": (5, 8),
    "cat / dog / dog": (4, 5),
    "dog / cat / dog": (5, 4),
    "1 / 2": (6, None),
    "3 / 7": (1, 0),
    "2 / 10": (2, 2),
    "1 / 2 / 6": (6, 6),
    "-5": (9, None),
}


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_is_the_label_that_is_spelled_so(typed, numbered, tmp_path):
    plus, minus = TYPED[typed]
    picture = clew.scenes().images[0]
    picture.save(tmp_path / "scene.png")
    with torch.no_grad():
        logits = numbered.model(numbered.preprocess.batch([picture])[0]).logits[0]
    expected = logits[plus] - (0 if minus is None else logits[minus])
    (tmp_path / "names.txt").write_text("\n".join(NUMBERS))
    file, names, out = tmp_path / "scene.png", tmp_path / "names.txt", tmp_path / "a.safetensors"
    clew.load("mini:digits").model.save_pretrained(tmp_path / "model")
    again = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    items = items_for(numbered, [str(file)], [])
    found = explain_items(numbered, items.items, [("raw_attention", {})], target=typed)[0]
    torch.testing.assert_close(found.score[0], expected)
    asked = PageRequest("mini:digits", [("raw_attention", {})], picture, target=typed)
    (on_page,) = explain_request(asked, numbered)
    torch.testing.assert_close(on_page.score[0], expected)
    scope = {"image": picture}
    exec(
        snippet(asked, numbered).splitlines()[-3].replace("clew.", "c.").replace("model", "m"),
        {"c": clew, "m": numbered},
        scope,
    )
    torch.testing.assert_close(scope["a0"].score[0], expected)
    typed_so = [f"--target={typed}", "--labels", names, "--method", "raw_attention", "-o", out, *again]
    done = CliRunner().invoke(cli.app, ["explain", str(file), "-m", str(tmp_path / "model"), *map(str, typed_so)])
    assert done.exit_code == 0, done.output
    torch.testing.assert_close(clew.Attribution.load(out).score[0], expected, rtol=1e-3, atol=1e-3)


def test_two_labels_without_spaces_are_told_how_they_are_written():
    labels = ["cat", "dog, hound", "a/b"]
    assert target_of("a/b", labels) == "a/b"
    for typed in ("cat/dog", "cat /dog", " CAT/hound"):
        with pytest.raises(TargetError, match=r"(?i)write 'cat / (dog|hound)', with spaces"):
            target_of(typed, labels)
    assert target_of("cat/cow", labels) == "cat/cow"  # of which the model says that there is no such label
    for given in ("cat / dog", "cat/dog"):
        with pytest.raises(TargetError, match=r"pass clew\.Contrast\('cat', 'dog'\)"):
            class_index(given, labels)


def test_tokens_that_begin_with_a_space():
    assert target_of(" sad") == " sad" and target_of("sad ") == "sad" and target_of(" cat ", ["cat"]) == "cat"
    assert target_of(" sad / happy") == clew.Contrast(" sad", "happy")
    assert target_of("sad /  happy") == clew.Contrast("sad", " happy")
    known = {"sad": [1], " sad": [2], " odd": [3]}

    def encode(word):
        return known.get(word, [7, 8])

    assert [token_number(word, encode) for word in ("sad", " sad", "odd", " odd")] == [1, 2, 3, 3]
    with pytest.raises(TargetError, match=r"clew\.Contrast"):
        token_number("sad / happy", encode)


def test_without_labels_numbers_are_indices():
    for labels in (None, [], ["cat", "dog"]):
        assert target_of("1", labels) == 1 and target_of(" 0 / 1 ", labels) == clew.Contrast(0, 1)
        for negative in ("-1", "0 / -1"):
            with pytest.raises(TargetError, match="counted from 0"):
                target_of(negative, labels)
    assert target_of("--1") == "--1" and target_of("²") == "²" and target_of("") is None and target_of(None) is None
    assert target_of("cat / puss / dog", ["cat", "dog"]) == clew.Contrast("cat", "puss / dog")


def test_next_tokens_are_no_labels(numbered):
    assert labels_of(numbered) == NUMBERS
    writer = dataclasses.replace(clew.load("mini:reviews-llama"), labels=["7"])
    assert labels_of(writer) == ["7"]
    writer.model.__class__ = type("WriterForCausalLM", (type(writer.model),), {})
    assert labels_of(writer) is None


def test_the_page_tells_probabilities_as_the_head_makes_them(numbered):
    picture = clew.scenes().images[0]
    model = clew.load("mini:digits")
    result = clew.explain(model, picture, method="raw_attention")
    with torch.no_grad():
        logits = model.model(model.preprocess.batch([picture])[0]).logits[0]
    for problem, expected in (
        ("single_label_classification", logits.softmax(-1)),
        ("multi_label_classification", logits.sigmoid()),
    ):
        model.model.config.problem_type = problem
        found = predictions(result, model, 3)
        assert [name for name, _ in found] == [model.labels[i] for i in logits.topk(3).indices.tolist()]
        assert [p for _, p in found] == pytest.approx(expected.topk(3).values.tolist(), rel=1e-5)
    model.model.config.problem_type = "regression"
    assert predictions(result, model) == []
