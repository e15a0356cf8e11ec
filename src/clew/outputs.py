"""What models return, whatever they return it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .shapes import ClewError


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned: the tensor itself, `.logits`, or the first of a tuple.

    (batch, class), or (batch, token, class) where each token has an output. Raises `ClewError` where there are none.
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


def answer_logits_of(output: Any) -> tuple[Tensor, Tensor] | None:
    """The logits of an answer's first and last token, (batch, token) each, of a model that answers questions."""
    start, end = getattr(output, "start_logits", None), getattr(output, "end_logits", None)
    return (start, end) if isinstance(start, Tensor) and isinstance(end, Tensor) else None
