"""What tensors are that a pass meets: gates, softmaxes of attention, activations, tables of positions. By their ids, so
they are kept alive while that matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .special_modules import PositionalRelevance

_Any = TypeVar("_Any")


@dataclass
class AttentionCall:
    """One attention that a pass met: the `shape` of its output with its first and last rows (`ends`), and after a
    backward pass `S`: `A ⊙ (S Vᵀ)` is the relevance of its `A`; None where none came."""

    shape: torch.Size
    ends: Tensor
    S: Tensor | None = None


class Marks:
    """What is remembered of tensors, and with `keeps_calls` of attention, wherever that is."""

    def __init__(self, positional: PositionalRelevance, *, keeps_calls: bool = False) -> None:
        self.positional, self.keeps_calls = positional, keeps_calls
        self.attention_calls: list[AttentionCall] = []
        self.activated: dict[int, Tensor] = {}  # outputs of activations, in this block
        self.probs: dict[int, Tensor] = {}  # softmaxes of this attention module and what was made of them
        self.logits: dict[int, Tensor] = {}  # what may become a softmax of attention, where no place says so
        self.gates: dict[int, Tensor] = {}  # tensors that only scale what they multiply
        self.scales: dict[int, float] = {}  # of tensors that were scaled on the way to the scores of attention
        self._scaled: list[Tensor] = []

    @property
    def follows(self) -> bool:
        """Whether anything is remembered that calls which move numbers hand on."""
        return bool(self.probs or self.scales or self.gates or self.logits) or self.positional.separate

    def moved(self, x: Tensor, y: _Any) -> _Any:
        """`y`, which holds the numbers of `x` (parts of them, where it is a list): it is what `x` is."""
        if not self.follows:
            return y
        if id(x) in self.gates:
            self.gate(*(cast("Sequence[Any]", y) if isinstance(y, (list, tuple)) else [y]))
        if not isinstance(y, Tensor):
            return y
        if id(x) in self.probs:
            self.probs[id(y)] = y
        if id(x) in self.scales:
            self.scaled_by(y, x, 1.0)
        if id(x) in self.logits:
            self.logits[id(y)] = y
        if (key := self.positional.key_of(x)) is not None:
            self.positional.name(y, key)
        return y

    def gate(self, *tensors: Any) -> None:
        """Say that tensors only scale what they multiply: there they are held fixed."""
        self.gates |= {id(t): t for t in tensors if isinstance(t, Tensor)}

    def gate_as(self, y: _Any, *xs: Any) -> _Any:
        """`y`, which is a gate where all of these tensors are that depend on the input."""
        if self.gates:
            tracked = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
            if tracked and all(id(x) in self.gates for x in tracked):
                self.gate(y)
        return y

    def held_fixed(self, *factors: Any) -> list[Any]:
        """Factors of a product: gates are detached where another factor is none."""
        if not self.gates:
            return list(factors)
        gates = [id(f) in self.gates for f in factors]
        others = any(isinstance(f, Tensor) and f.requires_grad and not g for f, g in zip(factors, gates, strict=True))
        return [f.detach() if g and others else f for f, g in zip(factors, gates, strict=True)]

    def scaled_by(self, y: Tensor, x: Any, factor: float) -> None:
        """Remember that a tensor of attention is `x` times a number."""
        self.scales[id(y)] = factor * self.scales.get(id(x), 1.0)
        self._scaled.append(y)

    def attends(self, output: Tensor) -> AttentionCall | None:
        """A new attention call with this output, if these are kept."""
        if not self.keeps_calls:
            return None
        seen = AttentionCall(output.shape, output.detach()[..., [0, -1], :].clone())
        self.attention_calls.append(seen)
        return seen

    def forget_attention(self) -> None:
        """Forget what mattered inside one attention module."""
        self.probs.clear()
        self.logits.clear()
        self.scales.clear()
        self._scaled.clear()
