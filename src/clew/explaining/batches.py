"""Runs several methods on any number of inputs, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..attributions import Attribution
from ..models import LoadedModel
from ..progress import progress_bar
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
    done, whole = 0, len(chosen) * len(inputs)
    with progress_bar("explaining", show=True, total=whole) as update:
        batch_size = validate_size("batch_size", batch_size)
        for name, options in chosen:
            parts: list[Attribution] = []
            for start in range(0, len(inputs), batch_size):
                batch = list(inputs[start : start + batch_size])
                of_batch = target[start : start + batch_size] if isinstance(target, (list, tuple)) else target
                asked = {**(more or {}), **options}
                parts.append(explain(loaded, batch, method=name, target=of_batch, score=score, **asked))
                done += len(batch)
                if update is not None:
                    update(done, whole)
            results.append(Attribution.concatenate(parts))
    return results
