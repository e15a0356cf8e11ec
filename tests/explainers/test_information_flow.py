"""Information flow routes and FlashTrace against their literal twin, and what they promise."""

from __future__ import annotations

import pytest
import torch
from support import flow_twin, tiny
from support.tiny_text import build_text, padded, texts

import clew
from clew.diagnosis import state
from clew.errors import ClewError, OptionError, TargetError

DECODERS = ["llama", "llama_bias", "qwen2", "qwen3", "gemma2", "olmo2"]


@pytest.fixture(params=DECODERS)
def decoder(request):
    return flow_twin.with_double_norms(build_text(request.param, "eager"))


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "start", "threshold"), [({}, 0, 0.0), ({"start_layer": 1, "threshold": 0.5}, 1, 0.5)]
)
def test_ifr(decoder, options, start, threshold):
    for ids in texts()[:2]:
        flow = flow_twin.of_llama(decoder, ids)
        found = clew.explain(decoder, ids, method="ifr", target=clew.Each(clew.Token(3, 1), clew.Span(2, 5)), **options)
        same(found.scores[0], flow_twin.ifr(flow, {3: 1.0}, start, threshold))
        same(found.scores[1], flow_twin.ifr(flow, {1: 1.0, 2: 1.0, 3: 1.0}, start, threshold))


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_flash_trace(decoder, hops):
    ids, span, thought = texts()[2], range(8, 11), range(4, 7)
    flow = flow_twin.of_llama(decoder, ids)
    for variant, rows, kept in (("paper", [7, 8, 9], [0, 1, 2, 3, 7, 8, 9]), ("flash_trace", [8, 9, 10], [0, 1, 2, 3])):
        options = {"reasoning": (4, 7), "hops": hops, "variant": variant, "details": True}
        found = clew.explain(decoder, ids, method="flash_trace", target=clew.Span(span.start, span.stop), **options)
        expected, shares = flow_twin.flash_trace(flow, rows, thought, hops, kept)
        same(found.scores[0], expected)
        same(found.details["shares"][0], torch.tensor(shares, dtype=torch.float64))
        assert found.details["hops"].shape == (1, hops + 1, len(ids))
        same(found.checks["reasoning_share"], found.details["shares"][:, 0])


@pytest.mark.parametrize("name", ["timm_token", "timm_average", "timm_registers", "timm_layer_scale"])
def test_ifr_of_pictures(name):
    model, images = tiny.build(name), tiny.images(tiny.TINY[name].size)[:1]
    flow = flow_twin.of_vit(model, images[0])
    first, count = model.num_prefix_tokens, len(flow.x[0])
    rows = {0: 1.0} if model.global_pool == "token" else dict.fromkeys(range(first, count), 1.0)
    same(clew.explain(model, images, method="ifr", target=1).all_scores[0], flow_twin.ifr(flow, rows))


def test_an_attention_pool_is_what_its_heads_attend_to():
    model, images = tiny.build("timm_attention_pool"), tiny.images((32, 32))[:1]
    read = clew.explain(model, images, method="raw_attention").all_scores[0]
    rows = {i: float(w / read.max()) for i, w in enumerate(read)}
    expected = flow_twin.ifr(flow_twin.of_vit(model, images[0]), rows)
    same(clew.explain(model, images, method="ifr").all_scores[0], expected)


def test_a_batch_is_its_texts_one_by_one():
    """With padding on any side, and words in place of numbers."""
    model, rows = build_text("llama"), texts()
    inputs = padded(rows)
    first = inputs["attention_mask"].argmax(1).tolist()
    places = [clew.Span(at + 3, at + 5) for at in first]
    alone = [
        clew.explain(model, row, method="flash_trace", target=clew.Span(3, 5), reasoning=(1, 3), hops=2) for row in rows
    ]
    for i, (at, row) in enumerate(zip(first, rows, strict=True)):
        options = {"reasoning": (at + 1, at + 3), "hops": 2}
        together = clew.explain(model, inputs, method="flash_trace", target=places, **options)
        same(together.scores[i, at : at + len(row)], alone[i].scores[0])


def test_under_no_grad_and_nothing_stays():
    model, ids = build_text("qwen2"), texts()[0]
    before = state(model)
    asked = {"method": "flash_trace", "target": clew.Span(4, 6), "reasoning": (2, 4)}
    plain = clew.explain(model, ids, **asked)
    with torch.no_grad():
        same(clew.explain(model, ids, **asked).scores, plain.scores)
    assert state(model) == before


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_shorter_floats(dtype, error):
    model, ids = build_text("llama"), texts()[2]
    asked = {"method": "flash_trace", "target": clew.Span(8, 11), "reasoning": (4, 7)}
    exact = clew.explain(model, ids, **asked).scores
    found = clew.explain(model.to(dtype), ids, **asked).scores
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) <= error * float(exact.max())


def test_without_a_reasoning_it_is_ifr():
    model, ids = build_text("llama"), texts()[0]
    asked = {"target": clew.Span(4, 6)}
    found = clew.explain(model, ids, method="flash_trace", **asked)
    same(found.scores, clew.explain(model, ids, method="ifr", **asked).scores)
    assert not found.checks["reasoning_share"].any()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reasoning": (2, 3, 4)}, TargetError, "start, stop"),
        ({"reasoning": (-1, 4)}, TargetError, "start, stop"),
        ({"reasoning": clew.Span("words")}, TargetError, "looked up"),
        ({"hops": -1}, OptionError, "hops"),
        ({"threshold": -0.5}, OptionError, "threshold"),
        ({"variant": "other"}, OptionError, "flash_trace"),
        ({"variant": "flash_trace", "target": 5}, OptionError, "Span"),
    ],
)
def test_what_is_refused(options, error, words):
    with pytest.raises(error, match=words) as told:
        clew.explain(build_text("llama"), texts()[0], **{"method": "flash_trace", "target": clew.Span(4, 6)} | options)
    assert isinstance(told.value, ClewError)


def test_a_reasoning_is_of_a_text():
    with pytest.raises(OptionError, match="no text"):
        clew.explain(tiny.build("timm_token"), tiny.images((32, 32)), method="flash_trace", reasoning=(1, 2))
