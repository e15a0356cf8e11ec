"""Straight paths from a baseline to an input, and a record of the points that were evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import OptionError, short_repr
from ..shapes import at_least_float32
from ..validation import validate_size
from .discrepancy import Discrepancy
from .quadrature import Quadrature


def baseline(baselines: float | Tensor, x: Tensor) -> Tensor:
    """A baseline for each example, in the shape of `x`. Raises `OptionError` if it does not fit."""
    try:
        found = torch.as_tensor(baselines, dtype=x.dtype, device=x.device).expand_as(x)
        if not bool(found.isfinite().all()):
            raise ValueError("NaN or infinity")
        return found
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        shape = tuple(baselines.shape) if isinstance(baselines, Tensor) else short_repr(baselines)
        expected = f"a finite number or a tensor that expands to {tuple(x.shape)}"
        raise OptionError("baselines do not fit the input", expected=expected, got=shape) from error


def chunk_size(given: Tensor, internal_batch_size: int | None) -> int:
    """How many inputs run at once along a path. Raises `OptionError` for fewer than one."""
    inputs = given.shape[0]
    if internal_batch_size is not None:
        return validate_size("internal_batch_size", internal_batch_size)
    return min(max(4, inputs), 16) if given.device.type == "cpu" else max(64, inputs)


def in_chunks(
    points: int, batch: int, size: int, device: torch.device, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (point, example), `size` at a time; `progress` is told (done, all)."""
    pairs = torch.arange(points * batch, device=device)
    for chunk in pairs.split(size) if len(pairs) else ():
        yield chunk // batch, chunk % batch
        if progress is not None:
            progress(int(chunk[-1]) + 1, len(pairs))


class PathRecord:
    """Where a path was really gone and with which weights: `∫ dα = 1`, `∫ α dα = 1/2`, `∫ α² dα = 1/3` tell.

    `α` is measured on the inputs that the model got, not taken from the rule.
    """

    def __init__(self, start: Tensor, x: Tensor) -> None:
        self._start, self._step = map(_by_row, (start, x - start))
        self._half = x.dtype.itemsize < 4
        self._length = torch.linalg.vecdot(self._step, self._step).double()
        self._sums = torch.zeros(len(x), 3, dtype=torch.float64, device=x.device)

    def add(self, scaled: Tensor, weights: Tensor, example: Tensor | slice) -> None:
        """Inputs (row, …) that the model got, the weight of each, and whose they are."""
        gone = torch.linalg.vecdot(_by_row(scaled) - self._start[example], self._step[example])
        alpha = gone.double() / self._length[example].clamp(min=torch.finfo(torch.float64).tiny)
        powers = torch.stack([torch.ones_like(alpha), alpha, alpha.square()], 1)
        moments = powers * weights.double().to(alpha.device)[:, None]
        if isinstance(example, slice):
            self._sums[example] += moments
        else:
            self._sums.index_add_(0, example, moments)

    def measured(self, name: str, n_steps: int) -> Discrepancy:
        """The moments that a rule by its name has, against those that were seen."""
        expected, found = self._moments(name, n_steps)
        words = "the path that was integrated along: sums of its weights times powers of how far its points lie"
        short = self._start.dtype == torch.float32  # or half precision, brought to that
        return Discrepancy.of("path", expected, found, words, allowed=(1e-2 if self._half else 1e-4) if short else 1e-6)

    def _moments(self, name: str, n_steps: int) -> tuple[Tensor, Tensor]:
        """The moments (example, 3) that a rule has, and those that were seen; of inputs that are moved."""
        uniform = (1.0, 0.5, (2 * n_steps - 1) / (6 * (n_steps - 1))) if n_steps > 1 else (1.0, 1.0, 1.0)
        middle = (1.0, 0.5, 1 / 3 if n_steps > 1 else 1 / 4)
        expected = torch.tensor(uniform if name == "uniform" else middle, dtype=torch.float64)
        moved = self._length > 0
        return expected.to(self._sums).expand_as(self._sums)[moved], self._sums[moved]


def _by_row(values: Tensor) -> Tensor:
    return at_least_float32(values).reshape(len(values), -1)


def scaled_along(start: Tensor, x: Tensor, rule: Quadrature, point: Tensor, example: Tensor) -> Tensor:
    """Points `start + α (x - start)` of a path, one for each pair (point, example)."""
    alpha = rule.points.to(x.dtype).to(x.device)[point].view(-1, *[1] * (x.ndim - 1))
    return start[example] + alpha * (x - start)[example]
