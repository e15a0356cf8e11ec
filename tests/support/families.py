"""A tiny random model of every family that transformers knows for a task, and the smallest of each file of timm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import transformers
from support.zoo_common import Species, Specimen, loud, noise, tokens
from timm.models import _registry as registry
from torch import Tensor, nn
from transformers.models.auto import modeling_auto as auto

KINDS: dict[str, Mapping[str, Any]] = {
    "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "seq2seq": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio": auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
}
LARGEST = 30_000_000  # parameters
SECONDS = 10


def _each(value: int | None, names: str) -> dict[str, int | None]:
    return dict.fromkeys(names.split(), value)


# What options of configurations are called, and how large they are to be.
SIZES: dict[str, int | None] = {
    **_each(32, "hidden_size d_model n_embd dim embed_dim emb_dim model_dim embedding_size embedding_dim hidden_dim"),
    **_each(32, "input_embedding_size word_embed_proj_dim output_hidden_size encoder_hidden_size conv_dim_out"),
    **_each(32, "rnn_hidden_size lru_width"),
    **_each(2, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers"),
    **_each(2, "num_encoder_layers num_blocks encoder_num_layers num_dense_layers type_vocab_size num_codebooks"),
    **_each(4, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"),
    **_each(4, "num_encoder_attention_heads num_decoder_attention_heads num_labels mamba_d_conv"),
    **_each(4, "linear_num_key_heads linear_num_value_heads"),
    **_each(2, "num_key_value_heads num_kv_heads n_kv_heads multi_query_group_num block_size"),
    **_each(8, "head_dim d_kv d_head qk_nope_head_dim qk_rope_head_dim v_head_dim attention_head_size kv_channels"),
    **_each(8, "mamba_d_head mamba_head_dim linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input"),
    **_each(8, "patch_size mamba_n_heads mamba_d_state state_size attention_chunk_size"),
    **_each(16, "q_lora_rank kv_lora_rank moe_intermediate_size expert_ffn_hidden_size num_mel_bins"),
    **_each(16, "shared_expert_intermediate_size moe_shared_expert_intermediate_size"),
    **_each(48, "intermediate_size ffn_dim n_inner d_ff d_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size"),
    **_each(48, "dense_ffn_hidden_size feed_forward_proj_dim ffn_embed_dim intermediate_size_mlp"),
    **_each(4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    **_each(2, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts"),
    **_each(1, "n_group topk_group first_k_dense_replace n_shared_experts moe_num_shared_experts num_shared_experts"),
    **_each(64, "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length"),
    **_each(64, "max_target_positions vocab_size vocab_size_per_layer_input"),
    **_each(4, "sliding_window attention_window local_attention window_size_text"),
    "image_size": 32,
    "codebook_size": 32,
    "max_source_positions": 20,
    "num_random_blocks": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_STAY_OUT = ("sliding_window", "num_key_value_heads", "q_lora_rank", "head_dim", "n_inner", "embedding_size")

# What a pattern of names cannot know.
_HEADS: dict[str, Any] = {"head_dim": 8, "num_key_value_heads": 2}
_LATENT: dict[str, Any] = {"num_key_value_heads": 4}
LATENT = (
    "axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
    "kimi_linear", "longcat_flash", "minicpm3", "mistral4", "sarvam_mla", "youtu",
)  # fmt: skip
_STAGES: dict[str, Any] = {
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 2],
}
_WINDOWS: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
OPTIONS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(LATENT, _LATENT),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "nemotron"), _HEADS),
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "t5": {"decoder_start_token_id": 0},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "cvt": {"embed_dim": [8, 8, 16], "num_heads": [1, 2, 2], "depth": [1, 1, 1]},
    "poolformer": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "focalnet": {"embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "pvt": _STAGES,
    "pvt_v2": _STAGES,
    "segformer": {**_STAGES, "decoder_hidden_size": 16},
    "hiera": {
        "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": [32, 32], "patch_size": [7, 7],
        "patch_stride": [4, 4], "patch_padding": [3, 3], "masked_unit_size": [2, 2], "query_stride": [2, 2],
        "num_query_pool": 1,
    },
    "mobilevit": {
        "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [4, 8, 8, 16, 16, 16, 32], "patch_size": 2, "image_size": 64,
    },
    "levit": {
        "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [8, 8, 8],
        "image_size": 64, "down_ops": [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]],
    },
}  # fmt: skip


def shrunk(config: Any, options: Mapping[str, Any] | None = None) -> Any:
    """A configuration of the same class, tiny."""
    small: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        counted = isinstance(value, int) and not isinstance(value, bool)
        if SIZES.get(name) is not None and (counted or (value is None and name not in _STAY_OUT)):
            small[name] = SIZES[name]
        elif name == "layer_types" and value:  # one layer of two kinds, where there are two
            other = next((kind for kind in value if kind != value[-1]), value[-1])
            small[name] = [other, value[-1]]
        elif isinstance(value, dict) and hasattr(getattr(config, name, None), "to_dict"):
            small[name] = shrunk(getattr(config, name)).to_dict()
    small |= options or {}
    for _ in range(6):  # options that a class refuses stay as they are
        try:
            return type(config)(**small)
        except Exception as error:
            refused = next((name for name in small if name in str(error)), None)
            if refused is None:
                raise
            del small[refused]
    raise ValueError("no tiny configuration")


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in the main thread, where something takes longer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"takes above {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def family(kind: str, name: str) -> Specimen:
    """A tiny model of a family; skips what cannot be made of a configuration alone, or does not run."""
    try:
        with at_most(SECONDS):
            specimen = _built(kind, name)
            score = specimen.score(specimen.run())
    except (Exception, pytest.skip.Exception) as error:
        pytest.skip(f"no tiny {name}: {type(error).__name__}: {str(error)[:100]}")
    if score.shape != (2,) or not bool(score.isfinite().all()) or not score.requires_grad:
        pytest.skip(f"no tiny {name}: its score is {score.tolist()}")
    return specimen


def _built(kind: str, name: str) -> Specimen:
    given: Any = KINDS[kind][name]
    classes: Sequence[str] = given if isinstance(given, (tuple, list)) else (given,)
    model_class = next(found for c in classes if (found := getattr(transformers, c, None)) is not None)
    torch.manual_seed(1)
    config = shrunk(model_class.config_class(), OPTIONS.get(name))
    both = getattr(config, "is_encoder_decoder", False)
    if kind in ("classify", "image", "audio"):
        config.num_labels = 4
    if kind == "causal" and hasattr(config, "is_decoder") and not both:
        config.is_decoder = True
    model = model_class(config)
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        raise ValueError("its tiny model is not small")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # grouped products know no float64
    inputs, score = _inputs(kind, name, config, model, both=both)
    return _specimen(loud(model), inputs, score, *inputs)


def _logits(output: Any) -> Tensor:
    return output.logits if hasattr(output, "logits") else output[0]


def _of_class(output: Any) -> Tensor:
    return _logits(output)[:, 1]


def _next(output: Any) -> Tensor:
    return _logits(output)[:, -1, 7]


def _inputs(
    kind: str, name: str, config: Any, model: Any, *, both: bool
) -> tuple[dict[str, Tensor], Callable[[Any], Tensor]]:
    if kind == "causal":
        return {"input_ids": tokens(9)}, _next
    if kind == "seq2seq":
        return {"input_ids": tokens(9), "decoder_input_ids": tokens(5, seed=1)}, _next
    if kind == "classify":
        ids = tokens(9)
        if both:
            ids[:, -1] = 2  # where a text ends
        return {"input_ids": ids}, _of_class
    if kind == "image":
        side = getattr(config, "image_size", 32) or 32
        side = side if isinstance(side, int) else side[0]
        return {"pixel_values": noise(2, getattr(config, "num_channels", 3), side, side)}, _of_class
    shapes = {
        "whisper": (2, 16, 40),
        "audio-spectrogram-transformer": (2, getattr(config, "max_length", 64), 16),
        "wav2vec2-bert": (2, 24, getattr(config, "feature_projection_input_dim", 16)),
    }
    known = shapes["wav2vec2-bert"] if model.main_input_name == "input_features" else (2, 1600)
    return {model.main_input_name: noise(*shapes.get(name, known))}, _of_class


# timm

_ORDER = (
    "test", "atto", "femto", "pico", "nano", "xxs", "xxt", "050", "_t0", "s0", "_b0", "xs", "tiny", "micro", "small",
    "_18", "26", "_s", "base",
)  # fmt: skip


def smallest() -> dict[str, str]:
    """Of each file of timm the name of its smallest model, as far as names tell."""
    names: dict[str, list[str]] = {}
    for name in timm.list_models():
        names.setdefault(registry._model_to_module[name], []).append(name)

    def rank(name: str) -> tuple[int, int, str]:
        return next((i for i, word in enumerate(_ORDER) if word in name), len(_ORDER)), len(name), name

    return {module: min(found, key=rank) for module, found in sorted(names.items())}


def timm_family(name: str) -> Specimen:
    """A random model of timm; skips what takes above a few seconds, or gives no classes."""
    try:
        with at_most(SECONDS):
            return _timm_built(name)
    except Exception as error:
        pytest.skip(f"no tiny {name}: {type(error).__name__}: {str(error)[:100]}")


def _timm_built(name: str) -> Specimen:
    config: Any = timm.get_pretrained_cfg(name).to_dict()
    for options in ({"img_size": 64}, {}):
        torch.manual_seed(1)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=4, **options)
            side = 64 if options else _side(config)
            x = noise(2, config["input_size"][0], side, side)
            model = loud(model, spread=0.02)
            with torch.no_grad():
                found: Any = model(x[:1])
        except (TypeError, AssertionError, RuntimeError, ValueError):
            if not options:
                raise
            continue
        if isinstance(found, Tensor) and found.shape == (1, 4):
            return _specimen(model, x, lambda output: output[:, 1], "x")
    raise ValueError("it gives no classes")


def _specimen(model: nn.Module, inputs: Any, score: Callable[[Any], Tensor], *streams: str) -> Specimen:
    return Specimen(model, inputs, score, Species(lambda kernel: (model, inputs, score), streams))


def _side(config: Mapping[str, Any]) -> int:
    if config.get("fixed_input_size"):
        return config["input_size"][1]
    return min(max((config.get("min_input_size") or (3, 64, 64))[1], 64), 256)
