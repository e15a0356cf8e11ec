"""Residual sums: how they are told from other sums of a pass, and what is known of each after a backward pass.

`a + b` is one where `b` was made of `a` (or `a` of `b`) by more than functions of single entries: `x + attention(x)`,
`x + mlp(x)`; not `x + x³`, nor the two halves of a rotation, nor two branches of one input. It is seen in autograd's
graph, of which only what is younger than `a` is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_Edge = tuple[Any, int]
_Sum = Callable[[Tensor], Tensor]

# Nodes of autograd, without "Backward0": entries stay what they are, but for a factor;
_SAME = frozenset(
    ("Mul", "Div", "Neg", "Clone", "ToCopy", "Copy", "CopyBackwards", "Copys", "View", "UnsafeView", "ReshapeAlias",
     "Permute", "Transpose", "T", "Expand", "Squeeze", "Unsqueeze", "Alias", "IdentityWithBackward", "NativeDropout")
)  # fmt: skip
# or are functions of single entries, or other entries in their places.
_SINGLE = _SAME | frozenset(
    ("Add", "Sub", "Pow", "Where", "MaskedFill", "Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Cat", "Stack",
     "ConstantPadNd", "Index", "IndexSelect", "Gather", "Roll", "Flip", "Repeat", "Sigmoid", "Exp", "Sin", "Cos",
     "Complex", "ViewAsReal", "ViewAsComplex", "Real", "Imag", "Clamp", "Log", "Softplus", "CopySlices", "Relu",
     "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Hardswish", "Hardtanh", "Threshold", "Tanh", "Erf", "Sqrt", "Abs")
)  # fmt: skip


@dataclass(eq=False)
class ResidualSum:
    """One residual sum `c = a + b`, and after a backward pass, over the entries that relevance passes, (batch,):
    `cancellation` `C = Σ(|a| + |b|) / Σ|c|`, `amplification` `A = Σ(|R_a| + |R_b|) / Σ|R_c|`; None where none came."""

    cancellation: Tensor | None = None
    amplification: Tensor | None = None

    def note(self, a: Tensor, b: Tensor, gradients: tuple[Tensor, Tensor], g: Tensor, per_example: _Sum) -> None:
        """Write down what is known of `a` and `b`, whose gradients are those, where `c` gets `g`."""
        size, c = torch.where(g == 0, 0.0, a.abs() + b.abs()), torch.where(g == 0, 0.0, a + b)
        handed = (a * gradients[0]).abs() + (b * gradients[1]).abs()
        self.cancellation = _ratio(per_example(size), per_example(c.abs()))
        self.amplification = _ratio(per_example(handed), per_example((c * g).abs()))


@dataclass
class ResidualSums:
    """`C` and `A` of all residual sums, (batch, sum), from input to output."""

    cancellation: Tensor
    amplification: Tensor

    @classmethod
    def of(cls, sums: list[ResidualSum], total: Tensor) -> ResidualSums:
        """Those of a pass that explained `total` (batch,)."""
        none = torch.ones_like(total)  # where no relevance came nothing cancels

        def together(values: list[Tensor | None]) -> Tensor:
            if not values:
                return total.new_zeros(len(total), 0)
            return torch.stack([none if v is None else v.to(total) for v in values], 1)

        return cls(together([one.cancellation for one in sums]), together([one.amplification for one in sums]))

    @classmethod
    def interleaved(cls, parts: Sequence[ResidualSums]) -> ResidualSums:
        """Those of several targets of each input, (input · target, sum)."""
        C, A = ([getattr(part, name) for part in parts] for name in ("cancellation", "amplification"))
        return cls(torch.stack(C, 1).flatten(0, 1), torch.stack(A, 1).flatten(0, 1))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """`above / below`, 1 of nothing."""
    return torch.where(below == 0, 1.0, above / below)


def single_entries(y: Tensor) -> None:
    """Say that the operation that made `y` is a function of single entries."""
    node: Any = y.grad_fn
    if node is not None:
        node.metadata["single"] = True


def is_residual(a: Tensor, b: Tensor) -> bool:
    """Whether one of the summands is made of the other."""
    first, second = (_source(_edge(t)) for t in (a, b))
    older, younger = (first, b) if _age(first) < _age(second) else (second, a)
    return _made_of(_edge(younger), older)


def _edge(t: Tensor) -> _Edge:
    edge = torch.autograd.graph.get_gradient_edge(t)
    return edge.node, edge.output_nr


def _age(edge: _Edge) -> int:
    """The order in which nodes were made; leaves come first."""
    number = int(edge[0]._sequence_nr())
    return -1 if number >= 2**63 else number


def _name(node: Any) -> str:
    name = str(node.name()).rpartition("::")[2].rstrip("0123456789")
    return name.removesuffix("Backward")


def _before(node: Any) -> list[_Edge]:
    return [edge for edge in node.next_functions if edge[0] is not None]


def _source(edge: _Edge) -> _Edge:
    """The same entries, before they were moved or scaled."""
    while _name(edge[0]) in _SAME and len(before := _before(edge[0])) == 1:
        edge = before[0]
    return edge


def _made_of(edge: _Edge, source: _Edge) -> bool:
    """Whether there is a way back to the source that leads through more than functions of single entries."""
    oldest = _age(source)
    waiting, seen = [(edge, False)], set[tuple[Any, int, bool]]()
    while waiting:
        (node, number), mixed = waiting.pop()
        if node is source[0] and number == source[1]:
            if mixed:
                return True
            continue
        if (node, number, mixed) in seen or _age((node, number)) < oldest:
            continue
        seen.add((node, number, mixed))
        mixed = mixed or not (_name(node) in _SINGLE or "single" in node.metadata)
        waiting += [(before, mixed) for before in _before(node)]
    return False
