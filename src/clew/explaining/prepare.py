"""Check a model and its inputs before anything runs, and bring them together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..draw import Picture
from ..errors import InputError, UnknownArchitecture
from ..inputs import (
    OWN_MODEL,
    TextBatch,
    batch_of,
    check_image_batch,
    described,
    holds_pictures,
    items_of,
    pictures_of,
    pil_images,
    refuse_labelled_batch,
)
from ..models import Architecture, BoundArchitecture, LoadedModel, find_architecture, moved
from ..seam import is_quantized
from ..seam.twin import twin
from ..targets import config_labels, labels_by_index
from ..traversal import modules_of
from .prepare_text import text_inputs


@dataclass(frozen=True)
class PreparedBatch:
    """A model ready to be explained on a batch: what `subject` needs, and what drawing needs."""

    model: nn.Module
    bound: BoundArchitecture
    inputs: dict[str, Any]
    labels: Sequence[str] | None
    name: str
    precise: bool
    pictures: Sequence[Picture] = ()
    text: TextBatch | None = None
    loaded: LoadedModel | None = None
    preprocess: Any = None  # what made the model's input of pictures, if something did
    frozen: bool = True  # whether the model's weights are left out of any graph

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return next(v.device for v in self.inputs.values() if isinstance(v, Tensor))

    @property
    def batch(self) -> int:
        """Number of examples."""
        return len(self.pictures) if self.text is None else len(self.text.input_ids)


def prepare(
    model: nn.Module | LoadedModel,
    inputs: Any,
    architecture: Architecture | None = None,
    compute_dtype: torch.dtype | None = None,
    *,
    truncate: bool = False,
    gradients: bool = True,
) -> PreparedBatch:
    """Check a model and its inputs, and bring the inputs to the model's device and dtype.

    With a `compute_dtype` other than its own, a copy of the model takes its place; in float64 its casts are left out.
    `truncate` cuts texts to the model's positions. `gradients`: whether passes will make a graph, which weights are
    left out of.
    """
    loaded = model if isinstance(model, LoadedModel) else None
    module = unwrap(loaded.model if loaded is not None else model)
    if compute_dtype is not None:
        module = in_dtype(module, compute_dtype)
    module = twin(module, frozen=gradients)
    bound = (architecture or find_architecture(module)).bind(module)
    pictures: Sequence[Picture] = ()
    text: TextBatch | None = None
    if bound.is_text:
        tokenizer = loaded.tokenizer if loaded is not None else None
        tensors, text = text_inputs(inputs, module, bound, tokenizer, truncate=truncate)
    else:
        tensors, pictures = image_inputs(inputs, loaded, bound.architecture.input_name or "", bound.channels)
    where = like(bound.patches, module)
    here = {name: moved(value, where) for name, value in tensors.items()}
    name = loaded.name if loaded is not None else type(module).__name__
    labels = labels_by_index(loaded.labels) if loaded is not None else config_labels(getattr(module, "config", None))
    if bound.task in ("causal-lm", "question-answering"):  # what configurations name there are no classes of the output
        labels = None
    made = loaded.preprocess if loaded is not None and text is None and holds_pictures(inputs) else None
    return PreparedBatch(
        module, bound, here, labels, name, compute_dtype == torch.float64, pictures, text, loaded, made, gradients
    )


def refuse_unexplainable(module: nn.Module) -> None:
    """Raise `InputError` for a model in training mode, and for those whose insides no torch function shows."""
    parts = modules_of(module)
    kinds = set(map(type, parts))
    packed_kinds = {kind for kind in kinds if "ao.nn.quantized" in kind.__module__}
    unseen_kinds = packed_kinds | {kind for kind in kinds if issubclass(kind, torch.jit.ScriptModule)}
    odd = [part for part in parts if part.training or type(part) in unseen_kinds]
    if not odd:
        return
    hidden = next((part for part in odd if isinstance(part, torch.jit.ScriptModule)), None)
    if hidden is not None:
        raise InputError(
            "TorchScript hides what it computes, so it cannot be explained",
            expected="the module that was scripted or traced",
            got=type(hidden).__name__,
            todo="explain the model before torch.jit.script or torch.jit.trace",
        )
    packed = next((part for part in odd if type(part) in packed_kinds), None)
    if packed is not None:
        raise InputError(
            "int8 kernels have no weights in floats and no gradients, so they cannot be explained",
            expected="a model with weights in floats, or quantised by bitsandbytes",
            got=type(packed).__name__,
            todo="explain the model before torch.ao.quantization",
        )
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    raise InputError(
        f"{type(module).__name__} is in training mode, so dropout makes every pass different",
        expected="a model in evaluation mode",
        got=f"training == True in {', '.join(training[:4])}{' …' if len(training) > 4 else ''}",
        todo="call model.eval()",
    )


def like(*modules: nn.Module) -> Tensor:
    """A tensor where inputs go, and in their precision: as the first parameter of floats, or if its weights are kept
    elsewhere, where accelerate's hooks say that it runs. Raises `InputError` for a model without weights."""
    first = next((p for m in modules for p in m.parameters() if p.is_floating_point()), torch.empty(0))
    if first.device.type != "meta":
        return first
    hooks = (vars(part).get("_hf_hook") for m in modules for part in m.modules())
    parts = (part for hook in hooks if hook is not None for part in getattr(hook, "hooks", (hook,)))
    devices = (getattr(part, "execution_device", None) for part in parts)
    device = next((d for d in devices if d is not None), None)
    if device is None:
        raise InputError(
            f"{type(modules[-1]).__name__} is on the meta device: it has shapes, but no numbers",
            expected="a model with its weights",
            got="parameters on the device meta",
            todo="load the weights, or let accelerate offload them (device_map, cpu_offload, disk_offload)",
        )
    return torch.empty(0, dtype=first.dtype, device=torch.device(device))


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself if it is in that precision, else a copy. Raises `InputError` for what cannot be copied so."""
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise InputError("no dtype to compute in", expected="torch.float64 or another float", got=dtype)
    if any(map(is_quantized, modules_of(module))):
        raise InputError(
            "a quantised model is explained in its own precision",
            expected="compute_dtype=None",
            got=dtype,
            todo="leave compute_dtype out, or load the model without quantize",
        )
    same = all(p.dtype == dtype for p in module.parameters() if p.is_floating_point())
    return module if same else copy.deepcopy(module).to(dtype)


def unwrap(model: Any) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel` and the like, and the one whose layers PEFT has adapted."""
    while True:
        inner = getattr(model, "_orig_mod", None) or _adapted(model)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module  # pyright: ignore[reportUnknownMemberType]
        if inner is None:
            break
        model = inner
    if not isinstance(model, nn.Module):
        raise InputError("this is no model", expected="a torch.nn.Module or a model from clew.load", got=type(model))
    return model


