"""Tape: a forward pass whose backward follows LRP rules, on a model as it is.

While the pass runs, `Tape` knows where it is (block and place), and hands every torch call that touches the explained
input to the handler of its operation (`operations/`), which asks the rule set what its backward is to be. Operations
that only move numbers need no rule. Any other operation without a rule is an error as soon as relevance reaches it.

The tape also keeps the books: relevance at each block, what went to positions and prefix tokens, and what each
operation leaked, by cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import CaptureError, OptionError
from ..models import BoundArchitecture
from ..rules import PlainGradient, StabilisedFork, as_gradient
from ..rules.rule_sets import RuleSet
from ..seam import (
    Back,
    IdentityWithBackward,
    OperationWithBackward,
    RuledBack,
    Seam,
    by_position,
    rows_read,
    tensors_in,
)
from .ledger import ByToken, Flow, Ledger
from .marks import Marks
from .special_modules import PositionalRelevance, watch_activations, watch_texts

Handler = Callable[["Tape", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

# Filled by `operations/`: handlers of torch functions, and functions whose own gradient conserves relevance.
HANDLERS: dict[Any, Handler] = {}
CONSERVING_FUNCTIONS: set[Any] = set()


class Tape(Seam, Ledger, Marks):
    """One forward pass under a rule set. `level`: relevance ends at the "token" embeddings of patches or words, at the
    "pixel"s, or at the "sequence" that enters the first block of a text.

    Without a declaration (`bound=None`) a pass of `model` has no places; relevance ends where the caller put leaves.
    `reads` are the rows that the head reads, where it is enough that these are right in the last block. `positions`
    lets relevance into rotary tables, `by_head` keeps it for each head.

    After the backward pass: `entries` (what leaked), `flow` (relevance by stage, from input to output), `patches`
    (batch, patch, width), `positions`, `entering` and `prefix` (relevance vectors at the first sum), `positional` (what
    encodings inside the blocks got), `pixels` where the pixel rule gives relevance as such, and with `keep_attention`,
    `attention`: `A ⊙ (S Vᵀ)` is the relevance of `A`; without a declaration `attention_calls`, in order.
    """

    def __init__(
        self,
        bound: BoundArchitecture | None,
        rules: RuleSet,
        batch: int,
        *,
        level: str,
        reads: Sequence[int] | None = None,
        keep_attention: bool = False,
        positions: bool = False,
        by_head: bool = False,
        by_token: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        Seam.__init__(self)
        Ledger.__init__(self, rules, batch)
        self.reads, self.keep_attention = reads, keep_attention
        self.by_token = ByToken() if by_token else None
        self.read = False  # whether the pass is behind the last attention, in its block
        self.level = level
        self.attention: dict[int, Tensor] = {}
        self.patches: Tensor | None = None
        self.positions: list[Tensor] = []
        self.entering: Tensor | None = None
        self.prefix: dict[int, Tensor] = {}
        self.pixels: Tensor | None = None
        self.leaf: Tensor | None = None
        self.leaf_of: dict[int, tuple[int, Tensor]] = {}  # ids of leaves by those of their copies, kept alive
        self.handed: dict[int, Tensor] = {}  # relevance as such of leaves, by id, from rules that give that
        calls = bound is None and keep_attention
        Marks.__init__(self, PositionalRelevance(wanted=positions, separate=by_head), keeps_calls=calls)
        self._uses: dict[int, list[Any]] = {}  # of tensors that may fork: the tensor, uses, uses by linear layers
        self.copies = False  # whether the model gets copies of what is kept, since it changes tensors in place
        self.paused = 0  # how many modules deep calls are left alone
        self.mixture = 0  # whether the pass is in a mixture of experts
        self._bound, self._model = bound, model
        if model is not None:
            self.place = ""
        self._depth = bound.depth if bound is not None else 0
        self._pooled = bound is not None and bound.pooled
        self._places: list[tuple[int | None, str]] = []

    # Where the pass is

    def place_hooks(self) -> None:
        bound = self._bound
        if bound is None:  # any model, without places
            if self._model is not None:
                watch_activations(self, [self._model])
            self.switch_on()
            return
        if bound.is_text:
            watch_texts(self, bound)
            end = bound.embeddings if self.level == "sequence" and bound.embeddings is not None else bound.patches
            self.watch(end, after=self._embedded)
        else:
            self._at(bound.patches, None, "patch_embedding", after=self._embedded)
        watch_activations(self, bound.blocks)
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
            self.block, self.place = block, place

        def leave(output: Any) -> Any:
            self.block, self.place = self._places.pop()
            if place == "attention":
                self.forget_attention()
            if place == "mlp":
                self.activated.clear()
                self.read = False
                self.place = "head" if block is not None and block >= self._depth - 1 else ""
            return after(output) if after is not None and output is not None else None  # None after an error

        self.watch(module, before=enter, after=leave)

    def _embedded(self, output: Any) -> Tensor:
        """The patch embedding's output: where relevance ends on the level of tokens."""
        if self.level != "pixel" and self.leaf is not None:
            raise CaptureError(
                "the declared patch embedding was called twice in one forward pass: for several inputs",
                expected="one input that is explained",
                got=type(output).__name__,
                todo="leave `architecture` out: all inputs are explained at once",
            )
        if self.level != "pixel":
            output = output.detach().requires_grad_()
            self.leaf = output

        def keep(g: Tensor, y: Tensor | None) -> None:
            assert y is not None
            self.patches = (y * g).flatten(2).mT if y.ndim > 3 else y * g

        return self.hook_backward(output, keep, keep=True)

    def _block_input(self, layer: int) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = f"block {layer}" if layer < self._depth else "pool"
            if args:
                return (self._enters(args[0], name, layer), *args[1:]), kwargs
            key = next(k for k, v in kwargs.items() if isinstance(v, Tensor))
            return args, {**kwargs, key: self._enters(kwargs[key], name, layer)}

        return before

    def _enters(self, x: Any, name: str, layer: int) -> Any:
        """What enters a block: its relevance is noted, and it forks."""
        self._uses.clear()
        around, self.block = self.block, layer
        try:
            return self.forks(self.mark(x, name))
        finally:
            self.block = around

    def _last_output(self, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.mark(output[0], "output"), *output[1:])
        return self.mark(output, "output")

    # What happens to calls

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in CONSERVING_FUNCTIONS:
            return self._moved(args, func(*args, **kwargs)) if self.follows or self.mixture else func(*args, **kwargs)
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__" or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if not any(t.requires_grad for t in tensors_in(args, kwargs)):
            return func(*args, **kwargs)
        handler = HANDLERS.get(func)
        if handler is not None:
            return handler(self, func, *(by_position(args, kwargs) if kwargs else (args, kwargs)))
        return self.without_rule(name or str(func), func, args, kwargs)

    @property
    def in_attention(self) -> bool:
        """Whether a softmax is one of attention: in declared attention, or anywhere where its calls are kept."""
        return self.place == "attention" or self.keeps_calls

    @property
    def is_text(self) -> bool:
        """Whether the model reads texts."""
        return self._bound is not None and self._bound.is_text

    def _moved(self, args: tuple[Any, ...], result: Any) -> Any:
        """A call that only moves numbers: what they are is remembered, and whose the rows are that an expert gets."""
        if not (args and isinstance(args[0], Tensor)):
            return result
        self.moved(args[0], result)
        if self.mixture and len(args) > 1 and args[0].ndim == 2 and isinstance(result, Tensor):
            index = args[1][-1] if isinstance(args[1], tuple) and args[1][:1] == (None,) else args[1]
            if isinstance(index, Tensor) and index.ndim == 1 and index.dtype == torch.long:
                self.examples_are(index // (args[0].shape[0] // self.batch))
        return result

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

        if isinstance(result, (list, tuple)):
            hooked = [self.hook_backward(one, refuse) for one in cast("tuple[Any, ...]", result)]
            return type(result)(hooked) if not hasattr(result, "_fields") else tuple(hooked)
        return self.hook_backward(result, refuse)

    def entered(self, leaf: Tensor, copy: Tensor, stream: str) -> None:
        """Remember the copy of a leaf that the model gets."""
        self.leaf_of[id(copy)] = id(leaf), copy

    # Forks

    def forks(self, x: Any) -> Any:
        """`x`, of which it is counted how often it is used, where the rule set has a rule for forks."""
        rule = self.rules.get("fork")
        if not isinstance(rule, StabilisedFork) or self.block is None:
            return x
        page, uses = self.page("fork"), [0, 0]

        def back(g: Tensor, x: Tensor | None) -> Tensor | None:
            assert x is not None
            return as_gradient(x * g, x, page, rule.epsilon) if uses[0] > 1 else None

        y = self.hook_backward(x, back, keep=True)
        self._uses[id(y)] = [y, uses]
        return y

    def used(self, *tensors: Any) -> None:
        """Count a use of tensors."""
        if self._uses:
            for tensor in tensors:
                if id(tensor) in self._uses:
                    self._uses[id(tensor)][1][0] += 1

    def used_by_linear(self, x: Any) -> Any:
        """`x`, used by a linear layer; several of them make a fork of their own, within that of other uses."""
        if not self._uses or id(x) not in self._uses:
            return x
        rule, uses, page = self.rules["fork"], self._uses[id(x)][1], self.page("fork")
        uses[0], uses[1] = uses[0] + 1, uses[1] + 1

        def back(g: Tensor, x: Tensor | None) -> Tensor | None:
            assert x is not None
            nested = 1 < uses[1] < uses[0]
            return as_gradient(x * g, x, page, getattr(rule, "epsilon", 0.0)) if nested else None

        return self.hook_backward(x, back, keep=True)

    def behind_attention(self) -> None:
        """Say that the attention of this block is computed: after the last, only rows that the head reads matter."""
        self.read = self.block is not None and self.block == self._depth - 1 and not self._pooled

    def rows_that_matter(self, query: Tensor) -> Tensor | None:
        """Of the last attention's queries (batch, head, query, dim) those that the head reads, where they are few."""
        if not self.read or self.keep_attention or query.ndim != 4:
            return None
        return rows_read(query[:, 0], self.batch, query.shape[2], self.reads)

    # What handlers are made of

    def hook_backward(self, x: Any, back: Back, *, keep: bool = False) -> Any:
        """`x` itself; on the way back `back(g, x if keep)` sees the gradient and may return another."""
        if not (isinstance(x, Tensor) and x.requires_grad):
            return x
        y = cast(Tensor, IdentityWithBackward.apply(x, back, keep))
        return y.clone() if keep and self.copies else y

    def ruled(self, compute: Callable[..., Any], back: RuledBack, saves: Iterable[str], *inputs: Tensor) -> Tensor:
        """`compute(*inputs)`, whose backward is `back(g, inputs if "x" in saves, y if "y" in saves)`.

        `compute` may return `(y, z)`: then `back` gets `z`, which the backward pass needs, in place of `y`.
        """
        inputs = tuple(x.clone() for x in inputs) if "x" in saves and self.copies else inputs
        y = cast(Tensor, OperationWithBackward.apply(compute, back, frozenset(saves), *inputs))
        return y.clone() if "y" in saves and self.copies else y

    def scaled(self, x: Any, factor: float) -> Any:
        """`x`, whose gradient is multiplied by `factor`."""
        return x if factor == 1 else self.hook_backward(x, lambda g, _: g * factor)

    def mark(self, x: Any, name: str) -> Any:
        """`x`, whose relevance is noted under `name` in `flow`."""
        while name in self.flow:
            name += " again"

        def note(g: Tensor, x: Tensor | None) -> None:
            assert x is not None
            R = x * g
            self.flow[name] = Flow(self.per_example(R), self.per_example(R.abs_()))
            if self.by_token is not None:
                self.by_token.states[name] = x.detach(), g

        if isinstance(x, Tensor) and x.requires_grad:
            self.flow[name] = Flow(torch.empty(0), torch.empty(0))
        return self.hook_backward(x, note, keep=True)

    def bracket(
        self, operation: str, cause: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call with its own gradient; relevance of its output minus that of its inputs is what it leaks."""
        counted, finish = self.counted(operation, cause)

        def inputs(value: Any) -> Any:
            return [counted(v, -1.0) for v in value] if isinstance(value, (list, tuple)) else counted(value, -1.0)

        result = func(*map(inputs, args), **{k: inputs(v) for k, v in kwargs.items()})
        finish()
        return counted(result, 1.0)

    def counted(self, operation: str, cause: str) -> tuple[Callable[[Any, float], Any], Callable[[], None]]:
        """`count(x, sign)` is `x`, whose relevance is added up with a sign; `finish()` books the sum at the end."""
        page, sums = self.page(operation), list[Tensor]()
        self.at_beginning(sums.clear)  # an earlier backward pass over the same graph may have ended without `book`

        def count(value: Any, sign: float) -> Any:
            def note(g: Tensor, x: Tensor | None) -> None:
                found = self.relevance(x, g) if page.rows is None else page.sums(cast(Tensor, x) * g)
                if not bool(found.isfinite().all()):  # where no gradient comes, an infinite mask counts as nothing
                    found = self.per_example(torch.where(g == 0, 0.0, cast(Tensor, x) * g))
                sums.append(sign * found)

            return self.hook_backward(value, note, keep=True)

        def book() -> None:
            if sums:
                page.leak(cause, torch.stack(sums).sum(0))
                sums.clear()

        def finish() -> None:
            self.at_end(book)

        return count, finish

    def open(self) -> None:
        super().open()
        self.patches = self.entering = self.pixels = None
        self.positions.clear()
        self.prefix = {order: torch.empty(0) for order in self.prefix}
        self.attention.clear()
        for one in self.attention_calls:
            one.S = None
        self.handed.clear()
        self.positional.forget()
        if self.by_token is not None:
            self.by_token.forget()

    def forget(self) -> None:
        self.activated.clear()
        self.gates.clear()
        self.forget_attention()
        self.leaf_of.clear()
        self._uses.clear()
