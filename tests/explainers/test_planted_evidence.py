"""The bundled models of reviews: planted evidence that methods must find, and must not find without training."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
import torch
from transformers import set_seed

import clew
from clew.minis.film_reviews import NEGATIVE, NEUTRAL, POSITIVE, compose_review
from clew.minis.train_reviews import LOGIT_PER_WORD, TEST_REVIEWS, accuracy, build_tokenizer, graded_loss, main

BOTH = ("bert", "llama")
GRADED = ("attn_lrp", "pa_lrp", "input_x_gradient")
METHODS = [("bert", m) for m in (*GRADED, "beyond_intuition_head", "beyond_intuition_token")] + [
    ("llama", m) for m in GRADED
]


def found(model, reviews, method):
    """The share of the decisive words among as many words ranked first."""
    a = clew.explain(model, [r.text for r in reviews], method=method, target=[r.label for r in reviews], checks="off")
    shares = []
    for review, words in zip(reviews, a.words(), strict=True):
        top = sorted(words, key=lambda word: -word.score)[: len(review.decisive)]
        shares.append(np.mean([(w.start, w.stop) in review.decisive for w in top]))
    return float(np.mean(shares))


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_the_decisive_words_are_found(name, method):
    assert found(clew.load(f"mini:reviews-{name}"), clew.reviews(), method) >= 0.8


@pytest.mark.parametrize("name", BOTH)
def test_without_training_they_are_found_by_chance(name):
    model = clew.load(f"mini:reviews-{name}")
    shares = []
    for seed in range(6):
        set_seed(seed)
        model.model = type(model.model)(model.model.config).eval()
        shares.append(found(model, clew.reviews(200)[seed * 30 : seed * 30 + 30], "attn_lrp"))
    chance = np.mean([len(r.decisive) / len(r.text.split()) for r in clew.reviews(180)])
    assert abs(np.mean(shares) - chance) < 0.06


@pytest.mark.parametrize("name", BOTH)
def test_they_are_small_and_as_accurate_as_recorded(name):
    folder = resources.files("clew.minis").joinpath(f"reviews-{name}")
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 1_500_000
    model = clew.load(f"mini:reviews-{name}")
    recorded = json.loads(folder.joinpath("measured.json").read_text())
    assert model.facts == recorded
    assert recorded["test_reviews"] == TEST_REVIEWS
    assert recorded["test_accuracy"] > 0.99
    assert accuracy(model.model, model.tokenizer, "test", 300) > 0.99
    assert model.labels == ["negative", "positive"]
    assert (
        model.tokenizer(clew.reviews(1)[0].text)["input_ids"]
        == build_tokenizer(name)(clew.reviews(1)[0].text)["input_ids"]
    )


@pytest.mark.parametrize("name", BOTH)
def test_one_more_decisive_word_is_one_more_step(name):
    """The logits grade: removing one of n decisive words costs about what removing the next one costs."""
    model = clew.load(f"mini:reviews-{name}")
    review = next(r for r in clew.reviews(200) if len(r.decisive) == 4 and not r.against)
    texts = [review.text]
    for start, stop in reversed(review.decisive):
        texts.append(texts[-1][:start] + "recent" + texts[-1][stop:])
    with torch.no_grad():
        logits = model.model(**model.tokenizer(texts, padding=True, return_tensors="pt")).logits
    margin = logits[:, review.label] - logits[:, 1 - review.label]
    steps = (margin[:-1] - margin[1:]) / LOGIT_PER_WORD
    assert (steps[1:] - 1).abs().max() < 0.5, steps


def test_reviews_say_where_their_decisive_words_are():
    for i in range(300):
        review = compose_review("validation", i)
        own, other = (POSITIVE, NEGATIVE) if review.label else (NEGATIVE, POSITIVE)
        assert [review.text[a:b] in own for a, b in review.decisive] == [True] * len(review.decisive)
        assert [review.text[a:b] in other for a, b in review.against] == [True] * len(review.against)
        polar = [w for w in review.text.split() if w in {*POSITIVE, *NEGATIVE}]
        assert len(polar) == len(review.decisive) + len(review.against)
        assert (review.evidence > 0) == bool(review.label)
        assert review.evidence
    assert compose_review("test", 3) == compose_review("test", 3)
    with pytest.raises(ValueError, match="index lies in"):
        compose_review("train", 10_000_000)  # the first of the next split
    assert len({compose_review(split, i).text for split in ("train", "validation", "test") for i in range(300)}) == 900


def test_a_decisive_word_stands_anywhere_alike():
    """The share of decisive words at the first, the middle and the last place is their share in the text."""
    reviews = [compose_review("train", i) for i in range(4000)]
    overall = np.mean([len(r.decisive) / len(r.text.split()) for r in reviews])
    words = [r.text.split() for r in reviews]
    decisive = [{r.text[a:b] for a, b in r.decisive} for r in reviews]
    for place in (0, 1, 14, -2, -1):
        share = np.mean([w[place] in d for w, d in zip(words, decisive, strict=True)])
        assert abs(share - overall) < 0.015, place  # the standard error is 0.004
    assert len({*POSITIVE, *NEGATIVE, *NEUTRAL}) == len(POSITIVE) + len(NEGATIVE) + len(NEUTRAL)


@pytest.mark.parametrize("name", BOTH)
def test_every_word_is_one_token(name):
    model = clew.load(f"mini:reviews-{name}")
    for review in clew.reviews(100):
        tokens = model.tokenizer(review.text, add_special_tokens=False)["input_ids"]
        assert len(tokens) == len(review.text.split())


def test_the_loss_is_least_where_the_logits_say_the_evidence():
    evidence = torch.tensor([1.0, -3.0])
    exact = torch.stack([-LOGIT_PER_WORD * evidence / 2, LOGIT_PER_WORD * evidence / 2], 1).requires_grad_()
    graded_loss({"logits": exact}, evidence).backward()
    assert exact.grad.abs().max() < 1e-7


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("name", BOTH)
def test_the_script_trains_and_writes_a_folder_that_loads(name, tmp_path):
    main(name, tmp_path / "reviews", train_reviews=128)
    model = clew.load(tmp_path / "reviews")
    assert model.facts == {} or "test_accuracy" in model.facts
    a = clew.explain(model, clew.reviews(2)[0].text, method="attn_lrp")
    assert len(a) == 1
    assert sorted(f.name for f in (tmp_path / "reviews").iterdir()) == [
        "config.json", "measured.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
