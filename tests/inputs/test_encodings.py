"""Texts in every form that people have them: nothing that was given is left behind, and what cannot be used is refused.

The right values are the model's own: it is called directly, on what the tokenizer gave.
"""

from __future__ import annotations

import copy
import inspect
from typing import ClassVar

import numpy as np
import pytest
import torch
from support.tiny_tokenizers import tokenizer
from support.tokenized_models import SIZES, Slow, model_for, writer
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    ByT5Tokenizer,
    DynamicCache,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    StaticCache,
)  # fmt: skip

import clew
from clew.errors import InputError
from clew.inputs.words import score_words

TEXTS = ["it's quoted", "they don't own the unbelievable café owners’ résumés, naïve"]


TYPED = tokenizer("wordpiece")
TYPED.backend_tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
TYPED.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]


class Handed(BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class OnlyIds(BertForSequenceClassification):
    def forward(self, input_ids):
        return super().forward(input_ids=input_ids)


class OtherNames(BertForSequenceClassification):
    def forward(self, input_ids, mask=None, kinds=None):
        return super().forward(input_ids=input_ids, attention_mask=mask, token_type_ids=kinds)


class Trained(BertForSequenceClassification):
    def forward(self, input_ids, labels, attention_mask=None):
        assert labels is not None
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


class Tokens(BertForSequenceClassification):
    def forward(self, tokens, attention_mask=None):
        return super().forward(input_ids=tokens, attention_mask=attention_mask)


def classifier(cls=BertForSequenceClassification, **more):
    tokens = copy.deepcopy(TYPED)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens), num_labels=2, max_position_embeddings=64, initializer_range=0.4, **SIZES, **more
    )
    model = cls(config).eval()
    torch.manual_seed(0)
    model.load_state_dict(BertForSequenceClassification(config).state_dict())
    return clew.LoadedModel(model, labels=["bad", "good"], name="tiny", tokenizer=tokens)


def score(model, inputs, **more):
    return clew.explain(model, inputs, method="saliency", target=1, **more)


@torch.no_grad()
def said(model, *inputs, **more):
    return model.model(**model.tokenizer(*inputs, return_tensors="pt", padding=True, **more)).logits[:, 1]


# What the model takes


def test_a_forward_of_anything_gets_masks_and_token_types():
    model = classifier(Handed)
    torch.testing.assert_close(score(model, TEXTS).score, said(model, TEXTS))
    pair = ("is it quoted?", "they don't café")
    expected = said(model, *pair)
    torch.testing.assert_close(score(model, pair).score, expected)
    numbers = model.tokenizer(*pair, return_tensors="pt")["input_ids"]
    assert abs(float(expected) - float(score(model, numbers).score)) > 1e-3  # token types matter


def test_a_mask_that_would_be_lost_is_refused():
    model = classifier(OnlyIds)
    torch.testing.assert_close(score(model, TEXTS[0]).score, model.model(ids(model, TEXTS[0])).logits[:, 1])
    with pytest.raises(InputError, match="takes no attention_mask") as error:
        score(model, TEXTS)
    assert "arguments of forward: input_ids" in str(error.value)
    assert "one text at a time" in str(error.value)
    with pytest.raises(InputError, match="takes no token_type_ids"):
        score(model, ("is it", "quoted"))
    for name in ("position_ids", "pixel_values"):
        with pytest.raises(InputError, match=f"takes no {name}"):
            score(model, {"input_ids": ids(model, TEXTS[0]), name: torch.ones(1, 3)})


def ids(model, text):
    return torch.tensor([model.tokenizer(text)["input_ids"]])


def test_names_of_the_models_own_are_passed_on():
    model = classifier(OtherNames)
    given = model.tokenizer(TEXTS, return_tensors="pt", padding=True)
    own = {"input_ids": given["input_ids"], "mask": given["attention_mask"]}
    own["kinds"] = torch.arange(own["mask"].shape[1]).remainder(2).expand_as(own["mask"])
    with torch.no_grad():
        expected = model.model(**own).logits[:, 1]
    rest = int((own["mask"][0] == 0).sum())
    left = {k: torch.stack([v[0].roll(rest), v[1]]) for k, v in own.items()}
    for inputs in (own, left):
        found = score(model, inputs)
        torch.testing.assert_close(found.score, expected)
        assert torch.equal(found.mask, inputs["mask"].bool())
    with pytest.raises(InputError, match="takes no attention_mask") as error:
        score(model, TEXTS)
    assert "input_ids, mask, kinds" in str(error.value)


