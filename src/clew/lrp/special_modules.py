"""Modules that LRP treats specially: rotary tables, learned position embeddings, routers, and activations that make
several torch calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..models import BoundArchitecture
from ..rules import Identity, PlainGradient

TABLES = ("cos", "sin")
_ACTIVATION = re.compile(r"gelu|silu|swish|relu|mish|tanh|activation", re.IGNORECASE)
_ONE_CALL = ("SiLUActivation",)  # one torch call, which has a handler


@dataclass
class PositionalRelevance:
    """What positional encodings got, by block. `tables` are the cosines and sines, (batch, token, dim) each, whose
    relevance is `relevance`; `biases` (batch, token) the relevance of biases of attention, by key, signed and positive.

    `by_head`: relevance of each use of a table, (batch, head, token, dim): of queries, then of keys.
    """

    tables: dict[tuple[int, str], Tensor] = field(default_factory=dict[tuple[int, str], Tensor])
    relevance: dict[tuple[int, str], Tensor] = field(default_factory=dict[tuple[int, str], Tensor])
    biases: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict[int, tuple[Tensor, Tensor]])
    by_head: dict[tuple[int, str], list[Tensor]] = field(default_factory=dict[tuple[int, str], list[Tensor]])
    wanted: bool = False
    separate: bool = False
    _names: dict[int, tuple[tuple[int, str], Tensor]] = field(default_factory=dict[int, tuple[tuple[int, str], Tensor]])
    _learned: set[int] = field(default_factory=set[int])

    def forget(self) -> None:
        """Forget what an earlier backward pass over the same graph brought."""
        self.relevance.clear()
        self.biases.clear()  # uses of tables are written over

    def copied(self) -> PositionalRelevance:
        """What was found so far."""
        by_head = {k: list(v) for k, v in self.by_head.items()}
        return PositionalRelevance(dict(self.tables), dict(self.relevance), dict(self.biases), by_head)

    @staticmethod
    def interleaved(parts: Sequence[PositionalRelevance]) -> PositionalRelevance:
        """What several targets of each input got, (input · target, …)."""

        def together(values: Iterable[Tensor]) -> Tensor:
            return torch.stack(list(values), 1).flatten(0, 1)

        first = parts[0]
        return PositionalRelevance(
            {k: together(p.tables[k] for p in parts) for k in first.tables},
            {k: together(p.relevance[k] for p in parts) for k in first.relevance},
            {
                k: (together(p.biases[k][0] for p in parts), together(p.biases[k][1] for p in parts))
                for k in first.biases
            },
            {k: [together(one) for one in zip(*(p.by_head[k] for p in parts), strict=True)] for k in first.by_head},
        )

    def as_leaves(self, layer: int, tables: Any, batch: int, dtype: torch.dtype) -> Any:
        """Tables as leaves of the graph, one for each example and block, in `dtype` or more."""
        leaves: list[Tensor] = []
        for name, table in zip(TABLES, tables, strict=True):
            whole = table.expand(batch, -1, -1) if table.ndim == 3 else table[None].expand(batch, -1, -1)
            leaf = whole.detach().to(torch.promote_types(table.dtype, dtype)).requires_grad_()
            self.tables[layer, name] = leaf
            self.name(leaf, (layer, name))
            leaves.append(leaf)
        return tuple(leaves)

    def add_bias(self, layer: int, bias: Tensor, g: Tensor, batch: int) -> Tensor:
        """Add the relevance of a bias of scores `(…, query, key)`, by key; what it leaves out of `bias · g` comes back.

        Scores are free up to a number per query: it is chosen such that a query's bias of itself is 0, as ALiBi is
        written, `-m (i - j)`. Under rules that are the softmax's own gradient nothing is left out.
        """
        whole = bias.expand_as(g)
        own = torch.where(g == 0, 0.0, whole * g)
        left = torch.zeros_like(own)
        if whole.shape[-1] == whole.shape[-2]:
            left = torch.where(g == 0, 0.0, whole.diagonal(dim1=-2, dim2=-1)[..., None] * g)
        by_key = (own - left).reshape(batch, -1, g.shape[-1])
        sums, positive = by_key.sum(1), by_key.clamp(min=0).sum(1)
        if layer in self.biases:
            sums, positive = sums + self.biases[layer][0], positive + self.biases[layer][1]
        self.biases[layer] = sums, positive
        return left

    def name(self, tensor: Tensor, key: tuple[int, str]) -> None:
        """Remember that a tensor is a table, kept alive so that no id is used again."""
        if self.separate:
            self._names[id(tensor)] = key, tensor

    def key_of(self, tensor: Any) -> tuple[int, str] | None:
        """Which table a tensor is a view of."""
        found = self._names.get(id(tensor)) if self._names else None
        return None if found is None else found[0]

    def remember(self, output: Tensor) -> None:
        """Remember the output of the look-up of learned positions."""
        self._learned.add(output.untyped_storage().data_ptr())

    def is_learned(self, tensor: Any) -> bool:
        """Whether a tensor holds learned positions."""
        return isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self._learned


class _Tape(Protocol):
    """What is needed of a tape."""

    batch: int
    positional: PositionalRelevance
    paused: int
    mixture: int
    activated: dict[int, Tensor]

    def watch(self, module: nn.Module, *, before: Any = None, after: Any = None) -> None: ...
    def examples_are(self, rows: Tensor | None) -> None: ...
    def rule(self, operation: str, place: str | None = None) -> Any: ...
    def ruled(self, compute: Callable[..., Any], back: Any, saves: Any, *inputs: Tensor) -> Tensor: ...
    def counted(self, operation: str, cause: str) -> tuple[Callable[[Any, float], Any], Callable[[], None]]: ...


def watch_texts(tape: _Tape, bound: BoundArchitecture) -> None:
    """Place the hooks of a model of text."""
    positional = tape.positional
    if isinstance(bound.position_embeddings, Tensor):
        positional.remember(bound.position_embeddings)
    elif bound.position_embeddings is not None:
        tape.watch(bound.position_embeddings, after=positional.remember)
    if positional.wanted:
        dtype = next((p.dtype for p in bound.patches.parameters() if p.is_floating_point()), torch.float32)
        for layer, attention in enumerate(bound.attentions):
            tape.watch(attention, before=_tables_given(tape, layer, dtype))
            for part in attention.modules():
                if "Rotary" in type(part).__name__:
                    tape.watch(part, after=_tables_made(tape, layer, dtype))
    for block, router in zip(bound.blocks, bound.routers, strict=True):
        if router is not None:
            _watch_mixture(tape, block, router)


def _tables_given(tape: _Tape, layer: int, dtype: torch.dtype) -> Callable[..., Any]:
    def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs.get("position_embeddings")
        tables: tuple[Any, ...] = given if isinstance(given, tuple) else ()
        if len(tables) != len(TABLES):
            return None
        return args, {**kwargs, "position_embeddings": tape.positional.as_leaves(layer, tables, tape.batch, dtype)}

    return before


def _tables_made(tape: _Tape, layer: int, dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda output: tape.positional.as_leaves(layer, output, tape.batch, dtype)


def _watch_mixture(tape: _Tape, block: nn.Module, router: nn.Module) -> None:
    """The router sees a constant: which experts speak, and how loudly, is not explained. Its weights count as one of
    the two factors of a product (the uniform rule): their half is booked as "stopped"."""

    def detached(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(a.detach() if isinstance(a, Tensor) else a for a in args), kwargs

    def enter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tape.mixture += 1

    def leave(output: Any) -> None:
        tape.mixture -= 1
        tape.examples_are(None)

    tape.watch(router, before=detached)
    for part in block.modules():
        if any(child is router for child in part.children()):
            tape.watch(part, before=enter, after=leave)


def watch_activations(tape: _Tape, blocks: list[nn.Module]) -> None:
    """Activation modules that make several torch calls are one operation: their inner calls are not seen."""
    for block in blocks:
        for module in block.modules():
            kind = type(module)
            simple = kind.__module__.startswith("torch.nn") or kind.__name__ in _ONE_CALL
            if simple or not _ACTIVATION.search(kind.__name__) or next(module.parameters(), None) is not None:
                continue
            if not any(True for _ in module.children()):
                _watch_activation(tape, module)


def _watch_activation(tape: _Tape, module: nn.Module) -> None:
    inputs: list[tuple[str, Any]] = []

    def enter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()):
            inputs.append(("", None))
            return None
        rule = tape.rule("activation")
        if isinstance(rule, Identity):
            inputs.append(("identity", x))
            return (x.detach(), *args[1:]), kwargs
        if isinstance(rule, PlainGradient):
            counted, finish = tape.counted("activation", "nonlinearity")
            tape.paused += 1
            inputs.append(("plain", (counted, finish)))
            return (counted(x, -1.0), *args[1:]), kwargs
        inputs.append(("", None))
        return None

    def leave(output: Any) -> Any:
        how, kept = inputs.pop()
        if how == "plain":
            tape.paused -= 1
            counted, finish = kept
            finish()
            return counted(output, 1.0) if output is not None else None
        if how == "identity" and output is not None:

            def compute(x: Tensor) -> tuple[Tensor, Tensor]:
                return output, (output / x).nan_to_num_(nan=0.0)

            y = tape.ruled(compute, lambda g, inputs, ratio: (g * ratio,), (), kept)
            tape.activated[id(y)] = y
            return y
        return None

    tape.watch(module, before=enter, after=leave)
