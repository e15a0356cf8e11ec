"""What makes two runs the same run: content of models, methods and options, not their names or addresses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import CodeType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..models import LoadedModel

# What numbers, or the bytes that they are stored in, may depend on.
_PACKAGES = (
    "clew", "torch", "transformers", "tokenizers", "timm", "open_clip_torch", "numpy", "scipy", "scikit-learn",
    "pillow", "pyarrow",
)  # fmt: skip


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of what is installed of some packages."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def content_hash(value: Any) -> str:
    """SHA-256 (hexadecimal) of a value by its content: equal for equal values in any process.

    Functions count by their code and the plain values that they were made with, other objects by their attributes.
    """
    return hashlib.sha256(json.dumps(_plain(value, 0), sort_keys=True).encode()).hexdigest()


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Tensor):
        return ["tensor", *_tensor(value)]
    if isinstance(value, np.ndarray):
        return [
            "array",
            str(value.dtype),
            list(value.shape),
            hashlib.sha256(np.ascontiguousarray(value).data).hexdigest(),
        ]
    if isinstance(value, (bytes, Path)):
        return repr(value)
    if depth > 8:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        pairs = [(_plain(k, depth + 1), _plain(v, depth + 1)) for k, v in cast("Mapping[Any, Any]", value).items()]
        return ["mapping", sorted(pairs, key=lambda pair: json.dumps(pair[0], sort_keys=True))]
    if isinstance(value, (list, tuple, range)):
        return [_plain(one, depth + 1) for one in cast("Sequence[Any]", value)]
    if isinstance(value, nn.Module):
        return ["module", type(value).__qualname__, weights_hash(value)]
    if hasattr(value, "__code__"):
        return _function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [type(value).__qualname__, _plain(fields, depth + 1)]
    if isinstance(value, type):
        return ["class", value.__module__, value.__qualname__]
    return [type(value).__qualname__, _plain(dict(getattr(value, "__dict__", {})), depth + 1)]


def _function(function: Callable[..., Any]) -> list[Any]:
    if function.__module__.partition(".")[0] == "clew":
        # The version says the rest. Methods stood in `clew.methods` when the first runs were stored.
        module = function.__module__.replace("clew.explainers.", "clew.methods.")
        return ["of clew", module, function.__qualname__]
    made: list[Any] = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            inside = cell.cell_contents
        except ValueError:  # not yet set
            continue
        if isinstance(inside, (bool, int, float, str, Tensor)):
            made.append(_plain(inside, 0))
    defaults = [getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__")]
    return ["function", function.__qualname__, _code(cast(Any, function).__code__), made, _plain(defaults, 0)]


def _code(code: CodeType) -> list[Any]:
    return [hashlib.sha256(code.co_code).hexdigest(), [_constant(one) for one in code.co_consts], list(code.co_names)]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code(value)
    return sorted(map(repr, cast("frozenset[Any]", value))) if isinstance(value, frozenset) else repr(value)


def _tensor(tensor: Tensor) -> tuple[str, list[int], str]:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hexadecimal) over a model's class and all its weights."""
    found = hashlib.sha256(type(module).__qualname__.encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            found.update(f"{name} {_tensor(tensor)}".encode())
    return found.hexdigest()


def model_identity(loaded: LoadedModel, numbering: Mapping[Any, Any] | None) -> dict[str, Any]:
    """What a model is, by content: its weights, and how it is run and fed."""
    config: Any = getattr(loaded.model, "config", None)
    settings: dict[str, Any] = {}
    if config is not None and hasattr(config, "to_dict"):
        settings = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    tokenizer: Any = loaded.tokenizer
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else str(tokenizer)
    parameter = next(loaded.model.parameters(), None)
    return {
        "name": loaded.name,
        "hash": weights_hash(loaded.model),
        "class": type(loaded.model).__qualname__,
        "configuration": content_hash(json.loads(json.dumps(settings, default=str))),
        "attention": str(getattr(config, "_attn_implementation", None)),
        "preprocess": str(loaded.preprocess),
        "tokenizer": None if tokenizer is None else content_hash(words),
        "labels": content_hash(list(loaded.labels) if loaded.labels is not None else None),
        "numbering": content_hash(numbering),
        "device": "none" if parameter is None else parameter.device.type,
    }
