"""Where floats of the input come to the first linear maps: the output of a patch embedding, seen in a pass.

What a model makes of its input before these (which pictures it drops, what it looks up by their values) may depend on
values.
Behind them the input can be changed without that: `z + J (x' - x)`, with `J` the derivative of such an output by the
input; of maps that are linear up to there this is their output at `x'`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..seam import tensors_in, torch_functions, unseen

_WITH_WEIGHTS = torch_functions([
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "matmul",
    "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum",
]) - {F.bilinear}  # fmt: skip
_LOOK_UPS = torch_functions(["embedding", "__getitem__", "index_select"])
_MADE = (list, tuple)


@dataclass(frozen=True)
class Station:
    """One linear map that floats of `arguments` come to first: its `module`, and the shape of what it puts out.

    Or a table in which whole numbers that were made of them are looked up: `numbers`.
    """

    module: str
    arguments: tuple[str, ...]
    shape: tuple[int, ...]
    numbers: tuple[int, ...] | None = None


class Enough(Exception):
    """All that a pass was made for is known: it need not go on."""


@dataclass(eq=False)
class Frontier:
    """Follows floats of the arguments in one pass to the first linear maps; `stations` are those that were met.

    With `directions` (by argument) `shifts` become `J` times these, one for each station. With `given` shifts, these
    are added to the stations' outputs. `keep`: `outputs` of the stations are kept. `enough`: after that many stations
    the pass is ended by `Enough`.
    """

    model: nn.Module
    directions: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    given: Sequence[Tensor | None] = ()
    keep: bool = False
    enough: int | None = None
    stations: list[Station] = field(default_factory=list[Station])
    shifts: list[Tensor | None] = field(default_factory=list[Tensor | None])
    outputs: list[Tensor] = field(default_factory=list[Tensor])

    def __post_init__(self) -> None:
        # By id: a tensor that was made of the input, and of which arguments. Not kept alive.
        self._made: dict[int, tuple[weakref.ref[Tensor], frozenset[str]]] = {}
        self._copies: dict[str, Tensor] = {}
        self._weights: dict[int, str] | None = None

    def enter(self, argument: str, copy: Tensor) -> None:
        """Floats that the model gets."""
        self._note(copy, frozenset([argument]))
        self._copies[argument] = copy

    def passed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """What the model gets as the result of a torch call."""
        given = tensors_in(args, kwargs) if self._made else []
        names = [self._of(t) for t in given]
        if not any(names):
            return result
        arguments = frozenset[str]().union(*names)
        if func in _WITH_WEIGHTS and isinstance(result, Tensor) and sum(map(bool, names)) == 1:
            return self._station(given, arguments, result)
        if func in _LOOK_UPS and isinstance(result, Tensor) and (numbers := _numbers(given, names)) is not None:
            self._pass_by(Station(self._module(given), tuple(sorted(arguments)), tuple(result.shape), numbers))
            return result
        for made in _tensors(result):
            if made.dtype != torch.bool:
                self._note(made, arguments)
        name = getattr(func, "__name__", "")
        if given and (name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))):
            self._note(given[0], arguments)
        return result

    def _pass_by(self, station: Station) -> None:
        """Note a station at which nothing is changed."""
        self.stations.append(station)
        self.shifts += [None] if self.directions else []

    def _station(self, given: Sequence[Tensor], arguments: frozenset[str], result: Tensor) -> Tensor:
        place = len(self.stations)
        self.stations.append(Station(self._module(given), tuple(sorted(arguments)), tuple(result.shape)))
        if self.directions:
            with unseen():
                self.shifts.append(self._pushed(result))
            result = result.detach()  # so that what comes later has but its own part
        if len(self.stations) == self.enough:
            raise Enough
        shift = self.given[place] if place < len(self.given) else None
        if shift is not None and shift.shape == result.shape:
            result = result + shift
        if self.keep:
            self.outputs.append(result.detach())
        return result

    def _pushed(self, z: Tensor) -> Tensor | None:
        """`J v`: the derivative, by `u`, of `Jᵀ u`, times `v`."""
        if not z.requires_grad:
            return None
        copies = [self._copies[name] for name in self.directions]
        u = torch.zeros_like(z).requires_grad_()
        back = cast(
            "tuple[Tensor | None, ...]", torch.autograd.grad(z, copies, u, create_graph=True, allow_unused=True)
        )
        pairs = [(g, v) for g, v in zip(back, self.directions.values(), strict=True) if g is not None]
        if not pairs:
            return None
        found, along = zip(*pairs, strict=True)
        return torch.autograd.grad(found, u, along)[0].detach()

    def _module(self, given: Sequence[Tensor]) -> str:
        """The module that one of these is a weight of, as far as that can be seen."""
        if self._weights is None:
            self._weights = {id(p): name.rpartition(".")[0] for name, p in self.model.named_parameters()}
        return next((self._weights[id(t)] for t in given if id(t) in self._weights), "")

    def _note(self, tensor: Tensor, arguments: frozenset[str]) -> None:
        self._made[id(tensor)] = weakref.ref(tensor), arguments

    def _of(self, tensor: Tensor) -> frozenset[str]:
        found = self._made.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else frozenset()


def _numbers(given: Sequence[Tensor], names: Sequence[frozenset[str]]) -> tuple[int, ...] | None:
    """The whole numbers of one look-up that were made of floats of the input, in a table that was not."""
    if len(given) != 2 or bool(names[0]) == bool(names[1]):
        return None
    index, table = given if names[0] else reversed(given)
    whole = not index.is_floating_point() and not index.is_complex() and index.dtype != torch.bool
    return tuple(index.flatten().tolist()) if whole and table.is_floating_point() else None


def _tensors(result: Any) -> Iterator[Tensor]:
    for value in result if isinstance(result, _MADE) else [result]:
        if isinstance(value, Tensor):
            yield value
