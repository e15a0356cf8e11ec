"""From a name or a folder to a model, with its preprocessing or tokenizer, and its labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import LoadError, OptionError, close_matches, optional_import, short_repr
from ..explaining import LoadedPair
from ..files import is_valid_filename, read_object
from ..inputs import OWN_MODEL
from ..models import DinoLinear, LoadedModel, find_pair, no_foreign_code
from ..seam import cpu_by_default
from ..targets import labels_by_index
from ..validation import validate_arguments, validate_call
from .any_hugging_face import is_sentence_encoder, load_adapter, load_sentence_encoder
from .hugging_face import load_hf
from .open_clip_models import load_open_clip
from .timm_models import LinearHead, load_timm, timm_configuration

__all__ = ["MINIS", "SEVERAL_INPUTS", "DinoLinear", "LoadedModel", "load"]

logger = logging.getLogger("clew")

MINIS = {
    "digits": "a small ViT (0.3 M parameters) that reads handwritten digits on cluttered backgrounds",
    "reviews-bert": "a small BERT (0.2 M parameters) that tells praise from blame in generated film reviews",
    "reviews-llama": "a small Llama (0.2 M parameters) that does the same, with rotary positions",
    "digits-clip": "a small CLIP (0.3 M parameters) that matches scenes of two digits with captions",
    "digits-chat": "a small LLaVA (0.5 M parameters) that is asked which digit is in a quarter of a picture",
    "reverse": "a small encoder–decoder (0.2 M parameters) that writes ten letters backwards, each three letters on",
}

_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")
SEVERAL_INPUTS = ("digits-chat", "reverse")  # those that take a picture with a question, or a source with its answer


@validate_call
@cpu_by_default()
@torch.inference_mode(False)  # weights made in a caller's inference mode could never train
def load(
    name: str | Path,
    *,
    checkpoint: str | Path | None = None,
    linear: str | Path | None = None,
    interleaved: bool = True,
    labels: Sequence[str] | Mapping[Any, str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    task: str | None = None,
    quantize: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **model_args: Any,
) -> LoadedModel:
    """Load a model with its preprocessing or tokenizer and its labels, in evaluation mode; image–text models come as
    `LoadedPair`.

    Args:
        name: `"mini:digits"` (bundled), `"timm:NAME"`, `"hf:ORG/NAME"`, `"open_clip:NAME/TAG"` (the tag names weights),
            or a folder in timm's or Hugging Face's format: any model that transformers has, adapters of PEFT (their
            base is loaded, too), or a sentence encoder.
        checkpoint: weights to use instead: `.safetensors`, or `.pth` as training codes write it, read as weights only.
            The number of classes and mean pooling (`fc_norm`, as in MAE) are taken from it.
        linear: weights of a DINO linear head (CLS and mean of the patches) on top of a timm backbone.
        interleaved: how that head reads the two features, see `DinoLinear`.
        labels: names of the classes, in a list or by their numbers, where the model does not bring them.
        task: what a Hugging Face model is to do, where its configuration does not say so: "classification",
            "causal-lm", "token-classification", "question-answering", "image-classification" or "image-text".
        quantize: "4bit" or "8bit" by bitsandbytes, on `device` (Hugging Face models; the extra `quantize`).
        mean: of the pixels' normalisation, where a checkpoint was trained with other values than the named model.
        std: the same.
        device: where to hold it, quantised or not.
        dtype: how to hold it.
        **model_args: passed to `timm.create_model` or `from_pretrained`, for example `img_size`, `global_pool` or
            `device_map="auto"`, which spreads a model over devices.

    Raises:
        LoadError: unknown name, files that cannot be read or say what cannot be, weights that do not fit or are far
            smaller than the configuration says, and code that wants to be run, in a pickle or beside a configuration.
    """
    if isinstance(name, nn.Module):
        todo = f"pass it to clew.explain as it is; to take pictures and name classes: {OWN_MODEL}"
        raise OptionError("this is a model already", expected="a name or a folder", got=type(name).__name__, todo=todo)
    validate_arguments({"name": name}, load)
    text = str(name)
    if not is_valid_filename(text.partition(":")[2] or text):
        raise LoadError("no model has such a name", expected="a name that a file could have", got=short_repr(text))
    model_args = no_foreign_code(text, model_args)
    kind, _, rest = text.partition(":")
    probe = LinearHead(linear, interleaved) if linear is not None else None
    if kind == "mini" and rest:
        _refuse(text, checkpoint=checkpoint, linear=linear, task=task, **model_args)
        found = _load_mini(rest, _quantized({}, quantize, device))
    elif kind == "timm" and rest:
        _refuse(text, quantize=quantize, task=task)
        found = load_timm(rest, None, checkpoint, probe, model_args)
    elif kind == "open_clip" and rest:
        _refuse(text, linear=linear, quantize=quantize, task=task)
        found = load_open_clip(rest, checkpoint, model_args)
    elif kind == "hf" and rest:
        _refuse(text, linear=linear)
        found = load_hf(rest, text, checkpoint, _quantized(model_args, quantize, device), task=task, dtype=dtype)
    elif os.path.isdir(text):
        found = _load_folder(Path(text), checkpoint, probe, _quantized(model_args, quantize, device), task, dtype)
    else:
        raise LoadError(
            f"no model {text[:200]!r}",
            expected="mini:NAME, timm:NAME, hf:ORG/NAME, open_clip:NAME/TAG, or an existing folder with config.json",
            got=text[:200],
            todo=_of_weights(text[:200]) if Path(text).suffix.lower() in _WEIGHTS else "see `clew models`",
        )
    try:
        found.model.eval()
        if not {"device_map", "quantization_config"} & (model_args.keys() | ({"device_map"} if quantize else set())):
            found.model.to(device, dtype)
    except (RuntimeError, AssertionError) as error:
        raise LoadError(f"the model cannot be held on {device}", got=error, todo="choose another device") from error
    if found.preprocess is not None:
        found.preprocess = found.preprocess.normalized_by(mean, std)
        if checkpoint is not None and (mean is None or std is None):
            logger.warning(
                "%s: pixels are normalised as for %s (mean %s, std %s); pass mean= and std= if the checkpoint differs",
                checkpoint,
                text,
                found.preprocess.mean,
                found.preprocess.std,
            )
    if labels is not None:
        found.labels = labels_by_index(labels) if isinstance(labels, Mapping) else labels
    found.name = text
    if find_pair(found.model) is not None:
        return LoadedPair(**vars(found))
    return found


def _of_weights(path: str) -> str:
    return (
        f"name the model that these weights are of: clew.load('timm:NAME', checkpoint={path!r}), on the command line "
        f"--model timm:NAME --checkpoint {path}"
    )


def _refuse(name: str, **arguments: Any) -> None:
    given = [key for key, value in arguments.items() if value is not None]
    if given:
        raise LoadError(f"{name} does not take {', '.join(given)}", todo="leave it out, or name another model")


def _load_mini(name: str, model_args: dict[str, Any]) -> LoadedModel:
    if name not in MINIS:
        raise LoadError(f"no bundled model {name!r}", got=name, todo=close_matches(name, MINIS))
    with resources.as_file(resources.files("clew").joinpath("minis", name)) as folder:
        # What they say is measured, so it must not hang on what is installed beside.
        found = load_hf(str(folder), name, None, model_args, quiet=True, backend="pil")
        found.facts = read_object(folder / "measured.json")
    return found


def _load_folder(
    folder: Path,
    checkpoint: str | Path | None,
    linear: LinearHead | None,
    model_args: dict[str, Any],
    task: str | None,
    dtype: torch.dtype,
) -> LoadedModel:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        _refuse(str(folder), checkpoint=checkpoint, linear=linear)

        def base(place: str, own_task: str | None) -> LoadedModel:
            return load(place, task=task or own_task, dtype=dtype, **model_args)

        return load_adapter(folder, base)
    if is_sentence_encoder(folder) and task is None:
        _refuse(str(folder), checkpoint=checkpoint, linear=linear, **model_args)
        return load_sentence_encoder(folder)
    expected = "a readable config.json, of timm or of Hugging Face"
    config = read_object(folder / "config.json", expected=expected)
    if "architecture" in config:
        weights = checkpoint or next(
            (f for n in ("model.safetensors", "pytorch_model.bin") if (f := folder / n).is_file()), None
        )
        if weights is None:
            raise LoadError(f"{folder} has no weights", expected="model.safetensors or pytorch_model.bin")
        return load_timm(timm_configuration(config, folder)["architecture"], config, weights, linear, model_args)
    _refuse(str(folder), linear=linear)
    return load_hf(str(folder), str(folder), checkpoint, model_args, task=task, dtype=dtype)


def _quantized(model_args: dict[str, Any], quantize: str | None, device: str | torch.device) -> dict[str, Any]:
    """The arguments that make transformers load a model in 4 or 8 bits, which is not moved afterwards."""
    if quantize is None:
        return model_args
    if quantize not in ("4bit", "8bit"):
        raise LoadError("unknown quantize", expected="4bit or 8bit", got=quantize)
    for package in ("bitsandbytes", "accelerate"):
        optional_import(package, extra="quantize", purpose="load quantised models")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=quantize == "4bit", load_in_8bit=quantize == "8bit")
    return {"device_map": {"": device}, **model_args, "quantization_config": config}
