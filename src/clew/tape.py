"""Tape: a forward pass whose backward follows LRP rules, on a model as it is.

While the pass runs, `Tape` knows where it is (block and place), and hands every torch call that touches the explained
input to the handler of its operation (`operations.py`), which asks the rule set what its backward is to be. Operations
that only move numbers need no rule. Any other operation without a rule is an error as soon as relevance reaches it.

The tape also keeps the books: relevance at each block, what went to positions and prefix tokens, and what each
operation leaked, by cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import Bound
from .rule_sets import RuleSet, rule_for
from .rules import Book, PlainGradient, Rule
from .seam import Seam
from .shapes import CaptureError, OptionError, at_least_float32
from .sparse import rows_read

Handler = Callable[["Tape", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
Back = Callable[[Tensor, Tensor | None], Tensor | None]
RuledBack = Callable[[Tensor, tuple[Tensor, ...] | None, Tensor | None], tuple[Tensor | None, ...]]

# Filled by operations.py: torch functions that have a rule, and those whose own gradient conserves.
HANDLERS: dict[Any, Handler] = {}
MOVES: set[Any] = set()


@dataclass(frozen=True, eq=False)
class Entry:
    """What one operation leaked: the `operation`, its `block` and `place`, the `cause`, and `values` (batch,)."""

    operation: str
    block: int | None
    place: str
    cause: str
    values: Tensor


@dataclass(frozen=True, eq=False)
class Met:
    """One kind of operation that relevance may pass: where it was met and which rule it has (None: an error)."""

    operation: str
    place: str
    rule: Rule | None


@dataclass
class _Page:
    """The book of one operation."""

    tape: Tape
    operation: str
    block: int | None
    place: str

    def leak(self, cause: str, values: Tensor, factor: float = 1.0) -> None:
        summed = self.tape.per_example(values)
        if factor != 1:
            summed = summed * factor
        self.tape.entries.append(Entry(self.operation, self.block, self.place, cause, summed))


class _Pass(torch.autograd.Function):
    """The identity, whose backward may look at relevance and change it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, back: Back, keep: bool) -> Tensor:
        ctx.back = back
        ctx.save_for_backward(*([x] if keep else []))
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (g,), kept = gradients, ctx.saved_tensors
        changed = ctx.back(g, kept[0] if kept else None)
        return g if changed is None else changed, None, None


