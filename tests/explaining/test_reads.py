"""A GPU is waited for at each number that is read of a tensor: so they are read together (pictures 16 at a time)."""

from __future__ import annotations

import pytest
import torch
from support.reads import reads_of
from support.tiny import TINY, build, images
from support.tiny_text import build_text

import clew

METHODS = {"raw_attention": {}, "generic_attribution": {}, "beyond_intuition_head": {"n_steps": 2}, "attn_lrp": {}}
REVIEWS = [r.text for r in clew.reviews(12)]


def ids(count, length):
    return torch.randint(5, 60, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_of_a_long_text_as_often_as_of_a_short_one(name, method):
    model, options = build_text(name), {"method": method, "target": 1, **METHODS[method]}
    short, long = (reads_of(lambda x: clew.explain(model, x, **options), ids(1, n)) for n in (8, 40))
    assert short == long and short.total() > 10


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_of_long_and_short_strings(name):
    model, words = clew.load(f"mini:reviews-{name}"), " ".join(REVIEWS[:2]).split()
    short, long = (reads_of(lambda x: clew.explain(model, x, method="attn_lrp"), " ".join(words[:n])) for n in (4, 24))
    assert short == long


@pytest.mark.parametrize("method", METHODS)
def test_of_many_pictures_as_often_as_of_two(method):
    model, size, options = build("timm_token"), TINY["timm_token"].size, {"method": method, **METHODS[method]}
    two, many = (reads_of(lambda x: clew.explain(model, x, **options), images(size, n)) for n in (2, 12))
    assert two == many


def test_of_many_texts_as_often_as_of_two():
    model = build_text("bert")
    two, many = (reads_of(lambda x: clew.explain(model, x, method="attn_lrp"), ids(n, 8)) for n in (2, 12))
    assert two == many


@pytest.mark.parametrize("method", ["attn_lrp", "attention_rollout"])
def test_of_models_that_nobody_declared(method):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model, written = T5ForConditionalGeneration(T5Config(**sizes)).eval(), ids(1, 4)

    def explained(x):
        return clew.explain(model, {"input_ids": x, "decoder_input_ids": written}, method=method, target=1)

    short, long = (reads_of(explained, ids(1, n)) for n in (8, 40))
    assert short == long


def test_of_a_long_prompt_as_often_as_of_a_short_one(writer):
    def explained(prompt):
        return clew.explain_generation(writer, prompt, answer=" a cat", method="attn_lrp")

    short, long = (reads_of(explained, prompt) for prompt in ("once upon", "once upon a time there was a cat"))
    assert short == long
