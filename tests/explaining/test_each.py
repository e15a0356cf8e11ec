"""Several targets for each text: what a call for each of them gives, from one forward pass."""

from __future__ import annotations

import pytest
import torch
from support import tiny_text
from support.zoo import build

import clew
from clew import Contrast, Each, Span, Token
from clew.errors import TargetError

METHODS = [name for name, method in clew.methods().items() if name != "random" and not method.images]
CAUSAL = [[Span(2, 3), Span(4, 6), Span(6, 7)], [Span(3, 5), Span(1, 2), Span(5, 6)]]


def inputs():
    ids = torch.arange(5, 23).view(2, 9)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def same_as_calls(model, given, targets, method, **options):
    """Each target of each example, against a call for one target of each."""
    options |= {"method": method, "compute_dtype": torch.float64}
    several = clew.explain(model, given, target=[Each(*row) for row in targets], **options)
    count = len(targets[0])
    assert len(several) == count * len(targets)
    for i in range(count):
        own = clew.explain(model, given, target=[row[i] for row in targets], **options)
        assert [several.target[k] for k in range(i, len(several), count)] == list(own.target)
        torch.testing.assert_close(several.score[i::count], own.score, rtol=1e-12, atol=1e-12)
        for name, part in own.streams.items():
            expected = part.all_scores
            found = several.streams[name].all_scores[i::count]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3"])
def test_tokens_of_declared_language_models(name, method):
    same_as_calls(tiny_text.build_text(name), inputs(), CAUSAL, method)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "modernbert_mean", "llama_classes"])
def test_classes_of_texts(name, method):
    same_as_calls(tiny_text.build_text(name), inputs(), [[0, 1, 2], [2, 0, 1]], method)


@pytest.mark.parametrize("part", ["all", "position", "semantic"])
@pytest.mark.parametrize("options", [{"aggregate": "outer"}, {"aggregate": "sum", "per_head": True}])
def test_positions_inside_the_blocks(part, options):
    same_as_calls(tiny_text.build_text("llama"), inputs(), CAUSAL, "pa_lrp", part=part, **options)


@pytest.mark.parametrize("kinds", [(Token(3), Token(5, 7)), (Contrast(3, 4), Contrast(5, 6)), (3, Span(2, 4))])
def test_kinds_of_targets(kinds):
    same_as_calls(tiny_text.build_text("llama"), inputs(), [list(kinds)] * 2, "attn_lrp")


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "attn_lrp", "attention_rollout"])
@pytest.mark.parametrize("name", ["llava", "bart", "whisper", "t5_tied"])
@pytest.mark.parametrize("examples", [1, 2])
def test_models_of_which_nothing_is_declared(name, method, examples):
    specimen = build(name)
    given = {k: v[:examples] for k, v in specimen.inputs.items()}
    same_as_calls(specimen.model, given, [[Span(3, 5), Span(1, 2), 7], [Span(2, 3), 5, 6]][:examples], method)


def test_words_of_a_text_by_its_streams():
    """The span of words is that of their tokens."""
    loaded, one = clew.load("mini:reverse"), clew.reversals(1)[0]
    given = {"source": one.source, "answer": one.answer}
    words = one.answer.split()
    rare = next(w for w in words if words.count(w) == 1)
    a = clew.explain(loaded, given, method="attn_lrp", target=Span(rare))
    place = 1 + words.index(rare)
    b = clew.explain(loaded, given, method="attn_lrp", target=Span(place, place + 1))
    torch.testing.assert_close(a["source"].scores, b["source"].scores)
    torch.testing.assert_close(a.score, b.score)
    with pytest.raises(TargetError, match="not in the text"):
        clew.explain(loaded, given, target=Span("zebra"), method="attn_lrp")


def test_not_equally_many():
    with pytest.raises(TargetError, match="equally many"):
        clew.explain(tiny_text.build_text("llama"), inputs(), target=[Each(1, 2), Each(3)], method="saliency")


def test_a_letter_at_its_step_of_a_model_that_hears():
    specimen = build("wav2vec2_letters")
    given = {k: v[:1] for k, v in specimen.inputs.items()}
    options = {"method": "attn_lrp", "compute_dtype": torch.float64}
    steps = specimen.model(**given).logits.shape[1]
    several = clew.explain(specimen.model, given, target=Each(Token(2, 5), Token(0, 3), 4), **options)
    for i, (step, letter) in enumerate([(2, 5), (0, 3), (steps - 1, 4)]):
        own = clew.explain(specimen.model, given, target=lambda o, s=step, n=letter: o.logits[:, s, n], **options)
        torch.testing.assert_close(several.score[i], own.score[0])
        expected = own.all_scores[0]
        torch.testing.assert_close(
            several.all_scores[i], expected, rtol=0, atol=1e-9 * max(1e-9, float(expected.abs().max()))
        )
    with pytest.raises(TargetError, match="a span is of tokens"):
        clew.explain(specimen.model, given, target=Span(1, 2), **options)
