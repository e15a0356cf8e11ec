"""Lone surrogates: a Python string may hold them, but no file, tokenizer or terminal can."""

from __future__ import annotations

import re

from ..errors import InputError, short_repr

_HALF = re.compile("[\ud800-\udfff]")


def without_halves(text: str) -> str:
    """The text with � in place of each lone surrogate."""
    return _HALF.sub("\ufffd", text)


def refuse_halves(text: str, what: str = "a text") -> None:
    """Raise `InputError` for a text with a lone surrogate, which stands for no character."""
    found = _HALF.search(text)
    if found is None:
        return
    at = found.start()
    raise InputError(
        f"{what} holds half of a character (a lone surrogate)",
        expected="whole characters, which UTF-8 can write",
        got=f"{short_repr(found[0])} at character {at}, in {text[max(0, at - 20) : at + 20]!a}",
        todo="read the text anew with its own encoding, or bytes.decode('utf-8', 'replace')",
    )