def _adapted(model: Any) -> nn.Module | None:
    """The model inside a PEFT model whose adapters are in its layers; others add tokens of their own in front."""
    if not any(cls.__module__.startswith("peft.peft_model") for cls in type(model).__mro__):
        return None
    tuner: Any = getattr(model, "base_model", None)
    return getattr(tuner, "model", None) if hasattr(tuner, "merge_and_unload") else None


def encoder_inputs(model: LoadedModel, inputs: Any, *, is_text: bool, truncate: bool = False) -> dict[str, Any]:
    """What a tower encodes, whether its insides are known or not. Raises `InputError` as `prepare` does."""
    try:
        bound = find_architecture(model.model).bind(model.model)
    except UnknownArchitecture:  # it is only compared with
        bound = None
    if is_text:
        tensors = text_inputs(inputs, model.model, bound, model.tokenizer, truncate=truncate)[0]
    else:
        tensors = image_inputs(inputs, model, "pixel_values", None if bound is None else bound.channels)[0]
    where = like(model.model)
    return {name: moved(value, where) for name, value in tensors.items()}


def image_inputs(
    inputs: Any, loaded: LoadedModel | None, name: str, channels: int | None
) -> tuple[dict[str, Any], Sequence[Picture]]:
    """Images as arguments of a model, the images' under `name`, and the pictures to draw on."""
    if isinstance(inputs, Mapping):
        given = _of_mapping(inputs, name, channels)
        main = next(iter(given.values()))
        return given, pictures_of(main, *colours_of(loaded))
    if not holds_pictures(inputs):
        batch = batch_of(inputs, channels)
        _reject_nan(batch)
        return {name: batch}, pictures_of(batch, *colours_of(loaded))
    if loaded is None or loaded.preprocess is None:
        refuse_labelled_batch(items_of(inputs))
        arrays = not isinstance(items_of(inputs)[0], Image.Image)
        kind = "raw pictures" if arrays else "PIL images"
        raise InputError(
            f"{kind} need the model's own preprocessing",
            expected="a model from clew.load, or floats (batch, channel, height, width), normalised for the model",
            got=described(inputs),
            todo=f"load the model with clew.load{', and pass them in RGB order (cv2 has BGR)' if arrays else ''}; or "
            f"of your own {OWN_MODEL}; or preprocess the images yourself",
        )
    images = pil_images(inputs, channels)
    made = loaded.preprocess if channels is None else loaded.preprocess.with_channels(channels)
    batch, pictures = made.batch(images)
    _reject_nan(batch)
    return {name: batch}, pictures


def colours_of(loaded: LoadedModel | None) -> tuple[Sequence[float], Sequence[float]] | tuple[()]:
    """Mean and standard deviation by which a model's pictures are normalised, where it says so."""
    made: Any = None if loaded is None else loaded.preprocess
    return (made.mean, made.std) if getattr(made, "normalize", False) else ()


def _of_mapping(inputs: Mapping[Any, Any], name: str, channels: int | None) -> dict[str, Any]:
    """Arguments of the model, the images first, arrays as tensors."""
    given = {str(k): v for k, v in inputs.items() if v is not None}
    first = next((k for k, v in given.items() if isinstance(v, (Tensor, np.ndarray))), None)
    key = name if name in given else first
    main = given.pop(key) if key is not None else None
    if isinstance(main, (list, tuple)) and main and all(isinstance(i, (Tensor, np.ndarray)) for i in main):
        batch = batch_of(main, channels)  # as a processor gives them without return_tensors
    elif isinstance(main, (Tensor, np.ndarray)):
        batch = check_image_batch(torch.as_tensor(main), channels, main)
    else:
        found = {k: type(v).__name__ for k, v in inputs.items()}
        raise InputError("a mapping of inputs holds the images as a tensor", expected=name or "a tensor", got=found)
    _reject_nan(batch)
    others = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    return {str(key): batch, **others}


def _reject_nan(x: Tensor) -> None:
    """Raise `InputError` where an input holds NaN or infinity."""
    if bool(x.sum().isfinite()):  # one pass; a sum may also overflow, so look closer where it is not finite
        return
    bad = ~torch.isfinite(x)
    if bad.any():
        rows = sorted(set(bad.flatten(1).any(1).nonzero().flatten().tolist()))
        raise InputError(
            "the input holds NaN or infinite values",
            expected="finite numbers",
            got=f"{int(bad.sum())} of {x.numel()}, in examples {rows[:8]}",
            todo="look at how the input was made (a division by a zero standard deviation is the usual cause)",
        )
