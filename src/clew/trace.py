"""Run a model in the seam and hand a method what it asked for.

A method gets a `Subject` (model, declaration, inputs, target) and calls `subject.run(...)` for each forward pass it
needs. The `Trace` that comes back holds attention and values of the blocks asked for, the score, and one primitive that
most attention methods are made of: `chain`, which multiplies readout rows by `I + C_l`, a block of queries at a time,
so that no n × n map outlives the block of queries it was made for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .architectures import Bound
from .borrow import borrowed
from .capture import Attention, Capture, Leaf
from .precise import Precise
from .shapes import Attn, CaptureError, ClewError, InputError, OptionError, Outputs, Pixels, QueryRows, Rows, Scores

# Elements of one block of attention rows: 2**23 float32 are 32 MB.
_BLOCK = 2**23

# Patch grids by patch embedding and input shape.
_grids: WeakKeyDictionary[nn.Module, dict[torch.Size, tuple[int, int]]] = WeakKeyDictionary()

Mix = Callable[..., Tensor]
Score = Callable[[Any, Tensor | None], Tensor]


def logits_of(output: Any) -> Tensor:
    """The logits `(batch, class)` in what a model returned: the tensor itself, `.logits`, or the first of a tuple.

    Raises `ClewError` where there are none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)  # pyright: ignore[reportUnknownMemberType]
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(found, Tensor):
        raise ClewError(
            "the model's output has no logits",
            expected="a tensor, or an output with `.logits`",
            got=type(output).__name__,
            todo="pass a callable as target: output -> Tensor[batch]",
        )
    return found


