"""Copies of images: shifted, mirrored, turned, with noise; how a copy is made, and how a map of it is mapped back.

A copy is `w T(x) + ε`. `T` reads the image where an affine map of the plane puts each point, bilinearly, with zeros
outside (`affine_grid` and `grid_sample` of torch); its transpose maps back, which keeps sums of what is inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError, short_repr
from ..shapes import at_least_float32
from ..subject import Subject, noise_of

NAMES = ("shift", "flip", "affine", "noise")
_DEGREES, _SHIFT, _ZOOM = 20.0, 0.1, 0.1  # the largest of "affine", either way


@dataclass(frozen=True)
class Copies:
    """So many copies of each image: `matrices` (copy, 2, 3) of `affine_grid`, None: in place; `weights` (copy,), and
    `stdevs` (copy, image) of the noise, which `seed` draws, or which is given as `noise` (copy, channel, …)."""

    matrices: Tensor | None
    weights: Tensor
    stdevs: Tensor | None
    seed: int = 0
    noise: Tensor | None = None

    def __len__(self) -> int:
        return len(self.weights)

    def batches(self, subject: Subject, internal_batch_size: int | None) -> Iterator[tuple[Tensor, Tensor, Subject]]:
        """Which copies, of which examples, and these as a batch of its own."""
        for copy, example in subject.chunks(len(self), internal_batch_size):
            change = self._change(copy[:: subject.each].cpu(), example[:: subject.each].cpu() // subject.each)
            yield copy, example, subject.copies_of(example, change)

    def _change(self, copy: Tensor, image: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
        def change(x: Tensor, rows: Tensor | None) -> Tensor:
            some = slice(None) if rows is None else rows.cpu()
            own = copy[some]
            made = warped(x, None if self.matrices is None else self.matrices[own])
            made = made * self.weights[own].to(made).view(-1, 1, 1, 1)
            if self.stdevs is None:
                return made
            stdevs = self.stdevs[own, image[some]].to(made).view(-1, 1, 1, 1)
            return made + stdevs * torch.stack([self._noise(int(k), x[0]) for k in own])

        return change

    def _noise(self, copy: int, like: Tensor) -> Tensor:
        if self.noise is not None:
            return self.noise[copy].to(like)
        return noise_of(self.seed, copy, like.detach(), by_token=False)

    def mapped_back(self, maps: Tensor, copy: Tensor) -> Tensor:
        """Maps (copy, height, width) of what the model got, in the frame of the images."""
        if self.matrices is None:
            return maps
        with torch.enable_grad():
            x = torch.zeros_like(maps)[:, None].requires_grad_()
            (found,) = torch.autograd.grad(warped(x, self.matrices[copy.cpu()]), x, maps[:, None])
        return found[:, 0]


def warped(x: Tensor, matrices: Tensor | None) -> Tensor:
    """Images (image, channel, height, width), each read where its matrix says."""
    if matrices is None:
        return x
    wide = at_least_float32(x)
    grid = F.affine_grid(matrices.to(wide), list(wide.shape), align_corners=False)
    return F.grid_sample(wide, grid, align_corners=False).to(x.dtype)


def drawn(names: Sequence[str], count: int, size: tuple[int, int], patch: tuple[float, float], seed: int) -> Tensor:
    """Matrices (copy, 2, 3) of augmentations, one after the other. Raises `OptionError` for names that are none.

    "shift" is not drawn: a grid of `count` steps, which divide a patch evenly.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise OptionError("no such augmentation", expected=", ".join(NAMES), got=short_repr(list(unknown) or "none"))
    generator = torch.Generator("cpu").manual_seed(seed)
    whole = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    for name in names:
        if name == "shift":
            whole = whole @ _shifts(count, size, patch)
        elif name == "flip":
            flip = torch.rand(count, generator=generator, dtype=torch.float64) < 0.5
            across = torch.where(flip, -1.0, 1.0).double()
            whole = whole @ torch.diag_embed(torch.stack([across, *torch.ones(2, count).double()], 1))
        elif name == "affine":
            whole = whole @ _affine(count, size, generator)
    return whole[:, :2]


def _shifts(count: int, size: tuple[int, int], patch: tuple[float, float]) -> Tensor:
    side = math.isqrt(count)
    if side * side != count:
        raise OptionError("shifts go down and across alike", expected="a square number of samples, 4 or 9", got=count)
    found = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    step = torch.arange(count).double()
    for axis, part in enumerate((step % side, step // side)):  # across, down
        found[:, axis, 2] = 2 * part * patch[1 - axis] / side / size[1 - axis]  # 2 is the whole width or height
    return found


def _affine(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Turned, made larger or smaller, and moved, about the middle; angles are those of pixels."""
    across, down, turn, zoom = 2 * torch.rand(4, count, generator=generator, dtype=torch.float64) - 1
    angle, zoom = torch.deg2rad(turn * _DEGREES), 1 / (1 + zoom * _ZOOM)
    cos, sin, tall = zoom * angle.cos(), zoom * angle.sin(), size[0] / size[1]
    none, one = torch.zeros_like(cos), torch.ones_like(cos)
    rows = ([cos, -sin * tall, 2 * _SHIFT * across], [sin / tall, cos, 2 * _SHIFT * down], [none, none, one])
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def given(matrices: Tensor, count: int | None) -> Tensor:
    """Matrices that are given. Raises `OptionError` where they do not fit."""
    found = torch.as_tensor(matrices).double().cpu()
    fits = found.ndim == 3 and found.shape[1:] == (2, 3) and len(found) == (count or len(found)) > 0
    if not fits or not bool(found.isfinite().all()):
        expected = f"finite numbers ({'sample' if count is None else count}, 2, 3), as affine_grid takes them"
        raise OptionError("matrices do not fit", expected=expected, got=tuple(found.shape))
    return found


def without_outliers(values: Tensor) -> Tensor:
    """The mean over the first axis of what is within 2.5 robust deviations of the median (the lower of two)."""
    from_median = values - values.median(0).values
    deviation = 1.4826 * from_median.abs().median(0).values + 1e-8
    kept = from_median.abs() <= 2.5 * deviation
    return (values * kept).sum(0) / kept.sum(0)
