"""One tiny random image–text model for every family and configuration that is promised to work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clew.models.pair import Tower, find_pair, tower

WIDTH = 16  # of the features
CONTEXT = 20  # open_clip's texts

VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8, "projection_dim": WIDTH,
}  # fmt: skip
TEXT = {
    "hidden_size": 20, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 60,
    "max_position_embeddings": 40, "projection_dim": WIDTH, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SIGLIP_TEXT = {**TEXT, "projection_size": 24, "max_position_embeddings": 14}


def _hf(prefix: str, text: dict[str, Any] | None = None, **vision: Any) -> Callable[[str], nn.Module]:
    def make(attention: str) -> nn.Module:
        if not hasattr(transformers, f"{prefix}Model"):
            pytest.skip(f"this transformers has no {prefix}Model")
        config = getattr(transformers, f"{prefix}Config")(
            text_config={**TEXT, **(text or {})}, vision_config={**VISION, **vision}, projection_dim=WIDTH
        )
        cls = getattr(transformers, f"{prefix}Model")
        if attention == "sdpa" and not getattr(cls, "_supports_sdpa", True):
            pytest.skip(f"this transformers has no fused attention for {prefix}")
        config._attn_implementation = attention
        model = cls(config)
        for part in (model.text_model, model.vision_model):
            part.config._attn_implementation = attention
        return model

    return make


def _open(
    *, text: dict[str, Any] | None = None, custom: bool = False, bias: float | None = None, **vision: Any
) -> Callable[[str], nn.Module]:
    def make(attention: str) -> nn.Module:
        cls = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        sizes = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8, **vision}
        words = {"context_length": CONTEXT, "vocab_size": 60, "width": 20, "heads": 2, "layers": 2, **(text or {})}
        try:
            return cls(WIDTH, sizes, words, init_logit_bias=bias)
        except TypeError as error:
            pytest.skip(f"this open_clip: {error}")

    return make


def _coca(**vision: Any) -> Callable[[str], nn.Module]:
    def make(attention: str) -> nn.Module:
        text = {"context_length": CONTEXT, "vocab_size": 60, "width": WIDTH, "heads": 2, "layers": 2}
        pool = {"attentional_pool": True, "attn_pooler_queries": 6, "attn_pooler_heads": 2, "output_tokens": True}
        return open_clip.CoCa(
            WIDTH,
            {**text, "mlp_ratio": 2},
            {**text, "embed_cls": True, "output_tokens": True},
            {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8, **pool, **vision},
        )

    return make


def _timm_tower(trunk: Callable[[], nn.Module]) -> Callable[[str], nn.Module]:
    def make(attention: str) -> nn.Module:
        model = _open(custom=True, text={"no_causal_mask": True, "pool_type": "last", "proj_bias": True}, bias=-1.0)(
            attention
        )
        visual = TimmModel.__new__(TimmModel)  # as its `__init__` leaves it, which builds only models of full size
        nn.Module.__init__(visual)
        visual.trunk, visual.head, visual.image_size = trunk(), nn.Sequential(), (32, 32)
        model.visual = visual
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = attention == "sdpa"
        return model

    return make


_TIMM: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}

PAIRS: dict[str, Callable[[str], nn.Module]] = {
    "clip": _hf("CLIP"),
    "clip_end_token": _hf("CLIP", {"eos_token_id": 7}, patch_size=16, hidden_act="gelu"),
    "clipseg": _hf("CLIPSeg"),
    "metaclip2": _hf("MetaClip2"),  # whose end is number 2, and not the largest
    "chinese_clip": _hf("ChineseCLIP", {"type_vocab_size": 2}),
    "siglip": _hf("Siglip", SIGLIP_TEXT),
    "siglip2": _hf("Siglip2", SIGLIP_TEXT, num_patches=16),
    "open_clip": _open(),
    "open_clip_quick_gelu_scale": _open(ls_init_value=0.5, pool_type="avg"),
    "open_clip_custom_text": _open(custom=True, text={"pool_type": "eos", "eos_id": 7}),
    "open_clip_qk_norm": _open(custom=True, block_type="custom", qk_norm=True),
    "open_clip_attention_pool": _open(
        attentional_pool="parallel", attn_pooler_queries=4, attn_pooler_heads=2, custom=True, width=WIDTH
    ),
    "coca": _coca(),
    "coca_average": _coca(pool_type="avg"),
    "eva_clip": _timm_tower(lambda: Eva(**_TIMM, use_rot_pos_emb=True, global_pool="token", num_classes=WIDTH)),
    "open_siglip": _timm_tower(
        lambda: VisionTransformer(**_TIMM, class_token=False, global_pool="map", num_classes=WIDTH)
    ),
}
NO_PREFIX = ("siglip", "siglip2", "open_siglip")
EAGER = [name for name in PAIRS if name not in ("open_clip_qk_norm",) and not name.startswith(("open_clip", "coca"))]
NO_TEXT = ("coca", "coca_average")
READS_PADDING = ("siglip", "siglip2", "eva_clip", "open_siglip")


def moved(model: nn.Module) -> nn.Module:
    """Weights large enough for attention to be far from uniform, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():  # parts that open_clip leaves as memory was
                parameter.zero_()
            if "logit" not in name:
                spread = 0.2 if parameter.ndim > 1 else 0.1
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def build_pair(name: str, attention: str = "sdpa") -> nn.Module:
    """The whole model."""
    torch.manual_seed(1)
    return moved(PAIRS[name](attention))


def build_tower(name: str, side: str, attention: str = "sdpa", classes: int = 5) -> Tower:
    """One tower, as a classifier with random features."""
    model = build_pair(name, attention)
    pair = find_pair(model)
    assert pair is not None
    width = 24 if name in ("siglip", "siglip2") else WIDTH
    features = torch.randn(classes, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return tower(model, pair, side, features)
