"""`mini:reverse`: as small and as accurate as recorded, and what decides each letter is found."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import torch
from transformers import set_seed

import clew
from clew.minis.reversal import LENGTH, Reversal, compose_reversal
from clew.minis.train_reverse import TEST_STRINGS, accuracy, build_tokenizer, main


@pytest.fixture(scope="module")
def model():
    return clew.load("mini:reverse")


def found(model, method, strings, **options):
    """The share of letters whose highest score in the source is at the letter that decides them."""
    hits = []
    for place in range(LENGTH):
        inputs = {"source": [one.source for one in strings]}
        if place:
            inputs["answer"] = [" ".join(one.answer.split()[:place]) for one in strings]
        target = [one.answer.split()[place] for one in strings]
        a = clew.explain(model, inputs, method=method, target=target, **options)
        hits += (a["source"].scores.argmax(-1) == Reversal.decides(place)).tolist()
    return sum(hits) / len(hits)


def test_it_is_small_and_as_accurate_as_recorded(model):
    folder = resources.files("clew.minis").joinpath("reverse")
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 1_000_000
    recorded = json.loads(folder.joinpath("measured.json").read_text())
    assert model.facts == recorded
    assert recorded["test_strings"] == TEST_STRINGS
    assert recorded["test_accuracy"] > 0.99
    assert accuracy(model.model, model.tokenizer, "test", 100) > 0.99


def test_its_tokenizer_is_that_of_the_script(model):
    made, text = build_tokenizer(), "q a f k z"
    assert model.tokenizer(text)["input_ids"] == made(text)["input_ids"]
    assert model.tokenizer.decode(model.tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_strings_say_what_decides():
    for one in clew.reversals(20):
        source, answer = one.source.split(), one.answer.split()
        for place, letter in enumerate(answer):
            assert (ord(source[Reversal.decides(place)]) - 97 + 3) % 26 + 97 == ord(letter)
    assert len({compose_reversal("test", i).source for i in range(200)}) == 200
    with pytest.raises(ValueError, match="index"):
        compose_reversal("train", -1)


@pytest.mark.parametrize("method", ["generic_attribution", "attention_rollout", "attn_lrp", "cp_lrp", "raw_attention"])
def test_the_letter_that_decides_is_found(model, method):
    assert found(model, method, clew.reversals(10)) >= 0.95


def test_the_equations_for_two_streams_find_it_too(model):
    assert found(model, "generic_attribution", clew.reversals(5), variant="chefer") >= 0.95


def test_without_training_it_is_found_by_chance(model):
    set_seed(0)
    untrained = clew.LoadedModel(type(model.model)(model.model.config).eval(), tokenizer=model.tokenizer)
    assert found(untrained, "generic_attribution", clew.reversals(20)) < 0.3


def test_the_script_trains_and_writes(tmp_path):
    main(tmp_path / "reverse", train_strings=256, test_strings=20)
    made = clew.load(str(tmp_path / "reverse"))
    assert json.loads((tmp_path / "reverse" / "measured.json").read_text())["test_strings"] == 20
    assert torch.isfinite(next(made.model.parameters())).all()
    assert not (tmp_path / "reverse" / "checkpoints").exists()