def test_token_numbers_by_any_name():
    model = classifier(Tokens)
    expected = said(classifier(), TEXTS)
    mine = clew.architectures()["hf_bert"]
    torch.testing.assert_close(score(model, TEXTS, architecture=mine).score, expected)
    given = model.tokenizer(TEXTS, return_tensors="pt", padding=True)
    named = {"tokens": given["input_ids"], "attention_mask": given["attention_mask"]}
    torch.testing.assert_close(score(model, named).score, expected)


def test_a_language_model_without_a_mask_sees_no_padding_behind_a_text():
    class NoMask(LlamaForCausalLM):
        def forward(self, input_ids):
            return super().forward(input_ids=input_ids)

    model = writer(NoMask)
    texts = ["once upon", "once upon a time there was"]
    a = clew.explain(model, texts, method="saliency", target=9)
    for i, text in enumerate(texts):
        torch.testing.assert_close(a.score[i], model.model(ids(model, text)).logits[0, -1, 9])


def test_labels_are_left_out_and_it_is_said():
    model = writer()
    numbers = ids(model, "once upon a time")
    given = {"input_ids": numbers, "attention_mask": torch.ones_like(numbers), "labels": numbers, "logits_to_keep": 3}
    a = clew.explain(model, given, method="attn_lrp")
    torch.testing.assert_close(a.score[0], model.model(numbers).logits[0, -1].max())
    assert "labels, logits_to_keep" in a.checks["left_out"]
    needs = classifier(Trained)
    row = needs.tokenizer(TEXTS[0], return_tensors="pt")
    found = score(needs, {**row, "labels": torch.tensor([1])})
    torch.testing.assert_close(found.score, said(classifier(), TEXTS[0]))
    assert "left_out" not in found.checks


@pytest.mark.parametrize("hands_on", [True, False])
def test_logits_of_one_token_are_asked_for_through_any_forward(hands_on):
    class Mine(LlamaForCausalLM):
        counts: ClassVar[list[int]] = []

        def forward(self, *args, **kwargs):
            kept = kwargs.pop("logits_to_keep", 0)
            out = super().forward(*args, **kwargs, logits_to_keep=kept if hands_on else 0)
            self.counts.append(out.logits.shape[1])
            return out

    model = writer(Mine)
    numbers = ids(model, "once upon a time there was")
    a = clew.explain(model, numbers, method="saliency", target=clew.Span(3, 5))
    with torch.no_grad():
        logits = model.model(numbers).logits[0]
    torch.testing.assert_close(a.score[0], logits[2, numbers[0, 3]] + logits[3, numbers[0, 4]])
    assert min(Mine.counts) == (2 if hands_on else numbers.shape[1])


def test_positions_follow_the_tokens_when_padding_is_moved():
    model = classifier()
    row = ids(model, TEXTS[0])
    count = row.shape[1]
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), row], 1).repeat(2, 1)
    mask = (torch.arange(count + 4) >= 4).long().repeat(2, 1)
    positions = torch.arange(count + 4)[None] + 3  # one row for all
    a = score(model, {"input_ids": padded, "attention_mask": mask, "position_ids": positions})
    with torch.no_grad():
        expected = model.model(input_ids=row, position_ids=torch.arange(count)[None] + 7).logits[0, 1]
    torch.testing.assert_close(a.score, expected.repeat(2))
    with pytest.raises(InputError, match="no mask of tokens"):
        score(model, {"input_ids": row, "attention_mask": torch.full(row.shape, -1e4)})


# Caches

NAME = next(n for n in ("cache", "past_key_values") if n in inspect.signature(LlamaForCausalLM.forward).parameters)


