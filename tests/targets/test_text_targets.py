"""What can be explained of a text: classes, contrasts, next tokens, spans, answers, labels of tokens."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tokenizers import tokenizer
from support.tokenized_models import TEXT
from transformers import BertConfig, BertForQuestionAnswering, BertForTokenClassification

import clew
from clew.errors import TargetError

EXACT = {"method": "input_x_gradient", "compute_dtype": torch.float64}
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def head(cls, labels):
    tokens = tokenizer("wordpiece")
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels))} if labels else {}
    config = BertConfig(vocab_size=len(tokens), max_position_embeddings=64, initializer_range=0.3, **names, **SIZES)
    return clew.LoadedModel(cls(config).eval(), labels=labels, name="tiny", tokenizer=tokens)


def embedded(model, ids, read):
    """Input x gradient of `read(output)` by hand: (token,)."""
    words = model.model.double().get_input_embeddings()
    x = words(ids).detach().requires_grad_()
    output = model.model(inputs_embeds=x)
    (gradient,) = torch.autograd.grad(read(output), x)
    model.model.float()
    return (x * gradient).sum(-1)[0].detach()


def close(found, expected):
    """To the rounding of transformers' own casts to float32 in a Llama's norms, which the reference has."""
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


def ids_of(model, text=TEXT):
    return torch.tensor([model.tokenizer(text)["input_ids"]])


# Classes


def test_targets_of_each_example_by_any_name():
    model, texts = clew.load("mini:reviews-bert"), [r.text for r in clew.reviews(3)]
    by_number = clew.explain(model, texts, target=[0, 1, 0], **EXACT)
    by_label = clew.explain(model, texts, target=["negative", "positive", "negative"], **EXACT)
    torch.testing.assert_close(by_number.scores, by_label.scores, rtol=0, atol=0)
    contrast = clew.explain(
        model, texts, target=[clew.Contrast(0, 1), clew.Contrast("positive", 0), clew.Contrast(0, 1)], **EXACT
    )
    other = clew.explain(model, texts, target=[1, 0, 1], **EXACT)
    torch.testing.assert_close(contrast.scores, by_number.scores - other.scores, rtol=0, atol=1e-12)
    assert contrast.target[1] == "positive rather than negative"
    with pytest.raises(TargetError, match="no label 'neutral'"):
        clew.explain(model, texts, target="neutral", method="saliency")
    with pytest.raises(TargetError, match="does not fit a model for classification"):
        clew.explain(model, texts, target=clew.Span("the"), method="saliency")


def test_probabilities_and_their_logarithms():
    model, text = clew.load("mini:reviews-bert"), clew.reviews(1)[0].text
    found = {s: clew.explain(model, text, target=0, score=s, **EXACT) for s in ("probability", "log_probability")}
    p = float(found["probability"].score)
    assert p == pytest.approx(float(found["log_probability"].score.exp()), rel=1e-12)
    torch.testing.assert_close(found["probability"].scores, p * found["log_probability"].scores, rtol=0, atol=1e-12)


# Next tokens and spans


def test_the_next_token_is_read_at_the_last_one(writer):
    ids = ids_of(writer)[:, :-1]
    a = clew.explain(writer.model, ids, **EXACT)
    expected = embedded(writer, ids, lambda out: out.logits[0, -1].max())
    close(a.scores[0], expected)


def test_a_token_by_its_text_or_its_number(writer):
    number = writer.tokenizer("the", add_special_tokens=False)["input_ids"]
    single = next(t for t in ("a", "e", "s") if len(writer.tokenizer(t, add_special_tokens=False)["input_ids"]) == 1)
    a = clew.explain(writer, TEXT, target=single, **EXACT)
    b = clew.explain(writer, TEXT, target=writer.tokenizer(single, add_special_tokens=False)["input_ids"][0], **EXACT)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=0)
    assert a.target == [repr(single)]
    with pytest.raises(TargetError, match="is not one token"):
        clew.explain(writer, TEXT, target="zyxwvut", method="saliency")
    assert number


def test_a_contrast_of_next_tokens(writer):
    ids = ids_of(writer)
    a = clew.explain(writer, TEXT, target=clew.Contrast(5, 9), **EXACT)
    expected = embedded(writer, ids, lambda out: out.logits[0, -1, 5] - out.logits[0, -1, 9])
    close(a.scores[0], expected)


def test_a_span_in_one_backward_is_the_sum_of_its_tokens(writer):
    ids = ids_of(writer)
    spans = writer.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    start = TEXT.index("don't")
    columns = [c for c, (a, b) in enumerate(spans) if a < start + 5 and b > start]
    assert len(columns) > 1

    def read(out):
        return sum(out.logits[0, c - 1, ids[0, c]] for c in columns)

    by_words = clew.explain(writer, TEXT, target=clew.Span("don't"), **EXACT)
    by_place = clew.explain(writer, TEXT, target=clew.Span(columns[0], columns[-1] + 1), **EXACT)
    close(by_words.scores[0], embedded(writer, ids, read))
    torch.testing.assert_close(by_place.scores, by_words.scores, rtol=0, atol=0)
    single = [clew.explain(writer, TEXT, target=clew.Span(c, c + 1), **EXACT).scores for c in columns]
    torch.testing.assert_close(sum(single), by_words.scores, rtol=0, atol=1e-10)
    assert by_words.scores[0, columns[-1] :].abs().max() == 0  # what comes later is not seen
    relevance = clew.explain(writer, TEXT, target=clew.Span("don't"), method="attn_lrp", compute_dtype=torch.float64)
    assert relevance.checks["unexplained"].abs().max() < 1e-10


def test_the_probability_of_a_span_is_a_product(writer):
    ids = ids_of(writer)
    a = clew.explain(writer, TEXT, target=clew.Span(3, 6), score="probability", **EXACT)
    with torch.no_grad():
        p = writer.model.double()(ids).logits[0].softmax(-1)
    writer.model.float()
    assert float(a.score) == pytest.approx(float(p[2, ids[0, 3]] * p[3, ids[0, 4]] * p[4, ids[0, 5]]), rel=1e-9)


def test_spans_in_a_padded_batch(writer):
    texts = [TEXT, "so-called don't café", "they don't"]
    together = clew.explain(writer, texts, target=clew.Span("don't"), method="pa_lrp", compute_dtype=torch.float64)
    for i, text in enumerate(texts):
        alone = clew.explain(writer, text, target=clew.Span("don't"), method="pa_lrp", compute_dtype=torch.float64)
        torch.testing.assert_close(together.scores[i, : alone.scores.shape[1]], alone.scores[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (clew.Span("film"), "'film' are not in the text"),
        (clew.Span("t"), "are there 3 times|are there 4 times"),
        (clew.Span("t", nth=9), "nth below"),
        (clew.Span(4, 4), "span is empty"),
        (clew.Span(0, 2), "not predicted from anything"),
        (clew.Span(2, 999), "has no token"),
        (clew.Token(999), "has no token"),
        (99999, "no such class"),
    ],
)
def test_places_that_are_not_there(writer, target, message):
    with pytest.raises(TargetError, match=message):
        clew.explain(writer, TEXT, target=target, method="saliency")


def test_words_of_a_span_need_a_text(writer):
    with pytest.raises(TargetError, match="pass token positions instead"):
        clew.explain(writer.model, ids_of(writer), target=clew.Span("don't"), method="saliency")


# Other heads


def test_the_label_of_a_token():
    model = head(BertForTokenClassification, ["O", "PERSON", "PLACE"])
    ids = ids_of(model)
    spans = model.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    place = next(c for c, (a, b) in enumerate(spans) if a <= TEXT.index("café") < b)
    a = clew.explain(model, TEXT, target=clew.Token("café", "PLACE"), **EXACT)
    expected = embedded(model, ids, lambda out: out.logits[0, place, 2])
    close(a.scores[0], expected)
    assert a.target == ["PLACE at 'café'"]
    with pytest.raises(TargetError, match="does not fit a model for token-classification"):
        clew.explain(model, TEXT, target="PLACE", method="saliency")


def test_an_answer_in_the_text():
    model = head(BertForQuestionAnswering, None)
    pair = ("is it quoted?", "they don't café")
    a = clew.explain(model, pair, target=clew.Span("don't"), **EXACT)
    encoded = model.tokenizer(*pair, return_tensors="pt", return_offsets_mapping=True)
    sequence = encoded.sequence_ids()
    columns = [
        c for c, (x, y) in enumerate(encoded["offset_mapping"][0].tolist()) if sequence[c] == 1 and x < 10 and y > 5
    ]
    words = model.model.double().get_input_embeddings()
    x = words(encoded["input_ids"]).detach().requires_grad_()
    out = model.model(inputs_embeds=x, token_type_ids=encoded.get("token_type_ids"))
    (gradient,) = torch.autograd.grad(out.start_logits[0, columns[0]] + out.end_logits[0, columns[-1]], x)
    model.model.float()
    torch.testing.assert_close(a.scores[0].double(), (x * gradient).sum(-1)[0].detach(), rtol=0, atol=1e-10)
    best = clew.explain(model, pair, **EXACT)
    assert len(best.target) == 1


def test_a_callable_over_tokens(writer):
    ids = ids_of(writer)
    a = clew.explain(writer.model, ids, target=lambda out: out.logits[:, 4, 7], **EXACT)
    b = clew.explain(writer.model, ids, target=clew.Token(4, 7), **EXACT)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-12)


def test_every_entry_of_a_list_counts(writer):
    targets = [clew.Contrast(5, 9), clew.Contrast(6, 9)]
    a = clew.explain(writer, [TEXT, TEXT], target=targets, **EXACT)
    assert not torch.allclose(a.scores[0], a.scores[1])
    with pytest.raises(TargetError, match="cannot be mixed"):
        clew.explain(writer, [TEXT, TEXT], target=[clew.Contrast(5, 9), 6], method="saliency")
    with pytest.raises(TargetError, match="one target per example"):
        clew.explain(writer, [TEXT, TEXT], target=[5], method="saliency")
