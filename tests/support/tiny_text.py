"""One tiny random model of text for every architecture, head and configuration that is promised to work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from support.tiny_pairs import EAGER, NO_TEXT, PAIRS, READS_PADDING, build_tower
from torch import Tensor, nn

VOCABULARY = 60
BOTH = ("sdpa", "eager")
LENGTHS = (9, 6, 12)
LABELS = 4


@dataclass(frozen=True)
class TinyText:
    """How to build a model: the prefix of its classes, its head, sizes of its configuration; or a tower by name."""

    prefix: str
    head: str = "ForSequenceClassification"
    options: dict[str, Any] = field(default_factory=dict)
    kernels: tuple[str, ...] = BOTH
    config: str = ""

    @property
    def missing(self) -> bool:
        """Whether this release of transformers does not have it."""
        return not hasattr(transformers, self.prefix + self.head)


def build_text(name: str, kernel: str = "sdpa") -> nn.Module:
    """A model with weights large enough for attention to be far from uniform, in float64 and evaluation mode."""
    tiny = TINY_TEXT[name]
    if tiny.head == "tower":
        return build_tower(tiny.prefix, "text", kernel)
    if tiny.missing:
        pytest.skip(f"this transformers has no {tiny.prefix}{tiny.head}")
    torch.manual_seed(1)
    config = getattr(transformers, tiny.config or tiny.prefix + "Config")(**tiny.options)
    config._attn_implementation = kernel
    cls = getattr(transformers, tiny.prefix + tiny.head)
    if kernel == "sdpa" and not getattr(cls, "_supports_sdpa", True):
        pytest.skip(f"this transformers has no fused attention for {tiny.prefix}")
    model = cls(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.15 if parameter.ndim > 1 else 0.1
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def texts(seed: int = 0) -> list[Tensor]:
    """Token numbers of texts of different lengths; none is a special token."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, VOCABULARY, (n,), generator=generator) for n in LENGTHS]


