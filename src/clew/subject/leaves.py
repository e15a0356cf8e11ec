"""What methods of gradients compute with, whatever a subject is: values, gradients and points of paths at leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..shapes import at_least_float32
from .integration_paths import PathRecord
from .path_course import PathCourse
from .quadrature import Quadrature
from .stream_subject import ALL, Leaves, Rows, StreamSubject
from .subject import Subject
from .trace import Result

T = TypeVar("T")


@dataclass(frozen=True)
class DeclaredLeaf:
    """The one leaf of a declared model: images, or word embeddings (batch, token, width)."""

    subject: Subject

    @property
    def leaves(self) -> Leaves:
        """The input."""
        return {"": self.subject.x}

    def gradients(self, leaves: Mapping[str, Tensor] | None = None, rows: Rows = ALL) -> tuple[Leaves, Tensor]:
        """`∂score/∂x` at `leaves` (default: the input as it is), which hold the examples `rows`, and the scores."""
        x = self.subject.x if leaves is None else leaves[""]
        gradient, score = self.subject.input_gradient(x, rows if isinstance(rows, Tensor) else None)
        return {"": gradient}, score

    def baseline(self, baselines: Any, x: Leaves) -> Leaves:
        """A baseline for each example. Raises `OptionError` if it does not fit."""
        return {"": self.subject.baseline(baselines, x[""])}

    def chunks(self, points: int, internal_batch_size: int | None) -> Iterable[tuple[Tensor, Rows]]:
        """Pairs (point, example) of a path, a chunk at a time."""
        return self.subject.chunks(points, internal_batch_size)

    def along(self, start: Leaves | None, go: Callable[[], T]) -> T:
        """What `go` finds, which makes passes on changed inputs, the farthest of which is `start`."""
        return go()

    @property
    def told(self) -> dict[str, str]:
        """What is to be said about passes on changed inputs."""
        return {}

    def kept(self, key: str, changed: Tensor, x: Tensor) -> Tensor:
        """A changed leaf."""
        return changed

    def measure_path(self, quadrature: str, taken: Iterable[PathRecord], n_steps: int) -> None:
        """Note whether a path was gone as its rule says."""
        for one in taken:
            self.subject.measure_path(quadrature, one, n_steps)

    def scores_at(self, leaves: Leaves) -> Tensor:
        """The scores where other values enter."""
        with torch.no_grad():
            return self.subject.score(self.subject.forward(leaves[""]))

    def clean_scores(self) -> Tensor:
        """The scores of the input as it is."""
        return self.subject.clean_scores()

    def ranges(self, x: Leaves) -> Leaves:
        """Largest minus least value of each example, padding left out, shaped to be multiplied with `x`."""
        value, mask = x[""], self.subject.mask
        high = low = value
        if mask is not None:
            padding = ~mask.to(value.device)[..., None]
            high, low = value.masked_fill(padding, -torch.inf), value.masked_fill(padding, torch.inf)
        found = high.flatten(1).amax(1) - low.flatten(1).amin(1)
        return {"": found.view(-1, *[1] * (value.ndim - 1))}

    def is_words(self, key: str) -> bool:
        """Whether a leaf holds embeddings of tokens."""
        return self.subject.bound.is_text

    def has_examples_first(self, key: str) -> bool:
        """Whether a leaf's first axis is that of the examples."""
        return True

    def result(self, values: Leaves, *, size: bool = False, checks: dict[str, Any] | None = None) -> Result:
        """Values as one number per pixel or token: summed over features or channels, or their size."""
        value = at_least_float32(values[""])
        if self.subject.bound.is_text:
            return Result(scores=value.norm(dim=-1) if size else value.sum(-1), checks=checks or {})
        return Result(pixels=(value.abs() if size else value).sum(1), checks=checks or {})

    def per_example(self, values: Leaves) -> Tensor:
        """Sums of values (batch,)."""
        return at_least_float32(values[""]).flatten(1).sum(-1)


@dataclass(frozen=True)
class StreamLeaves:
    """The leaves of a model of which nothing is declared."""

    subject: StreamSubject
    course: PathCourse = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "course", PathCourse(self.subject))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subject, name)

    def along(self, start: Leaves | None, go: Callable[[], T]) -> T:
        """What `go` finds, which makes passes on changed inputs, the farthest of which is `start`."""
        return self.course.along(start, go)

    @property
    def told(self) -> dict[str, str]:
        """What is to be said about passes on changed inputs."""
        return self.course.told

    def ranges(self, x: Leaves) -> Leaves:
        """Largest minus least value of each example, shaped to be multiplied with `x`."""
        found: Leaves = {}
        for key, value in x.items():
            flat = value.reshape(len(value) if self.has_examples_first(key) else 1, -1)
            spread = flat.amax(1) - flat.amin(1)
            found[key] = spread.view(-1, *[1] * (value.ndim - 1))
        return found

    def is_words(self, key: str) -> bool:
        """Whether a leaf holds embeddings of tokens."""
        return self.subject.clean_entries[key].places is not None

    def has_examples_first(self, key: str) -> bool:
        """Whether a leaf's first axis is that of the examples, and it has no other role."""
        return len(self.subject.leaves[key]) == self.subject.batch // self.subject.each

    def result(self, values: Leaves, *, size: bool = False, checks: dict[str, Any] | None = None) -> Result:
        """Values as one number per token or entry of each stream."""
        return stream_result(self.subject, values, size=size, checks=checks or {})

    def per_example(self, values: Leaves) -> Tensor:
        """Sums of values (batch,)."""
        parts = (self.subject.by_stream(values, again=again).values() for again in (False, True))
        return torch.stack([v.flatten(1).sum(1) for part in parts for v in part]).sum(0)


def stream_result(subject: StreamSubject, values: Leaves, *, size: bool = False, **more: Any) -> Result:
    """The result of values at leaves, by stream; what words got where they are looked up again is in its details."""
    again = subject.by_stream(values, size=size, again=True)
    details = {f"{name}.looked_up_again": value for name, value in again.items()}
    return Result(streams=subject.by_stream(values, size=size), details=details, **more)


def leaves_of(subject: Subject | StreamSubject) -> Any:
    """What methods of gradients compute with."""
    return StreamLeaves(subject) if isinstance(subject, StreamSubject) else DeclaredLeaf(subject)


def scaled_leaves(start: Leaves, x: Leaves, rule: Quadrature, point: Tensor, rows: Rows) -> Leaves:
    """Points `start + α (x - start)` of a path: one for each pair (point, example), or one of all examples."""
    found: Leaves = {}
    for key, value in x.items():
        alpha = rule.points.to(value.dtype).to(value.device)[point.to(value.device)].view(-1, *[1] * (value.ndim - 1))
        found[key] = start[key][rows] + alpha * (value - start[key])[rows]
    return found


def add_up(total: Leaves, x: Leaves, values: Leaves, weights: Tensor, rows: Rows) -> None:
    """Add values (row, …), each times its weight (row,), to totals of `x` (example, …), of the examples `rows`."""
    for key, value in values.items():
        weight = weights.to(value.device).to(value.dtype).view(-1, *[1] * (value.ndim - 1))
        found = at_least_float32(value * weight)
        if key not in total:
            total[key] = torch.zeros_like(at_least_float32(x[key])) if isinstance(rows, Tensor) else 0 * found
        if isinstance(rows, Tensor):
            total[key].index_add_(0, rows, found.to(total[key].dtype))
        else:
            total[key] += found