@pytest.mark.parametrize(("graph", "static"), [(True, False), (False, False), (False, True)])
def test_a_cache_is_used_and_stays_as_it_is(graph, static):
    model = writer()
    module, numbers = model.model, ids(model, "once upon a time there was a cat").repeat(2, 1)
    numbers[1, 2:] = numbers[1, 2:].flip(0)
    earlier, later = numbers[:, :5], numbers[:, 5:]
    # A static cache is written in place.
    cache = StaticCache(config=module.config, max_cache_len=32) if static else DynamicCache()
    with torch.set_grad_enabled(graph):
        module(earlier, use_cache=True, **{NAME: cache})
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    given = {"input_ids": later, NAME: cache, "attention_mask": torch.ones_like(numbers)}
    a = clew.explain(model, given, method="input_x_gradient")
    words = module.get_input_embeddings()
    x = words(numbers).detach().requires_grad_()
    top = module(inputs_embeds=x).logits[:, -1].amax(1)
    (gradient,) = torch.autograd.grad(top.sum(), x)
    torch.testing.assert_close(a.score, top.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.scores, (x * gradient).sum(-1)[:, 5:].detach(), rtol=1e-3, atol=1e-5)
    for method in ("smoothgrad", "integrated_gradients"):  # several copies at a time
        clew.explain(model, given, method=method)
    assert cache.get_seq_length() == 5
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
    for method in ("raw_attention", "beyond_intuition_token", "attn_lrp"):
        with pytest.raises(InputError, match="in a cache"):
            clew.explain(model, given, method=method)
    with pytest.raises(InputError, match="does not fit the cache"):
        clew.explain(model, {**given, "attention_mask": torch.ones_like(later)}, method="saliency")


# Forms of token numbers


def test_token_numbers_in_any_form():
    model = classifier()
    rows = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    expected = said(model, TEXTS)
    one = rows[0]
    for inputs in (one, [one], np.array([one]), np.array(one, dtype=np.uint16), torch.tensor(one, dtype=torch.int32),
                   model.tokenizer(TEXTS[0]), dict(model.tokenizer(TEXTS[0])), [np.array(one)]):  # fmt: skip
        found = score(model, inputs)
        assert found.input_ids.tolist() == [one]
        torch.testing.assert_close(found.score, expected[:1])
    listed = model.tokenizer(TEXTS)  # without tensors: rows of several lengths
    for inputs in (rows, [torch.tensor(row) for row in rows], listed, dict(listed), [*map(model.tokenizer, TEXTS)]):
        found = score(model, inputs)
        assert found.mask.sum(1).tolist() == [len(row) for row in rows]
        torch.testing.assert_close(found.score, expected)
    with pytest.raises(InputError, match="leave out text, label"):
        score(model, [{"input_ids": one, "text": TEXTS[0], "label": 1}])
    for wrong in ([0.5, 1.0], [True, False], [[1, "a"]], np.array([[0.5]])):
        with pytest.raises(InputError):
            score(model, wrong)


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "bpe"])
def test_words_that_are_split_already(kind):
    model = model_for(tokenizer(kind))
    words = [["naïve", "café", "owners’"], ["don't", "they"]]
    a = score(model, words)
    torch.testing.assert_close(a.score, said(model, words, is_split_into_words=True))
    assert [[w.text for w in row] for row in a.words()] == words
    assert a.texts == [" ".join(row) for row in words]


def test_words_that_a_tokenizer_does_not_take():
    class Refuses(Slow):
        def __call__(self, text, pair=None, **options):
            assert not isinstance(text, list), "add_prefix_space=True is needed"
            return super().__call__(text, pair, **options)

    model = classifier()
    model.tokenizer = Refuses(model.tokenizer)
    with pytest.raises(InputError, match="add_prefix_space"):
        score(model, [["a", "b"]])


# Padding without a mask


def test_padding_is_seen_by_its_number():
    model = classifier()
    given = model.tokenizer(TEXTS, return_tensors="pt", padding=True)
    a = score(model, given["input_ids"])
    torch.testing.assert_close(a.score, said(model, TEXTS))
    assert torch.equal(a.mask, given["attention_mask"].bool())
    assert "read as padding" in a.checks["padding"]
    left = torch.stack([row.roll(int((row == 0).sum())) for row in given["input_ids"]])
    torch.testing.assert_close(score(model, left).score, a.score)
    inside = given["input_ids"].clone()
    inside[1, 4] = 0
    with torch.no_grad():
        expected = model.model(inside[1:]).logits[0, 1]
    found = score(model, inside[1:])
    torch.testing.assert_close(found.score[0], expected)
    assert "padding" not in found.checks
    assert bool(score(model, torch.zeros(1, 4, dtype=torch.long)).mask.all())  # a text is not all padding
    explicit = {"input_ids": given["input_ids"], "attention_mask": torch.ones_like(given["input_ids"])}
    with torch.no_grad():
        torch.testing.assert_close(score(model, explicit).score, model.model(**explicit).logits[:, 1])


