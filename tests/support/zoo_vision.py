"""Hierarchical vision, detection, segmentation, video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from support.zoo_common import TOWER, Made, T, in_zoo, likeliest, loud, made, noise, of_query, tokens
from torch import Tensor

ONE = ("sdpa",)
STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32]}
Score = Callable[[Any], Tensor]


def _seen(model: str, config: Any, kernel: str, side: int = 32, score: Score = likeliest) -> Made:
    return made(model, config, kernel), {"pixel_values": noise(2, 3, side, side)}, score


def _timm(name: str, side: int, kernel: str = "sdpa", **options: Any) -> Made:
    model = timm.create_model(name, pretrained=False, num_classes=5, **options)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = kernel == "sdpa"
    return loud(model), noise(2, 3, side, side), likeliest


WINDOWS: dict[str, Any] = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}


@in_zoo("x")
def timm_swin(kernel: str) -> Made:
    return _timm("swin_tiny_patch4_window7_224", 32, kernel, **WINDOWS)


@in_zoo("x", kernels=ONE)
def timm_swinv2(kernel: str) -> Made:
    return _timm("swinv2_tiny_window8_256", 32, **WINDOWS)


@in_zoo("x", kernels=ONE)
def timm_maxvit(kernel: str) -> Made:
    return _timm("maxvit_rmlp_pico_rw_256", 64, img_size=64, embed_dim=(32, 32, 32, 32), depths=(1, 1, 1, 1))


@in_zoo("x")
def timm_hiera(kernel: str) -> Made:
    return _timm("hiera_tiny_224", 64, kernel, img_size=(64, 64), embed_dim=16, stages=(1, 1, 1, 1))


@in_zoo("x")
def timm_pvt_v2(kernel: str) -> Made:
    sizes = {"depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32), "num_heads": (1, 2, 4, 4)}
    return _timm("pvt_v2_b0", 64, kernel, **sizes)


@in_zoo("pixel_values", kernels=ONE)
def swin(kernel: str) -> Made:
    config = T.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return _seen("SwinForImageClassification", config, "eager")


@in_zoo("pixel_values", kernels=ONE)
def swinv2(kernel: str) -> Made:
    config = T.Swinv2Config(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return _seen("Swinv2ForImageClassification", config, "eager")


@in_zoo("pixel_values", kernels=ONE)
def pvt_v2(kernel: str) -> Made:
    config = T.PvtV2Config(image_size=64, **STAGES, num_attention_heads=[1, 2, 4, 4])
    return _seen("PvtV2ForImageClassification", config, "eager", 64)


@in_zoo("pixel_values", kernels=ONE)
def segformer(kernel: str) -> Made:
    """The mean of a class over the picture."""
    config = T.SegformerConfig(**STAGES, num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=32, num_labels=5)

    def score(output):
        return output.logits[:, 2].flatten(1).mean(1)

    return _seen("SegformerForSemanticSegmentation", config, "eager", 64, score)


@in_zoo("pixel_values", kernels=ONE)
def hiera(kernel: str) -> Made:
    config = T.HieraConfig(image_size=[64, 64], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
    return _seen("HieraForImageClassification", config, "eager", 64)


@in_zoo("pixel_values")
def dinov3(kernel: str) -> Made:
    config = T.DINOv3ViTConfig(**TOWER, num_register_tokens=2)
    return _seen("DINOv3ViTModel", config, kernel, score=lambda output: output.pooler_output[:, 3])


# Detection and segmentation

DETR: dict[str, Any] = {
    "d_model": 32,
    **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4))},
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 5,
    "num_labels": 3,
}
NO_WEIGHTS: dict[str, Any] = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}


def _resnet(kind: str, *stages: str, sizes: tuple[int, ...] = (8, 8, 16, 16)) -> Any:
    return getattr(T, f"{kind}Config")(
        embedding_size=8,
        hidden_sizes=list(sizes),
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=list(stages),
    )


@in_zoo("pixel_values")
def detr(kernel: str) -> Made:
    config = T.DetrConfig(backbone_config=_resnet("ResNet", "stage4"), **NO_WEIGHTS, **DETR)
    return _seen("DetrForObjectDetection", config, kernel, 64, of_query)


@in_zoo("pixel_values", kernels=ONE)
def conditional_detr(kernel: str) -> Made:
    config = T.ConditionalDetrConfig(backbone_config=_resnet("ResNet", "stage4"), **NO_WEIGHTS, **DETR)
    return _seen("ConditionalDetrForObjectDetection", config, "eager", 64, of_query)


@in_zoo("pixel_values", kernels=ONE, alone=False)
def deformable_detr(kernel: str) -> Made:
    """Its last level is a single pixel, of which no norm of one example can be made."""
    backbone = _resnet("ResNet", "stage2", "stage3", "stage4")
    config = T.DeformableDetrConfig(backbone_config=backbone, num_feature_levels=4, **NO_WEIGHTS, **DETR)
    return _seen("DeformableDetrForObjectDetection", config, "eager", 64, of_query)


@in_zoo("pixel_values", kernels=ONE, alone=False)
def rt_detr(kernel: str) -> Made:
    """Of one example torch 2.14 gets the gradient of its batch norms wrong (of strides as products give them)."""
    config = T.RTDetrConfig(
        backbone_config=_resnet("RTDetrResNet", "stage2", "stage3", "stage4", sizes=(8, 16, 16, 32)),
        **NO_WEIGHTS,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 32],
        decoder_in_channels=[32, 32, 32],
        num_denoising=0,
        **{k: v for k, v in DETR.items() if k not in ("encoder_layers",)},
    )
    return _seen("RTDetrForObjectDetection", config, "eager", 64, of_query)


@in_zoo("pixel_values")
def yolos(kernel: str) -> Made:
    config = T.YolosConfig(**{**TOWER, "image_size": [32, 32]}, num_detection_tokens=5, num_labels=3)
    return _seen("YolosForObjectDetection", config, kernel, score=of_query)


@in_zoo("pixel_values", kernels=ONE)
def mask2former(kernel: str) -> Made:
    names = [f"stage{i}" for i in range(1, 5)]
    tower = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "window_size": 2, "out_features": names}
    config = T.Mask2FormerConfig(
        backbone_config=T.SwinConfig(**tower, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4]),
        **NO_WEIGHTS,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=48,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        num_queries=5,
        num_labels=3,
    )

    def score(output):
        return output.class_queries_logits[:, 2, 1]

    return _seen("Mask2FormerForUniversalSegmentation", config, "eager", 64, score)


@in_zoo("pixel_values", "input_points", kernels=ONE)
def sam(kernel: str) -> Made:
    """The mean of a mask, of a picture and a point that was clicked at."""
    tower = {**TOWER, "image_size": 64, "output_channels": 16, "global_attn_indexes": [1], "window_size": 4}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = T.SamConfig(
        vision_config={**tower, "mlp_dim": 48, "num_pos_feats": 8},
        prompt_encoder_config=prompt,
        mask_decoder_config={**decoder, "attention_downsample_rate": 2, "iou_head_hidden_dim": 16},
    )
    points = torch.tensor([[[[10.0, 20.0]]], [[[30.0, 40.0]]]], dtype=torch.float64)
    model, given, _ = _seen("SamModel", config, "sdpa", 64)
    return model, {**given, "input_points": points}, lambda output: output.pred_masks[:, 0, 0].flatten(1).mean(1)


@in_zoo("pixel_values")
def vitpose(kernel: str) -> Made:
    tower = {**TOWER, "image_size": [32, 32], "patch_size": [8, 8], "out_indices": [2]}
    backbone = T.VitPoseBackboneConfig(**tower)
    more = {k: v for k, v in NO_WEIGHTS.items() if k != "use_timm_backbone"}
    config = T.VitPoseConfig(backbone_config=backbone, use_simple_decoder=True, num_labels=4, **more)

    def score(output):
        return output.heatmaps[:, 1].flatten(1).amax(1)

    return _seen("VitPoseForPoseEstimation", config, kernel, score=score)


@in_zoo("input_ids", "pixel_values", newer=True)
def owlvit(kernel: str) -> Made:
    """How much a place of a picture is what a text says."""
    sizes = {k: v for k, v in TOWER.items() if k not in ("image_size", "patch_size")}
    words = {"vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 63}
    config = T.OwlViTConfig(text_config={**sizes, **words}, vision_config=dict(TOWER), projection_dim=32)
    ids = tokens(6)
    ids[:, -1] = 63
    model, given, _ = _seen("OwlViTForObjectDetection", config, kernel)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}
    return model, given, lambda output: output.logits[:, 3, 0]


# Video

SHORT: dict[str, Any] = {**TOWER, "image_size": 16, "num_labels": 5}


@in_zoo("pixel_values")
def videomae(kernel: str) -> Made:
    config = T.VideoMAEConfig(**SHORT, num_frames=4, tubelet_size=2)
    return made("VideoMAEForVideoClassification", config, kernel), {"pixel_values": noise(2, 4, 3, 16, 16)}, likeliest


@in_zoo("pixel_values", kernels=ONE)
def timesformer(kernel: str) -> Made:
    config = T.TimesformerConfig(**SHORT, num_frames=3)
    given = {"pixel_values": noise(2, 3, 3, 16, 16)}
    return made("TimesformerForVideoClassification", config, "eager"), given, likeliest


@in_zoo("pixel_values")
def vivit(kernel: str) -> Made:
    sizes = {k: v for k, v in SHORT.items() if k != "patch_size"}
    config = T.VivitConfig(**sizes, num_frames=4, tubelet_size=[2, 8, 8])
    return made("VivitForVideoClassification", config, kernel), {"pixel_values": noise(2, 4, 3, 16, 16)}, likeliest
