"""Torch functions by name, and the arguments of a call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

_POSITIONAL = ("input", "other")  # of torch functions, in their order


def torch_functions(names: Iterable[str]) -> set[Any]:
    """torch functions of these names: of `torch`, `torch.nn.functional` and `Tensor`."""
    return {found for name in names for home in (torch, F, Tensor) if (found := getattr(home, name, None)) is not None}


def tensors_in(args: Iterable[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among arguments, also in lists."""
    found: list[Tensor] = []  # no generator: this is done at every torch call
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [v for v in cast("list[Any]", value) if isinstance(v, Tensor)]
    return found


def by_position(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments whose first ones are not given by their names."""
    while len(args) < len(_POSITIONAL) and (name := _POSITIONAL[len(args)]) in kwargs:
        args, kwargs = (*args, kwargs[name]), {k: v for k, v in kwargs.items() if k != name}
    return args, kwargs
