"""Which examples of a data set: a list, a random share, the first so many."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from ..validation import validate_float, validate_integer, validate_seed, validate_size

Positions = str | Path | Sequence[int] | NDArray[np.integer[Any]]


def chosen(
    length: int,
    *,
    subset: Positions | None = None,
    sample: int | None = None,
    fraction: float | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> list[int] | None:
    """Positions as `open_dataset` describes them, or None for all. Raises `OptionError` for what cannot be drawn."""
    if subset is sample is fraction is limit is seed is None:
        return None
    found = list(range(length)) if subset is None else _listed(subset)
    seed = None if seed is None else validate_seed("seed", seed)
    if sample is not None:
        if not 1 <= validate_integer("sample", sample, 1) <= len(found):
            raise OptionError("cannot draw so many", expected=f"sample from 1 to {len(found)}", got=sample)
        found = random.Random(seed or 0).sample(found, sample)
    fraction = (
        None if fraction is None else validate_float("fraction, a share of the examples,", fraction, 0, 1, above=True)
    )
    if fraction is not None or (seed is not None and sample is None):
        order = np.random.RandomState(seed or 0).permutation(len(found)).tolist()
        share = len(found) if fraction is None else int(fraction * len(found))
        if found and not share:
            raise OptionError(
                "so small a fraction is no example",
                expected=f"1/{len(found)} or more",
                got=fraction,
                todo="take a larger one, or limit=…",
            )
        found = [found[i] for i in order[:share]]
    if limit is not None:
        found = found[: validate_size("limit, a number of examples,", limit)]
    return found


def _listed(subset: Positions) -> list[int]:
    if not isinstance(subset, (str, Path)):
        values = np.asarray(subset)
    else:
        try:
            # As a map its size is compared with that of the file before there is room made for it.
            values = np.load(Path(subset).expanduser(), allow_pickle=False, mmap_mode="r")
            if not isinstance(values, np.ndarray):
                raise ValueError("several arrays")
        except (OSError, ValueError, EOFError, OverflowError) as error:
            raise InputError(
                f"{subset} cannot be read", expected="a .npy file of positions, as numpy.save writes it", got=error
            ) from error
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise OptionError(
            "a subset lists positions", expected="integers, one dimension", got=f"{values.dtype} {values.shape}"
        )
    found = [int(v) for v in values]
    twice = sorted({v for v in found if found.count(v) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise OptionError("a subset lists a position twice", expected="each once", got=twice[:5], todo="leave it out")
    return found
