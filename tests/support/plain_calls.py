"""A model called as it is, with leaves of our own where its input enters: the reference for what is explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from support.zoo_common import PICTURE, Arrange, Specimen, called
from torch import Tensor, nn

from clew.attributions import (
    Attribution,
    ImageAttribution,
    PicturesAttribution,
    SoundAttribution,
    StreamsAttribution,
    TextAttribution,
)


class PlainCall:
    """Leaves around one call: floats as they are given, token numbers where an `nn.Embedding` looks them up.

    `inputs` are those with leaves in the place of floats; after the call `leaves` are by stream and place. All that
    enters is taken `scale` times.
    """

    def __init__(self, specimen: Specimen, scale: float = 1.0) -> None:
        self.specimen, self.scale = specimen, scale
        self.leaves: dict[tuple[str, str], tuple[Tensor, Arrange]] = {}
        self._stack = ExitStack()
        self.inputs = self._given(specimen.inputs)

    def __enter__(self) -> PlainCall:
        species, model = self.specimen.species, self.specimen.model
        for stream, places in species.looked_up.items():
            for path, arrange in places.items():
                self._hook(model.get_submodule(path), self._leaf(stream, path, arrange))
        words = {n: t for n, t in named_tensors(model, self.specimen.inputs).items() if n in species.streams}
        words = {n: t for n, t in words.items() if not t.is_floating_point() and n not in species.looked_up}
        for module in model.modules():
            if isinstance(module, nn.Embedding) and "Position" not in type(module).__name__:  # which counts the words
                self._hook(module, self._look_up(words))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def call(self) -> Any:
        return called(self.specimen.model, self.inputs)

    def times_gradient(self, score: Tensor) -> dict[str, Tensor]:
        """Input times gradient of each score alone, by stream, (batch, *axes of the argument)."""
        leaves = [leaf for leaf, _ in self.leaves.values()]
        found: dict[str, list[Tensor]] = {stream: [] for stream, _ in self.leaves}
        for one in score:
            g = torch.autograd.grad(one, leaves, allow_unused=True, materialize_grads=True, retain_graph=True)
            sums: dict[str, Tensor] = {}
            for (stream, _), (leaf, arrange), own in zip(self.leaves, self.leaves.values(), g, strict=True):
                R = arrange((leaf * own).detach())
                sums[stream] = sums[stream] + R if stream in sums else R
            for stream, R in sums.items():
                found[stream].append(R)
        return {stream: torch.stack(parts) for stream, parts in found.items()}

    def _given(self, value: Any, name: str = "") -> Any:
        if isinstance(value, Mapping):
            return {k: self._given(v, k) for k, v in value.items()}
        if isinstance(value, tuple):
            names = list(self.specimen.species.streams)
            return tuple(self._given(v, names[i]) for i, v in enumerate(value))
        name = name or self.specimen.species.streams[0]
        if not value.is_floating_point() or name not in self.specimen.species.streams:
            return value.clone()
        leaf = (self.scale * value).requires_grad_()
        self.leaves[name, ""] = leaf, lambda R: R
        return leaf.clone()  # which the model may change

    def _hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._stack.callback(module.register_forward_hook(hook).remove)

    def _leaf(self, stream: str, path: str, arrange: Arrange) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            leaf = (self.scale * output.detach()).requires_grad_()
            self.leaves[stream, path] = leaf, lambda R: arrange(R.sum(-1))
            return leaf.clone()

        return hook

    def _look_up(self, words: Mapping[str, Tensor]) -> Callable[..., Any]:
        """The first look-up of numbers as they were given, where none is the place of a picture."""

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            for name, ids in words.items() if isinstance(args[0], Tensor) else ():
                same = args[0].shape == ids.shape and bool(((args[0] == ids) | (ids == PICTURE)).all())
                if same and (name, "") not in self.leaves:
                    return self._leaf(name, "", lambda R: R)(module, args, output)
            return None

        return hook


def named_tensors(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The tensors of an input, a positional one by the parameter of `forward`."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    names = [n for n in model.forward.__code__.co_varnames if n != "self"]
    return dict(zip(names, inputs if isinstance(inputs, tuple) else (inputs,), strict=False))


def plain_gradient(specimen: Specimen) -> dict[str, Tensor]:
    """Input times gradient by autograd through the model called plainly, (batch, *axes), by stream."""
    with PlainCall(specimen) as plain:
        return plain.times_gradient(specimen.score(plain.call()))


def plain_path(specimen: Specimen, n: int, least: float = 0.0) -> tuple[dict[str, Tensor], Tensor]:
    """`Σ_k w_k x · ∂s/∂x(α_k x)` with Gauss' points, (batch, *axes), by stream, and `s(x) - s(least x)`."""
    total: dict[str, Tensor] = {}
    nodes, weights = np.polynomial.legendre.leggauss(n)
    for alpha, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        with PlainCall(specimen, float(alpha)) as plain:
            found = plain.times_gradient(specimen.score(plain.call()))
        total = {name: R * float(w / alpha) + total.get(name, 0.0) for name, R in found.items()}
    ends = list[Tensor]()
    for scale in (1.0, least):
        with PlainCall(specimen, scale) as plain, torch.no_grad():
            ends.append(specimen.score(plain.call()))
    return total, ends[0] - ends[1]