class _Ruled(torch.autograd.Function):
    """An operation whose backward is a rule; inputs and output are kept only where the rule asks for them."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Any], back: RuledBack, saves: frozenset[str], *inputs: Tensor
    ) -> Tensor:
        y, *beside = found if isinstance(found := compute(*inputs), tuple) else (found,)
        ctx.back, ctx.saves, ctx.count = back, saves | ({"y"} if beside else set()), len(inputs)
        # Kept by autograd, which lets go of it as the backward pass moves on; a closure would not.
        ctx.save_for_backward(*(inputs if "x" in saves else ()), *(beside or ([y] if "y" in saves else [])))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        inputs = kept[: ctx.count] if "x" in ctx.saves else None
        y = kept[-1] if "y" in ctx.saves else None
        return (None, None, None, *ctx.back(gradients[0], inputs, y))


@dataclass
class Flow:
    """Sums of relevance, and of its size, at one stage of the model, per example."""

    total: Tensor
    size: Tensor


class Tape(Seam):
    """One forward pass under a rule set. `level`: relevance ends at the "token" embeddings of patches or the "pixel"s.

    `reads` are the rows that the head reads, where it is enough that these are right in the last block.

    After the backward pass: `entries` (what leaked), `flow` (relevance by stage, from input to output), `patches`
    (batch, patch, width), `positions`, `entering` and `prefix` (relevance vectors at the first sum), `pixels` where the
    pixel rule gives relevance as such, and with `keep_attention`, `attention`: `A ⊙ (S Vᵀ)` is the relevance of `A`.
    """

    def __init__(
        self,
        bound: Bound | None,
        rules: RuleSet,
        batch: int,
        *,
        level: str,
        reads: Sequence[int] | None = None,
        keep_attention: bool = False,
    ) -> None:
        super().__init__()
        self.reads, self.keep_attention = reads, keep_attention
        self.read = False  # whether the pass is behind the last attention, in its block
        self.rules, self.batch, self.level = rules, batch, level
        self.entries: list[Entry] = []
        self.met: dict[Met, int] = {}
        self._found: dict[tuple[str, str], Met] = {}
        self.flow: dict[str, Flow] = {}
        self.attention: dict[int, Tensor] = {}
        self.patches: Tensor | None = None
        self.positions: list[Tensor] = []
        self.entering: Tensor | None = None
        self.prefix: dict[int, Tensor] = {}
        self.pixels: Tensor | None = None
        self.leaf: Tensor | None = None
        self.block: int | None = None
        self.place = "embedding"
        self.activated: dict[int, Tensor] = {}  # outputs of activations in this block, kept alive so no id is reused
        self.products = 0  # matrix products seen in this attention module
        self._bound = bound
        self._depth = bound.depth if bound is not None else 0
        self._pooled = bound is not None and bound.pooled
        self._finally: list[Callable[[], None]] = []
        self._places: list[tuple[int | None, str]] = []

    # Where the pass is

    def place_hooks(self) -> None:
        bound = self._bound
        if bound is None:  # any function, without places
            self.switch_on()
            return
        self._at(bound.patches, None, "patch_embedding", after=self._embedded)
        for layer, block in enumerate(bound.blocks):
            self.watch(block, before=self._block_input(layer))
            self._at(block, layer, "mlp")
            self._at(bound.attentions[layer], layer, "attention")
            if not (bound.pooled and layer == bound.last):
                self._at(bound.projections[layer], layer, "attention")
        self.watch(bound.blocks[bound.depth - 1], after=self._last_output)
        self.switch_on()

    def _at(self, module: nn.Module, block: int | None, place: str, after: Callable[[Any], Any] | None = None) -> None:
        def enter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._places.append((self.block, self.place))
            if place == "attention" and self.place != "attention":
                self.products = 0
            self.block, self.place = block, place

        def leave(output: Any) -> Any:
            self.block, self.place = self._places.pop()
            if place == "mlp":
                self.activated.clear()
                self.read = False
                self.place = "head" if block is not None and block >= self._depth - 1 else ""
            return after(output) if after is not None and output is not None else None  # None after an error

        self.watch(module, before=enter, after=leave)

    def _embedded(self, output: Any) -> Tensor:
        """The patch embedding's output: where relevance ends on the level of tokens."""
        if self.level == "token":
            output = output.detach().requires_grad_()
            self.leaf = output

        def keep(g: Tensor, y: Tensor | None) -> None:
            assert y is not None
            self.patches = (y * g).flatten(2).mT

        return self.through(output, keep, keep=True)

    def _block_input(self, layer: int) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = f"block {layer}" if layer < self._depth else "pool"
            if args:
                return (self.mark(args[0], name), *args[1:]), kwargs
            key = next(k for k, v in kwargs.items() if isinstance(v, Tensor))
            return args, {**kwargs, key: self.mark(kwargs[key], name)}

        return before

    def _last_output(self, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.mark(output[0], "output"), *output[1:])
        return self.mark(output, "output")

    # What happens to calls

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in MOVES:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__" or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if not any(t.requires_grad for t in tensors_in(args, kwargs)):
            return func(*args, **kwargs)
        handler = HANDLERS.get(func)
        if handler is not None:
            return handler(self, func, args, kwargs)
        return self.without_rule(name or str(func), func, args, kwargs)

    def without_rule(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operation: str | None = None,
    ) -> Any:
        """A call without a rule: its plain gradient where that is allowed, else an error if relevance comes."""
        rule = self.rule(name)
        if isinstance(rule, PlainGradient):
            return self.bracket(name, "nonlinearity", func, args, kwargs)
        result = func(*args, **kwargs)
        where, shown = self.where(), repr(name) + (f" ({operation})" if operation not in (None, name) else "")

        def refuse(g: Tensor, x: Tensor | None) -> None:
            raise OptionError(
                f"relevance reached the operation {shown}, {where}, for which the rule set has no rule",
                expected="a rule for every operation that relevance passes",
                got=f"rules for {', '.join(sorted(self.rules))}",
                todo=f"add one, or allow the plain gradient: rules={{**ATTN_LRP, {name!r}: PlainGradient()}}",
            )

        if isinstance(result, Tensor) and result.requires_grad:
            return self.through(result, refuse)
        return result

    def where(self) -> str:
        """The place of the pass, in words."""
        block = f"in block {self.block}" if self.block is not None else "outside the blocks"
        return f"{block} ({self.place or 'between blocks'})"

    def rule(self, operation: str, place: str | None = None) -> Rule | None:
        """The rule of an operation here, noted as met."""
        key = operation, self.place if place is None else place
        met = self._found.get(key)
        if met is None:
            met = self._found[key] = Met(*key, rule_for(self.rules, *key))
        self.met[met] = self.met.get(met, 0) + 1
        return met.rule

    def behind_attention(self) -> None:
        """Say that the attention of this block is computed: after the last, only rows that the head reads matter."""
        self.read = self.block is not None and self.block == self._depth - 1 and not self._pooled

    def rows_that_matter(self, query: Tensor) -> Tensor | None:
        """Of the last attention's queries (batch, head, query, dim) those that the head reads, where they are few."""
        if not self.read or self.keep_attention or query.ndim != 4:
            return None
        return rows_read(query[:, 0], self.batch, query.shape[2], self.reads)

    def page(self, operation: str) -> Book:
        """The book of an operation met here."""
        return _Page(self, operation, self.block, self.place)

    # What handlers are made of

    def through(self, x: Any, back: Back, *, keep: bool = False) -> Any:
        """`x` itself; on the way back `back(g, x if keep)` sees the gradient and may return another."""
        if not (isinstance(x, Tensor) and x.requires_grad):
            return x
        return cast(Tensor, _Pass.apply(x, back, keep))

    def ruled(self, compute: Callable[..., Any], back: RuledBack, saves: Iterable[str], *inputs: Tensor) -> Tensor:
        """`compute(*inputs)`, whose backward is `back(g, inputs if "x" in saves, y if "y" in saves)`.

        `compute` may return `(y, z)`: then `back` gets `z`, which the backward pass needs, in place of `y`.
        """
        return cast(Tensor, _Ruled.apply(compute, back, frozenset(saves), *inputs))

    def scaled(self, x: Any, factor: float) -> Any:
        """`x`, whose gradient is multiplied by `factor`."""
        return x if factor == 1 else self.through(x, lambda g, _: g * factor)

    def mark(self, x: Any, name: str) -> Any:
        """`x`, whose relevance is noted under `name` in `flow`."""
        while name in self.flow:
            name += " again"

        def note(g: Tensor, x: Tensor | None) -> None:
            assert x is not None
            R = x * g
            self.flow[name] = Flow(self.per_example(R), self.per_example(R.abs_()))

        if isinstance(x, Tensor) and x.requires_grad:
            self.flow[name] = Flow(torch.empty(0), torch.empty(0))
        return self.through(x, note, keep=True)

    def bracket(
        self, operation: str, cause: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call with its own gradient; relevance of its output minus that of its inputs is what it leaks."""
        page, sums = self.page(operation), list[Tensor]()

        def counted(value: Any, sign: float) -> Any:
            def note(g: Tensor, x: Tensor | None) -> None:
                found = self.relevance(x, g)
                if not bool(found.isfinite().all()):  # where no gradient comes, an infinite mask counts as nothing
                    found = self.per_example(torch.where(g == 0, 0.0, cast(Tensor, x) * g))
                sums.append(sign * found)

            return self.through(value, note, keep=True)

        def inputs(value: Any) -> Any:
            return [counted(v, -1.0) for v in value] if isinstance(value, (list, tuple)) else counted(value, -1.0)

        result = func(*map(inputs, args), **{k: inputs(v) for k, v in kwargs.items()})
        self.at_end(lambda: page.leak(cause, torch.stack(sums).sum(0)) if sums else None)
        return counted(result, 1.0)

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

    def close(self) -> None:
        """Say that the backward pass is over."""
        for finish in self._finally:
            finish()
        self._finally.clear()
        self.flow = {k: v for k, v in self.flow.items() if len(v.total)}

    def forget(self) -> None:
        self.activated.clear()


def tensors_in(args: Iterable[Any], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """The tensors among arguments, also in lists."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (v for v in cast("list[Any]", value) if isinstance(v, Tensor))


def named(names: Iterable[str]) -> set[Any]:
    """torch functions of these names: of `torch`, `torch.nn.functional` and `Tensor`."""
    return {found for name in names for home in (torch, F, Tensor) if (found := getattr(home, name, None)) is not None}
