"""Paths and noise on inputs by whose values a model decides what it does: all-zero pictures that it drops, say.

Where a pass on a changed input takes another course (it fails, other tensors come to the first linear maps, the output
has another shape, or the score is not finite), the input is changed behind these maps instead, and that is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import ClewError
from ..streams import Frontier, Station
from ..targets import comparable_outputs
from .stream_subject import Leaves, Pass, StreamSubject

T = TypeVar("T")
_LINEAR = 1e-3  # of a change: less is said to be linear
_STEPS = (1 / 2, 1 / 16, 1 / 256)  # of the way from an input
# What a model may raise because of the values of its input; not what comes from outside, such as a time limit.
_OF_VALUES = (ClewError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)


class OtherCourse(ClewError, RuntimeError):
    """A pass on a changed input does something else than that on the input itself."""


@dataclass
class PathCourse:
    """The courses of passes of one subject on changed inputs; `told` says in words what was done about them."""

    subject: StreamSubject
    told: dict[str, str] = field(default_factory=dict[str, str])

    def along(self, start: Leaves | None, go: Callable[[], T]) -> T:
        """What `go` finds, which makes passes on changed inputs, the farthest of which is `start`."""
        subject = self.subject
        floats = [key for key, entry in subject.clean_entries.items() if entry.places is None]
        if not floats or subject.at is not None:
            return go()
        if subject.course is None:
            with torch.no_grad():
                subject.run()
        subject.follow = self._same
        try:
            if start is not None:
                self._has_scores(subject.scores_at(start))
            return go()
        except torch.OutOfMemoryError:
            raise
        except _OF_VALUES as error:
            first = error
        finally:
            subject.follow = None
        if self._behind(first, floats):
            return go()
        if isinstance(first, OtherCourse):  # which can be gone all the same
            self.told["path"] = f"the model takes another course there: {_why(first)}"
            return go()
        raise first

    def _same(self, made: Pass) -> None:
        """Raise `OtherCourse` where a pass differs from that on the input as it is."""
        subject = self.subject
        assert made.entrance.front is not None
        there, known = made.entrance.front.stations, subject.course or []
        if there != known:
            raise OtherCourse(_difference(known, there))
        shapes, own = (
            [tuple(t.shape) for t in comparable_outputs(output)] for output in (made.output, subject.clean_output)
        )
        if shapes != own:
            raise OtherCourse(f"the output is {shapes} instead of {own}")

    def _has_scores(self, score: Tensor) -> None:
        """Raise `OtherCourse` where there are not as many as on the input as it is, or some are not finite."""
        if len(score) != self.subject.batch or not bool(score.isfinite().all()):
            raise OtherCourse(f"the score is {score.tolist()}")

    def _behind(self, first: Exception, floats: list[str]) -> bool:
        """Whether the farthest input can be given behind the first linear maps; those that need it are."""
        subject, there = self.subject, self.subject.followed
        known = [one for one in subject.course or [] if one.numbers is None]
        floats = [key for key in floats if any(key in one.arguments for one in known)]
        if not floats or not there:
            return False
        x = subject.leaves
        alone = [key for key in floats if not self._goes({**x, key: there[key]})]
        for held in dict.fromkeys((tuple(alone or floats), tuple(floats))):
            subject.behind = held
            if self._goes(there, checked=False):
                self._tell(first, held, there)
                return True
        subject.behind = ()
        return False

    def _goes(self, leaves: Leaves, *, checked: bool = True) -> bool:
        """Whether a pass on `leaves` can be made and scored, `checked`: on the same course."""
        subject = self.subject
        subject.follow = self._same if checked else None
        try:
            self._has_scores(subject.scores_at(leaves))
        except torch.OutOfMemoryError:
            raise
        except _OF_VALUES:
            return False
        finally:
            subject.follow = None
        return True

    def _tell(self, first: Exception, held: tuple[str, ...], there: Leaves) -> None:
        maps = [one for one in self.subject.course or [] if one.numbers is None]
        stations = [one for one in maps if set(one.arguments) & set(held)]
        where = ", ".join(dict.fromkeys(one.module or "a linear map" for one in stations))
        linear = self._is_linear(held, there)
        how = "which is linear in it" if linear else "by its derivative there"
        how += ", as what comes before is not linear in it" if linear is False else ""
        self.told["path"] = (
            f"{', '.join(held)} is changed behind {where}, {how}: changed itself, it makes the model take another "
            f"course ({_why(first)})"
        )

    def _is_linear(self, held: tuple[str, ...], there: Leaves) -> bool | None:
        """Whether the maps are linear, as far as the farthest input on the way that takes the same course tells; None
        where there is no such input."""
        x = self.subject.leaves
        for step in _STEPS:
            near = {key: value + step * (there[key] - value) if key in held else value for key, value in x.items()}
            one, other = self._outputs(near, ()), self._outputs(near, held)
            if one and len(one) == len(other) and all(a.shape == b.shape for a, b in zip(one, other, strict=True)):
                clean = self._outputs(x, ())
                return all(_alike(a, b, a - c) for a, b, c in zip(one, other, clean, strict=True))
        return None

    def _outputs(self, leaves: Leaves, behind: tuple[str, ...]) -> list[Tensor]:
        """What the first linear maps put out, with some leaves changed behind them; nothing where the pass fails."""
        subject, kept = self.subject, self.subject.behind
        subject.behind = behind
        try:
            front = Frontier(subject.model, given=subject.shifts(leaves) if behind else (), keep=True)
            with torch.no_grad():
                subject.pass_with(leaves, front)
        except torch.OutOfMemoryError:
            raise
        except _OF_VALUES:
            return []
        finally:
            subject.behind = kept
        return front.outputs


def _alike(a: Tensor, b: Tensor, change: Tensor) -> bool:
    """Whether two outputs differ by less than a part of the change, or by what rounding explains."""
    if not a.numel():
        return True
    rounding = 16 * torch.finfo(a.dtype).eps * float(a.abs().amax())
    return float((a - b).abs().amax()) <= max(_LINEAR * float(change.abs().amax()), rounding)


def _difference(known: list[Station], there: list[Station]) -> str:
    for one, other in zip(known, there, strict=False):
        if one.numbers != other.numbers:
            return f"other rows of {one.module or other.module or 'a table'} are looked up"
        if one != other:
            return f"{one.module or 'a linear map'} gives {other.shape} instead of {one.shape}"
    return f"input comes to {len(there)} linear maps first instead of {len(known)}"


def _why(error: Exception) -> str:
    """An error in one line, in the model's own words where it is the model's."""
    cause = error.__cause__ or error
    said = " ".join(str(cause).split())
    said = said if len(said) <= 200 else f"{said[:200]}…"
    return said if isinstance(cause, ClewError) else f"{type(cause).__name__}: {said}"
