"""Tiny random models with a tokenizer: a classifier and a language model; and a tokenizer that knows no offsets."""

from __future__ import annotations

import torch
from support.tiny_tokenizers import with_bytes
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import clew

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = "it's unbelievable, they don't quoted café"


class Slow:
    """A tokenizer without offsets."""

    is_fast = False
    all_special_ids = (0, 1, 2, 3)
    model_max_length = 64

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, text, pair=None, **options):
        assert not options.pop("return_offsets_mapping", False)
        return self.inner(text, pair, **options)

    def decode(self, ids):
        return self.inner.decode(ids)


def model_for(tokens, positions=64):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=positions, num_labels=2, initializer_range=0.3,
    )  # fmt: skip
    module = BertForSequenceClassification(config).eval()
    return clew.LoadedModel(module, labels=["bad", "good"], name="tiny", tokenizer=tokens)


def writer(cls=LlamaForCausalLM, tokens=None, **more):
    tokens = tokens if tokens is not None else with_bytes()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokens), initializer_range=0.3, max_position_embeddings=256, **SIZES, **more)
    return clew.LoadedModel(cls(config).eval(), name="writer", tokenizer=tokens)
