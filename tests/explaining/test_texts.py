"""Texts as users bring them: strings and numbers, words, windows, cuts, and what is refused."""

from __future__ import annotations

import logging

import pytest
import torch
from support.tiny_tokenizers import CORPUS, tokenizer
from support.tokenized_models import Slow, model_for

import clew
from clew.errors import ClewError, InputError, OptionError
from clew.inputs.words import score_words, word_spans

TEXT = "Don't  say “unbelievable”,\nnaïve 🎬 café-owner 電影!"


@pytest.fixture(scope="module")
def reviews_bert():
    return clew.load("mini:reviews-bert")


# Words


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "sentencepiece", "bpe"])
@pytest.mark.parametrize("reduce", ["max", "sum", "mean"])
def test_words_by_the_tokenizers_offsets(kind, reduce):
    """Against the tokenizer's own word boundaries per character: which tokens touch which characters of a word."""
    model = model_for(tokenizer(kind))
    a = clew.explain(model, TEXT, method="input_x_gradient", target=0)
    offsets = model.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    expected = []
    for word in TEXT.split():
        start = TEXT.index(word)
        columns = [c for c, (x, y) in enumerate(offsets) if set(range(x, y)) & set(range(start, start + len(word)))]
        values = [float(a.scores[0, c]) for c in columns]
        value = {"max": max, "sum": sum, "mean": lambda v: sum(v) / len(v)}[reduce](values)
        expected.append((word, start, pytest.approx(value, rel=1e-6), tuple(columns)))
    assert [(w.text, w.start, w.score, w.tokens) for w in a.words(reduce)[0]] == expected
    assert len(expected) == 7


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "sentencepiece", "bpe"])
def test_the_pieces_are_the_text_and_every_score_is_in_them_once(kind):
    a = clew.explain(model_for(tokenizer(kind)), TEXT, method="input_x_gradient", target=0)
    pieces = a.pieces(0)
    assert "".join(p.text for p in pieces if not p.special) == TEXT
    total = float(a.scores.double().sum())
    assert sum(p.score for p in pieces if p.score is not None) == pytest.approx(total, rel=1e-5)
    assert sorted(c for p in pieces for c in p.columns) == list(range(a.scores.shape[1]))
    scored = [p.text for p in pieces if p.score is not None and not p.special]
    assert all(text == text.lstrip() or not text.strip() for text in scored)  # spaces before words have no colour


def test_words_of_ones_own():
    a = clew.explain(model_for(tokenizer("wordpiece")), TEXT, method="saliency")
    phrases = [(0, 11), (11, len(TEXT))]
    words = a.words("sum", spans=[phrases])[0]
    assert [w.text for w in words] == [TEXT[:11], TEXT[11:]]
    inner = float(a.scores[0, 1:-1].sum())
    assert sum(w.score for w in words) == pytest.approx(inner, rel=1e-5)
    with pytest.raises(OptionError, match="max, sum, mean"):
        a.words("median")


def test_pooling_leaves_out_what_does_not_count():
    words = score_words(
        "a bc d", [9.0, 1.0, 2.0, 4.0], [(0, 0), (0, 1), (2, 3), (3, 4)], [False, True, True, True], "sum"
    )
    assert [(w.text, w.score) for w in words] == [("a", 1.0), ("bc", 6.0)]  # no token reads "d"
    assert word_spans("  a\n\tbc ") == [(2, 3), (5, 7)]


def test_token_numbers_have_no_words_but_tokens():
    model = model_for(tokenizer("wordpiece"))
    a = clew.explain(model.model, torch.tensor([[2, 7, 9, 3]]), method="saliency")
    with pytest.raises(ClewError, match="token numbers alone"):
        a.words()
    assert [r.column for r in a.top(2, special=True)[0]] == a.scores[0].argsort(descending=True)[:2].tolist()


# Special tokens and ranks


def test_special_tokens_are_told_and_left_out_of_ranks(reviews_bert):
    texts = ["a superb plot indeed", "Oslo is dull tonight says uncle"]
    a = clew.explain(reviews_bert, texts, method="raw_attention")
    assert a.special.tolist() == [[1, 0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]]
    assert a.mask.sum(1).tolist() == [6, 8]
    assert a.tokens[0][:6] == ["[CLS]", "a", "superb", "plot", "indeed", "[SEP]"]
    for example, ranked in enumerate(a.top(20)):
        assert len(ranked) == int((a.mask & ~a.special)[example].sum())
        assert not {"[CLS]", "[SEP]", ""} & {r.token for r in ranked}
        assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    assert "[CLS]" in {r.token for r in a.top(20, special=True)[0]}


