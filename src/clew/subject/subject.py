"""What a method is asked to explain: a model, its declaration, one batch of inputs, and a target.

A method calls `subject.run(...)` for each forward pass that it needs, and gets a `Trace`. An image enters as an input
of the model, a text as the output of a module (its word embeddings, or the first block), which a hook replaces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..models import CACHES, BoundArchitecture, for_call, is_cache
from ..seam import (
    Attention,
    Capture,
    Change,
    DoublePrecision,
    Leaf,
    Mix,
    MixedPass,
    ReadoutRows,
    attend,
    few_rows,
    freeze,
    in_callers_modes,
    layers_from,
    no_gradient_error,
    owning_model,
    project,
    readout_rows,
    replace_output,
    unseen,
)
from ..shapes import Hidden, Values
from . import module_outputs
from .copies import copies_of
from .discrepancy import Discrepancy
from .head import head_of
from .input_errors import refusals_told, refused_cache
from .input_gradient import input_gradient
from .integration_paths import PathRecord, baseline, chunk_size, in_chunks
from .parts import Parts
from .reached_rows import cache_key, see_rows, should_refresh
from .token_changes import scores_where
from .trace import Trace, repeated, some_rows

_turns = itertools.count()  # of what a pass keeps mixed, one block is verified per result, in turn

Score = Callable[[Any, Tensor | None], Tensor]
ImageChange = Callable[[Tensor, Tensor | None], Tensor]


@dataclass
class Subject:
    """One batch to explain: `inputs` by argument name ("" for the positional one), and how to score an output.

    `resolve` fixes the target on the first output of the unchanged input, so that no forward pass is spent on it; what
    it returns maps `(output, rows)` to one number per example, `rows` being the examples that the output holds.
    Texts: `mask` (batch, token) says which tokens are no padding, `target_rows` (batch, row) which rows each target
    explains (-1: none), `constant` are arguments that do not follow the examples.

    With several targets for `each` input, methods see a batch in which every input is repeated so often, its targets in
    order: `batch = inputs · each`. A pass runs every input once; rows that are asked for come in such whole groups.
    """

    model: nn.Module
    bound: BoundArchitecture
    inputs: dict[str, Any]
    resolve: Callable[[Any], Score]
    per_row: bool = True  # whether any selection of examples can be scored
    precise: bool = False  # whether the model's own casts to shorter floats are left out
    progress: Callable[[int, int], None] | None = None  # called with (done, all) along a path
    details: bool = False  # whether intermediate results were asked for
    mask: Tensor | None = None
    target_rows: Tensor | None = None
    constant: dict[str, Any] = field(default_factory=dict[str, Any])
    each: int = 1
    covered: Callable[[Any], Tensor] | None = None  # which tokens of each text a span is, (batch, token)
    change: ImageChange | None = None  # what becomes of images before the model gets them, see `copies_of`
    verify: bool = False  # whether what a check needs is kept
    frozen: bool = True  # whether weights are left out of any graph, as they are before one is made
    traces: list[Trace] = field(default_factory=list[Trace], init=False)  # passes on the input as it is
    relevance: list[Any] = field(default_factory=list[Any], init=False)  # what passes under LRP rules found
    pulls: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]], init=False)
    measured: list[Discrepancy] = field(default_factory=list[Discrepancy], init=False)
    clean_output: Any = field(default=None, init=False)
    target: Any = field(default=None, init=False)  # what `resolve` returned
    sparse: bool | None = field(default=None, init=False)  # whether `SparsePass` was seen to give the same here
    backend: str | None = field(default=None, init=False)
    shorter: torch.dtype | None = field(default=None, init=False)  # that autocast was seen to make products in
    _main: str = field(init=False)
    _values: dict[Any, Tensor] = field(default_factory=dict[Any, Tensor], init=False)

    def __post_init__(self) -> None:
        self._main = self.bound.architecture.input_name or ""
        if self._main not in self.inputs:
            self._main = next(iter(self.inputs))

    # What is explained

    @property
    def given(self) -> Tensor:
        """The input as the model takes it: images (batch, channel, height, width), or token numbers (batch, token)."""
        return self.inputs[self._main]

    @property
    def x(self) -> Tensor:
        """The input that gradients and relevance end at: images, or word embeddings (batch, token, width)."""
        return self._value_at(self.bound.patches) if self.bound.is_text else self._repeated

    @property
    def path_input(self) -> Tensor:
        """The input that paths scale: images, or the sequence that enters the first block (batch, token, width)."""
        return self._value_at(self._entrance) if self.bound.is_text else self._repeated

    @property
    def _repeated(self) -> Tensor:
        """The images, each as often as it has targets."""
        if self.each == 1:
            return self.given
        if "" not in self._values:
            self._values[""] = repeated(self.given, self.each)
        return self._values[""]

    @property
    def _entrance(self) -> nn.Module:
        return self.bound.embeddings if self.bound.embeddings is not None else self.bound.patches

    @property
    def batch(self) -> int:
        """Number of explanations: inputs, times the targets of each."""
        return self.given.shape[0] * self.each

    @property
    def length(self) -> int:
        """Number of tokens that enter the blocks."""
        if self.bound.is_text:
            return self.given.shape[1]
        rows, columns = self.grid()
        return self.bound.prefix + rows * columns

    @property
    def cached(self) -> bool:
        """Whether tokens before these are in a cache of keys and values that came with them."""
        return any(is_cache(self.inputs.get(name)) for name in CACHES)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.bound.depth

    @property
    def last(self) -> int:
        """The last attention before the head."""
        return self.bound.last

    def layers_from(
        self, start_layer: int | None, image: int, text: int | None = None, pair: int | None = None
    ) -> range:
        """Layers `start_layer` (counted from 0) to the last attention; by default from `image`, or `text` for texts, or
        `pair` for towers of image–text models.

        Raises `OptionError` when out of range.
        """
        default = text if text is not None and self.bound.is_text else image
        default = pair if pair is not None and self.bound.architecture.pair else default
        return layers_from(start_layer, max(default, 0), self.depth, self.last)

    # Forward passes

    def forward(self, x: Tensor | None = None, rows: Tensor | None = None, *, at: nn.Module | None = None) -> Any:
        """Call the model as it is, on `x` in place of the explained input; other inputs follow `rows`. Each input once.

        `at`: the module whose output `x` replaces (texts; default: the word embeddings).
        Raises `InputError` where the model refuses the input.
        """
        if self.each > 1:  # one of each group of inputs that are the same
            x, rows = (None if t is None else t[:: self.each] for t in (x, rows))
            rows = rows if rows is None else rows // self.each
        args: list[Any] = []
        kwargs = dict(self.constant)
        for name, value in self.inputs.items():
            if name == self._main and x is not None and not self.bound.is_text:
                value = x
            else:
                value = for_call(value, rows, len(self.given))
            if name == self._main and self.change is not None:
                with unseen():  # it is no operation of the model
                    value = self.change(value, rows)
            if name:
                kwargs[name] = value
            else:
                args.append(value)
        with ExitStack() as stack:
            if x is not None and self.bound.is_text:
                stack.callback(replace_output(at or self.bound.patches, x).remove)
            if self.precise:
                stack.enter_context(DoublePrecision(self.model))
            stack.enter_context(in_callers_modes())
            stack.enter_context(refusals_told(owning_model(self.model), self.given.shape, is_text=self.bound.is_text))
            return self.model(*args, **kwargs)

    def refuse_cache(self) -> None:
        """Raise `InputError` where there is a cache: attention goes to its tokens, which cannot have scores."""
        if self.cached:
            raise refused_cache(self.given.shape[1])

    def run(
        self,
        attention: Iterable[int] = (),
        *,
        hidden: Iterable[int] = (),
        outputs: Iterable[int] = (),
        one_head: Iterable[int] = (),
        leaf: Leaf | None = None,
        x: Tensor | None = None,
        rows: Tensor | None = None,
        readout_only: bool = False,
        mix: Mix | None = None,
    ) -> Trace:
        """One forward pass in the seam, keeping `attention` (and block inputs `hidden`, and `outputs`) of some layers.

        `one_head`: layers whose attention is computed as no model's is, see `Capture`; nothing is verified then.
        `leaf=(layer, "v" | "o" | "hidden")` starts the graph there (at "hidden", what enters the block); without it no
        graph is built. `x` replaces `path_input`, holding the examples `rows` (default: all, in order). `readout_only`
        spares what the head does not read of the last block, for targets that are logits. `mix` is all that will be
        asked of attention, by `chain`: where nothing else is asked for, the pass keeps what it makes of each, if it
        can. Raises `CaptureError` where a block shows no attention.
        """
        self.refuse_cache()
        states, changed = (frozenset(hidden), frozenset(outputs)), frozenset(one_head)
        verified, wanted_graph = self.verify and x is None and not changed, leaf is not None
        keep = frozenset(attention) | ({self.last} if verified else set())
        batch = (self.given if x is None else x[:: self.each]).shape[0]
        reads = self.rows_read if readout_only and self.per_row else None
        mix = None if wanted_graph or changed or any(states) else mix
        # The output of other tasks has logits of more tokens; padded texts would be looked at anew for other lengths.
        few = reads if mix is not None and self.bound.task == "classification" and self.mask is None else None
        # Which rows the score reaches is seen by a gradient of the last block's tail, if all of it is computed.
        refresh = verified and leaf is None and should_refresh(owning_model(self.model), self.reach_key)
        leaf = (self.last, "o") if refresh and few is None else leaf
        if (leaf is not None or refresh) and not self.frozen:
            freeze(self.model)
            self.frozen = True
        if mix is not None:
            shown = sorted(keep)[next(_turns) % len(keep)] if verified else None
            blocks = self.bound.blocks, self.bound.attentions
            seam = MixedPass(*blocks, batch, mix, keep=keep, last=self.last, reads=few, leaf=leaf, shown=shown)
        else:
            seam = Capture(
                self.bound.blocks, self.bound.attentions, batch, keep=keep, hidden=states[0], outputs=states[1],
                one_head=changed, leaf=leaf, reads=reads if wanted_graph and leaf == (self.last, "o") else None,
                token_first=any(states) and self.token_first(batch),
                probe_gradients=verified, pulls=self.pulls if self.verify else None,
            )  # fmt: skip
        with seam, torch.set_grad_enabled(leaf is not None):
            output = self.forward(x, rows, at=self._entrance if self.bound.is_text else None)
        self.shorter = seam.shorter or self.shorter
        seam.require()
        with torch.set_grad_enabled(leaf is not None):
            score = self.score(output, rows, clean=x is None)
        if wanted_graph:
            self.need_gradient(score)
        self.backend = next((record.backend for record in seam.records.values()), self.backend)
        reader, mask = partial(self.read, rows=rows), some_rows(self.mask, rows)
        trace = Trace(self.bound, seam.records, output, score, reader, mask, self.each, self.length)
        if verified:
            self.traces.append(trace)
        if refresh and few is not None:
            see_rows(self)
        return trace

    def head(self, states: Hidden, like: Trace, *, at_pool: bool = False, mean: bool = False) -> Trace:
        """A pass without blocks: the score were `states` (input, token, width) what leaves the last, see `head_of`."""
        return head_of(self, states, like, at_pool=at_pool, mean=mean)

    def scores_where(
        self, changes: Mapping[int, Change], *, x: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """The scores where what enters block `l` is `changes[l]` of it: `keep_tokens(…)`, `put_tokens(…)`, any."""
        return scores_where(self, changes, x=x, rows=rows)

    def need_gradient(self, score: Tensor) -> None:
        """Raise `CaptureError` for a score that no gradient leads to, with the place where it stops."""
        if not score.requires_grad:
            x = self.x.detach().requires_grad_()
            raise no_gradient_error(self.model, lambda: self.forward(x))

    def read(self, layer: int, o: Tensor, rows: Tensor | None = None) -> ReadoutRows:
        """The rows of a layer's attention output `o` (batch, head, query, dim) that the head reads."""
        return readout_rows(
            self.bound, layer, o.shape[0], o.shape[2], o,
            mask=some_rows(self.mask, rows),
            input_ids=some_rows(repeated(self.given, self.each), rows) if self.bound.is_text else None,
            target_rows=some_rows(self.target_rows, rows),
        )  # fmt: skip

    def project(self, layer: int, values: Values, *, bias: bool = False) -> Tensor:
        """`γ ⊙ (V W_O)` (batch, token, width) of values (batch, head, token, dim), by the block's own layers."""
        return project(self.bound, layer, values, bias=bias, autocast=self.shorter)

    def parts(self, trace: Trace, layer: int) -> Parts:
        """What the attention of a block whose input was kept adds to the stream, by heads and tokens."""
        return Parts(self.bound, layer, trace.layers[layer], self.shorter, self.precise)

    def attend(self, layer: int, hidden: Tensor) -> Attention:
        """What the attention of a block computes of another input (batch, token, width)."""
        return attend(self.bound, layer, hidden, autocast=self.shorter)

    @property
    def rows_read(self) -> Any:
        """All rows of the last block that the head reads, where they are few."""
        return few_rows(self.bound, self.target_rows, self.given if self.bound.is_text else None)

    def score(self, output: Any, rows: Tensor | None = None, *, clean: bool = False) -> Tensor:
        """One number per example of `output`; `clean` says that the input was the explained one, unchanged."""
        if self.target is None and clean:
            self.clean_output = output
            self.target = self.resolve(output)
            if getattr(self.target, "answer", False):  # the best answer is known by its tokens now
                self.target_rows = self.target.plus
        elif self.target is None:
            with torch.no_grad():
                self.score(self.forward(), clean=True)
        return cast("Score", self.target)(output, rows)

    def input_gradient(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`∂score/∂x` at `x`, and the score. The gradient of the input alone; parameters get none."""
        return input_gradient(self, x, rows)

    def clean_scores(self) -> Tensor:
        """The scores of the input as it is."""
        with torch.no_grad():
            output = self.forward() if self.clean_output is None else self.clean_output
            return self.score(output, clean=self.clean_output is None)

    @property
    def reach_key(self) -> Any:
        """What decides which rows the score reaches; None for targets of which nothing is known."""
        return cache_key(self.bound, self.given, self.mask, self.target_rows) if self.per_row else None

    def measure(self, name: str, expected: Tensor, found: Tensor, words: str, *, allowed: float | None = None) -> None:
        """Note how far something that was computed is from what it should be, relative to its largest size."""
        if self.verify:
            self.measured.append(Discrepancy.of(name, expected, found, words, allowed=allowed))

    # Paths and copies

    def copies_of(self, rows: Tensor, change: ImageChange) -> Subject:
        """The images of examples `rows`, in whole groups of targets, as a batch of its own, whose model gets `change`
        of them: called with images, and which of the copies they are (None: all, in order).

        Gradients, and with them pixels, are those of the images before the change; scores of tokens are of what the
        model gets. Targets are those of the images unchanged.
        """
        return copies_of(self, rows, change)

    def baseline(self, baselines: float | Tensor, x: Tensor) -> Tensor:
        """A baseline for each example, in the shape of `x`. Raises `OptionError` if it does not fit."""
        return baseline(baselines, x)

    def chunks(self, points: int, internal_batch_size: int | None) -> Iterable[tuple[Tensor, Tensor]]:
        """Pairs (point, example) of a path, a chunk at a time: `points` × `batch` of them in all.

        Without `internal_batch_size` a chunk is as large as runs fastest: 4 to 16 inputs on a CPU, whose caches
        are small, a whole batch or 64 inputs elsewhere. A target that scores whole batches only gets whole batches.
        """
        size = chunk_size(self.given, internal_batch_size) * self.each if self.per_row else self.batch
        return in_chunks(points, self.batch, size, self.given.device, self.progress)

    def measure_path(self, quadrature: str, taken: PathRecord, n_steps: int) -> None:
        """Note whether a path was gone as its rule says."""
        if self.verify:
            self.measured.append(taken.measured(quadrature, n_steps))

    # Reading a module's output

    def grid(self) -> tuple[int, int]:
        """Patches down and across, read from the output of the patch embedding; once per input shape.

        Raises `InputError` where the model refuses the input, `CaptureError` where the embedding shows no grid.
        """
        return module_outputs.grid(self)

    def token_first(self, batch: int) -> bool:
        """Whether blocks get (token, batch, width), where a pass of `batch` examples cannot show it: seen on one."""
        return module_outputs.token_first(self, batch)

    def _value_at(self, module: nn.Module) -> Tensor:
        if module not in self._values:
            self._values[module] = repeated(module_outputs.sequence(self, module), self.each)
        return self._values[module]
