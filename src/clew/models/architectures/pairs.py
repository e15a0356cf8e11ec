"""Image–text models: CLIP and its kin of Hugging Face, and those of open_clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..pair import Pair, register_pair, unsupported
from . import Architecture, Readout, find_architecture, find_path

# Hugging Face

_VIT: dict[str, Any] = {
    "blocks": "encoder.layers",
    "attention": "self_attn",
    "output_projection": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "patches": "embeddings.patch_embedding",
}
_CAUSAL: dict[str, Any] = {
    "modality": "text",
    "blocks": "encoder.layers",
    "attention": "self_attn",
    "output_projection": "self_attn.out_proj",
    "patches": "embeddings.token_embedding",
    "embeddings": "embeddings",
    "position_embeddings": "embeddings.position_embedding",
}
_BERT: dict[str, Any] = {
    "modality": "text",
    "blocks": "encoder.layer",
    "attention": "attention.self",
    "output_projection": "attention.output.dense",
    "patches": "embeddings.word_embeddings",
    "embeddings": "embeddings",
    "position_embeddings": "embeddings.position_embeddings",
}


def _cls(model: Any) -> Readout:
    return Readout.cls()


def _end(model: Any) -> Readout:
    # Configurations before transformers 4.31 say 2 whatever the number is, which is then the largest.
    number = model.config.eos_token_id
    return Readout.end_token(None if number == 2 else number)


def _of(output: Any) -> Tensor:
    """Features, which transformers 5 wraps in an output and transformers 4 does not."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _hf_image(model: Any, pixel_values: Tensor, **more: Any) -> Tensor:
    return _of(model.get_image_features(pixel_values=pixel_values, **more))


