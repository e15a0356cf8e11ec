"""Models of timm, with checkpoints as training codes write them and DINO's linear heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import LoadError, close_matches, optional_import
from ..files import kind
from ..inputs import Preprocess
from ..models import (
    DinoLinear,
    LoadedModel,
    StoredSize,
    Weights,
    announce,
    check_configuration,
    download_error,
    dry_build,
    fit_names,
    limit_size,
    load_weights,
    read_weights,
)


@dataclass(frozen=True)
class LinearHead:
    """A linear head to put on a backbone."""

    path: str | Path
    interleaved: bool


def load_timm(
    name: str,
    config: dict[str, Any] | None,
    checkpoint: str | Path | None,
    linear: LinearHead | None,
    model_args: dict[str, Any],
) -> LoadedModel:
    """A model of timm by its name; `config` is that of a folder in timm's format."""
    timm = optional_import("timm", extra="timm", purpose="load timm models")
    data = optional_import("timm.data", extra="timm", purpose="load timm models")
    if not timm.is_model(name):
        todo = close_matches(name, timm.list_models())
        raise LoadError(f"timm has no model {name!r}", expected="one of timm.list_models()", got=name, todo=todo)
    weights = read_weights(checkpoint) if checkpoint is not None else None
    args = dict(model_args)
    if config is not None:
        args = {"num_classes": config.get("num_classes"), "global_pool": config.get("global_pool")} | args
        args = {k: v for k, v in ((config.get("model_args") or {}) | args).items() if v is not None}
    if linear is not None:
        args["num_classes"] = 0
    asked = args.get("num_classes") == 0  # for an embedding, see `heads`
    if weights is not None:
        args = _implied_by(weights) | args
    if args.get("num_classes") == 0 and not asked:
        raise LoadError(
            f"{checkpoint} has no classification head, so there is no class to explain",
            expected="head.weight beside the blocks, or linear= with the weights of a linear head",
            got=", ".join(list(weights or {})[-4:]),
            todo="add the head to the checkpoint under the names of the model; or num_classes=0, for the embedding",
        )
    if weights is None:
        _announce_timm(timm, name)
    try:
        if weights is None or config is None:
            model: nn.Module = timm.create_model(name, pretrained=weights is None, **args)
        else:  # what a folder asks for may be anything
            most = StoredSize.of(weights)
            dry_build(lambda: timm.create_model(name, pretrained=False, **args), most, name)
            with limit_size(most, name):
                model = timm.create_model(name, pretrained=False, **args)
    except LoadError:
        raise
    except TypeError as error:
        raise LoadError(f"timm cannot build {name} so", expected="arguments of timm.create_model", got=error) from error
    except Exception as error:
        raise download_error(name, error) from error
    if weights is not None:
        load_weights(model, weights, str(checkpoint))
    if linear is not None:
        model = _with_linear(model, linear)
    pretrained: Any = (
        (config.get("pretrained_cfg") or {}) if config is not None else getattr(model, "pretrained_cfg", {})
    )
    preprocess = timm_preprocess(model.backbone if isinstance(model, DinoLinear) else model, pretrained)
    names = list(map(str, (config or {}).get("label_names") or ())) or _timm_labels(data, model)
    classes = model.linear.out_features if isinstance(model, DinoLinear) else getattr(model, "num_classes", None)
    return LoadedModel(model, preprocess, names if names and len(names) == classes else None, name)


def timm_configuration(config: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """The configuration of a folder in timm's format. Raises `LoadError` where its parts are of other kinds."""
    kinds: dict[str, tuple[type, ...]] = {
        "architecture": (str,), "model_args": (dict,), "pretrained_cfg": (dict,), "num_classes": (int,),
        "global_pool": (str,), "label_names": (list, tuple),
    }  # fmt: skip
    for key, known in kinds.items():
        value = config.get(key)
        if not isinstance(value, known) and (value is not None or key == "architecture"):
            raise LoadError(
                f"{key} in {where} is of another kind", expected=kind(known[0]()), got=kind(value), todo="correct it"
            )
    check_configuration(config, where)
    return config


def timm_preprocess(model: Any, pretrained: Any) -> Preprocess:
    """How pictures are prepared for a timm model, by its configuration and the size that its patches are cut from."""
    data = optional_import("timm.data", extra="timm", purpose="load timm models")
    try:
        settings = data.resolve_data_config(pretrained_cfg=pretrained, model=model)
        channels, *size = settings["input_size"]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        expected = "timm's configuration of pictures (pretrained_cfg)"
        raise LoadError("pictures cannot be prepared for this model", expected=expected, got=error) from error
    patches: Any = getattr(model, "patch_embed", None)
    size = getattr(patches, "img_size", None) or size
    # What a checkpoint was trained with stays in its configuration when `in_chans` is changed.
    first = getattr(patches, "backbone", getattr(patches, "proj", None))
    inside = first.modules() if isinstance(first, nn.Module) else ()
    found = next((m.in_channels for m in inside if isinstance(m, nn.Conv2d)), None)
    settings["input_size"] = (found or channels, *size)
    return Preprocess.from_timm(settings)


def _implied_by(weights: Weights) -> dict[str, Any]:
    """What a checkpoint's own tensors say about the model: classes, and pooling before the final norm."""
    implied: dict[str, Any] = {}
    names = {key.rpartition("blocks.0.")[0] for key in weights if "blocks.0." in key}
    prefix = min(names, key=len) if names else ""
    head = weights.get(prefix + "head.weight")
    implied["num_classes"] = 0 if head is None else head.shape[0]
    if prefix + "fc_norm.weight" in weights and prefix + "norm.weight" not in weights:
        implied |= {"global_pool": "avg", "fc_norm": True}
    return implied


def _with_linear(backbone: nn.Module, head: LinearHead) -> DinoLinear:
    path = head.path
    weights = fit_names(read_weights(path), {"linear.weight", "linear.bias"})
    shape = tuple(weights["linear.weight"].shape) if "linear.weight" in weights else None
    width: Any = backbone.embed_dim
    if shape is None or shape[1] != 2 * width:
        raise LoadError(
            f"{path} is no linear head on CLS and mean patches of this backbone",
            expected=f"linear.weight (classes, {2 * width})",
            got=shape or ", ".join(weights),
            todo="heads on CLS tokens of several blocks (n_last_blocks=4) are not supported",
        )
    model = DinoLinear(backbone, shape[0], interleaved=head.interleaved)
    model.linear.load_state_dict({k.removeprefix("linear."): v for k, v in weights.items()})
    return model


def _timm_labels(data: Any, model: Any) -> list[str] | None:
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if names:
        return list(names)
    try:
        subset = data.infer_imagenet_subset(model)
        info = data.ImageNetInfo(subset) if subset else None
        return [info.index_to_description(i) for i in range(info.num_classes())] if info else None
    except (AssertionError, KeyError, AttributeError):
        return None


def _announce_timm(timm: Any, name: str) -> None:
    config: Any = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    if repository:
        announce(repository if "/" in repository and repository != "timm/" else f"timm/{name}", "model.safetensors")