def test_a_batch_is_its_texts_alone(reviews_bert):
    texts = [r.text for r in clew.reviews(5)]
    for method in ("pa_lrp", "beyond_intuition_head"):
        together = clew.explain(reviews_bert, texts, method=method, compute_dtype=torch.float64)
        for i, text in enumerate(texts):
            alone = clew.explain(reviews_bert, text, method=method, compute_dtype=torch.float64)
            torch.testing.assert_close(together.scores[i, : alone.scores.shape[1]], alone.scores[0], rtol=0, atol=1e-12)
            assert [w.text for w in together.words()[i]] == text.split()


def test_tokens_of_each_text_are_its_own_pieces(reviews_bert):
    texts = ["tonight was shallow", "Oslo says uncle", "a common shallow title"]
    found = clew.explain(reviews_bert, texts, method="raw_attention")
    for i, text in enumerate(texts):
        words = found.mask[i] & ~found.special[i]
        shown = [token for token, word in zip(found.tokens[i], words, strict=True) if word]
        assert shown == [text[a:b] for a, b in spans_by_the_tokenizer(reviews_bert, text)]


def spans_by_the_tokenizer(model, text):
    return model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


def test_a_pair_is_shown_as_one_text():
    model = model_for(tokenizer("wordpiece"))
    a = clew.explain(model, ("is it café?", "naïve owners"), method="saliency")
    assert a.texts == ["is it café?\nnaïve owners"]
    assert [w.text for w in a.words()[0]] == ["is", "it", "café?", "naïve", "owners"]
    encoded = model.tokenizer("is it café?", "naïve owners")["input_ids"]
    assert a.input_ids[0].tolist() == encoded


# Lengths


def test_a_long_text_is_refused_and_says_what_can_be_done():
    model = model_for(tokenizer("wordpiece"), positions=16)
    with pytest.raises(InputError, match="window=16, stride=8") as error:
        clew.explain(model, TEXT * 3)
    assert "at most 16 tokens" in str(error.value)
    a = clew.explain(model, TEXT * 3, method="saliency", truncate=True)
    assert a.scores.shape == (1, 16)
    assert int(a.checks["characters_cut"][0]) > 0


def test_windows_are_explained_each_and_put_together():
    model = model_for(tokenizer("wordpiece"), positions=16)
    model.model.double()  # a batch of windows and one window alone round differently in single precision
    text = " ".join(CORPUS)
    a = clew.explain(model, text, method="input_x_gradient", target=1, window=16, stride=5)
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    assert a.input_ids[0].tolist() == ids
    starts = [0]
    while starts[-1] + 14 < len(ids):
        starts.append(starts[-1] + 5)
    total, count = torch.zeros(len(ids)).double(), torch.zeros(len(ids)).double()
    for start in starts:
        part = torch.tensor([2, *ids[start : start + 14], 3])
        one = clew.explain(model.model, part, method="input_x_gradient", target=1).scores[0, 1:-1]
        total[start : start + 14] += one
        count[start : start + 14] += 1
    torch.testing.assert_close(a.scores[0], total / count, rtol=1e-10, atol=1e-12)
    assert a.offsets[0].tolist() == [list(s) for s in spans]
    assert a.checks["windows"].tolist() == [len(starts)] and a.checks["window"] == "16 tokens, one every 5"
    assert a.target == ["good"]


