"""What tokens look like: none of them empty, bytes of a character by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def token_string(tokenizer: Any, number: int) -> str:
    """A token by itself, as the tokenizer writes it; what is only part of a character as `<0xE6>`."""
    decoded = str(tokenizer.decode([number]))
    if decoded and "\ufffd" not in decoded:
        return decoded
    stored: Any = tokenizer.convert_ids_to_tokens([number])[0]
    return in_bytes(stored) or decoded or str(stored or f"<{number}>")


def in_bytes(stored: Any) -> str:
    """A token of bytes as text, with the bytes that are no text as `<0xE6>`; empty where it holds no bytes."""
    if not isinstance(stored, (str, bytes)):
        return ""
    if isinstance(stored, str) and len(stored) == 6 and stored.startswith("<0x"):
        return stored
    values: Sequence[int | None] = list(stored) if isinstance(stored, bytes) else [_byte(c) for c in stored]
    if not values or None in values:
        return ""
    text = bytes(v for v in values if v is not None).decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def _byte(character: str) -> int | None:
    """The byte that a vocabulary writes as this character: as its number, or where that is no letter as a later one."""
    return _later().get(character, ord(character) if ord(character) < 256 else None)


@cache
def _later() -> dict[str, int]:
    """Byte-level vocabularies number bytes that cannot be seen from 256 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in seen)}
