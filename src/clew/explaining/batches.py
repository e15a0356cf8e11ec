"""Runs several methods on any number of inputs, in batches."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..attributions.base import Attribution
from ..models.loaded_model import LoadedModel
from ..targets import Target
from ..validation import validate_size
from .explain import explain


def explain_in_batches(
    loaded: LoadedModel,
    inputs: Sequence[Any],
    chosen: Sequence[tuple[str, dict[str, Any]]],
    target: Target,
    score: str = "logit",
    batch_size: int = 16,
    more: Mapping[str, Any] | None = None,
) -> list[Attribution]:
    """Several methods on any number of inputs, in batches, with a progress bar; one result per method."""
    results: list[Attribution] = []
    with _bar("explaining", len(chosen) * len(inputs)) as advance:
        batch_size = validate_size("batch_size", batch_size)
        for name, options in chosen:
            parts: list[Attribution] = []
            for start in range(0, len(inputs), batch_size):
                batch = list(inputs[start : start + batch_size])
                of_batch = target[start : start + batch_size] if isinstance(target, (list, tuple)) else target
                asked = {**(more or {}), **options}
                parts.append(explain(loaded, batch, method=name, target=of_batch, score=score, **asked))
                advance(len(batch))
            results.append(Attribution.concatenate(parts))
    return results


@contextmanager
def _bar(what: str, total: int) -> Generator[Any]:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
