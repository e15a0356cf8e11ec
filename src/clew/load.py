"""From a name or a folder to a model, its preprocessing and its labels."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import Weights, fit_names, load_weights, read_weights, refused
from .images import Preprocess
from .shapes import LoadError, close_matches, optional_import

logger = logging.getLogger("clew")

MINIS = {"digits": "a small ViT (0.3 M parameters) that reads handwritten digits on cluttered backgrounds"}


@dataclass
class LoadedModel:
    """A model in evaluation mode with what belongs to it. Pass it to `explain` in place of the module."""

    model: nn.Module
    preprocess: Preprocess | None
    labels: Sequence[str] | None
    name: str
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    tokenizer: Any = None

    def to(self, device: str | torch.device) -> LoadedModel:
        """Move the model to a device."""
        self.model.to(device)
        return self


class DinoLinear(nn.Module):
    """A DINO backbone with its linear head on CLS and the mean of the patches (`n_last_blocks=1, avgpool=True`).

    `backbone` is a timm `VisionTransformer`. The official DINO head reads the two features interleaved
    (c₀, m₀, c₁, m₁, …), which is the default; `interleaved=False` concatenates them, as DINOv2's heads do.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, *, interleaved: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.interleaved = interleaved
        width: Any = backbone.embed_dim
        self.linear = nn.Linear(2 * int(width), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, class)."""
        backbone: Any = self.backbone
        tokens: Tensor = backbone.forward_features(x)
        parts = [tokens[:, 0], tokens[:, backbone.num_prefix_tokens :].mean(1)]
        features = torch.stack(parts, dim=-1).flatten(1) if self.interleaved else torch.cat(parts, dim=-1)
        return self.linear(features)


def load(
    name: str | Path,
    *,
    checkpoint: str | Path | None = None,
    linear: str | Path | None = None,
    interleaved: bool = True,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **model_args: Any,
) -> LoadedModel:
    """Load an image classifier with its preprocessing and labels, in evaluation mode.

    Args:
        name: `"mini:digits"` (bundled), `"timm:NAME"`, `"hf:ORG/NAME"`, or a folder in timm's or Hugging Face's format.
        checkpoint: weights to use instead: `.safetensors`, or `.pth` as training codes write it, read as weights only.
            The number of classes and mean pooling (`fc_norm`, as in MAE) are taken from it.
        linear: weights of a DINO linear head (CLS and mean of the patches) on top of a timm backbone.
        interleaved: how that head reads the two features, see `DinoLinear`.
        labels: names of the classes, where the model does not bring them.
        mean, std: normalisation of the pixels, where a checkpoint was trained with other values than the named model.
        device, dtype: where and how to hold it.
        **model_args: passed to `timm.create_model` or `from_pretrained`, for example `img_size` or `global_pool`.

    Raises:
        LoadError: unknown name, weights that do not fit, or a pickle that wants to run code.
    """
    text = str(name)
    kind, _, rest = text.partition(":")
    probe = _Linear(linear, interleaved) if linear is not None else None
    if kind == "mini" and rest:
        _refuse(text, checkpoint=checkpoint, linear=linear, **model_args)
        found = _load_mini(rest)
    elif kind == "timm" and rest:
        found = _load_timm(rest, None, checkpoint, probe, model_args)
    elif kind == "hf" and rest:
        _refuse(text, linear=linear)
        found = _load_hf(rest, text, checkpoint, model_args)
    elif Path(text).is_dir():
        found = _load_folder(Path(text), checkpoint, probe, model_args)
    else:
        raise LoadError(
            f"no model {text!r}",
            expected="mini:NAME, timm:NAME, hf:ORG/NAME, or an existing folder with config.json",
            got=text,
            todo="see `clew models`",
        )
    try:
        found.model.eval().to(device, dtype)
    except (RuntimeError, AssertionError) as error:
        raise LoadError(f"the model cannot be held on {device}", got=error, todo="choose another device") from error
    if found.preprocess is not None:
        found.preprocess = replace(
            found.preprocess,
            mean=tuple(mean) if mean is not None else found.preprocess.mean,
            std=tuple(std) if std is not None else found.preprocess.std,
        )
        if checkpoint is not None and (mean is None or std is None):
            logger.warning(
                "%s: pixels are normalised as for %s (mean %s, std %s); pass mean= and std= if the checkpoint differs",
                checkpoint,
                text,
                found.preprocess.mean,
                found.preprocess.std,
            )
    found.labels = labels if labels is not None else found.labels
    found.name = text
    return found


@dataclass(frozen=True)
class _Linear:
    """A linear head to put on a backbone."""

    path: str | Path
    interleaved: bool


def _refuse(name: str, **arguments: Any) -> None:
    given = [key for key, value in arguments.items() if value is not None]
    if given:
        raise LoadError(f"{name} does not take {', '.join(given)}", todo="leave it out, or name another model")


def _load_mini(name: str) -> LoadedModel:
    if name not in MINIS:
        raise LoadError(f"no bundled model {name!r}", got=name, todo=close_matches(name, MINIS))
    with resources.as_file(resources.files("clew").joinpath("minis", name)) as folder:
        found = _load_hf(str(folder), name, None, {}, quiet=True)
        found.facts = json.loads((folder / "measured.json").read_text())
    return found


def _load_folder(
    folder: Path, checkpoint: str | Path | None, linear: _Linear | None, model_args: dict[str, Any]
) -> LoadedModel:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(
            f"{folder} is no model folder", expected="a readable config.json (timm's or Hugging Face's)", got=error
        ) from error
    if "architecture" in config:
        weights = checkpoint or next(
            (f for n in ("model.safetensors", "pytorch_model.bin") if (f := folder / n).is_file()), None
        )
        if weights is None:
            raise LoadError(f"{folder} has no weights", expected="model.safetensors or pytorch_model.bin")
        return _load_timm(config["architecture"], config, weights, linear, model_args)
    _refuse(str(folder), linear=linear)
    return _load_hf(str(folder), str(folder), checkpoint, model_args)


# timm


def _load_timm(
    name: str,
    config: dict[str, Any] | None,
    checkpoint: str | Path | None,
    linear: _Linear | None,
    model_args: dict[str, Any],
) -> LoadedModel:
    timm = optional_import("timm", extra="timm", purpose="load timm models")
    data = optional_import("timm.data", extra="timm", purpose="load timm models")
    if not timm.is_model(name):
        raise LoadError(f"timm has no model {name!r}", got=name, todo=close_matches(name, timm.list_models()))
    weights = read_weights(checkpoint) if checkpoint is not None else None
    args = dict(model_args)
    if config is not None:
        args = {"num_classes": config.get("num_classes"), "global_pool": config.get("global_pool")} | args
        args = {k: v for k, v in (config.get("model_args", {}) | args).items() if v is not None}
    if linear is not None:
        args["num_classes"] = 0
    if weights is not None:
        args = _implied_by(weights) | args
    if linear is None and args.get("num_classes") == 0:
        raise LoadError(
            f"{checkpoint or name} has no classification head, so there is no class to explain",
            expected="head.weight beside the blocks, or linear= with the weights of a linear head",
            got=", ".join(list(weights or {})[-4:]) or "num_classes=0",
            todo="add the head to the checkpoint under the names of the model",
        )
    if weights is None:
        _announce_timm(timm, name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=weights is None, **args)
    except TypeError as error:
        raise LoadError(f"timm cannot build {name} so", expected="arguments of timm.create_model", got=error) from error
    except Exception as error:
        raise _not_fetched(name, error) from error
    if weights is not None:
        load_weights(model, weights, str(checkpoint))
    if linear is not None:
        model = _with_linear(model, linear)
    pretrained: Any = config.get("pretrained_cfg", {}) if config is not None else getattr(model, "pretrained_cfg", {})
    base = model.backbone if isinstance(model, DinoLinear) else model
    settings = data.resolve_data_config(pretrained_cfg=pretrained, model=base)
    size = getattr(getattr(base, "patch_embed", None), "img_size", None)
    if size is not None:
        settings["input_size"] = (3, *size)
    names = (config or {}).get("label_names") or _timm_labels(data, model)
    classes = model.linear.out_features if isinstance(model, DinoLinear) else getattr(model, "num_classes", None)
    return LoadedModel(model, Preprocess.from_timm(settings), names if names and len(names) == classes else None, name)


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


def _with_linear(backbone: nn.Module, head: _Linear) -> DinoLinear:
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
        _announce(repository if "/" in repository and repository != "timm/" else f"timm/{name}", "model.safetensors")


# Hugging Face


def _load_hf(
    path: str, name: str, checkpoint: str | Path | None, model_args: dict[str, Any], *, quiet: bool = False
) -> LoadedModel:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging as hf_logging

    if not Path(path).is_dir():
        _announce(path, "model.safetensors", "pytorch_model.bin")
    bar_was_shown = hf_logging.is_progress_bar_enabled()
    if quiet:
        hf_logging.disable_progress_bar()
    try:
        if checkpoint is not None:
            config: Any = AutoConfig.from_pretrained(path, **model_args)
            model = _hf_with_weights(config, read_weights(checkpoint), checkpoint)
        else:
            model = AutoModelForImageClassification.from_pretrained(
                path, weights_only=True, dtype=torch.float32, **model_args
            )
    except LoadError:
        raise
    except Exception as error:
        if "weights_only" in str(error) or any(isinstance(e, pickle.UnpicklingError) for e in _chain(error)):
            raise refused(path, error) from error
        raise _not_fetched(name, error) from error
    finally:
        if quiet and bar_was_shown:
            hf_logging.enable_progress_bar()
    size = getattr(model.config, "image_size", 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    preprocess = Preprocess.from_hf(_preprocessor(path), size)
    labels = model.config.id2label
    return LoadedModel(model, preprocess, [str(labels[i]) for i in sorted(labels)], name)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _hf_with_weights(config: Any, weights: Weights, source: str | Path) -> Any:
    """A model with given weights, strictly; transformers renames what other releases called differently."""
    from transformers import AutoModelForImageClassification

    with torch.device("meta"):
        cls: Any = type(AutoModelForImageClassification.from_config(config))
    own = cls(config)
    fitted = fit_names(weights, set(own.state_dict()))
    model, info = cls.from_pretrained(None, config=config, state_dict=fitted, output_loading_info=True)
    problems = {k: sorted(map(str, v)) for k, v in info.items() if k.endswith("_keys") and v}
    if problems:
        shown = "; ".join(f"{k.replace('_', ' ')}: {', '.join(v[:6])}" for k, v in problems.items())
        raise LoadError(
            f"the weights in {source} do not fit {cls.__name__}",
            expected="every tensor of the model, and no other",
            got=shown,
            todo="choose the model and num_labels that the checkpoint was trained with",
        )
    return model


def _preprocessor(path: str) -> dict[str, Any]:
    file = Path(path) / "preprocessor_config.json"
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(path, "preprocessor_config.json"))
        except Exception:
            file = Path(path)
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    logger.warning("%s has no preprocessor_config.json: resizing to the model's size, mean and deviation 0.5", path)
    return {}


def _announce(repository: str, *filenames: str) -> None:
    """Say what will be downloaded and where to, unless it is there already."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = (try_to_load_from_cache(repository, filename) for filename in filenames)
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return
    logger.warning("downloading %s from the Hugging Face Hub to %s", repository, constants.HF_HUB_CACHE)


def _not_fetched(name: str, error: Exception) -> LoadError:
    return LoadError(
        f"{name} could not be loaded",
        expected="a model of the Hub (reachable, or in the cache) or a complete folder",
        got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        todo="check the name; offline, fetch it elsewhere with `hf download` and pass the folder",
    )
