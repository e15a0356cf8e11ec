"""Read weights in the formats people have, without ever running code from the file."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import LoadError
from .model_files import refuse_bomb

Weights = dict[str, Tensor]

# Where training codes put the weights inside a checkpoint, in order of preference.
_INSIDE = ("state_dict", "model", "model_state_dict", "teacher", "module", "student")


def read_weights(path: str | Path) -> Weights:
    """Tensors by name from `.safetensors`, or from what `torch.save` wrote.

    Of the objects a checkpoint may hold, only tensors, plain containers and `argparse.Namespace` (a record of options
    in many released checkpoints) are read. Raises `LoadError` for a missing or broken file, and for a pickle that
    wants to run code.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise LoadError(f"no checkpoint {path}", expected="a file", got="nothing there", todo="check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise LoadError(f"{path} is broken", expected="a safetensors file", got=error) from error
    refuse_bomb(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise unsafe_pickle_error(path, error) from error
    except Exception as error:  # whatever a broken pickle makes torch say
        raise LoadError(f"{path} cannot be read", expected="a file written by torch.save", got=error) from error
    return _unwrap(found, path)


def unsafe_pickle_error(path: str | Path, error: Exception) -> LoadError:
    """The error for a pickle that holds more than weights."""
    found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    return LoadError(
        f"{path} was not opened: it is no plain file of weights, and reading it could run code from it",
        expected="tensors in plain containers",
        got=f"a pickle that wants {found[1]}" if found else str(error).strip().splitlines()[0],
        todo="if you trust its source, load it yourself and save its state dict with safetensors",
    )


def _unwrap(found: Any, path: Path) -> Weights:
    values: Mapping[Any, Any] = found if isinstance(found, Mapping) else {}
    known = [values[key] for key in _INSIDE if isinstance(values.get(key), Mapping)]
    if weights := _tensors(known[0] if known else found):
        return weights
    others = {str(key): weights for key, value in values.items() if (weights := _tensors(value))}
    if len(others) == 1:  # under a name of the training code's own
        return next(iter(others.values()))
    keys = ", ".join(str(key)[:80] for key in list(values)[:8]) if values else type(found).__name__
    part = next(iter(others), "state_dict")
    raise LoadError(
        f"{path} holds no weights" if not others else f"{path} holds weights under several names",
        expected=f"tensors by name, or a dict with {', '.join(_INSIDE)}",
        got=keys,
        todo=f"save the weights alone: torch.save(torch.load({path.name!r})[{part!r}], 'weights.pth')"
        if others
        else "save the model's weights: torch.save(model.state_dict(), 'weights.pth')",
    )


def _tensors(value: Any) -> Weights:
    """What of a mapping is tensors; empty for anything else."""
    return {str(k): v for k, v in value.items() if isinstance(v, Tensor)} if isinstance(value, Mapping) else {}


def fit_names(weights: Weights, names: set[str]) -> Weights:
    """Weights under a model's own names: the prefix that wrappers put before them (`module.base_encoder.`) removed.

    Of all prefixes the one that explains most of the model's `names` is taken, the shorter where two are equal.
    """
    prefixes = {key[: -len(name)] for name in names for key in weights if key.endswith(name)}
    clean = [p for p in prefixes if p == "" or p.endswith(".")]
    if not clean:
        return weights
    best = max(clean, key=lambda p: (sum(p + name in weights for name in names), -len(p), p))
    return {key[len(best) :]: value for key, value in weights.items() if key.startswith(best)}


def load_weights(model: nn.Module, weights: Weights, source: str | Path) -> None:
    """Load weights strictly. Raises `LoadError` with what is missing, unexpected or of another shape."""
    own = model.state_dict()
    fitted = fit_names(weights, set(own))
    problems = {
        "missing": [k for k in own if k not in fitted],
        "unexpected": [k for k in fitted if k not in own],
        "of another shape": [k for k in own if k in fitted and fitted[k].shape != own[k].shape],
    }
    if any(problems.values()):
        shown = "; ".join(
            f"{kind}: {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}" for kind, keys in problems.items() if keys
        )
        raise LoadError(
            f"the weights in {source} do not fit {type(model).__name__}",
            expected=f"{len(own)} tensors with the model's names and shapes",
            got=shown,
            todo="choose the model, num_classes and global_pool that the checkpoint was trained with",
        )
    model.load_state_dict(fitted)
