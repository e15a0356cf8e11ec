"""Einstein sums that are products of matrices, as such."""

from __future__ import annotations

from dataclasses import dataclass
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
    if len(args) != 3 or not isinstance(args[0], str) or "->" not in args[0] or "." in args[0]:
        return None
    inputs, out = args[0].replace(" ", "").split("->")
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
