"""Image classifiers: Hugging Face, timm and torchvision."""

from __future__ import annotations

from typing import Any

from ..shapes import UnknownArchitecture
from . import Architecture, Readout, register

# transformers moved these between 4.56 and 5.x.
_HF_ATTENTION = ("attention.attention", "attention")
_HF_OUTPUT = ("attention.output.dense", "attention.o_proj")


def _timm_readout(model: Any) -> Readout:
    pool = model.global_pool
    if pool == "token":
        return Readout.cls()
    if pool in ("avg", "map"):
        return Readout.mean(with_prefix=getattr(model, "pool_include_prefix", False))
    raise UnknownArchitecture(
        f"global_pool={pool!r} has no fixed rows that its head reads",
        expected="global_pool 'token', 'avg' or 'map'",
        got=repr(pool),
        todo="pass architecture=dataclasses.replace(clew.architectures()['timm_vit'], readout=lambda model: …)",
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


register(
    Architecture(
        name="timm_vit",
        classes=("timm.models.vision_transformer.VisionTransformer",),
        blocks="blocks",
        attention="attn",
        output_projection="attn.proj",
        patches="patch_embed.proj",
        prefix=lambda model: model.num_prefix_tokens,
        readout=_timm_readout,
        layer_scale="ls1.gamma",
        attention_pool="attn_pool",
        check=_timm_check,
    )
)

register(
    Architecture(
        name="timm_vit_distilled",
        classes=("timm.models.deit.VisionTransformerDistilled",),
        blocks="blocks",
        attention="attn",
        output_projection="attn.proj",
        patches="patch_embed.proj",
        prefix=lambda model: model.num_prefix_tokens,
        readout=lambda model: Readout((0, 1), (0.5, 0.5)),
        layer_scale="ls1.gamma",
    )
)

register(
    Architecture(
        name="timm_eva",
        classes=("timm.models.eva.Eva",),
        blocks="blocks",
        attention="attn",
        output_projection="attn.proj",
        patches="patch_embed.proj",
        prefix=lambda model: model.num_prefix_tokens,
        readout=_timm_readout,
        layer_scale="gamma_1",
        attention_pool="attn_pool",
        check=_timm_check,
    )
)

register(
    Architecture(
        name="hf_vit",
        classes=("transformers.models.vit.modeling_vit.ViTForImageClassification",),
        blocks=("vit.encoder.layer", "vit.layers"),
        attention=_HF_ATTENTION,
        output_projection=_HF_OUTPUT,
        patches="vit.embeddings.patch_embeddings.projection",
        prefix=lambda model: 1,
        readout=lambda model: Readout.cls(),
        input_name="pixel_values",
    )
)

register(
    Architecture(
        name="hf_deit",
        classes=("transformers.models.deit.modeling_deit.DeiTForImageClassification",),
        blocks=("deit.encoder.layer", "deit.layers"),
        attention=_HF_ATTENTION,
        output_projection=_HF_OUTPUT,
        patches="deit.embeddings.patch_embeddings.projection",
        prefix=lambda model: 2,
        readout=lambda model: Readout.cls(),
        input_name="pixel_values",
    )
)

register(
    Architecture(
        name="hf_deit_with_teacher",
        classes=("transformers.models.deit.modeling_deit.DeiTForImageClassificationWithTeacher",),
        blocks=("deit.encoder.layer", "deit.layers"),
        attention=_HF_ATTENTION,
        output_projection=_HF_OUTPUT,
        patches="deit.embeddings.patch_embeddings.projection",
        prefix=lambda model: 2,
        readout=lambda model: Readout((0, 1), (0.5, 0.5)),
        input_name="pixel_values",
    )
)

register(
    Architecture(
        name="hf_dinov2",
        classes=("transformers.models.dinov2.modeling_dinov2.Dinov2ForImageClassification",),
        blocks=("dinov2.encoder.layer", "dinov2.layers"),
        attention=_HF_ATTENTION,
        output_projection=_HF_OUTPUT,
        patches="dinov2.embeddings.patch_embeddings.projection",
        prefix=lambda model: 1,
        readout=lambda model: Readout.cls_and_mean(),
        layer_scale="layer_scale1.lambda1",
        input_name="pixel_values",
    )
)

register(
    Architecture(
        name="hf_dinov2_with_registers",
        classes=(
            "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"
            ".Dinov2WithRegistersForImageClassification",
        ),
        blocks=("dinov2_with_registers.encoder.layer", "dinov2_with_registers.layers"),
        attention=_HF_ATTENTION,
        output_projection=_HF_OUTPUT,
        patches="dinov2_with_registers.embeddings.patch_embeddings.projection",
        prefix=lambda model: 1 + model.config.num_register_tokens,
        readout=lambda model: Readout.cls_and_mean(),
        layer_scale="layer_scale1.lambda1",
        input_name="pixel_values",
    )
)

register(
    Architecture(
        name="hf_beit",
        classes=("transformers.models.beit.modeling_beit.BeitForImageClassification",),
        blocks=("beit.encoder.layer", "beit.layers"),
        attention=_HF_ATTENTION,
        output_projection=_HF_OUTPUT,
        patches="beit.embeddings.patch_embeddings.projection",
        prefix=lambda model: 1,
        readout=lambda model: Readout.mean() if model.config.use_mean_pooling else Readout.cls(),
        layer_scale="lambda_1",
        input_name="pixel_values",
    )
)

register(
    Architecture(
        name="torchvision_vit",
        classes=("torchvision.models.vision_transformer.VisionTransformer",),
        blocks="encoder.layers",
        attention="self_attention",
        output_projection="self_attention.out_proj",
        patches="conv_proj",
        prefix=lambda model: 1,
        readout=lambda model: Readout.cls(),
    )
)

register(
    Architecture(
        name="dino_linear",
        classes=("clew.load.DinoLinear",),
        blocks="backbone.blocks",
        attention="attn",
        output_projection="attn.proj",
        patches="backbone.patch_embed.proj",
        prefix=lambda model: model.backbone.num_prefix_tokens,
        readout=lambda model: Readout.cls_and_mean(),
        layer_scale="ls1.gamma",
    )
)
