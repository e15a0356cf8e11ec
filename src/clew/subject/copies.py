"""Changed copies of images, as a batch of its own with the targets of the images unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..errors import OptionError
from ..models import for_call
from .trace import some_rows


def copies_of(subject: Any, rows: Tensor, change: Callable[[Tensor, Tensor | None], Tensor]) -> Any:
    """See `Subject.copies_of`. Raises `OptionError` for copies of copies."""
    if subject.change is not None:
        raise OptionError("copies of copies cannot be mapped back", expected="a base method without copies of its own")
    subject.clean_scores()  # which fixes the target
    target, inputs = subject.target, rows[:: subject.each] // subject.each

    def score(output: Any, some: Tensor | None) -> Tensor:
        return target(output, rows if some is None else rows[some.to(rows.device)])

    return replace(
        subject,
        inputs={name: for_call(value, inputs, len(subject.given)) for name, value in subject.inputs.items()},
        resolve=lambda output: score,
        target_rows=some_rows(subject.target_rows, rows),
        change=change,
        progress=None,
        details=False,
        verify=False,
    )
