"""Image classifiers: Hugging Face, timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import UnknownArchitecture
from . import Architecture, Readout, register


def _timm_readout(model: Any) -> Readout:
    pool, prefix = model.global_pool, getattr(model, "pool_include_prefix", None)
    if getattr(model, "attn_pool", None) is not None:  # `Eva` does not ask, and pools all tokens
        return Readout.pool(with_prefix=prefix is not False)
    if isinstance(pool, bool):  # MAE's and BEiT's own code: the mean of the patches, or CLS
        return Readout.mean() if pool else Readout.cls()
    if pool == "token":
        return Readout.cls()
    if pool == "avg":
        return Readout.mean(with_prefix=bool(prefix))
    raise UnknownArchitecture(
        f"global_pool={pool!r} has no fixed rows that its head reads",
        expected="global_pool 'token', 'avg' or 'map', or a bool: the mean of the patches or the first token",
        got=repr(pool),
        todo="pass architecture=dataclasses.replace(clew.architectures()['timm_vit'], readout=lambda model: …), "
        "or of 'timm_eva'",
    )


def _timm_check(model: Any) -> None:
    block = model.blocks[0]
    if getattr(block, "attn", None) is None or hasattr(block.attn, "lambda_q1"):
        raise UnknownArchitecture(
            f"the blocks of this model compute attention in a way of their own: {type(block).__name__}",
            expected="blocks with one softmax attention module, block.attn",
            got=type(block).__name__,
            todo="parallel and differential attention blocks are not supported; explain a model with plain blocks",
        )


def _timm(name: str, cls: str, readout: Callable[[Any], Readout] = _timm_readout, **more: Any) -> None:
    places: dict[str, Any] = {
        "blocks": "blocks",
        "attention": "attn",
        "output_projection": "attn.proj",
        "patches": "patch_embed.proj",
        "layer_scale": "ls1.gamma",
        "prefix": lambda model: model.num_prefix_tokens,
    }
    register(Architecture(name=name, classes=(cls,), readout=readout, **(places | more)))


def _hf(
    name: str, cls: str, stem: str, readout: Callable[[Any], Readout], prefix: Callable[[Any], int], **more: Any
) -> None:
    # transformers moved blocks and attention between 4.56 and 5.x
    register(
        Architecture(
            name=name,
            classes=(f"transformers.models.{cls}",),
            blocks=(f"{stem}.encoder.layer", f"{stem}.layers"),
            attention=("attention.attention", "attention"),
            output_projection=("attention.output.dense", "attention.o_proj"),
            patches=f"{stem}.embeddings.patch_embeddings.projection",
            prefix=prefix,
            readout=readout,
            input_name="pixel_values",
            **more,
        )
    )


def _cls(model: Any) -> Readout:
    return Readout.cls()


def _cls_and_mean(model: Any) -> Readout:
    return Readout.cls_and_mean()


def _cls_and_distillation(model: Any) -> Readout:
    return Readout((0, 1), (0.5, 0.5))


def _beit(model: Any) -> Readout:
    return Readout.mean() if model.config.use_mean_pooling else Readout.cls()


def _tokens(count: int) -> Callable[[Any], int]:
    return lambda model: count


_timm("timm_vit", "timm.models.vision_transformer.VisionTransformer", attention_pool="attn_pool", check=_timm_check)
_timm("timm_vit_distilled", "timm.models.deit.VisionTransformerDistilled", _cls_and_distillation)
_timm("timm_eva", "timm.models.eva.Eva", layer_scale="gamma_1", attention_pool="attn_pool", check=_timm_check)
_timm(
    "dino_linear",
    "clew.models.loaded_model.DinoLinear",
    _cls_and_mean,
    blocks="backbone.blocks",
    patches="backbone.patch_embed.proj",
    prefix=lambda model: model.backbone.num_prefix_tokens,
)

_hf("hf_vit", "vit.modeling_vit.ViTForImageClassification", "vit", _cls, _tokens(1))
_hf("hf_deit", "deit.modeling_deit.DeiTForImageClassification", "deit", _cls, _tokens(2))
_hf(
    "hf_deit_with_teacher",
    "deit.modeling_deit.DeiTForImageClassificationWithTeacher",
    "deit",
    _cls_and_distillation,
    _tokens(2),
)
_hf(
    "hf_dinov2",
    "dinov2.modeling_dinov2.Dinov2ForImageClassification",
    "dinov2",
    _cls_and_mean,
    _tokens(1),
    layer_scale="layer_scale1.lambda1",
)
_hf(
    "hf_dinov2_with_registers",
    "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersForImageClassification",
    "dinov2_with_registers",
    _cls_and_mean,
    lambda model: 1 + model.config.num_register_tokens,
    layer_scale="layer_scale1.lambda1",
)
_hf(
    "hf_beit",
    "beit.modeling_beit.BeitForImageClassification",
    "beit",
    _beit,
    _tokens(1),
    layer_scale="lambda_1",
)

register(
    Architecture(
        name="torchvision_vit",
        classes=("torchvision.models.vision_transformer.VisionTransformer",),
        blocks="encoder.layers",
        attention="self_attention",
        output_projection="self_attention.out_proj",
        patches="conv_proj",
        prefix=_tokens(1),
        readout=_cls,
    )
)