def test_padding_that_may_be_a_word_is_told():
    model = writer(LlamaForSequenceClassification, pad_token_id=2, num_labels=2)
    model.tokenizer.pad_token = model.tokenizer.eos_token
    numbers = torch.tensor([[1, 9, 8, 7, 2, 2, 2]])
    a = score(model, numbers)
    assert bool(a.mask.all())
    assert "pass attention_mask" in a.checks["advice"]
    assert "advice" not in score(model, numbers[:, :5]).checks  # the end of a text
    only = classifier(OnlyIds)
    padded = only.tokenizer(TEXTS, return_tensors="pt", padding=True)["input_ids"]
    b = score(only, padded)
    torch.testing.assert_close(b.score, only.model(padded).logits[:, 1])
    assert "takes no attention_mask" in b.checks["advice"]


# Special tokens


def test_special_tokens_are_the_same_however_they_come():
    model = writer()
    model.tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    messages = [{"role": "user", "content": "once upon"}, {"role": "user", "content": "a cat"}]
    given = model.tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
    text = model.tokenizer.apply_chat_template(messages, tokenize=False)
    numbers = given["input_ids"]
    expected = [i in (1, 2) for i in numbers[0].tolist()]
    assert sum(expected) == 3
    for inputs in (given, dict(given), numbers, numbers[0].tolist(), text, messages, [messages]):
        a = clew.explain(model, inputs, method="saliency", target=5)
        assert a.input_ids.tolist() == numbers.tolist(), type(inputs)
        assert a.special[0].tolist() == expected
    b = clew.explain(model, text, method="saliency")
    assert "a second <s>" in b.checks["left_out"]
    assert "".join(piece.text for piece in b.pieces(0)) == text  # control tokens are in the text, and are shown once
    assert [word.text for word in b.words("sum")[0]] == ["once", "upon", "a", "cat"]


def test_added_tokens_are_special_and_unknown_words_are_not():
    model = classifier()
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    model.model.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
    text = "it's <turn> Ω quoted"
    numbers = ids(model, text)
    for inputs in (text, numbers, model.tokenizer(text, return_tensors="pt")):
        a = score(model, inputs)
        special = [model.tokenizer.convert_ids_to_tokens(int(i)) for i in a.input_ids[0][a.special[0]]]
        assert special == ["[CLS]", "<turn>", "[SEP]"]
    assert model.tokenizer.unk_token_id in numbers[0].tolist()


def test_characters_of_several_tokens_can_be_read_in_numbers():
    model = writer(LlamaForSequenceClassification, num_labels=2)
    a = score(model, ids(model, "a cat 日本 😀"))
    assert not any("�" in token for token in a.tokens[0])
    assert a.tokens[0].count("😀") == 4


def test_bytes_have_characters_though_their_tokenizer_does_not_say_so():
    text, texts = "naïve 映画", ["naïve 映画", "a b"]
    tokens = ByT5Tokenizer()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokens), num_labels=2, max_position_embeddings=64, **SIZES)
    model = clew.LoadedModel(BertForSequenceClassification(config).eval(), tokenizer=tokens)
    a = score(model, texts)
    assert len(text.encode()) == int((a.mask & ~a.special)[0].sum())
    expected = [(i, i + 1) for i, c in enumerate(text) for _ in c.encode()]
    assert [tuple(s) for s in a.offsets[0, : len(expected)].tolist()] == expected
    assert [[w.text for w in row] for row in a.words()] == [t.split() for t in texts]
    assert "".join(p.text for p in a.pieces(0) if not p.special) == text
    b = score(model, ids(model, text))
    assert b.tokens[0][:-1] == [c for c in text for _ in c.encode()]
    assert score(model, text * 9, truncate=True).checks["characters_cut"].tolist() == [
        len(text * 9) - 39
    ]  # of 63 bytes


# What is cut


