"""One tiny random model for every architecture and configuration that is promised to work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from support.tiny_pairs import EAGER, NO_PREFIX, PAIRS, build_tower
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import clew


@dataclass(frozen=True)
class Tiny:
    """How to build a tiny model, the image size it takes, its number of prefix tokens and the size of its patches."""

    build: Callable[..., nn.Module]
    size: tuple[int, int] = (32, 32)
    prefix: int = 1
    eager: bool = True
    patch: int = 8


def images(size: tuple[int, int], batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name: str, attention: str = "sdpa") -> nn.Module:
    """A model with weights large enough for attention to be far from uniform, in float64 and evaluation mode."""
    torch.manual_seed(1)
    model = TINY[name].build(attention=attention)
    if name.startswith("pair_"):  # whose weights are large already
        return model
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.25 if parameter.ndim > 1 else 0.1
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


class Mae(VisionTransformer):
    """A ViT that pools by a bool: the mean of the patches, normalised after it, or the first token."""

    def __init__(self, *, pools: bool, **options: Any) -> None:
        super().__init__(**options)
        self.global_pool = pools
        if pools:
            self.norm, self.fc_norm = nn.Identity(), nn.LayerNorm(self.embed_dim)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(self.fc_norm(x[:, 1:].mean(1)) if self.global_pool else x[:, 0])


def _timm(cls: type[nn.Module] = VisionTransformer, **options: Any) -> Callable[..., nn.Module]:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    if cls is VisionTransformer:
        sizes["num_classes"] = 5

    def make(attention: str = "sdpa") -> nn.Module:
        model = cls(**{"num_classes": 5, **sizes, **options})
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = attention == "sdpa"
        return model

    return make


def _distilled(attention: str = "sdpa") -> nn.Module:
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=5
    )
    for block in model.blocks:
        block.attn.fused_attn = attention == "sdpa"
    return model


def _dino(attention: str = "sdpa") -> nn.Module:
    return clew.DinoLinear(_timm(num_classes=0)(attention), 5)


def _hf(model: type[nn.Module], config: type[Any], **options: Any) -> Callable[..., nn.Module]:
    sizes: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 48,
        "num_labels": 5,
    }

    def make(attention: str = "sdpa") -> nn.Module:
        settings = config(**{**sizes, **options})
        settings._attn_implementation = attention
        return model(settings)

    return make


def _torchvision(attention: str = "sdpa") -> nn.Module:
    return TorchvisionViT(
        image_size=32, patch_size=8, num_layers=4, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=5
    )


TINY: dict[str, Tiny] = {
    "timm_token": Tiny(_timm()),
    "timm_average": Tiny(_timm(global_pool="avg")),
    "timm_average_with_norm": Tiny(_timm(global_pool="avg", fc_norm=False)),
    "timm_without_cls": Tiny(_timm(class_token=False, global_pool="avg"), prefix=0),
    "timm_registers": Tiny(_timm(reg_tokens=4, no_embed_class=True), prefix=5),
    "timm_registers_average": Tiny(_timm(reg_tokens=2, global_pool="avg"), prefix=3),
    "timm_pool_with_prefix": Tiny(_timm(global_pool="avg", pool_include_prefix=True)),
    "timm_layer_scale": Tiny(_timm(init_values=0.5)),
    "timm_qk_norm": Tiny(_timm(qk_norm=True)),
    "timm_not_square": Tiny(_timm(img_size=(24, 40)), size=(24, 40)),
    "timm_attention_pool": Tiny(_timm(class_token=False, global_pool="map"), prefix=0),
    "timm_attention_pool_cls": Tiny(_timm(global_pool="map", reg_tokens=1), prefix=2),
    "timm_dynamic_size": Tiny(_timm(dynamic_img_size=True), size=(40, 24)),
    "timm_distilled": Tiny(_distilled, prefix=2),
    "timm_eva_rotary": Tiny(_timm(Eva, use_rot_pos_emb=True, use_abs_pos_emb=True, global_pool="token")),
    "timm_eva_average": Tiny(
        _timm(Eva, use_rot_pos_emb=True, swiglu_mlp=True, init_values=0.5, global_pool="avg", num_reg_tokens=2),
        prefix=3,
    ),
    "timm_eva_attention_pool": Tiny(_timm(Eva, use_rot_pos_emb=True, global_pool="map", num_reg_tokens=1), prefix=2),
    "mae_average": Tiny(_timm(Mae, pools=True)),
    "mae_token": Tiny(_timm(Mae, pools=False)),
    "timm_embedding": Tiny(_timm(num_classes=0)),
    "dino_linear": Tiny(_dino),
    "hf_vit": Tiny(_hf(ViTForImageClassification, ViTConfig)),
    "hf_vit_not_square": Tiny(_hf(ViTForImageClassification, ViTConfig, image_size=(24, 40)), size=(24, 40)),
    "hf_deit": Tiny(_hf(DeiTForImageClassification, DeiTConfig), prefix=2),
    "hf_deit_with_teacher": Tiny(_hf(DeiTForImageClassificationWithTeacher, DeiTConfig), prefix=2),
    "hf_dinov2": Tiny(_hf(Dinov2ForImageClassification, Dinov2Config)),
    "hf_dinov2_other_size": Tiny(_hf(Dinov2ForImageClassification, Dinov2Config), size=(40, 24)),
    "hf_dinov2_with_registers": Tiny(
        _hf(Dinov2WithRegistersForImageClassification, Dinov2WithRegistersConfig, num_register_tokens=4), prefix=5
    ),
    "hf_beit": Tiny(
        _hf(BeitForImageClassification, BeitConfig, use_relative_position_bias=True, layer_scale_init_value=0.5),
    ),
    "hf_beit_cls": Tiny(
        _hf(BeitForImageClassification, BeitConfig, use_mean_pooling=False, use_absolute_position_embeddings=True),
    ),
    "torchvision_vit": Tiny(_torchvision, eager=False),
    **{
        f"pair_{name}": Tiny(
            partial(build_tower, name, "image"),
            prefix=0 if name in NO_PREFIX else 1,
            eager=name in EAGER,
            patch=16 if name == "clip_end_token" else 8,
        )
        for name in PAIRS
    },
}
