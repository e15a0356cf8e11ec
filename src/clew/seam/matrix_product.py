"""Einstein sums that are products of matrices, as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class MatrixProduct:
    """An Einstein sum as a product of two `factors` (…, row, inner) and (…, inner, column), and the `order` in which
    the axes of the product are wanted."""

    factors: tuple[Tensor, Tensor]
    order: tuple[int, ...]

    def of(self, product: Tensor) -> Tensor:
        """The sum, from the product of the factors."""
        return product.permute(self.order)


def matrix_product(args: tuple[Any, ...]) -> MatrixProduct | None:
    """The arguments of `torch.einsum` as a product of two matrices, batch axes first in the order of the first factor;
    None where they are something else."""
    if len(args) == 2 and isinstance(args[1], (list, tuple)):
        args = (args[0], *args[1])
    if len(args) != 3 or not isinstance(args[0], str) or "->" not in args[0]:
        return None
    inputs, out = _spelt_out(args[0].replace(" ", ""), args[1:]).split("->")
    left, right = inputs.split(",")
    batch = [c for c in left if c in right and c in out]
    inner = [c for c in left if c in right and c not in out]
    row = [c for c in left if c not in right]
    column = [c for c in right if c not in left]
    fits = [len(inner), len(row), len(column)] == [1, 1, 1] and sorted(out) == sorted([*batch, *row, *column])
    if not fits or len(set(left)) != len(left) or len(set(right)) != len(right):
        return None
    first, second = [*batch, *row, *inner], [*batch, *inner, *column]
    a, b = args[1].permute([left.index(c) for c in first]), args[2].permute([right.index(c) for c in second])
    made = [*batch, *row, *column]
    return MatrixProduct((a, b), tuple(made.index(c) for c in out))


def _spelt_out(expression: str, operands: Sequence[Tensor]) -> str:
    """An Einstein sum whose `...` are letters, the same for axes that meet."""
    names, out = expression.split("->")
    letters = "".join(c for c in ascii_letters if c not in expression)
    counts = [x.ndim - len(name.replace("...", "")) for name, x in zip(names.split(","), operands, strict=True)]
    most = max((n for n, name in zip(counts, names.split(","), strict=True) if "..." in name), default=0)
    spelt = [name.replace("...", letters[most - n : most]) for name, n in zip(names.split(","), counts, strict=True)]
    return ",".join(spelt) + "->" + out.replace("...", letters[:most])
