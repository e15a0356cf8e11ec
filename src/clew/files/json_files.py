"""Reads untrusted JSON files, with bounds and clear errors."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import ClewError, LoadError

MOST = 2**25  # bytes; ImageNet-21k's names of classes take one thirtieth of that


def read_object(
    path: str | Path,
    *,
    expected: str = "a readable JSON object",
    todo: str = "write or fetch the file again",
    error: type[ClewError] = LoadError,
) -> dict[str, Any]:
    """The JSON object in a file of UTF-8.

    Raises `error` where there is no plain file, for more than 32 MB, for what is no JSON or nested too deeply, and for
    JSON that is no object.
    """
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            raise FileNotFoundError("a folder" if os.path.isdir(path) else "no plain file")
        with open(path, "rb") as file:
            data = file.read(MOST + 1)
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read", expected=expected, got=reason, todo=todo) from reason
    if len(data) > MOST:
        raise error(f"{path} is too large", expected=f"at most {MOST:,} bytes", got="more", todo=todo)
    try:
        found: Any = parsed(data.decode("utf-8"))
    except ValueError as reason:
        raise error(f"{path} cannot be read", expected=expected, got=reason, todo=todo) from reason
    if not isinstance(found, dict):
        raise error(f"{path} cannot be read", expected=expected, got=f"JSON of the kind {kind(found)}", todo=todo)
    return cast("dict[str, Any]", found)


def parsed(text: str | bytes, *, once: bool = False) -> Any:
    """What JSON says. Raises `ValueError`, also for what is nested too deeply.

    `once`: and for an object that has a name twice, of which else the last is taken.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once if once else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if any(name == other for other, _ in pairs[:i]))
        raise ValueError(f"{twice!r} is there twice")
    return found


def kind(value: Any) -> str:
    """What JSON calls the kind of a value."""
    kinds = {dict: "object", list: "list", str: "text", bool: "true or false", int: "number", float: "number"}
    return "null" if value is None else kinds.get(cast("type[Any]", type(value)), type(value).__name__)


# Shapes


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`, a `whole` one or not; NaN where there are no bounds."""

    least: int | float = -math.inf
    most: int | float = math.inf
    whole: bool = False

    def __str__(self) -> str:
        bounds = "" if self == Number(whole=self.whole) else f" from {self.least:,} to {self.most:,}"
        return f"a {'whole ' if self.whole else ''}number{bounds}"


ANY = object()  # whatever JSON there is


def mismatch(value: Any, shape: Any, path: str = "") -> tuple[str, str, str] | None:
    """Where a value of JSON has not the shape that it should have, what was expected there and what came; or None.

    A shape is a type, a `Number`, `ANY`; a list of one shape: a list of such; an object of shapes by names ("name?": it
    may be missing), or with the one key `str`: an object with any names; a tuple of shapes: any of them, None is null.
    """
    if shape is ANY:
        return None
    if isinstance(shape, tuple):
        found = [mismatch(value, one, path) for one in cast("tuple[Any, ...]", shape)]
        if None in found:
            return None
        told = [one for one in found if one is not None]
        inner = next((one for one in told if one[0] != path), None)
        return inner or (path, " or ".join(one[1] for one in told), told[0][2])
    if isinstance(shape, Number):
        right = isinstance(value, int if shape.whole else (int, float)) and not isinstance(value, bool)
        within = right and (shape == Number(whole=shape.whole) or shape.least <= value <= shape.most)
        return None if within else (path, str(shape), _shown(value))
    if isinstance(shape, list):
        if not isinstance(value, list):
            return path, "a list", _shown(value)
        each = cast("list[Any]", shape)[0]
        items = enumerate(cast("list[Any]", value))
        return next((m for i, one in items if (m := mismatch(one, each, f"{path}[{i}]")) is not None), None)
    if isinstance(shape, dict):
        return _mismatch_of_object(value, cast("dict[Any, Any]", shape), path)
    if shape is None:
        return None if value is None else (path, "null", _shown(value))
    return None if isinstance(value, shape) else (path, f"{kind(shape())}", _shown(value))


def _mismatch_of_object(value: Any, shape: dict[Any, Any], path: str) -> tuple[str, str, str] | None:
    if not isinstance(value, dict):
        return path, "an object", _shown(value)
    there = cast("dict[str, Any]", value)
    if str in shape:
        known = dict.fromkeys(there, shape[str])
    else:
        known = {name.removesuffix("?"): one for name, one in shape.items()}
        needed = [name for name in shape if not name.endswith("?")]
        if lacking := [name for name in needed if name not in there]:
            return path, "an object with " + ", ".join(needed), "one without " + ", ".join(lacking)
        if more := [name for name in there if name not in known]:
            return path, "an object of " + ", ".join(known), "one with " + ", ".join(name[:40] for name in more[:5])
    places = ((f"{path}.{name}" if path else name, one, known[name]) for name, one in there.items())
    return next((m for at, one, inner in places if (m := mismatch(one, inner, at)) is not None), None)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"{kind(value)} of {len(cast('list[Any]', value))}"
    text = json.dumps(value)
    return text if len(text) < 80 else text[:80] + " …"
