"""JSON files that may hold anything: read with bounds, and with clear errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from .shapes import ClewError, LoadError

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
        raise error(f"{path} holds no object", expected=expected, got=f"JSON of the kind {kind(found)}", todo=todo)
    return cast("dict[str, Any]", found)


def parsed(text: str | bytes) -> Any:
    """What JSON says. Raises `ValueError`, also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def kind(value: Any) -> str:
    """What JSON calls the kind of a value."""
    kinds = {dict: "object", list: "list", str: "text", bool: "true or false", int: "number", float: "number"}
    return "null" if value is None else kinds.get(cast("type[Any]", type(value)), type(value).__name__)
