"""Logits and other tensors of a model's output, whatever type it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from ..errors import ClewError


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


def answer_logits_of(output: Any, *, asked: bool = False) -> tuple[Tensor, Tensor] | None:
    """The logits of an answer's first and last token, (batch, token) each, of a model that answers questions.

    None of others. A tuple tells nothing of what it holds: its first two entries are those where the model is known to
    answer, `asked`.
    """
    if isinstance(output, Mapping):
        found: Any = [cast("Mapping[str, Any]", output).get(name) for name in ("start_logits", "end_logits")]
    elif isinstance(output, (tuple, list)):
        found = cast("list[Any]", output)[:2] if asked else []
    else:
        found = [getattr(output, name, None) for name in ("start_logits", "end_logits")]
    if len(found) == 2 and all(isinstance(one, Tensor) and one.ndim == 2 for one in found):
        return found[0], found[1]
    return None


def comparable_outputs(output: Any, *, answers: bool = False) -> list[Tensor]:
    """The numbers that scores are made of, without a graph: logits, of an answer both; else embeddings (batch, feature)
    where there are any, or all that there is."""
    both = answer_logits_of(output, asked=answers)
    if both is not None:
        return [t.detach() for t in both]
    try:
        return [logits_of(output).detach()]
    except ClewError:
        values: Any = cast("Mapping[str, Any]", output).values() if isinstance(output, Mapping) else output
        found = list(values) if isinstance(output, (Mapping, tuple, list)) else []
        floats = [v.detach() for v in found if isinstance(v, Tensor) and v.is_floating_point()]
        return [v for v in floats if v.ndim == 2] or floats


def kept_rows(asked: Tensor | None, output: Any) -> list[int] | None:
    """The rows of the sequence that an output holds, where some, `asked` (row,), were asked for and these came; None
    for all."""
    found = [] if asked is None else comparable_outputs(output)
    if asked is None or not found or found[0].ndim < 2 or found[0].shape[1] != len(asked):
        return None
    return asked.tolist()
