"""Finds the operation that an account misses: relevance that goes into each call, and what it hands on and books.

Slower than a pass under rules, and only made when an account stays open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..rules.rule_sets import RuleSet
from .ledger import OperationBook
from .stream_tape import StreamTape


@dataclass
class AuditedCall:
    """One call of a torch function: its name, the module it was made in, and sums of relevance."""

    name: str
    module: str
    handed_in: float = 0.0
    handed_on: float = 0.0
    booked: float = 0.0

    @property
    def missing(self) -> float:
        """What came in and was neither handed on nor booked."""
        return self.handed_in - self.handed_on - self.booked


@dataclass
class AuditedBook(OperationBook):
    """A book that also tells the call that it is kept for."""

    calls: list[AuditedCall] = field(default_factory=list[AuditedCall])

    def leak(self, cause: str, values: Tensor, factor: float = 1.0) -> None:
        """Sum values under a cause."""
        super().leak(cause, values, factor)
        for call in self.calls:
            call.booked += float(values.double().sum()) * factor


class AuditedTape(StreamTape):
    """A tape that sums up relevance around each call."""

    def __init__(self, rules: RuleSet, batch: int, model: nn.Module) -> None:
        super().__init__(None, rules, batch, level="stream", model=model)
        self.calls: list[AuditedCall] = []
        self._around: list[AuditedCall] = []
        self._modules: list[str] = []

    def place_hooks(self) -> None:
        """Know in which module the pass is, too."""
        assert self._model is not None
        for name, module in self._model.named_modules():
            self.watch(module, before=lambda a, k, name=name: self._modules.append(name), after=self._leave)
        super().place_hooks()

    def _leave(self, output: Any) -> None:
        self._modules.pop()

    def page(self, operation: str) -> OperationBook:
        """The book of an operation met here."""
        return AuditedBook(self, operation, self.block, self.place, self.rows, list(self._around))

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One torch call, with what goes in and out."""
        name = getattr(func, "__name__", "")
        changes = (name.endswith("_") and not name.startswith("__")) or name in ("__setitem__", "__get__", "__set__")
        changes = changes or name.startswith("__i") or name in ("register_hook", "requires_grad_")
        if changes or self.paused or not torch.is_grad_enabled():
            return super().call(func, args, kwargs)
        made = AuditedCall(name, self._modules[-1] if self._modules else "")

        def counted(value: Any) -> Any:
            if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
                return type(value)(map(counted, cast("list[Any]", value)))
            if not (isinstance(value, Tensor) and value.requires_grad and value.is_floating_point()):
                return value

            kept = value.detach().clone()  # which the model may change in place

            def note(g: Tensor, _: Tensor | None) -> None:
                made.handed_on += _product(kept, g)

            copy = self.hook_backward(value, note)
            self.moved(value, copy)
            self.leaf_of |= {id(copy): self.leaf_of[id(value)]} if id(value) in self.leaf_of else {}
            return copy

        def out(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                items = [out(v) for v in cast("list[Any]", value)]
                return type(value)(items) if not hasattr(value, "_fields") else tuple(items)
            if not (isinstance(value, Tensor) and value.requires_grad and value.is_floating_point()):
                return value

            kept = value.detach().clone()

            def note(g: Tensor, _: Tensor | None) -> None:
                made.handed_in += _product(kept, g)

            copy = self.hook_backward(value, note)
            self.moved(value, copy)
            if id(value) in self.activated:
                self.activated[id(copy)] = copy
            return copy

        self._around.append(made)
        try:
            result = super().call(func, tuple(map(counted, args)), {k: counted(v) for k, v in kwargs.items()})
        finally:
            self._around.pop()
        if isinstance(result, (Tensor, list, tuple)):
            self.calls.append(made)
            return out(result)
        return result

    def worst(self) -> list[AuditedCall]:
        """Calls that miss relevance, the worst first; of nested ones the inner come first."""
        return sorted((c for c in self.calls if c.missing != 0), key=lambda c: -abs(c.missing))


def _product(x: Tensor, g: Tensor) -> float:
    return float(torch.where(g == 0, 0.0, x * g).double().sum())