def test_what_is_cut_is_told_wherever_it_was():
    model = model_for(tokenizer("wordpiece"), positions=16)
    long = "begin " + "they " * 40 + "end"

    def kept(a, part):
        spans = [tuple(s) for s, special in zip(a.offsets[0].tolist(), a.special[0], strict=True) if not special]
        inside = [s for s in spans if part[0] <= s[0] < part[1]]
        return max(b for _, b in inside) - min(a for a, _ in inside)

    right = score(model, long, truncate=True)
    assert int(right.checks["characters_cut"]) == len(long) - kept(right, (0, 999))
    first = score(model, (long, "they"), truncate=True)
    assert int(first.checks["characters_cut"]) == len(long) - kept(first, (0, len(long)))
    second = score(model, ("they", long), truncate=True)
    assert int(second.checks["characters_cut"]) == len(long) - kept(second, (5, 999))
    model.tokenizer.truncation_side = "left"
    left = score(model, [long, "they"], truncate=True)
    assert left.checks["characters_cut"].tolist() == [len(long) - kept(left[0], (0, 999)), 0]
    assert left.offsets[0, 1, 0] > 0
    assert "characters_cut" not in score(model, "they", truncate=True).checks
    whole = len(model.tokenizer(long)["input_ids"])
    model.tokenizer = Slow(model.tokenizer)
    assert score(model, long, truncate=True).checks["tokens_cut"].tolist() == [whole - 16]


def test_advice_for_long_texts_works():
    model = model_for(tokenizer("wordpiece"), positions=16)
    long = "they " * 40
    for inputs, works in ((long, ("window=16", "truncate=True")), (("they", long), ("truncate=True",)),
                          ([long.split()], ("truncate=True",)), (ids(model, long), ())):  # fmt: skip
        with pytest.raises(InputError, match="longer than the model's positions") as error:
            score(model, inputs)
        todo = str(error.value).rpartition("to do:")[2]
        assert ("window" in todo) == ("window=16" in works)
        for option in works:
            name, value = option.split("=")
            score(model, inputs, **{name: int(value) if value.isdigit() else True})
    with pytest.raises(InputError, match="cut out of strings"):
        score(model, ("they", long), window=16)


# Windows and words


def test_one_window_around_a_text_loses_no_token():
    model = writer(LlamaForSequenceClassification, num_labels=2, pad_token_id=0)
    text = "once\u3000upon\u3000a time\u3000\u3000there </s> was 日日"
    a = score(model, text)
    inner = a.scores[0, 1:]
    for options in ({"window": 200}, {"window": 9, "stride": 3}):
        b = score(model, text, **options)
        assert b.input_ids[0].tolist() == a.input_ids[0, 1:].tolist()
        assert b.special[0].tolist() == a.special[0, 1:].tolist()
        assert b.offsets[0].tolist() == a.offsets[0, 1:].tolist()
    torch.testing.assert_close(score(model, text, window=200).scores[0], inner)
    model.tokenizer.truncation_side = "left"
    torch.testing.assert_close(score(model, text, window=9, stride=3).scores, b.scores)


def test_a_token_counts_for_one_word():
    text, spans = "ab cd efg h", [(0, 4), (4, 9), (9, 11), (11, 11)]  # "ab c", "d efg", " h"
    scores, counted = [1.0, 10.0, 100.0, 1000.0], [True] * 4
    words = score_words(text, scores, spans, counted, "sum")
    assert [(w.text, w.score, w.tokens) for w in words] == [
        ("ab", 1.0, (0,)), ("cd", 0.0, ()), ("efg", 10.0, (1,)), ("h", 100.0, (2,)),
    ]  # fmt: skip
    assert [w.score for w in score_words(text, scores, spans, counted, "max")] == [1.0, 10.0, 10.0, 100.0]
    equal = score_words("abcd", [7.0], [(0, 4)], [True], "sum", [(0, 2), (2, 4)])
    assert [w.score for w in equal] == [7.0, 0.0]
    both = score_words("abcd", [7.0], [(0, 4)], [True], "sum", [(0, 4), (0, 2)])  # spans that overlap by themselves
    assert [w.score for w in both] == [7.0, 7.0]


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "sentencepiece", "bpe", "byte-fallback"])
def test_sums_over_words_are_the_sum_over_tokens(kind):
    tokens = tokenizer(kind)
    model = (
        writer(LlamaForSequenceClassification, tokens, num_labels=2) if kind == "byte-fallback" else model_for(tokens)
    )
    text = "they don't say  naïve 電影\u3000電影! 🎬 café"
    a = clew.explain(model, text, method="input_x_gradient", target=0)
    spans = [(i, i + 1) for i in range(len(text))]  # characters
    for found in (a.words("sum", spans=[spans])[0], a.words("sum")[0]):
        columns = [c for w in found for c in w.tokens]
        assert len(columns) == len(set(columns))
    total = float(a.scores[0][~a.special[0]].sum())
    assert sum(w.score for w in a.words("sum", spans=[spans])[0]) == pytest.approx(total, rel=1e-4)


