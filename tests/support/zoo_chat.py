"""Chat models that see pictures."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from support.zoo_common import LLAMA, PICTURE, TOWER, Made, T, in_zoo, made, next_token, noise, rotary, tokens
from torch import Tensor

GRIDS = [[32, 32], [32, 64], [64, 32]]


def _asked(ids: Tensor, pixels: Tensor, **more: Any) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, **more}


@in_zoo("input_ids", "pixel_values")
def llava(kernel: str) -> Made:
    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(**TOWER, projection_dim=32),
        text_config=T.LlamaConfig(**LLAMA),
        image_token_index=PICTURE,
    )
    ids = tokens(20, pictures=slice(2, 18))
    model = made("LlavaForConditionalGeneration", config, kernel)
    return model, _asked(ids, noise(2, 3, 32, 32)), next_token


# A picture of 32 x 64 is three tiles: the whole, and two whose rows end with a line feed.
_TILES = 16 + 4 * 8 + 4


@in_zoo("input_ids", "pixel_values")
def llava_next(kernel: str) -> Made:
    config = T.LlavaNextConfig(
        vision_config=T.CLIPVisionConfig(**TOWER, projection_dim=32),
        text_config=T.LlamaConfig(**LLAMA),
        image_token_index=PICTURE,
        image_grid_pinpoints=GRIDS,
    )
    ids = tokens(_TILES + 6, pictures=slice(2, 2 + _TILES))
    sizes = torch.tensor([[32, 64], [32, 64]])
    model = made("LlavaNextForConditionalGeneration", config, kernel)
    return model, _asked(ids, noise(2, 3, 3, 32, 32), image_sizes=sizes), next_token


@in_zoo("input_ids", "pixel_values")
def llava_onevision(kernel: str) -> Made:
    config = T.LlavaOnevisionConfig(
        vision_config=T.SiglipVisionConfig(**TOWER),
        text_config=T.Qwen2Config(**LLAMA),
        image_token_index=PICTURE,
        video_token_index=59,
        image_grid_pinpoints=GRIDS,
    )
    ids = tokens(_TILES + 6, pictures=slice(2, 2 + _TILES))
    sizes = torch.tensor([[32, 64], [32, 64]])
    model = made("LlavaOnevisionForConditionalGeneration", config, kernel)
    return model, _asked(ids, noise(2, 3, 3, 32, 32), image_sizes=sizes), next_token


_QWEN_TOWER: dict[str, Any] = {
    "depth": 2,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}


def _qwen(name: str, tower: dict[str, Any], kernel: str, **text: Any) -> Made:
    """Pictures of 8 x 8 patches, which come in one row of all examples; four patches are a token."""
    config = getattr(T, f"{name}Config")(
        text_config={**LLAMA, **text},
        vision_config={**_QWEN_TOWER, **tower},
        image_token_id=PICTURE,
        video_token_id=59,
        vision_start_token_id=58,
        vision_end_token_id=57,
    )
    ids = tokens(22, pictures=slice(2, 18))
    ids[:, 1], ids[:, 18] = 58, 57
    model = made(f"{name}ForConditionalGeneration", config, kernel)
    given = _asked(ids, noise(128, 96), image_grid_thw=torch.tensor([[1, 8, 8]] * 2))
    return model, {**given, "mm_token_type_ids": (ids == PICTURE).long()} if _knows_types(model) else given, next_token


def _knows_types(model: Any) -> bool:
    return "mm_token_type_ids" in inspect.signature(model.forward).parameters


@in_zoo("input_ids", "pixel_values", alone=False)
def qwen2_vl(kernel: str) -> Made:
    tower = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen("Qwen2VL", tower, kernel, **rotary(mrope_section=[1, 1, 2]))


@in_zoo("input_ids", "pixel_values", alone=False)
def qwen2_5_vl(kernel: str) -> Made:
    tower = {
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 48,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return _qwen("Qwen2_5_VL", tower, kernel, **rotary(mrope_section=[1, 1, 2]))


_QWEN3_TOWER = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_position_embeddings": 64}


@in_zoo("input_ids", "pixel_values", alone=False)
def qwen3_vl(kernel: str) -> Made:
    more = rotary(mrope_section=[2, 1, 1], mrope_interleaved=True)
    return _qwen("Qwen3VL", {**_QWEN3_TOWER, "deepstack_visual_indexes": [0, 1]}, kernel, head_dim=8, **more)


@in_zoo("input_ids", "pixel_values", alone=False)
def qwen3_5(kernel: str) -> Made:
    """Gated delta rule in one layer, attention in the other."""
    linear = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "head_dim": 8,
    }
    more = rotary(mrope_section=[1, 1, 0], mrope_interleaved=True, partial_rotary_factor=0.5)
    return _qwen("Qwen3_5", _QWEN3_TOWER, kernel, **linear, **more)


def _tiles_of_idefics(name: str, kernel: str) -> Made:
    config = getattr(T, f"{name}Config")(
        vision_config=dict(TOWER),
        text_config=T.LlamaConfig(**LLAMA),
        image_token_id=PICTURE,
        scale_factor=2,
        pad_token_id=0,
    )
    ids = tokens(14, pictures=slice(2, 10))  # two tiles of four tokens
    model = made(f"{name}ForConditionalGeneration", config, kernel)
    seen = torch.ones(2, 2, 32, 32, dtype=torch.bool)
    return model, _asked(ids, noise(2, 2, 3, 32, 32), pixel_attention_mask=seen), next_token


@in_zoo("input_ids", "pixel_values")
def idefics3(kernel: str) -> Made:
    return _tiles_of_idefics("Idefics3", kernel)


@in_zoo("input_ids", "pixel_values")
def smolvlm(kernel: str) -> Made:
    return _tiles_of_idefics("SmolVLM", kernel)


def paligemma_config() -> Any:
    return T.PaliGemmaConfig(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "projection_dim": 32, "vision_use_head": False},
        text_config={**LLAMA, "model_type": "gemma", "head_dim": 8},
        image_token_index=PICTURE,
        projection_dim=32,
        hidden_size=32,
    )


@in_zoo("input_ids", "pixel_values")
def paligemma(kernel: str) -> Made:
    ids = tokens(20, pictures=slice(0, 16))
    model = made("PaliGemmaForConditionalGeneration", paligemma_config(), kernel)
    return model, _asked(ids, noise(2, 3, 32, 32), token_type_ids=torch.zeros_like(ids)), next_token


@in_zoo("input_ids", "pixel_values")
def internvl(kernel: str) -> Made:
    config = T.InternVLConfig(
        vision_config={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=T.Qwen2Config(**LLAMA),
        image_token_id=PICTURE,
        downsample_ratio=0.5,
    )
    ids = tokens(10, pictures=slice(2, 6))
    model = made("InternVLForConditionalGeneration", config, kernel)
    return model, _asked(ids, noise(2, 3, 32, 32)), next_token


@in_zoo("input_ids", "pixel_values")
def gemma3(kernel: str) -> Made:
    """Its embedding scales what it looks up; one layer sees a window."""
    config = T.Gemma3Config(
        text_config={
            **LLAMA,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 8,
        },
        vision_config={**TOWER, "vision_use_head": False},
        image_token_index=PICTURE,
        boi_token_index=58,
        eoi_token_index=57,
        mm_tokens_per_image=4,
    )
    ids = tokens(12, pictures=slice(2, 6))
    ids[:, 1], ids[:, 6] = 58, 57
    model = made("Gemma3ForConditionalGeneration", config, kernel)
    return model, _asked(ids, noise(2, 3, 32, 32), token_type_ids=(ids == PICTURE).long()), next_token


@in_zoo("input_ids", "pixel_values")
def mllama(kernel: str) -> Made:
    """Pictures enter by cross-attention."""
    config = T.MllamaConfig(
        vision_config={
            **{k: v for k, v in TOWER.items() if k != "num_attention_heads"},
            "attention_heads": 4,
            "num_global_layers": 1,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
        },
        text_config={**LLAMA, "num_hidden_layers": 3, "cross_attention_layers": [1], **rotary()},
        image_token_index=PICTURE,
    )
    model = made("MllamaForConditionalGeneration", config, kernel)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "gate" in name and p.numel() == 1:  # closed in a new model
                p.fill_(0.8)
    ids = tokens(9, pictures=slice(1, 2))
    given = _asked(
        ids,
        noise(2, 1, 2, 3, 32, 32),
        aspect_ratio_mask=torch.ones(2, 1, 2, dtype=torch.long),
        aspect_ratio_ids=torch.full((2, 1), 2),
        cross_attention_mask=torch.ones(2, 9, 1, 2, dtype=torch.long),
    )
    return model, given, next_token


@in_zoo("input_ids", "pixel_values")
def blip2(kernel: str) -> Made:
    """Learned queries ask the picture."""
    queries = {**TOWER, "vocab_size": 64, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    words = {"vocab_size": 64, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = T.Blip2Config(
        vision_config=dict(TOWER),
        qformer_config=queries,
        text_config=T.OPTConfig(**words, max_position_embeddings=64, word_embed_proj_dim=32).to_dict(),
        num_query_tokens=6,
        image_token_index=PICTURE,
    )
    ids = tokens(10, pictures=slice(0, 6))
    return made("Blip2ForConditionalGeneration", config, kernel), _asked(ids, noise(2, 3, 32, 32)), next_token


@in_zoo("input_ids", "pixel_values", "decoder_input_ids")
def florence2(kernel: str) -> Made:
    """A tower of windows and groups of channels before an encoder and a decoder of text."""
    tower = {
        "embed_dim": [16, 16, 32, 32],
        "depths": [1, 1, 1, 1],
        "num_heads": [2, 2, 4, 4],
        "num_groups": [2, 2, 4, 4],
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "window_size": 4,
        "projection_dim": 32,
        "max_position_embeddings": 16,
    }
    words = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _LAYERS.items()}
    config = T.Florence2Config(
        vision_config=tower,
        text_config={"vocab_size": 64, "d_model": 32, "max_position_embeddings": 64, **words},
        image_token_id=PICTURE,
    )
    given = _asked(tokens(10, pictures=slice(0, 5)), noise(2, 3, 64, 64), decoder_input_ids=tokens(4, seed=1))
    return made("Florence2ForConditionalGeneration", config, kernel), given, next_token


_LAYERS = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


@in_zoo("input_ids", "visual_feats", "visual_pos", kernels=("eager",))
def lxmert(kernel: str) -> Made:
    """Words and regions of a picture, each by itself, then in turns across."""
    layers = {"l_layers": 2, "r_layers": 1, "x_layers": 2, "visual_feat_dim": 16, "num_qa_labels": 5}
    small = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    model = made("LxmertForQuestionAnswering", T.LxmertConfig(**small, **layers), kernel)
    given = {"input_ids": tokens(6), "visual_feats": noise(2, 4, 16), "visual_pos": noise(2, 4, 4, seed=1).abs()}
    return model, given, lambda output: output.question_answering_score.amax(-1)
