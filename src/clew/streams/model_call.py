"""One call of a model, `model(*args, **kwargs)`, and the tensors in its arguments by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs import advice_on, described
from ..models import moved

Path = tuple[Any, ...]


@dataclass(frozen=True)
class ModelCall:
    """The arguments of one call. `names` are those of tensors, by where they are: mappings, lists and tuples too.

    An argument goes by its keyword, a positional one by the parameter of `forward`; what lies inside another by its
    key, or by the whole path where several have the same key.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: Mapping[Path, str]

    @staticmethod
    def of(model: nn.Module, inputs: Any) -> ModelCall:
        """The call that explains `inputs`: a mapping of arguments, a tuple of them, or the only argument.

        A mapping that `forward` does not take by keywords is its first argument. Arrays become tensors. Raises
        `InputError` where there is no tensor, or a float that is NaN or infinite.
        """
        inputs = _map(inputs, lambda value: torch.as_tensor(value) if isinstance(value, np.ndarray) else value)
        args: tuple[Any, ...] = (inputs,)
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping):
            given = {str(k): v for k, v in cast("Mapping[Any, Any]", inputs).items()}
            if _takes(model, given):
                args, kwargs = (), given
        elif isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
            args = inputs
        made = ModelCall(args, kwargs, _names(model, args, kwargs))
        if not made.names:
            raise InputError(
                "there is no tensor in the input",
                expected="a tensor, a mapping or a tuple of what model(**inputs) or model(*inputs) takes",
                got=described(inputs),
                todo=advice_on(inputs),
            )
        for name, value in made.tensors().items():
            _refuse_non_finite(name, value)
        return made

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, in the order of the arguments."""
        found = dict(_tensors(self.args, self.kwargs))
        return {name: found[path] for path, name in self.names.items()}

    def replaced(self, values: Mapping[str, Tensor]) -> ModelCall:
        """The call with other tensors in the place of some."""
        by_path = {path: values[name] for path, name in self.names.items() if name in values}
        args = tuple(_replaced(value, by_path, ("args", i)) for i, value in enumerate(self.args))
        kwargs = {k: _replaced(v, by_path, (k,)) for k, v in self.kwargs.items()}
        return ModelCall(args, kwargs, self.names)

    def moved(self, like: Tensor | None) -> ModelCall:
        """The call on the device of `like`, floats in its dtype (None: as it is), out of any graph; caches copied."""
        args, kwargs = (_map(value, lambda one: moved(one, like)) for value in (self.args, dict(self.kwargs)))
        return ModelCall(args, kwargs, self.names)

    def copied(self) -> ModelCall:
        """The call with copies of its tensors."""
        return self.replaced({name: t.clone() for name, t in self.tensors().items()})

    @property
    def signature(self) -> tuple[Any, ...]:
        """What decides how a model treats the input, as far as can be said: names, shapes and dtypes."""
        return tuple((name, tuple(t.shape), t.dtype) for name, t in self.tensors().items())


def _refuse_non_finite(name: str, value: Tensor) -> None:
    """Raise `InputError` where floats hold NaN or plus infinity; minus infinity masks."""
    if not value.is_floating_point() or bool(value.sum().isfinite()):
        return
    bad = value.isnan() | (value == torch.inf)
    if "mask" not in name:
        bad |= value == -torch.inf
    if bool(bad.any()):
        raise InputError(
            f"{name!r} holds NaN or infinite values",
            expected="finite numbers",
            got=f"{int(bad.sum())} of {value.numel()}",
            todo="look at how the input was made (a division by a zero standard deviation is the usual cause)",
        )


def _takes(model: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether `forward` takes these keywords; one of `*args, **kwargs` alone takes any."""
    try:
        inspect.signature(model.forward).bind(**given)
    except TypeError:
        return False
    except ValueError:  # no signature: a function of C
        return True
    return True


def _names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Path, str]:
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    def words(path: Path) -> list[str]:
        head: list[Any] = list(path[:1])
        if path[0] == "args":
            head = [own[path[1]] if path[1] < len(own) else f"input {path[1]}"]
        return [str(part) for part in (*head, *path[2 if path[0] == "args" else 1 :])]

    paths = [path for path, _ in _tensors(args, kwargs)]
    short = {path: words(path)[-1] for path in paths}
    for path in paths:
        if short[path].isdigit() or list(short.values()).count(short[path]) > 1:
            short[path] = ".".join(words(path))
    return short


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Path, Tensor]]:
    for i, value in enumerate(args):
        yield from _inside(value, ("args", i))
    for name, value in kwargs.items():
        yield from _inside(value, (name,))


def _inside(value: Any, path: Path) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in cast("Mapping[Any, Any]", value).items():
            yield from _inside(one, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, one in enumerate(cast("list[Any]", value)):
            yield from _inside(one, (*path, i))


def _replaced(value: Any, by_path: Mapping[Path, Tensor], path: Path) -> Any:
    if not any(known[: len(path)] == path for known in by_path):
        return value
    if isinstance(value, Tensor):
        return by_path[path]
    if isinstance(value, Mapping):
        new = cast("MutableMapping[Any, Any]", copy.copy(value))
        for key, one in cast("Mapping[Any, Any]", value).items():
            new[key] = _replaced(one, by_path, (*path, key))
        return new
    return _like(value, [_replaced(one, by_path, (*path, i)) for i, one in enumerate(value)])


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of all that is no mapping, list or tuple, in containers of the same kinds."""
    if isinstance(value, Mapping):
        new = cast("MutableMapping[Any, Any]", copy.copy(value))
        for key, one in cast("Mapping[Any, Any]", value).items():
            new[key] = _map(one, change)
        return new
    if isinstance(value, (list, tuple)):
        return _like(value, [_map(one, change) for one in cast("list[Any]", value)])
    return change(value)


def _like(value: Any, items: list[Any]) -> Any:
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