# Answers


def answerer(seed, **more):
    tokens = tokenizer("wordpiece")
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(tokens), max_position_embeddings=64, initializer_range=0.5, **SIZES, **more)
    return clew.LoadedModel(BertForQuestionAnswering(config).eval(), name="tiny", tokenizer=tokens)


@pytest.mark.parametrize("returns", [True, False])
def test_the_best_answer_is_the_best_pair_in_the_context(returns):
    pair = ("is it quoted?", TEXTS[1])
    for seed in range(8):
        model = answerer(seed)
        encoded = model.tokenizer(*pair, return_tensors="pt")
        with torch.no_grad():
            out = model.model(**encoded)
        start, end = out.start_logits[0].tolist(), out.end_logits[0].tolist()
        context = [j for j, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        value, i, j = max((start[i] + end[j], i, j) for i in context for j in context if i <= j < i + 15)
        model.model.config.return_dict = returns
        for inputs in (pair, encoded, dict(encoded)):
            a = clew.explain(model, inputs, method="attn_lrp")
            assert float(a.score[0]) == pytest.approx(value, rel=1e-5)
            assert a.target == [model.tokenizer.decode(encoded["input_ids"][0, i : j + 1])]
            assert float(a.checks["unexplained"].abs().max()) < 1e-2 * abs(value) + 1e-3
            assert ("prefers its first token" in a.checks.get("advice", "")) == (start[0] + end[0] > value)


def test_no_answer_is_advised():
    class Nothing(BertForQuestionAnswering):
        def forward(self, **kwargs):
            out = super().forward(**kwargs)
            first = torch.zeros_like(out.start_logits).index_fill(1, torch.tensor(0), 50.0)
            out.start_logits = out.start_logits + first
            return out

    model = answerer(0)
    model.model.__class__ = Nothing
    a = clew.explain(model, ("is it quoted?", TEXTS[1]), method="saliency")
    assert "prefers its first token" in a.checks["advice"]
    assert "[CLS]" not in a.target[0]
    b = clew.explain(model, ("is it quoted?", TEXTS[1]), method="saliency", target=clew.Span(0, 1))
    assert float(b.score[0]) > 40


def test_an_answer_in_a_single_text_is_not_in_special_tokens():
    model = answerer(3)
    encoded = model.tokenizer(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        out = model.model(**encoded)
    start, end = out.start_logits[0].tolist(), out.end_logits[0].tolist()
    inner = range(1, len(start) - 1)
    value = max(start[i] + end[j] for i in inner for j in inner if i <= j < i + 15)
    for inputs in (TEXTS[1], encoded["input_ids"]):
        assert float(clew.explain(model, inputs, method="saliency").score[0]) == pytest.approx(value, rel=1e-5)


# Padding that a method sees


def test_smoothgrad_is_the_same_alone_and_in_a_batch():
    model = classifier()
    model.model.double()
    with torch.no_grad():
        model.model.get_input_embeddings().weight[0] = 9.0  # padding has a value of its own
    counts = {len(model.tokenizer(text)["input_ids"]): text for text in ("it", "quoted", "it's quoted", "is it")}
    count = next(n for n in counts if n * SIZES["hidden_size"] % 16)  # random numbers are drawn in sixteens
    texts = [counts[count], TEXTS[1]]
    together = clew.explain(model, texts, method="smoothgrad", target=1, n_samples=3)
    for i, text in enumerate(texts):
        alone = clew.explain(model, text, method="smoothgrad", target=1, n_samples=3)
        torch.testing.assert_close(together.scores[i, : alone.scores.shape[1]], alone.scores[0], rtol=1e-8, atol=1e-10)


def test_a_chat_template_is_needed_and_may_refuse():
    model = writer()
    messages = [{"role": "user", "content": "once upon"}]
    with pytest.raises(InputError, match="chat template"):
        clew.explain(model, messages, method="saliency")
    model.tokenizer.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(InputError, match="refuses these messages"):
        clew.explain(model, messages, method="saliency")
