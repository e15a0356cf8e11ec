"""What a method is asked to explain where nothing is declared: a model, one call of it, and a target.

Input enters in *leaves*, one for each place where it does (`streams`). Methods of gradients and of relevance need no
more than values, gradients and points of a path at these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..seam import DoublePrecision, Seam, in_callers_modes, no_gradient_error, owning_model
from ..shapes import at_least_float32
from ..streams import Enough, Entrance, Entry, Frontier, ModelCall, Station
from .discrepancy import Discrepancy
from .input_errors import refusals_told
from .integration_paths import PathRecord, baseline

Leaves = dict[str, Tensor]
Rows = slice | Tensor
ALL = slice(None)

# By model and signature of the input: on which axis of each leaf the examples are (None: nowhere).
_axes: WeakKeyDictionary[nn.Module, dict[Any, dict[str, int | None]]] = WeakKeyDictionary()


@dataclass
class Pass:
    """One forward pass: the `output`, and the `entries` in which input entered."""

    output: Any
    entrance: Entrance

    @property
    def leaves(self) -> Leaves:
        """What the model was given, by place."""
        return {key: entry.leaf for key, entry in self.entrance.entries.items()}


@dataclass
class StreamSubject:
    """One call of a model to explain. `resolve` fixes the target on the first output of the unchanged input.

    `callable_target`: the target is a function of the output, which runs inside a pass under rules. `at` is the path of
    a module at whose output streams end.
    """

    model: nn.Module
    call: ModelCall
    resolve: Callable[[Any], Any]
    callable_target: bool = False
    at: str | None = None
    precise: bool = False
    progress: Callable[[int, int], None] | None = None
    details: bool = False
    verify: bool = False
    measured: list[Discrepancy] = field(default_factory=list[Discrepancy], init=False)
    relevance: list[Any] = field(default_factory=list[Any], init=False)  # what passes under LRP rules found
    by_mass: bool = field(default=False, init=False)  # whether a pass in mass found the result
    clean_output: Any = field(default=None, init=False)
    target: Any = field(default=None, init=False)  # what `resolve` returned
    clean: Pass | None = field(default=None, init=False)  # the last pass on the input as it is
    batch: int = field(default=0, init=False)  # number of scores, known after the first pass
    course: list[Station] | None = field(default=None, init=False)  # where floats came in a pass on the input as it is
    follow: Callable[[Pass], None] | None = field(default=None, init=False)  # called after passes on other leaves,
    followed: Leaves = field(default_factory=dict[str, Tensor], init=False)  # the last of which are these
    behind: tuple[str, ...] = field(default=(), init=False)  # leaves that are changed behind the first linear maps

    # Passes

    def run(
        self,
        leaves: Mapping[str, Tensor] | None = None,
        *,
        gradient: bool = False,
        within: Seam | None = None,
        score_within: Callable[[Any], None] | None = None,
        precise: bool = False,
    ) -> Pass:
        """One pass, on `leaves` in place of what enters. `gradient`: leaves are those of a graph.

        `within` is a seam that sees the model's calls; `score_within` is called with the output while it does.
        `precise` leaves out the model's own casts to shorter floats. Leaves in `behind` are changed where the first
        linear maps have made something of them, so that the model decides by their unchanged values.
        Raises `InputError` where the model refuses its input, or no input enters it.
        """

        front: Frontier | None = None
        if leaves is not None and self.behind:
            front = Frontier(self.model, given=self.shifts(leaves, precise=precise))
        elif self.follow is not None or (leaves is None and within is None):
            front = Frontier(self.model)
        if leaves is not None and self.follow is not None:
            self.followed = dict(leaves)
        made = self._pass(leaves, gradient, within, score_within, precise, front)
        if leaves is None:
            self.clean = made
            self.course = front.stations if front is not None else self.course
        elif self.follow is not None:
            self.follow(made)
        return made

    def shifts(self, leaves: Mapping[str, Tensor], *, precise: bool = False) -> list[Tensor | None]:
        """What leaves in `behind` change at each of the first linear maps, with what came before as on the input."""
        clean = {key: entry.value for key, entry in self.clean_entries.items()}
        changes = {key: (leaves[key] - clean[key]).detach() for key in self.behind}
        front = Frontier(self.model, changes, enough=len(self.course or []))
        with suppress(Enough):
            self._pass({**leaves, **{key: clean[key] for key in self.behind}}, True, None, None, precise, front)
        return front.shifts

    def pass_with(self, leaves: Mapping[str, Tensor], front: Frontier) -> Pass:
        """A pass whose way to the first linear maps `front` follows."""
        return self._pass(leaves, False, None, None, False, front)

    def _pass(
        self,
        leaves: Mapping[str, Tensor] | None,
        gradient: bool,
        within: Seam | None,
        score_within: Callable[[Any], None] | None,
        precise: bool,
        front: Frontier | None,
    ) -> Pass:
        def give(key: str, value: Tensor) -> Tensor:
            if leaves is not None and key not in self.behind:
                value = leaves.get(key, value)
            return value.detach().requires_grad_(gradient and (value.is_floating_point() or value.is_complex()))

        entrance = Entrance(self.model, self.call, give, self.at, getattr(within, "entered", None))
        entrance.front = front if self.at is None else None
        with ExitStack() as stack:
            if self.precise or precise:
                stack.enter_context(DoublePrecision(self.model))
            stack.enter_context(in_callers_modes())
            stack.enter_context(torch.set_grad_enabled(gradient))
            given = entrance.arguments()
            if within is not None:
                stack.enter_context(within)
            stack.enter_context(entrance)  # it sees calls first: of what `within` makes of them it need not see all
            shape = next((tuple(tensor.shape) for tensor in self.call.tensors().values()), ())
            with refusals_told(owning_model(self.model), shape, is_text=False):
                output = self.model(*given.args, **given.kwargs)
            if score_within is not None:
                score_within(output)
        if not entrance.entries:
            raise self._nothing_enters()
        return Pass(output, entrance)

    def _nothing_enters(self) -> InputError:
        names = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype)[6:]}" for k, v in self.call.tensors().items())
        if self.at is not None:
            todo = "choose a module that the model calls, whose output is a tensor of floats"
            return InputError(f"module {self.at!r} was not called, or gave no floats", got=names, todo=todo)
        return InputError(
            "no input was seen to enter the model",
            expected="floats, or whole numbers that the model looks up in a table of floats",
            got=names,
            todo="say at which module's output the explanation is to end: at='…'",
        )

    def score(self, output: Any) -> Tensor:
        """One number per example of an output. The first one counts as that of the unchanged input."""
        if self.target is None:
            self.clean_output = output
            self.target = self.resolve(output)
        found = cast("Callable[[Any, Tensor | None], Tensor]", self.target)(output, None)
        self.batch = self.batch or len(found)
        return found

    @property
    def each(self) -> int:
        """How many scores an example has, known after the first pass; more than one only of a single example."""
        return int(getattr(self.target, "each", 1))

    @property
    def leaves(self) -> Leaves:
        """What enters the model, by place."""
        return {key: entry.value for key, entry in self.clean_entries.items()}

    @property
    def clean_entries(self) -> dict[str, Entry]:
        """Where the unchanged input enters, by place."""
        if self.clean is None:
            with torch.no_grad():
                self.score(self.run().output)
        assert self.clean is not None
        return self.clean.entrance.entries

    def gradients(self, leaves: Mapping[str, Tensor] | None = None, rows: Rows = ALL) -> tuple[Leaves, Tensor]:
        """`∂score/∂x` of every leaf at `leaves` (default: the input as it is), and the scores.

        Where examples have no axis of their own in a leaf, its gradient has one in front.
        """
        with torch.enable_grad():
            found = self.run(leaves, gradient=True)
            score = self.score(found.output)
            self.need_gradient(score)
        return self.gradients_of(score, found.leaves), score.detach()

    def need_gradient(self, score: Tensor) -> None:
        """Raise `CaptureError` for a score that no gradient leads to, with the place where it stops."""
        if not score.requires_grad:
            raise no_gradient_error(self.model, lambda: self.run(self.leaves, gradient=True))

    def gradients_of(self, score: Tensor, leaves: Leaves, *, retain_graph: bool = False) -> Leaves:
        """Gradients of scores (batch,): of all in one backward pass, or one after the other where leaves are shared."""
        axes = self.axes(score, leaves)
        tensors = list(leaves.values())
        if self.each == 1 and None not in axes.values():
            found = torch.autograd.grad(
                score.sum(), tensors, allow_unused=True, materialize_grads=True, retain_graph=retain_graph
            )
            return dict(zip(leaves, found, strict=True))
        parts = [
            torch.autograd.grad(one, tensors, allow_unused=True, materialize_grads=True, retain_graph=True)
            for one in score
        ]
        return {
            key: self.together(axes[key], several)
            for key, several in zip(leaves, zip(*parts, strict=True), strict=True)
        }

    def together(self, axis: int | None, values: Sequence[Tensor]) -> Tensor:
        """Values of one leaf, of which each belongs to one score: on the axis of the examples, or on one in front."""
        if axis is None:
            return torch.stack(list(values))
        return torch.cat(list(values), axis) if self.each > 1 else torch.stack(list(values)).sum(0)

    # Where examples are

    def axes(self, score: Tensor, leaves: Leaves) -> dict[str, int | None]:
        """The axis of the examples in each leaf, seen once per kind of input: the gradient of the first score alone is
        confined to its example. None where no axis has that."""
        known = _axes.setdefault(owning_model(self.model), {})
        key = self._kind(len(score))
        if key not in known:
            tensors = list(leaves.values())
            found = tensors  # of one example all is its own
            if len(score) > self.each:
                found = torch.autograd.grad(
                    score[0], tensors, allow_unused=True, materialize_grads=True, retain_graph=True
                )
            examples = len(score) // self.each
            known[key] = {k: self._axis(k, g.detach(), examples) for k, g in zip(leaves, found, strict=True)}
        return known[key]

    def _kind(self, batch: int) -> Any:
        """What decides where examples are."""
        return self.call.signature, self.at, batch, self.each

    def see_axes(self) -> None:
        """Look where examples are, by a plain gradient, if that is not known."""
        if self._kind(self.batch) not in _axes.setdefault(owning_model(self.model), {}):
            self.gradients()

    def _axis(self, key: str, g: Tensor, batch: int) -> int | None:
        entry, sizes = self.clean_entries[key], g.abs()
        reached = sizes if entry.places is None else self._of_words(entry, sizes, size=False)[entry.argument]
        for axis in range(reached.ndim):
            if reached.shape[axis] == batch and not bool((reached.movedim(axis, 0)[1:] > 0).any()):
                return axis
        return None

    def _of_words(self, entry: Entry, values: Tensor, *, size: bool) -> dict[str, Tensor]:
        """Values (*places, width) as one number for each token number, by argument."""
        assert entry.places is not None and self.clean is not None
        flat = values.flatten(entry.places.ndim)
        each = flat.square().sum(-1) if size else flat.sum(-1)
        provenance = self.clean.entrance.provenance
        found = provenance.spread(each, entry.places)
        return {name: found[name] for name in provenance.arguments(entry.places)}

    def looked_up_before(self) -> dict[str, Tensor]:
        """Of each look-up, which of its numbers an earlier one had."""
        entries, found = self.clean_entries, dict[str, Tensor]()
        assert self.clean is not None
        seen: Tensor | None = None
        for key, entry in entries.items():
            if entry.places is None:
                continue
            if seen is None:
                seen = torch.zeros(self.clean.entrance.provenance.count, dtype=torch.bool, device=entry.places.device)
            given = entry.places >= 0
            found[key] = given & seen[entry.places.clamp(min=0)]
            seen[entry.places[given]] = True
        return found

    def by_stream(self, values: Mapping[str, Tensor], *, size: bool = False, again: bool = False) -> dict[str, Tensor]:
        """Values of leaves as (batch, *axes of the argument): words summed over their features, or with `size` the norm
        over these; floats as they are, or their size.

        Of words that are looked up several times (by a decoder, too, or in a table for each layer) the first look-up
        counts, and with `again` the others. One number for each example is a row of one.
        """
        score_axes = _axes[owning_model(self.model)][self._kind(self.batch)]
        found: dict[str, Tensor] = {}
        words, before = set[str](), self.looked_up_before()
        for key, value in values.items():
            entry, axis, value = self.clean_entries[key], score_axes[key], at_least_float32(value)
            if entry.places is None:
                if not again:
                    moved = value if axis in (0, None) else value.movedim(axis, 0)
                    found[key] = moved.abs() if size else moved
                continue
            kept = before[key] if again else ~before[key]
            if not bool(kept.any()):
                continue
            rows = list(value) if axis is None else list(value.split(1, axis)) if self.each > 1 else [value]
            kept = kept.view(*kept.shape, *[1] * (rows[0].ndim - kept.ndim))
            made = [self._of_words(entry, one * kept, size=size) for one in rows]
            for name in made[0]:
                several = [m[name] for m in made]
                one = torch.stack(several) if axis is None else torch.cat(several, axis).movedim(axis, 0)
                found[name] = found[name] + one if name in found else one
                words.add(name)
        found = {k: v.sqrt() if size and k in words else v for k, v in found.items()}
        return {k: v[:, None] if v.ndim == 1 else v for k, v in found.items()}

    def not_given(self, leaves: Mapping[str, Tensor]) -> Tensor | None:
        """Sums (batch,) of values at leaves whose tokens are none of the input: padding and beginnings of its own.

        None where all are of the input.
        """
        found: list[Tensor] = []
        for key, value in leaves.items():
            places = self.clean_entries[key].places
            if places is None or bool((places >= 0).all()):
                continue
            value = at_least_float32(value)
            ahead = value.ndim - self.clean_entries[key].value.ndim  # an axis of examples in front
            each = value.flatten(places.ndim + ahead).sum(-1) * (places < 0)
            if len(each) == self.batch:
                found.append(each.flatten(1).sum(1))
        return torch.stack(found).sum(0) if found else None

    # What methods compute with

    def measure(self, name: str, expected: Tensor, found: Tensor, words: str, *, allowed: float | None = None) -> None:
        """Note how far something that was computed is from what it should be, relative to its largest size."""
        if self.verify:
            self.measured.append(Discrepancy.of(name, expected, found, words, allowed=allowed))

    def baseline(self, baselines: float | Tensor, x: Leaves) -> Leaves:
        """A baseline for each leaf; tokens that are none of the input stay. Raises `OptionError` if it does not fit."""
        return {k: self.kept(k, baseline(baselines, t), t) for k, t in x.items()}

    def kept(self, key: str, changed: Tensor, x: Tensor) -> Tensor:
        """A changed leaf in which tokens that are none of the input (padding and beginnings of the model's own) are as
        they were, as they are no part of the result."""
        places = self.clean_entries[key].places
        if places is None or bool((places >= 0).all()):
            return changed
        return torch.where((places >= 0).view(*places.shape, *[1] * (x.ndim - places.ndim)), changed, x)

    def chunks(self, points: int, internal_batch_size: int | None) -> Iterable[tuple[Tensor, Rows]]:
        """Points of a path, one at a time for the whole call, as (point, rows)."""
        for point in range(points):
            yield torch.tensor([point]), ALL
            if self.progress is not None:
                self.progress(point + 1, points)

    def measure_path(self, quadrature: str, taken: Iterable[PathRecord], n_steps: int) -> None:
        """Note whether a path was gone as its rule says."""
        if self.verify:
            self.measured += [one.measured(quadrature, n_steps) for one in taken]

    def scores_at(self, leaves: Leaves) -> Tensor:
        """The scores where other values enter."""
        with torch.no_grad():
            return self.score(self.run(leaves).output)

    def clean_scores(self) -> Tensor:
        """The scores of the unchanged input."""
        with torch.no_grad():
            return self.score(self.run().output if self.clean_output is None else self.clean_output)
