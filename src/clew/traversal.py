"""All modules of a model, as `nn.Module.modules()` gives them, without the names that take most of its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The model and all modules inside it, each once, the outer ones first."""
    found, seen = [model], {id(model)}
    for module in found:  # which grows
        for child in module.__dict__.get("_modules", {}).values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found.append(child)
    return found


def floats_of(model: nn.Module) -> Iterator[Tensor]:
    """The parameters of floats of all modules; shared ones several times."""
    return floats_in(modules_of(model))


def floats_in(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """The parameters of floats that modules have themselves."""
    for module in modules:
        for parameter in vars(module).get("_parameters", {}).values():
            if parameter is not None and parameter.is_floating_point():
                yield parameter