def _hf_text(model: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return _of(model.get_text_features(input_ids=input_ids, attention_mask=attention_mask))


def _hf_text_unmasked(model: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return _of(model.get_text_features(input_ids=input_ids))


def _hf(
    name: str, classes: tuple[str, ...], image: dict[str, Any], text: dict[str, Any], prefix: int = 1, **more: Any
) -> None:
    def towers(side: str, input_name: str, places: dict[str, Any]) -> Callable[[Any], Architecture]:
        declared = Architecture(name=f"{name} ({side})", classes=(), input_name=input_name, **places)
        return lambda model: declared.within("vision_model" if side == "image" else "text_model")

    places: dict[str, Any] = {"prefix": lambda model: prefix, **image}
    calls: dict[str, Any] = {"encode_image": _hf_image, "encode_text": _hf_text}
    register_pair(
        Pair(
            name=name,
            classes=tuple(f"transformers.models.{cls}" for cls in classes),
            image=towers("image", "pixel_values", places),
            text=towers("text", "input_ids", text),
            **(calls | more),
        )
    )


_hf(
    "hf_clip",
    ("clip.modeling_clip.CLIPModel", "clipseg.modeling_clipseg.CLIPSegModel"),
    {**_VIT, "readout": _cls},
    {**_CAUSAL, "readout": _end},
)
_hf(
    "hf_metaclip_2",
    ("metaclip_2.modeling_metaclip_2.MetaClip2Model",),
    {**_VIT, "readout": _cls},
    {**_CAUSAL, "readout": lambda model: Readout.end_token(model.config.eos_token_id)},
)
_hf(
    "hf_chinese_clip",
    ("chinese_clip.modeling_chinese_clip.ChineseCLIPModel",),
    {**_VIT, "readout": _cls},
    {**_BERT, "readout": _cls},
)


def _probe(model: Any) -> Readout:
    return Readout.pool()


def _has_pool(model: Any) -> None:
    if getattr(model, "head", None) is None:
        raise unsupported(model, "image", "vision_use_head=False: it has no pooled features")


_SIGLIP: Any = {
    "context": lambda model: model.config.text_config.max_position_embeddings,
    "reads_padding": lambda model: True,
    "encode_text": _hf_text_unmasked,
    "prefix": 0,
}
_POOLED: dict[str, Any] = {**_VIT, "attention_pool": "head", "readout": _probe, "check": _has_pool}
_LAST: dict[str, Any] = {**_CAUSAL, "readout": lambda model: Readout.last_token()}

_hf("hf_siglip", ("siglip.modeling_siglip.SiglipModel",), _POOLED, _LAST, **_SIGLIP)


def _naflex(model: Any, pixel_values: Tensor) -> Tensor:
    """SigLIP 2 of any aspect ratio takes patches laid out in a row, and how many there are down and across."""
    size: int = model.config.vision_config.patch_size
    batch, channels, height, width = pixel_values.shape
    rows, columns = _naflex_grid(model.vision_model, (height, width))
    patches = pixel_values.reshape(batch, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1).flatten(3)
    shapes = torch.tensor([[rows, columns]], device=pixel_values.device).expand(batch, -1)
    return _of(
        model.get_image_features(pixel_values=patches.flatten(1, 2), pixel_attention_mask=None, spatial_shapes=shapes)
    )


def _naflex_grid(vision: Any, size: tuple[int, int]) -> tuple[int, int]:
    patch: int = vision.config.patch_size
    if size[0] % patch or size[1] % patch:
        raise InputError(
            "the image is not made of whole patches",
            expected=f"height and width that {patch} divides",
            got=f"{size[0]} × {size[1]}",
            todo="resize it",
        )
    return size[0] // patch, size[1] // patch


_hf(
    "hf_siglip2",
    ("siglip2.modeling_siglip2.Siglip2Model",),
    {**_POOLED, "grid": _naflex_grid},
    _LAST,
    **_SIGLIP | {"encode_image": _naflex},
)


# open_clip

_RESBLOCKS: dict[str, Any] = {
    "blocks": "transformer.resblocks",
    "attention": "attn",
    "output_projection": "attn.out_proj",
    "layer_scale": "ls_1.gamma",
    "attention_norm": "ln_1",
}


def _open_image(model: Any) -> Architecture:
    visual = model.visual
    kind = type(visual)
    if kind.__name__ == "TimmModel":  # EVA-CLIP, SigLIP, …: a model of timm with a head of its own
        if any("pool" in name for name, _ in visual.head.named_children()):
            raise unsupported(model, "image", "it pools by a convolution's attention")
        return find_architecture(visual.trunk).within("visual.trunk")
    if not kind.__module__.startswith("open_clip") or find_path(visual, "transformer.resblocks") is None:
        raise unsupported(model, "image", f"{kind.__name__}, which is no vision transformer")
    if getattr(visual, "attn_pool_type", "") == "cascade":
        raise unsupported(model, "image", "two attention pools, one after the other")
    declared = Architecture(
        name="open_clip (image)",
        classes=(),
        patches="conv1",
        prefix=lambda model: 1,
        attention_pool=("attn_pool_contrastive", "attn_pool"),
        readout=_open_readout,
        **_RESBLOCKS,
    )
    return declared.within("visual")


def _open_readout(visual: Any) -> Readout:
    if getattr(visual, "attn_pool_contrastive", None) is not None:
        return Readout.pool()
    if visual.attn_pool is not None:
        count = visual.attn_pool.query.shape[0]
        return Readout.pool({"tok": (0,), "avg": tuple(range(1, count))}.get(visual.pool_type, ()))
    if visual.pool_type == "avg":
        return Readout.mean()
    return Readout.cls()


def _open_text(model: Any) -> Architecture:
    inside = hasattr(model, "text")
    text = model.text if inside else model
    if find_path(text, "transformer.resblocks") is None or getattr(text, "cls_emb", None) is not None:
        raise unsupported(model, "text", "a text tower with a token of its own, or not of open_clip")
    declared = Architecture(
        name="open_clip (text)",
        classes=(),
        modality="text",
        input_name="input_ids",
        patches="token_embedding",
        position_embeddings="positional_embedding",
        readout=_open_text_readout,
        **_RESBLOCKS,
    )
    return declared.within("text") if inside else declared


def _open_text_readout(text: Any) -> Readout:
    pool = getattr(text, "pool_type", None) or text.text_pool_type
    number = getattr(text, "eos_id", getattr(text, "text_eos_id", None))
    kinds = {"first": Readout.cls(), "last": Readout.last_token(), "argmax": Readout.end_token()}
    return kinds[pool] if pool in kinds else Readout.end_token(number)


def _open_reads_padding(model: Any) -> bool:
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", "")
    return pool == "last" or (getattr(text, "attn_mask", None) is None and not getattr(text, "use_pad_mask", False))


def _encode_image(model: Any, pixel_values: Tensor) -> Tensor:
    found: Tensor = model.encode_image(pixel_values, normalize=False)
    return found.flatten(1) if found.ndim == 3 else found  # a pool of one query keeps its axis


def _encode_text(model: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return model.encode_text(input_ids, normalize=False)


register_pair(
    Pair(
        name="open_clip",
        classes=("open_clip.model.CLIP", "open_clip.model.CustomTextCLIP", "open_clip.coca_model.CoCa"),
        image=_open_image,
        text=_open_text,
        encode_image=_encode_image,
        encode_text=_encode_text,
        context=lambda model: model.context_length,
        reads_padding=_open_reads_padding,
    )
)
