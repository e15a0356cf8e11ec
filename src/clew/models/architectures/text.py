"""Models of text from Hugging Face: encoders with a classifier, language models, and heads over tokens."""

from __future__ import annotations

from typing import Any

from ...errors import UnknownArchitecture
from . import Architecture, Readout, Task, register

TASKS: dict[str, Task] = {
    "SequenceClassification": "classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "CausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
}


def _task(model: Any) -> Task:
    names = [cls.__name__ for cls in type(model).__mro__]
    return next(task for name in names for ending, task in TASKS.items() if name.endswith(ending))


def _reads_cls(model: Any) -> Readout:
    if _task(model) != "classification":
        return Readout.tokens()
    mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
    return Readout.mean() if mean else Readout.cls()


def _reads_last(model: Any) -> Readout:
    if _task(model) != "classification":
        return Readout.tokens()
    return Readout.last_token(model.config.get_text_config().pad_token_id)


def _text(name: str, module: str, prefix: str, heads: tuple[str, ...], **places: Any) -> None:
    classes = tuple(f"transformers.models.{module}.modeling_{module}.{prefix}{head}" for head in heads)
    register(
        Architecture(name=name, classes=classes, input_name="input_ids", modality="text", task=_task, **places),
    )


ENCODER = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
DECODER = ("ForCausalLM", *ENCODER)


def _bert_like(name: str, module: str, prefix: str, stem: str, **more: Any) -> None:
    places: dict[str, Any] = {
        "blocks": f"{stem}.encoder.layer",
        "attention": "attention.self",
        "output_projection": "attention.output.dense",
        "patches": f"{stem}.embeddings.word_embeddings",
        "embeddings": f"{stem}.embeddings",
        "position_embeddings": f"{stem}.embeddings.position_embeddings",
        "readout": _reads_cls,
    }
    _text(name, module, prefix, ENCODER, **(places | more))


def _llama_like(name: str, prefix: str, heads: tuple[str, ...] = DECODER, **more: Any) -> None:
    places: dict[str, Any] = {
        "blocks": ("model.layers", "transformer.layers"),  # some releases call the trunk of question answerers so
        "attention": "self_attn",
        "output_projection": "self_attn.o_proj",
        "patches": ("model.embed_tokens", "transformer.embed_tokens"),
        "readout": _reads_last,
    }
    _text(f"hf_{name}", name, prefix, heads, **(places | more))


def _no_convolution(model: Any) -> None:
    if getattr(model.config, "conv_kernel_size", 0):
        raise UnknownArchitecture(
            "this DeBERTa has a convolution beside its first block",
            expected="config.conv_kernel_size == 0",
            got=model.config.conv_kernel_size,
            todo="relevance and attention around that convolution are not defined; choose a model without it",
        )


_bert_like("hf_bert", "bert", "Bert", "bert")
_bert_like("hf_roberta", "roberta", "Roberta", "roberta")
_bert_like("hf_xlm_roberta", "xlm_roberta", "XLMRoberta", "roberta")
_bert_like("hf_camembert", "camembert", "Camembert", "roberta")
_bert_like("hf_electra", "electra", "Electra", "electra")
_bert_like("hf_deberta_v2", "deberta_v2", "DebertaV2", "deberta", check=_no_convolution)
_text(
    "hf_distilbert",
    "distilbert",
    "DistilBert",
    ENCODER,
    blocks="distilbert.transformer.layer",
    attention="attention",
    output_projection="attention.out_lin",
    patches="distilbert.embeddings.word_embeddings",
    embeddings="distilbert.embeddings",
    position_embeddings="distilbert.embeddings.position_embeddings",
    readout=_reads_cls,
)
_text(
    "hf_modernbert",
    "modernbert",
    "ModernBert",
    ENCODER,
    blocks="model.layers",
    attention="attn",
    output_projection="attn.Wo",
    patches="model.embeddings.tok_embeddings",
    embeddings="model.embeddings",
    readout=_reads_cls,
)

_text(
    "hf_gpt2",
    "gpt2",
    "GPT2",
    ("LMHeadModel", *ENCODER),
    blocks="transformer.h",
    attention="attn",
    output_projection="attn.c_proj",
    patches="transformer.wte",
    embeddings="transformer.drop",
    position_embeddings="transformer.wpe",
    readout=_reads_last,
)
_text(
    "hf_bloom",
    "bloom",
    "Bloom",
    DECODER,
    blocks="transformer.h",
    attention="self_attention",
    output_projection="self_attention.dense",
    patches="transformer.word_embeddings",
    embeddings="transformer.word_embeddings_layernorm",
    readout=_reads_last,
)
_text(
    "hf_mpt",
    "mpt",
    "Mpt",
    DECODER,
    blocks="transformer.blocks",
    attention="attn",
    output_projection="attn.out_proj",
    patches="transformer.wte",
    readout=_reads_last,
)

ROUTER: dict[str, Any] = {"router": ("mlp.gate", "block_sparse_moe.gate")}
NORM_BEHIND: dict[str, Any] = {"attention_output_norm": "post_attention_layernorm"}  # elsewhere it is that of the MLP

_llama_like("llama", "Llama")
_llama_like("mistral", "Mistral")
_llama_like("mixtral", "Mixtral", **ROUTER)
_llama_like("qwen2", "Qwen2")
_llama_like("qwen3", "Qwen3")
_llama_like("qwen3_moe", "Qwen3Moe", **ROUTER)
_llama_like("gemma", "Gemma")
_llama_like("gemma2", "Gemma2", **NORM_BEHIND)
_llama_like("gemma3", "Gemma3", ("ForCausalLM", "TextForSequenceClassification"), **NORM_BEHIND)
_llama_like("phi3", "Phi3")
_llama_like("olmo2", "Olmo2", **NORM_BEHIND)
