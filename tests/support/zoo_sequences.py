"""Models of text with an encoder and a decoder, of sound, and embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from support.zoo_chat import paligemma_config
from support.zoo_common import (
    LLAMA,
    PICTURE,
    TEXT,
    TOWER,
    Arrange,
    Made,
    T,
    in_zoo,
    likeliest,
    loud,
    made,
    next_token,
    noise,
    tokens,
)
from torch import Tensor

# Encoders and decoders

SIDES: dict[str, int] = {
    f"{side}_{what}": n
    for side in ("encoder", "decoder")
    for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
}
BART: dict[str, Any] = {"vocab_size": 64, "d_model": 32, "max_position_embeddings": 64, **SIDES}
T5: dict[str, Any] = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def _translated() -> dict[str, Tensor]:
    """Two texts, the second with padding."""
    ids = tokens(9)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": tokens(5, seed=1)}


@in_zoo("input_ids", "decoder_input_ids")
def t5_gated(kernel: str) -> Made:
    config = T.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return made("T5ForConditionalGeneration", config, kernel), _translated(), next_token


@in_zoo("input_ids", "decoder_input_ids")
def t5_tied(kernel: str) -> Made:
    return made("T5ForConditionalGeneration", T.T5Config(**T5), kernel), _translated(), next_token


def _of_bart(config: str, model: str, kernel: str, **more: Any) -> Made:
    return made(model, getattr(T, config)(**BART, **more), kernel), _translated(), next_token


@in_zoo("input_ids", "decoder_input_ids")
def bart(kernel: str) -> Made:
    return _of_bart("BartConfig", "BartForConditionalGeneration", kernel)


@in_zoo("input_ids", "decoder_input_ids")
def mbart(kernel: str) -> Made:
    return _of_bart("MBartConfig", "MBartForConditionalGeneration", kernel)


@in_zoo("input_ids", "decoder_input_ids")
def pegasus(kernel: str) -> Made:
    return _of_bart("PegasusConfig", "PegasusForConditionalGeneration", kernel)


@in_zoo("input_ids", "decoder_input_ids")
def marian(kernel: str) -> Made:
    return _of_bart("MarianConfig", "MarianMTModel", kernel, pad_token_id=0, decoder_start_token_id=0)


@in_zoo("input_ids", "decoder_input_ids")
def m2m100(kernel: str) -> Made:
    return _of_bart("M2M100Config", "M2M100ForConditionalGeneration", kernel)


def _written(encoder: Any, decoder: Any, kernel: str) -> Made:
    """A picture read by a decoder of text."""
    config = T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    config._attn_implementation = kernel
    model = loud(T.VisionEncoderDecoderModel(config=config))
    return model, {"pixel_values": noise(2, 3, 32, 32), "decoder_input_ids": tokens(5, seed=1)}, next_token


DECODER: dict[str, Any] = {"vocab_size": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}


@in_zoo("pixel_values", "decoder_input_ids", kernels=("eager",), newer=True)
def trocr(kernel: str) -> Made:
    decoder = T.TrOCRConfig(**DECODER, d_model=32, max_position_embeddings=64, cross_attention_hidden_size=32)
    return _written(T.ViTConfig(**TOWER), decoder, kernel)


@in_zoo("pixel_values", "decoder_input_ids", kernels=("eager",))
def donut(kernel: str) -> Made:
    swin = T.DonutSwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=4)
    more = {"is_decoder": True, "add_cross_attention": True, "max_position_embeddings": 64}
    return _written(swin, T.MBartConfig(**DECODER, d_model=16, **more), kernel)


# Sound


@in_zoo("input_features", "decoder_input_ids")
def whisper(kernel: str) -> Made:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    sizes = {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 32}
    config = T.WhisperConfig(vocab_size=64, d_model=32, **SIDES, **sizes, **special)
    given = {"input_features": noise(2, 8, 40), "decoder_input_ids": tokens(5, seed=1)}
    return made("WhisperForConditionalGeneration", config, kernel), given, next_token


WAVES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@in_zoo("input_values")
def wav2vec2(kernel: str) -> Made:
    config = T.Wav2Vec2Config(**WAVES, num_labels=4, classifier_proj_size=16)
    return made("Wav2Vec2ForSequenceClassification", config, kernel), {"input_values": noise(2, 600)}, likeliest


@in_zoo("input_values")
def wav2vec2_letters(kernel: str) -> Made:
    config = T.Wav2Vec2Config(**WAVES, feat_extract_norm="layer", do_stable_layer_norm=True)
    model = made("Wav2Vec2ForCTC", config, kernel)
    return model, {"input_values": noise(2, 600)}, lambda output: output.logits[:, 10].amax(-1)


@in_zoo("input_values")
def spectrogram(kernel: str) -> Made:
    sizes = {"patch_size": 8, "frequency_stride": 4, "time_stride": 4, "max_length": 24, "num_mel_bins": 16}
    config = T.ASTConfig(**{k: v for k, v in TOWER.items() if k not in ("image_size", "patch_size")}, **sizes)
    config.num_labels = 4
    return made("ASTForAudioClassification", config, kernel), {"input_values": noise(2, 24, 16)}, likeliest


def _codes(which: int) -> Arrange:
    """Values (text, step) of the codes of one table as those of all, (text and table, step)."""
    return lambda values: torch.stack([values * (which == table) for table in range(2)], 1).flatten(0, 1)


CODES = {f"decoder.model.decoder.embed_tokens.{which}": _codes(which) for which in range(2)}


@in_zoo(
    "input_ids",
    "decoder_input_ids",
    alone=False,
    newer=True,
    kernels=("eager",),
    looked_up={"decoder_input_ids": CODES},
)
def musicgen(kernel: str) -> Made:
    """Sound in two rows of codes for each text, which are looked up in a table each."""
    coder = {"num_filters": 4, "hidden_size": 8, "codebook_size": 32, "codebook_dim": 8, "upsampling_ratios": [4, 2]}
    decoder = {"vocab_size": 32, "num_codebooks": 2, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2}
    special = {"num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 0}
    config = T.MusicgenConfig(
        text_encoder=T.T5Config(**T5).to_dict(),
        audio_encoder=T.EncodecConfig(**coder, num_lstm_layers=1, target_bandwidths=[24.0]).to_dict(),
        decoder=T.MusicgenDecoderConfig(**decoder, **special).to_dict(),
    )
    ids = tokens(7)
    codes = torch.randint(1, 30, (4, 5), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": codes}
    model = made("MusicgenForConditionalGeneration", config, kernel)
    return model, given, lambda output: output.logits.view(2, 2, 5, -1)[:, 0, -1].amax(-1)


@in_zoo("input_ids", "input_features")
def qwen2_audio(kernel: str) -> Made:
    sides = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    config = T.Qwen2AudioConfig(
        audio_config={"num_mel_bins": 8, "d_model": 32, "max_source_positions": 20, **sides},
        text_config={**LLAMA, "model_type": "qwen2"},
        audio_token_index=PICTURE,
    )
    ids = tokens(14, pictures=slice(2, 12))
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": noise(2, 8, 40),
        "feature_attention_mask": torch.ones(2, 40, dtype=torch.long),
    }
    return made("Qwen2AudioForConditionalGeneration", config, kernel), given, next_token


# Embeddings


@in_zoo("input_ids")
def mean_of_bert(kernel: str) -> Made:
    """One number of an embedding of length 1."""
    ids = tokens(8)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = made("BertModel", T.BertConfig(**TEXT), kernel)
    return model, given, lambda output: F.normalize(output.last_hidden_state.mean(1), dim=-1)[:, 3]


@in_zoo("input_ids")
def last_of_qwen3(kernel: str) -> Made:
    ids = tokens(8)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = made("Qwen3Model", T.Qwen3Config(**LLAMA, head_dim=8), kernel)
    return model, given, lambda output: F.normalize(output.last_hidden_state[:, -1], dim=-1)[:, 3]


@in_zoo("input_ids", "pixel_values", kernels=("sdpa",))
def late_interaction(kernel: str) -> Made:
    """ColPali: how well each word of a question finds its like among the tokens of a page."""
    config = T.ColPaliConfig(vlm_config=paligemma_config(), embedding_dim=16)
    ids = tokens(20, pictures=slice(0, 16))
    question = F.normalize(noise(5, 16, seed=7), dim=-1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": noise(2, 3, 32, 32)}
    model = made("ColPaliForRetrieval", config, kernel)
    return model, given, lambda output: (question.to(output.embeddings) @ output.embeddings.mT).amax(-1).sum(-1)
