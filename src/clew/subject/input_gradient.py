"""The gradient of a declared model's input. At inputs that are not the explained one, as along a path, what the head
does not read is left out, after it was seen on one example that nothing else changes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..seam import SparsePass
from .discrepancy import Discrepancy
from .trace import gradients_of, repeated


def input_gradient(subject: Any, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """`∂score/∂x` at `x`, which holds the examples `rows`, and the score."""
    if x is subject.x and rows is None:
        return _gradient(subject, x, rows, sparse=False, clean=True)
    if subject.sparse is None:
        subject.sparse = subject.per_row and _is_same(subject, x, rows)
    return _gradient(subject, x, rows, sparse=subject.sparse)


def _gradient(
    subject: Any, x: Tensor, rows: Tensor | None, *, sparse: bool, clean: bool = False
) -> tuple[Tensor, Tensor]:
    """The gradient in a pass of the whole model, or in one that is `sparse`."""
    reads = subject.rows_read if sparse else None
    with torch.enable_grad():
        once = x[:: subject.each].detach().requires_grad_()
        seen: list[Tensor] = []
        if subject.verify:
            once.register_hook(lambda g: seen.append(g.detach()))
        with SparsePass(subject.bound, len(once), reads) if sparse else nullcontext():
            output = subject.forward(repeated(once, subject.each), rows)
        score = subject.score(output, rows, clean=clean)
        subject.need_gradient(score)
        found = gradients_of(score, [once], subject.each)[0]
    if seen:
        own = seen[0] if subject.each == 1 else torch.stack(seen, 1).flatten(0, 1)
        subject.measure("gradient", own, found, "the gradient of the input, against what autograd handed to it")
    return found, score.detach()


def _is_same(subject: Any, x: Tensor, rows: Tensor | None) -> bool:
    """Whether one example has the same score and gradient either way."""
    one = torch.arange(subject.each, device=x.device) if rows is None else rows[: subject.each]
    whole, sparse = (_gradient(subject, x[: subject.each], one, sparse=way) for way in (False, True))
    same = (Discrepancy.of("", a, b, "") for a, b in zip(whole, sparse, strict=True))
    return all(bool(found.error <= found.allowed) for found in same)
