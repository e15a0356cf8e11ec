"""What an example holds, as bytes that are the same on every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


def joined(fields: Mapping[str, Any]) -> bytes:
    """Named values as bytes, each with its length, so that no two different sets of values give the same bytes."""
    parts: list[bytes] = []
    for name, value in sorted(fields.items()):
        for part in (name.encode(), _encoded(value)):
            parts += [len(part).to_bytes(8, "big"), part]
    return b"".join(parts)


def _encoded(value: Any) -> bytes:
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}:".encode() + np.ascontiguousarray(value).tobytes()
    if isinstance(value, bytes):
        return b"bytes:" + value
    return b"json:" + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