def padded(rows: list[Tensor], sides: str = "rlb") -> dict[str, Tensor]:
    """Texts in one batch, each padded on the right, the left or both sides."""
    longest = max(map(len, rows)) + 2
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        rest = longest - len(row)
        first = {"r": 0, "l": rest, "b": rest // 2}[sides[i % len(sides)]]
        ids[i, first : first + len(row)] = row
        mask[i, first : first + len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _encoder(
    prefix: str, head: str = "ForSequenceClassification", kernels: tuple[str, ...] = BOTH, **more: Any
) -> TinyText:
    options: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 40, "max_position_embeddings": 40, "num_labels": LABELS, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return TinyText(prefix, head, options | more, kernels)


def _decoder(prefix: str, head: str = "ForCausalLM", kernels: tuple[str, ...] = BOTH, **more: Any) -> TinyText:
    sizes = {"num_key_value_heads": 2, "num_attention_heads": 4, "hidden_size": 32}
    return _encoder(prefix, head, kernels, **(sizes | more))


def _rope(kind: str, **more: Any) -> TinyText:
    return _decoder("Llama", rope_scaling={"rope_type": kind, **more}, head_dim=8)


COMMON = {"vocab_size": VOCABULARY, "num_labels": LABELS, "pad_token_id": 0}
BLOOM = {**COMMON, "hidden_size": 24, "n_layer": 3, "n_head": 3}
MPT = {**COMMON, "d_model": 24, "n_layers": 3, "n_heads": 3, "max_seq_len": 40}
GPT2 = {**COMMON, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 40, "bos_token_id": 1, "eos_token_id": 2}
DISTILBERT = {**COMMON, "dim": 24, "n_layers": 3, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 40}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
MODERN = {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 6, "global_attn_every_n_layers": 2}
MIXTURE = {"num_experts_per_tok": 2}
QWEN_MIXTURE = {"num_experts": 4, "moe_intermediate_size": 20, "head_dim": 8, "norm_topk_prob": True}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6}
TWO = {"num_labels": 2}  # an answer has a first and a last token
TOKENS, ANSWERS = "ForTokenClassification", "ForQuestionAnswering"

TINY_TEXT: dict[str, TinyText] = {
    "bert": _encoder("Bert"),
    "bert_tokens": _encoder("Bert", TOKENS),
    "bert_answers": _encoder("Bert", ANSWERS, **TWO),
    "roberta": _encoder("Roberta", pad_token_id=1, bos_token_id=0),
    "electra": _encoder("Electra", embedding_size=16),
    "electra_answers": _encoder("Electra", ANSWERS, embedding_size=16, **TWO),
    "distilbert": TinyText("DistilBert", options=DISTILBERT),
    "distilbert_answers": TinyText("DistilBert", ANSWERS, DISTILBERT | TWO),
    "deberta_v2": _encoder("DebertaV2", kernels=("eager",), **DEBERTA),
    "deberta_v2_shared": _encoder(
        "DebertaV2", kernels=("eager",), **DEBERTA, share_att_key=True, position_buckets=4, norm_rel_ebd="layer_norm"
    ),
    "modernbert": _encoder("ModernBert", **MODERN),
    "modernbert_mean": _encoder("ModernBert", **MODERN, classifier_pooling="mean"),
    "modernbert_tokens": _encoder("ModernBert", TOKENS, **MODERN),
    "gpt2": TinyText("GPT2", "LMHeadModel", GPT2),
    "gpt2_classes": TinyText("GPT2", options=GPT2),
    "gpt2_tokens": TinyText("GPT2", TOKENS, GPT2),
    "bloom": TinyText("Bloom", "ForCausalLM", BLOOM, kernels=("eager",)),
    "bloom_classes": TinyText("Bloom", options=BLOOM, kernels=("eager",)),
    "mpt": TinyText("Mpt", "ForCausalLM", MPT, kernels=("eager",)),
    "mpt_classes": TinyText("Mpt", options=MPT, kernels=("eager",)),
    "llama": _decoder("Llama"),
    "llama_classes": _decoder("Llama", "ForSequenceClassification"),
    "llama_tokens": _decoder("Llama", TOKENS),
    "llama_answers": _decoder("Llama", ANSWERS, **TWO),
    "llama_bias": _decoder("Llama", attention_bias=True, mlp_bias=True),
    "llama_rope_linear": _rope("linear", factor=2.0),
    "llama_rope_dynamic": _rope("dynamic", factor=2.0),
    "llama_rope_yarn": _rope("yarn", factor=2.0, original_max_position_embeddings=20),
    "llama_rope_longrope": _rope(
        "longrope", factor=2.0, original_max_position_embeddings=20, short_factor=[1.0] * 4, long_factor=[2.0] * 4
    ),
    "llama_rope_llama3": _rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=20
    ),
    "mistral": _decoder("Mistral", sliding_window=5),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3", head_dim=8),
    "gemma": _decoder("Gemma", head_dim=8),
    "gemma2": _decoder("Gemma2", kernels=("eager",), **GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=8.0),
    "gemma3": TinyText("Gemma3", "ForCausalLM", _decoder("Gemma3", **GEMMA).options, config="Gemma3TextConfig"),
    "phi3": _decoder("Phi3"),
    "olmo2": _decoder("Olmo2"),
    "mixtral": _decoder("Mixtral", **MIXTURE, num_local_experts=4),
    "mixtral_classes": _decoder("Mixtral", "ForSequenceClassification", **MIXTURE, num_local_experts=4),
    "qwen3_moe": _decoder("Qwen3Moe", **MIXTURE, **QWEN_MIXTURE, decoder_sparse_step=2),
    # Those that read their padding have tests of their own, as padding is not nothing to them.
    **{
        f"pair_{pair}": TinyText(pair, "tower", kernels=BOTH if pair in EAGER else ("sdpa",))
        for pair in PAIRS
        if pair not in (*NO_TEXT, *READS_PADDING)
    },
}  # fmt: skip
TEXT_CASES = [(name, kernel) for name, tiny in TINY_TEXT.items() for kernel in tiny.kernels]