@dataclass
class Subject:
    """One batch to explain: `inputs` by argument name ("" for the positional one), and how to score an output.

    `resolve` fixes the target on the first output of the unchanged input, so that no forward pass is spent on it; what
    it returns maps `(output, rows)` to one number per example, `rows` being the examples that the output holds.
    """

    model: nn.Module
    bound: Bound
    inputs: dict[str, Any]
    resolve: Callable[[Any], Score]
    per_row: bool = True  # whether any selection of examples can be scored
    precise: bool = False  # whether the model's own casts to shorter floats are left out
    progress: Callable[[int, int], None] | None = None  # called with (done, all) along a path
    details: bool = False  # whether intermediate results were asked for
    clean_output: Any = field(default=None, init=False)
    target: Any = field(default=None, init=False)  # what `resolve` returned
    backend: str | None = field(default=None, init=False)
    _main: str = field(init=False)

    def __post_init__(self) -> None:
        self._main = self.bound.architecture.input_name or ""
        if self._main not in self.inputs:
            self._main = next(iter(self.inputs))

    @property
    def x(self) -> Tensor:
        """The input that is explained: images `(batch, channel, height, width)`."""
        return self.inputs[self._main]

    @property
    def batch(self) -> int:
        """Number of examples."""
        return self.x.shape[0]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.bound.depth

    @property
    def last(self) -> int:
        """The last attention before the head."""
        return self.bound.last

    def layers_from(self, start_layer: int | None, default: int) -> range:
        """Layers `start_layer` (counted from 0) to the last attention. Raises `OptionError` when out of range."""
        start: Any = default if start_layer is None else start_layer
        if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start < self.depth:
            raise OptionError(
                "start_layer is out of range",
                expected=f"0 to {self.depth - 1}, for this model's {self.depth} blocks (counted from 0)",
                got=repr(start),
                todo="leave it out for the default of the method",
            )
        return range(start, self.last + 1)

    def forward(self, x: Tensor | None = None, rows: Tensor | None = None) -> Any:
        """Call the model as it is, on `x` in place of the explained input; other inputs follow `rows`.

        Raises `InputError` where the model refuses the input.
        """
        args: list[Tensor] = []
        kwargs: dict[str, Any] = {}
        for name, value in self.inputs.items():
            if name == self._main:
                value = value if x is None else x
            elif rows is not None and isinstance(value, Tensor):
                value = value[rows]
            if name:
                kwargs[name] = value
            else:
                args.append(value)
        try:
            with Precise(self.model) if self.precise else nullcontext():
                return self.model(*args, **kwargs)
        except ClewError:
            raise
        except (ValueError, AssertionError, TypeError) as error:
            raise InputError(
                f"{type(self.model).__name__} does not take this input",
                expected="inputs that model(**inputs) takes",
                got=f"{tuple(self.x.shape)}: {error}",
                todo="resize the images; Hugging Face ViTs take other sizes with a mapping {'pixel_values': …, "
                "'interpolate_pos_encoding': True}",
            ) from error

    def run(
        self,
        attention: Iterable[int] = (),
        *,
        hidden: Iterable[int] = (),
        leaf: Leaf | None = None,
        x: Tensor | None = None,
        rows: Tensor | None = None,
        readout_only: bool = False,
    ) -> Trace:
        """One forward pass in the seam, keeping `attention` (and block inputs `hidden`) of some layers.

        `leaf=(layer, "v" | "o")` starts the graph there; without it no graph is built. `x` replaces the explained
        input, holding the examples `rows` (default: all, in order). `readout_only` spares what the head does not read
        of the last block, for targets that are logits. Raises `CaptureError` where a block shows no attention.
        """
        keep, inputs_of = frozenset(attention), frozenset(hidden)
        reads = self.bound.rows_read if readout_only and self.per_row and leaf == (self.last, "o") else None
        seam = Capture(self.bound.blocks, self.bound.attentions, keep=keep, hidden=inputs_of, leaf=leaf, reads=reads)
        with borrowed(self.model):
            with seam, torch.set_grad_enabled(leaf is not None):
                output = self.forward(x, rows)
            missing = sorted(keep - seam.records.keys())
            if missing:
                raise CaptureError(
                    f"no attention was seen in block {missing[0]} of {self.depth}",
                    expected="softmax attention inside the declared attention module",
                    got=type(self.bound.attentions[missing[0]]).__name__,
                    todo="correct `attention` in the declaration, or switch the model to sdpa or eager attention",
                )
            with torch.set_grad_enabled(leaf is not None):
                score = self.score(output, rows, clean=x is None)
        self.backend = next((record.backend for record in seam.records.values()), self.backend)
        return Trace(self.bound, seam.records, output, score)

    def score(self, output: Any, rows: Tensor | None = None, *, clean: bool = False) -> Tensor:
        """One number per example of `output`; `clean` says that the input was the explained one, unchanged."""
        if self.target is None and clean:
            self.clean_output = output
            self.target = self.resolve(output)
        elif self.target is None:
            with torch.no_grad():
                self.score(self.forward(), clean=True)
        target: Any = self.target
        return target(output, rows)

    def baseline(self, baselines: float | Tensor) -> Tensor:
        """A baseline for each example, in the shape of the input. Raises `OptionError` if it does not fit."""
        try:
            return torch.as_tensor(baselines, dtype=self.x.dtype, device=self.x.device).expand_as(self.x)
        except RuntimeError as error:
            shape = tuple(baselines.shape) if isinstance(baselines, Tensor) else baselines
            expected = f"a number or a tensor that expands to {tuple(self.x.shape)}"
            raise OptionError("baselines do not fit the input", expected=expected, got=shape) from error

    def input_gradient(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`∂score/∂x` at `x`, and the score. The gradient of the input alone; parameters get none."""
        clean = x is self.x and rows is None
        with borrowed(self.model), torch.enable_grad():
            x = x.detach().requires_grad_()
            score = self.score(self.forward(x, rows), rows, clean=clean)
            return torch.autograd.grad(score.sum(), x)[0], score.detach()

    def chunks(self, points: int, internal_batch_size: int | None) -> Iterable[tuple[Tensor, Tensor]]:
        """Pairs (point, example) of a path, a chunk at a time: `points` × `batch` of them in all.

        Without `internal_batch_size` a chunk is as large as runs fastest: 4 to 16 examples on a CPU, whose caches
        are small, a whole batch or 64 examples elsewhere. A target that scores whole batches only gets whole batches.
        """
        if internal_batch_size is not None and internal_batch_size < 1:
            raise OptionError("internal_batch_size is too small", expected="at least 1", got=internal_batch_size)
        on_cpu = self.x.device.type == "cpu"
        size = internal_batch_size or (min(max(4, self.batch), 16) if on_cpu else max(64, self.batch))
        if not self.per_row:
            size = self.batch
        pairs = torch.arange(points * self.batch, device=self.x.device)
        for chunk in pairs.split(size):
            yield chunk // self.batch, chunk % self.batch
            if self.progress is not None:
                self.progress(int(chunk[-1]) + 1, len(pairs))

    def grid(self) -> tuple[int, int]:
        """Patches down and across, read from the output of the patch embedding; once per input shape.

        Raises `InputError` where the model refuses the input, `CaptureError` where the embedding shows no grid.
        """
        known = _grids.setdefault(self.bound.patches, {})
        shape = self.x.shape[1:]
        if shape not in known:
            known[shape] = self._read_grid()
        return known[shape]

    def _read_grid(self) -> tuple[int, int]:
        seen: list[torch.Size] = []
        thread = threading.get_ident()

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                seen.append(output.shape)
                raise _Found  # nothing after the patch embedding is needed

        hook = self.bound.patches.register_forward_hook(stop)
        try:
            with torch.no_grad(), borrowed(self.model):
                self.forward(self.x[:1], torch.zeros(1, dtype=torch.long, device=self.x.device))
        except _Found:
            pass
        finally:
            hook.remove()
        if not seen or len(seen[0]) != 4:
            raise CaptureError(
                "the declared patch embedding did not show a grid",
                expected="an output of four axes: (batch, width, grid height, grid width)",
                got=tuple(seen[0]) if seen else "it was not called",
                todo="correct `patches` in the declaration",
            )
        return seen[0][-2], seen[0][-1]


class _Found(Exception):
    """Ends a forward pass early."""


@dataclass
class Trace:
    """What one forward pass left: `layers` (attention by layer number), the model's `output`, the `score` (batch,)."""

    bound: Bound
    layers: dict[int, Attention]
    output: Any
    score: Tensor

    def __getitem__(self, layer: int) -> Attention:
        return self.layers[layer]

    @property
    def tokens(self) -> int:
        """Length of the sequence, prefix tokens included."""
        some = next(reversed(self.layers.values()))
        return some.v.shape[2] + (self.bound.prefix if self._pool_skips_prefix(some) else 0)

    def _pool_skips_prefix(self, attention: Attention) -> bool:
        pool = self.bound.pooled and attention is self.layers.get(self.bound.last)
        return pool and not self.bound.readout.with_prefix

    def gradients(self, wanted: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Tensor]:
        """`∂score/∂v` or `∂score/∂o` for some (layer, "v" | "o"), in one backward pass."""
        names = list(wanted)
        tensors: list[Tensor] = [getattr(self.layers[layer], name) for layer, name in names]
        with torch.enable_grad():
            found = torch.autograd.grad(self.score.sum(), tensors, allow_unused=True, materialize_grads=True)
        return dict(zip(names, found, strict=True))

    # Readout

    def readout(self, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Query rows of an attention (default: the last) that the head reads, and their weights (float32 or more)."""
        layer = self.bound.last if layer is None else layer
        o = self.layers[layer].o
        rows, weights = self.bound.readout_rows(layer, o.shape[2])
        dtype = torch.promote_types(o.dtype, torch.float32)
        return torch.tensor(rows, device=o.device), torch.tensor(weights, dtype=dtype, device=o.device)

    def start(self, *, separate: bool = False) -> QueryRows:
        """The readout as rows over the last attention's queries: one weighted row, or every row by itself."""
        last = self.layers[self.bound.last]
        batch, queries = last.o.shape[0], last.o.shape[2]
        rows, weights = self.readout()
        r = torch.zeros(len(rows), queries, dtype=weights.dtype, device=weights.device)
        r[torch.arange(len(rows), device=rows.device), rows] = 1.0 if separate else weights
        return (r if separate else r.sum(0, keepdim=True)).expand(batch, -1, -1)

    def over_tokens(self, maps: Tensor, layer: int) -> Tensor:
        """Keys of a layer as tokens of the sequence: pooling may leave prefix tokens out, whose share is then 0."""
        if self._pool_skips_prefix(self.layers[layer]):
            return nn.functional.pad(maps, (self.bound.prefix, 0))
        return maps

    def chain(
        self,
        r: QueryRows,
        layer: int,
        mix: Mix,
        *,
        gradient: Outputs | Sequence[Outputs] = (),
        normalize: bool = False,
    ) -> Rows:
        """`r (I + C_l)`, with `C_l = mix(A)`, or `mix(A, ∂score/∂A, …)` where gradients of `o` are given.

        `mix` maps a block of query rows `(batch, head, query, key)` to `(batch, query, key)`. `normalize` divides each
        row of `I + C_l` by its sum. An attention pool has no residual, so there it is `r C_l`.
        """
        attention = self.layers[layer]
        gradients = [gradient] if isinstance(gradient, Tensor) else list(gradient)
        pool = self.bound.pooled and layer == self.bound.last
        support = r.ne(0).any(0).any(0).nonzero().squeeze(1)
        out = r.new_zeros(*r.shape[:2], attention.v.shape[2]) if pool else r.clone()
        per_row = attention.v.shape[0] * attention.v.shape[1] * attention.v.shape[2]
        for rows in support.split(max(1, _BLOCK // per_row)):
            A = attention.probabilities(rows).to(r.dtype)
            C = mix(A, *(attention.attention_gradient(g, rows).to(r.dtype) for g in gradients))
            weight = r[..., rows]
            if normalize:
                sums = C.sum(-1) + (0 if pool else 1)
                weight = weight * torch.where(sums == 0, 0.0, 1 / sums)[:, None]
                if not pool:
                    out[..., rows] = out[..., rows] + weight - r[..., rows]
            out = out + weight @ C
        return self.over_tokens(out, layer)


@dataclass(frozen=True)
class Result:
    """What a method returns: `scores` of all tokens, or `pixels` `(batch, height, width)` of which they are sums.

    `options` are those that were resolved (a default that depends on the model); `checks` and `details` are tensors or
    numbers of the method's own.
    """

    scores: Scores | None = None
    pixels: Pixels | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    checks: dict[str, Any] = field(default_factory=dict[str, Any])
    details: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def mean_heads(A: Attn) -> Tensor:
    """The mean over heads."""
    return A.mean(1)
