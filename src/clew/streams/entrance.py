"""The pass in which explained input enters: floats as they are given, token numbers where they are looked up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError, close_matches
from ..seam import Seam, by_position, unseen
from .frontier import Frontier
from .model_call import ModelCall
from .provenance import Provenance

# Arguments that say something about the input (which of it is real, where it stands): they are looked up or added, too.
# Whole words of names: a `duration` is no ratio, a `composition` no position.
ABOUT_INPUT = re.compile(
    r"(?<![a-z])(masks?|masked|positions?|type_ids|segments?|ratio|labels?|cu_seqlens|cache)(?![a-z])", re.IGNORECASE
)
_CONVOLUTIONS = frozenset({F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d})

Give = Callable[[str, Tensor], Tensor]


@dataclass
class Entry:
    """One tensor in which input entered: `value` as the model had it, `leaf` what it was given in its place.

    `argument`: whose numbers these are. Of words `places` says which number of the arguments each row is, `table` what
    was looked up.
    """

    argument: str
    value: Tensor
    leaf: Tensor
    places: Tensor | None = None
    table: Tensor | None = None


@dataclass(eq=False)
class Entrance(Seam):
    """Around one pass: `give(key, value)` says what the model gets in the place of each tensor in which input enters.

    Keys are arguments; what enters once more is "argument#2", and so on. With a station, `at`, the outputs of that
    module enter instead. Nothing that the model does with what it gets, changes in place too, touches the leaf.
    """

    model: nn.Module
    model_call: ModelCall
    give: Give
    at: str | None = None
    entered: Callable[[Tensor, Tensor, str], None] | None = None  # with each leaf, the model's copy, the argument
    front: Frontier | None = None  # told where floats go
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    patches: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def __post_init__(self) -> None:
        super().__init__()
        given = {name: t for name, t in self.model_call.tensors().items() if not ABOUT_INPUT.search(name)}
        self._floats = {name: t for name, t in given.items() if t.is_floating_point() and t.ndim}
        self.provenance = Provenance({name: t for name, t in given.items() if _is_number(t)})
        self._inside: list[tuple[Tensor, Tensor] | None] = []  # look-ups of the embeddings that the pass is in

    def place_hooks(self) -> None:
        """See look-ups, or the station alone. What an embedding makes of its look-up (scales, norms) belongs to it."""
        if self.at is not None:
            self.watch(station(self.model, self.at), after=self._leaves_station)
            return
        for module in self.model.modules():
            if isinstance(module, nn.Embedding):
                self.watch(module, before=lambda a, k: self._inside.append(None), after=self._leaves_embedding)
        self.switch_on()

    def _leaves_embedding(self, output: Any) -> Any:
        found = self._inside.pop()
        if found is None or not isinstance(output, Tensor):
            return None
        return self._enter(self.provenance.argument(found[0]), output, *found)

    def arguments(self) -> ModelCall:
        """The call with what is given in the place of floats."""
        if self.at is not None:
            return self.model_call
        return self.model_call.replaced({name: self._enter(name, value) for name, value in self._floats.items()})

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look-ups of the numbers that are followed enter; other calls with them are followed. What is done for that is
        none of the model's, so that other seams do not see it."""
        result = self._called(func, args, kwargs)
        return result if self.front is None else self.front.passed(func, args, kwargs, result)

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _CONVOLUTIONS:
            with unseen():
                self._note_patches(*by_position(args, kwargs))
        if not self.provenance.touches(args, kwargs):
            return func(*args, **kwargs)
        args, kwargs = by_position(args, kwargs)
        with unseen():
            found = self.provenance.looked_up(func, args, kwargs)
        result = func(*args, **kwargs)
        if found is not None and self._inside:
            self._inside[-1] = found
            return result
        with unseen():
            if found is not None:
                return self._enter(self.provenance.argument(found[0]), result, *found)
            self.provenance.follow(func, args, kwargs, result)
        return result

    def _enter(self, argument: str, value: Tensor, places: Tensor | None = None, table: Tensor | None = None) -> Tensor:
        key, count = argument, 1
        while key in self.entries:
            count += 1
            key = f"{argument}#{count}"
        leaf = self.give(key, value.detach())
        self.entries[key] = Entry(argument, value.detach(), leaf, places, table)
        copy = leaf.clone()
        if self.entered is not None:
            self.entered(leaf, copy, argument)
        if self.front is not None and places is None:
            self.front.enter(key, copy)
        return copy

    def _leaves_station(self, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._enter(self.at or "", output)
        if isinstance(output, tuple):
            items = list(cast("tuple[Any, ...]", output))
            first = next((i for i, t in enumerate(items) if isinstance(t, Tensor) and t.is_floating_point()), None)
            if first is not None:
                items[first] = self._enter(self.at or "", items[first])
                return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
        return None

    def _note_patches(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The size of patches: of the first convolution whose kernel is its stride, in the frame of an argument."""
        x, W = args[0], args[1] if len(args) > 1 else kwargs.get("weight")
        stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
        if not isinstance(x, Tensor) or not isinstance(W, Tensor):
            return
        kernel = tuple(W.shape[2:])
        stride = (stride,) * len(kernel) if isinstance(stride, int) else tuple(stride)
        for name, value in self._floats.items():
            same = value.ndim > len(kernel) and value.shape[-len(kernel) :] == x.shape[-len(kernel) :]
            if same and kernel == stride and max(kernel) > 1 and name not in self.patches:
                self.patches[name] = kernel
                return


def _is_number(value: Tensor) -> bool:
    return not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool


def station(model: nn.Module, path: str) -> nn.Module:
    """The module of that path. Raises `OptionError` where there is none."""
    by_name = dict(model.named_modules())
    if path not in by_name or not path:
        todo = close_matches(path, [name for name in by_name if name])
        raise OptionError(f"{type(model).__name__} has no module {path!r}", expected="the path of one", todo=todo)
    return by_name[path]
