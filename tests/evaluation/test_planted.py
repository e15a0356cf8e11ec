"""Planted evidence against slow twins: each letter, each picture by itself, highest places looked for by hand."""

from __future__ import annotations

import copy
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.bench_twins import evaluated

import clew
from clew.datasets import Example
from clew.datasets.bundled import data_of, letters, questions
from clew.errors import InputError, OptionError
from clew.evaluation.benchmarks.streams import word_columns
from clew.minis.asked_digits import quarter_mask

METHODS = ("saliency", "attention_rollout")


@pytest.fixture(scope="module")
def reverse():
    return clew.load("mini:reverse")


@pytest.fixture(scope="module")
def chat():
    return clew.load("mini:digits-chat")


def literally_redrawn(model, seed):
    """Every weight from a Gaussian with its own mean and deviation."""
    other = copy.deepcopy(model.model)
    for name, p in other.named_parameters():
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed))
        p.data = p.data.mean() + (p.data.std() if p.numel() > 1 else p.data.abs().mean()) * noise
    return replace(model, model=other)


def points_at_letter(model, method, string, place):
    written = " ".join(string.answer.split()[:place])
    inputs = {"source": string.source} | ({"answer": written} if written else {})
    found = clew.explain(model, inputs, method=method, target=string.answer.split()[place])["source"]
    return float(int(found.scores[0, :10].argmax()) == 9 - place)


def test_of_strings_the_letter_that_decides(reverse):
    strings = clew.reversals(2)
    data = letters(strings).subset([0, 1, 2, 3, 10])
    run = clew.evaluate("planted", reverse, data, methods=METHODS, redraws=2, draw=3, show_progress=False)
    rows = {(row["example"], row["method"]): row for row in run.table.to_pylist()}
    numbers = {(row["metric"], row["method"]): row["value"] for row in run.summary()}
    for method in METHODS:
        hits, drawn = [], []
        for example in data.ids:
            i, place = map(int, example.split("#"))
            row = rows[example, method]
            hits.append(points_at_letter(reverse, method, strings[i], place))
            seeds = [zlib.crc32(f"3/{k}/{example}".encode()) for k in range(2)]
            others = [literally_redrawn(reverse, seed) for seed in seeds]
            drawn.append(np.mean([points_at_letter(other, method, strings[i], place) for other in others]))
            assert row["letter"] == hits[-1] and row["letter (re-drawn)"] == drawn[-1] and row["correct"] == 1
        assert numbers["letter", method] == pytest.approx(np.mean(hits))
        assert numbers["letter (re-drawn)", method] == pytest.approx(np.mean(drawn))
        assert numbers["model accuracy", method] == 1


def test_of_pictures_the_quarter_and_the_words_that_decide(chat):
    asked = clew.chat_scenes()[:3]
    run = clew.evaluate("planted", chat, questions(asked), methods=METHODS, show_progress=False)
    rows = {(row["example"], row["method"]): row for row in run.table.to_pylist()}
    for i, one in enumerate(asked):
        for method in METHODS:
            inputs = {"images": [Image.fromarray(one.image)], "text": one.question}
            a = clew.explain(chat, inputs, method=method, target=one.answer)
            row, column = divmod(int(a["image"].scores[0].argmax()), 6)
            words = a["prompt"].scores[0, -6:-1]  # which upper left digit ?
            found = rows[str(i), method]
            assert found["quarter"] == float(quarter_mask(one.quarter)[8 * row + 4, 8 * column + 4])
            assert found["word"] == float(int(words.argmax()) in (1, 2))
    assert "quarter (re-drawn)" not in run.table.column_names


def test_a_map_that_is_the_same_everywhere_points_nowhere(chat, reverse):
    def flat(subject):
        found = clew.methods()["random"](subject)
        return replace(found, streams={name: torch.zeros_like(v) for name, v in found.streams.items()})

    data = questions(clew.chat_scenes()[:1])
    (row,) = clew.evaluate("planted", chat, data, methods=[flat], show_progress=False).table.to_pylist()
    assert row["quarter"] == row["word"] == 0


def test_random_numbers_are_the_same_in_any_batch(reverse):
    data = clew.open_dataset("mini:reverse")
    runs = [
        clew.evaluate("planted", reverse, data, methods=["random"], limit=4, batch_size=size, show_progress=False)
        for size in (1, 4)
    ]
    assert runs[0].table.column("scores").to_pylist() == runs[1].table.column("scores").to_pylist()
    assert len({str(scores) for scores in runs[0].table.column("scores").to_pylist()}) == 4


def test_evidence_is_called_as_the_data_says_or_as_asked(chat):
    one = questions(clew.chat_scenes()[:1]).read(0)
    rows, _ = evaluated("planted", chat, [one], ["random"])
    assert {"image", "word"} <= set(rows["0", "random"])
    rows, _ = evaluated("planted", chat, [one], ["random"], mask="corner")
    assert "corner" in rows["0", "random"] and "word" not in rows["0", "random"]
    rows, numbers = evaluated("planted", chat, [replace(one, mask=np.ones_like(one.mask))], ["random"], mask="corner")
    assert rows["0", "random"]["corner"] is None and numbers["corner", "random"] is None


def test_what_cannot_be_measured_is_told(chat):
    one = questions(clew.chat_scenes()[:1]).read(0)
    with pytest.raises(OptionError, match="sanity"):
        clew.evaluate("planted", clew.load("mini:digits"), show_progress=False)
    with pytest.raises(InputError, match="not known what decides"):
        evaluated("planted", chat, [replace(one, mask=None, rationale=None)], ["random"])
    with pytest.raises(OptionError, match="networks"):
        evaluated("planted", chat, [one], ["random"], redraws=-1)
    for other, said in (
        (replace(one, label=None), "answer of an example is not known"),
        (Example(id="0", label="one"), "nothing in this example"),
    ):
        with pytest.raises(InputError, match=rf"no example(.|\n)*{said}"):
            evaluated("planted", chat, [other], ["random"], mask="quarter")
    rows, _ = evaluated("planted", chat, [replace(one, words=("no", "such", "words"))], ["random"])
    assert "not found in what the model reads" in rows["0", "random"]["error"]


def test_words_are_found_whatever_stands_before_them(chat):
    ids = chat.tokenizer("upper left digit ? which upper left digit?")["input_ids"]
    assert word_columns(chat, ids, ("Upper", "left digit", "?")) == [[6], [7, 8], [9]]


def test_a_bundled_model_needs_no_data():
    assert [data_of(f"mini:{name}") for name in ("reverse", "digits-chat", "digits", "reviews-bert")] == [
        "mini:reverse", "mini:digits-chat", "mini:digits", "mini:reviews",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no data ship with hf:ORG/NAME"):
        data_of("hf:ORG/NAME")


def test_bundled_examples_say_what_decides():
    data = clew.open_dataset("mini:reverse", count=3)
    assert len(data) == 30 and data.evidence == data.subset([0]).evidence == {"rationale": "letter"}
    for name, one in ((name, data.read(i)) for i, name in enumerate(data.ids)):
        ((place, _),) = one.rationale
        assert len((one.prefix or "").split()) == int(name.split("#")[1]) == 9 - place
        assert (ord(one.label) - ord(one.words[place])) % 26 == 3
    asked = clew.open_dataset("mini:digits-chat")
    assert len(asked) == len(clew.chat_scenes()) and asked.evidence == {"mask": "quarter", "rationale": "word"}
    one = asked.read(0)
    assert one.words[slice(*one.rationale[0])] == ("lower", "left") and one.mask[-1, 0] == 1 and one.mask.sum() == 576
