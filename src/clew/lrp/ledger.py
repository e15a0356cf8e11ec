"""The account of a pass under LRP rules: operations and their rules, leaks by cause, and relevance by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CaptureError
from ..rules import Rule
from ..rules.rule_sets import RuleSet, rule_for
from ..shapes import at_least_float32
from .residual import ResidualSum


@dataclass(frozen=True, eq=False)
class Leak:
    """What one operation leaked: the `operation`, its `block` and `place`, the `cause`, and `values` (batch,)."""

    operation: str
    block: int | None
    place: str
    cause: str
    values: Tensor


@dataclass(frozen=True, eq=False)
class OperationRule:
    """One kind of operation that relevance may pass: where it was met and which rule it has (None: an error)."""

    operation: str
    place: str
    rule: Rule | None


@dataclass
class OperationBook:
    """The book of one operation."""

    ledger: Ledger
    operation: str
    block: int | None
    place: str
    rows: Tensor | None

    def sums(self, values: Tensor) -> Tensor:
        """Sums per example; of what an expert got, by the examples that its rows are of."""
        if self.rows is None or values.ndim < 2 or len(values) != len(self.rows):
            return self.ledger.per_example(values)
        sums = at_least_float32(values).flatten(1).sum(1)
        return sums.new_zeros(self.ledger.batch).index_add_(0, self.rows, sums)

    def leak(self, cause: str, values: Tensor, factor: float = 1.0) -> None:
        self.ledger.dtypes.add(values.dtype)
        if cause == "bias" and self.ledger.by_token is not None:
            self.ledger.by_token.add_bias(self, values * factor)
        summed = self.sums(values)
        if factor != 1:
            summed = summed * factor
        self.ledger.entries.append(Leak(self.operation, self.block, self.place, cause, summed))


@dataclass
class Flow:
    """Sums of relevance, and of its size, at one stage of the model, per example."""

    total: Tensor
    size: Tensor


@dataclass
class ByToken:
    """What a pass under rules leaves token by token: the tokens of each stage ("block 0" to "output") with their
    gradient, `states`, and what biases got, `biases`, with the block that they are in: (batch, token), or (batch,)
    where tokens are pooled. Those of the embedding are left out."""

    states: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, "tuple[Tensor, Tensor]"])
    biases: list[tuple[int, Tensor]] = field(default_factory=list["tuple[int, Tensor]"])

    def forget(self) -> None:
        """Nothing is kept any more."""
        self.states.clear()
        self.biases.clear()

    def copied(self) -> ByToken:
        """The same, which stays when a next pass begins."""
        return ByToken(dict(self.states), list(self.biases))

    def add_bias(self, book: OperationBook, values: Tensor) -> None:
        """What the bias of an operation got, (batch, …), (batch · token,) or (batch,)."""
        if book.place in ("embedding", "patch_embedding"):
            return
        if book.rows is not None:
            raise CaptureError("biases of experts are not told apart by token", expected="experts without biases")
        batch, block = book.ledger.batch, -1 if book.block is None else book.block
        flat = values.flatten(0, -1) if len(values) != batch else values
        self.biases.append((block, flat.view(batch, -1) if flat.numel() > batch else flat.flatten()))


class Ledger:
    """Rules, the place where a pass is, and what is written down there; everything per example of a `batch`."""

    def __init__(self, rules: RuleSet, batch: int) -> None:
        self.rules, self.batch = rules, batch
        self.block: int | None = None
        self.place = "embedding"
        self.entries: list[Leak] = []
        self.met: dict[OperationRule, int] = {}
        self.flow: dict[str, Flow] = {}
        self._found: dict[tuple[str, str], OperationRule] = {}
        self._finally: list[Callable[[], None]] = []
        self._at_first: list[Callable[[], None]] = []
        self.dtypes: set[torch.dtype] = set()  # in which amounts were written down
        self.rows: Tensor | None = None  # examples of the rows that an expert gets
        self.residual_rules = any(key.startswith("add:residual") for key in rules)
        self.keeps_sums, self.sums = False, list[ResidualSum]()
        self.by_token: ByToken | None = None  # what is kept token by token, where that is asked for

    def examples_are(self, rows: Tensor | None) -> None:
        """Say of which examples the rows of the next tensors are; None: each example has its own."""
        self.rows = rows

    def where(self) -> str:
        """The place of the pass, in words."""
        block = f"in block {self.block}" if self.block is not None else "outside the blocks"
        return f"{block} ({self.place or 'between blocks'})"

    def rule(self, operation: str, place: str | None = None) -> Rule | None:
        """The rule of an operation here, noted as met."""
        key = operation, self.place if place is None else place
        met = self._found.get(key)
        if met is None:
            met = self._found[key] = OperationRule(*key, rule_for(self.rules, *key))
        self.met[met] = self.met.get(met, 0) + 1
        return met.rule

    def page(self, operation: str) -> OperationBook:
        """The book of an operation met here."""
        return OperationBook(self, operation, self.block, self.place, self.rows)

    def residual_sum(self) -> ResidualSum | None:
        """A residual sum of which something will be noted, if these are kept."""
        if not self.keeps_sums:
            return None
        self.sums.append(ResidualSum())
        return self.sums[-1]

    def relevance(self, x: Tensor | None, g: Tensor) -> Tensor:
        """`Σ x · g` per example."""
        assert x is not None
        if x.is_contiguous() and g.is_contiguous() and len(x) == self.batch and x.dtype == g.dtype:
            x, g = at_least_float32(x), at_least_float32(g)
            found = torch.bmm(x.view(self.batch, 1, -1), g.view(self.batch, -1, 1)).flatten()
        else:
            found = self.per_example(x * g)
        return found

    def per_example(self, values: Tensor) -> Tensor:
        """Sums over all axes but the batch, which comes first: (batch,), in float32 or more."""
        if not values.ndim and self.batch == 1:
            return at_least_float32(values)[None]
        if values.ndim and values.shape[0] == self.batch:
            return at_least_float32(values).sum(tuple(range(1, values.ndim))) if values.ndim > 1 else values
        if values.ndim and values.shape[0] and values.shape[0] % self.batch == 0:
            return at_least_float32(values).reshape(self.batch, -1).sum(1)
        raise CaptureError(
            "a tensor that relevance passes does not have its examples first",
            expected=f"(batch = {self.batch}, …)",
            got=f"{tuple(values.shape)}, {self.where()}",
            todo="LRP needs layers whose inputs are (batch, token, width)",
        )

    def at_end(self, finish: Callable[[], None]) -> None:
        """Do something when the backward pass is over."""
        self._finally.append(finish)

    def at_beginning(self, begin: Callable[[], None]) -> None:
        """Do something when a backward pass begins."""
        self._at_first.append(begin)

    def open(self) -> None:
        """Say that a backward pass begins: what an earlier one over the same graph wrote down is forgotten."""
        self.entries.clear()
        for begin in self._at_first:
            begin()
        self.flow = {name: Flow(torch.empty(0), torch.empty(0)) for name in self.flow}
        for one in self.sums:
            one.cancellation = one.amplification = None

    def close(self) -> None:
        """Say that the backward pass is over."""
        for finish in self._finally:
            finish()
        self.flow = {k: v for k, v in self.flow.items() if len(v.total)}

    def release(self) -> None:
        """Let go of the graph: what is done at its end holds tensors of it, and its nodes hold this ledger, a circle
        that Python cannot see."""
        self._finally.clear()
        self._at_first.clear()
