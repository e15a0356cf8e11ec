"""A fixed part of the cases of tests that try many."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any


def left_out(cases: Iterable[tuple[Any, str, float]]) -> set[str]:
    """The names of cases that are not in the part: of (group, name, share), each group keeps its share.

    It keeps at least one, and the first by a hash of their names: the same on every machine.
    """
    groups: dict[tuple[Any, float], list[str]] = {}
    for group, name, share in cases:
        groups.setdefault((group, share), []).append(name)
    gone: set[str] = set()
    for (_, share), names in groups.items():
        ranked = sorted(names, key=_hash)
        gone.update(ranked[math.ceil(share * len(ranked)) :])
    return gone


def group_of(by: Any, given: Mapping[str, Any]) -> str:
    """The group of a case: the value of a parameter, or what a function makes of all of them."""
    return str(by(given) if callable(by) else given.get(by))


def _hash(name: str) -> str:
    """Of the test's own name: a file may move, and the part stays."""
    return hashlib.sha256(name.partition("::")[2].encode()).hexdigest()