# Against what clew gives


def streams_of(found: Attribution, only: str = "") -> dict[str, Attribution]:
    """Results by stream, of one stream too; `only`: the stream of a model that is declared."""
    return dict(found.streams) if isinstance(found, StreamsAttribution) else {found.stream or only: found}


def difference(found: Attribution, expected: Mapping[str, Tensor]) -> float:
    """The largest difference from (batch, *axes) by stream, relative to the stream's largest value."""
    parts = streams_of(found, next(iter(expected)))
    assert set(parts) == set(expected)
    worst, overall = 0.0, max(float(R.abs().amax()) for R in expected.values())
    for name, part in parts.items():
        mine, R = _comparable(part, expected[name])
        assert mine.shape == R.shape, name
        worst = max(worst, float((mine - R).abs().amax()) / max(float(R.abs().amax()), 1e-6 * overall))
    return worst


def _comparable(part: Attribution, each: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of a result and of the reference, arranged alike."""
    whole = each.sum(0)  # of each example only its own rows are reached
    if isinstance(part, ImageAttribution):
        return part.pixels, whole.sum(1)
    if isinstance(part, TextAttribution):
        whole = whole.flatten(2).sum(-1) if whole.ndim > 2 else whole
        whole = whole if whole.shape == part.scores.shape else whole.mT  # tokens first
        return part.scores, whole.masked_fill(~part.mask, 0.0)
    if isinstance(part, PicturesAttribution):
        return _as_sorted(part, each)
    if isinstance(part, SoundAttribution) and part.bands is None:
        frames = F.pad(whole, (0, -whole.shape[1] % part.step)).unflatten(1, (-1, part.step))
        return part.scores, frames.sum(2)
    if isinstance(part, SoundAttribution):
        whole = whole.flatten(1, -3).sum(1) if whole.ndim > 3 else whole
        return part.bands, whole if whole.shape == part.bands.shape else whole.mT
    if part.scores.shape == each.shape:
        return part.scores, each
    return part.scores, whole if part.scores.shape == whole.shape else whole.T  # examples come first


def _as_sorted(part: PicturesAttribution, each: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of patches that come in a row, or of the channels of pixels, of each example from the least on; what one
    has more is zeros. Where they are is tested with the places of pictures."""
    if each.ndim == 3:
        mine, R = part.scores, each.sum(2)
    else:
        mine, R = part.pixels, each.sum(-3 if each.shape[-3] in (1, 3) else 2).flatten(1)
    longest = max(mine.shape[1], R.shape[1])
    mine, R = (F.pad(values, (0, longest - values.shape[1])).sort(1).values for values in (mine, R))
    return mine, R