def test_texts_that_are_cut_are_no_reason_to_warn(reviews_bert, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(reviews_bert.tokenizer, "model_max_length", 16)
    monkeypatch.setattr(
        reviews_bert.tokenizer, "deprecation_warnings", {}
    )  # where transformers keeps what it said once
    logger, handler = logging.getLogger("transformers"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        for how in ({"truncate": True}, {"window": 16}):
            clew.explain(reviews_bert, "a dull film " * 40, method="saliency", checks="full", **how)
        assert said == []
        reviews_bert.tokenizer("a dull film " * 40)
        assert "indexing errors" in said[0]
    finally:
        logger.removeHandler(handler)


def test_every_text_tells_its_own_windows(reviews_bert):
    texts = ["a joy", " ".join(r.text for r in clew.reviews(9)), clew.reviews(1)[0].text]
    a = clew.explain(reviews_bert, texts, method="saliency", window=32, target=1)
    alone = [clew.explain(reviews_bert, text, method="saliency", window=32, target=1) for text in texts]
    assert a.checks["window"] == "32 tokens, one every 16"  # half a window
    assert a.checks["windows"].tolist() == [int(one.checks["windows"]) for one in alone]
    again = clew.Attribution.concatenate(alone)
    for i, one in enumerate(alone):
        own = one.checks["scores_of_windows"][0]
        assert len(own) == int(a.checks["windows"][i])
        for several in (a, again):
            told = several.checks["scores_of_windows"][i]
            torch.testing.assert_close(told[: len(own)], own)
            assert bool(told[len(own) :].isnan().all())
            assert several.facts(i)["windows"] == str(len(own))
            assert "nan" not in several.facts(i)["scores of windows"]
            assert several[i].facts(0)["scores of windows"] == one.facts(0)["scores of windows"]


def test_windows_without_a_target_agree_on_one(reviews_bert):
    texts = [" ".join(r.text for r in clew.reviews(9)), clew.reviews(1)[0].text]
    a = clew.explain(reviews_bert, texts, method="attn_lrp", window=32)
    assert len(a) == 2
    assert [len(words) for words in a.words()] == [len(t.split()) for t in texts]
    one = clew.explain(reviews_bert, texts[1], method="attn_lrp", window=200)
    whole = clew.explain(reviews_bert, texts[1], method="attn_lrp")
    torch.testing.assert_close(one.scores, whole.scores[:, 1:-1])
    assert one.target == whole.target


def test_windows_take_a_target_for_each_text(reviews_bert):
    texts, options = [r.text for r in clew.reviews(2)], {"method": "attn_lrp", "window": 24}
    both = clew.explain(reviews_bert, texts, target=[1, clew.Contrast(0, 1)], **options)
    for i, target in enumerate((1, clew.Contrast(0, 1))):
        alone = clew.explain(reviews_bert, texts[i], target=target, **options)
        torch.testing.assert_close(both.scores[i, : alone.scores.shape[1]], alone.scores[0])
    with pytest.raises(ClewError, match="one target per example"):
        clew.explain(reviews_bert, texts, target=[1], **options)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("a plot", {"window": 2}, "leave gaps"),
        ("a plot", {"window": 8, "stride": 7}, "leave gaps"),
        ("a plot", {"window": 8, "stride": 0}, "stride is out of range"),
        (torch.tensor([[5, 6]]), {"window": 8}, "cut out of strings"),
    ],
)
def test_windows_that_cannot_be_are_refused(reviews_bert, inputs, options, message):
    with pytest.raises(ClewError, match=message):
        clew.explain(reviews_bert, inputs, method="saliency", **options)


# What is refused


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "empty text"),
        (["a plot", "  \n"], r"empty text[\s\S]*\[1\]"),
        ([], "cannot be explained"),
        (["a", 3], "int, str"),
        ([("a", "b", "c")], "cannot be explained"),
        (torch.tensor([[5, 999]]), "does not have|do not have"),
        (torch.tensor([[0.5, 2.0]]), "no token numbers"),
        (torch.zeros(1, 0, dtype=torch.long), "no token numbers"),
        ({"inputs_embeds": torch.zeros(1, 3, 96)}, "inputs_embeds are not taken"),
        ({"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 3)}, "mask does not fit"),
        ({"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.zeros(1, 2)}, "empty text"),
    ],
)
def test_inputs_that_are_none_are_refused(reviews_bert, inputs, message):
    with pytest.raises(InputError, match=message):
        clew.explain(reviews_bert, inputs, method="saliency")


def test_strings_need_a_tokenizer(reviews_bert):
    with pytest.raises(InputError, match="need the model's tokenizer"):
        clew.explain(reviews_bert.model, "a superb plot")


def test_a_tokenizer_without_offsets_gives_tokens_but_no_words():
    model = model_for(tokenizer("wordpiece"))
    fast = clew.explain(model, TEXT, method="saliency")
    model.tokenizer = Slow(model.tokenizer)
    a = clew.explain(model, TEXT, method="saliency")
    torch.testing.assert_close(a.scores, fast.scores)
    with pytest.raises(ClewError, match="without offsets"):
        a.words()
    with pytest.raises(InputError, match="without offsets"):
        clew.explain(model, TEXT, method="saliency", window=16)
    assert "unbelievable" not in a.to_html().split("<style")[0]
    assert len(a.pieces(0)) >= a.scores.shape[1]
