"""What commands read in the same way: numbers, NAME=VALUE, and the help of options from docstrings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from .. import literals
from ..errors import OptionError


def tell_left_out(errors: Sequence[Exception]) -> None:
    """Name on stderr what could not be read, while the rest goes on."""
    console = Console(stderr=True, soft_wrap=True)
    for error in errors:
        console.print(f"[yellow]left out:[/yellow] {escape(str(error))}")


def helps(doc: str) -> dict[str, str]:
    """What a docstring says of each option: from "`name`:" to the next one."""
    parts = re.split(r"`(\w+)`: ", " ".join(doc.split()))
    return {name: re.sub(r"[`]", "", text).strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def literal_or_word(word: str) -> Any:
    """A number where it is one, None and truth values, else the word. Raises `OptionError` for what is endless."""
    try:
        return literals.parse_literal(word)
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        return word


def numbers(text: str | None, flag: str) -> list[float] | None:
    """Numbers with commas between them. Raises `OptionError` for anything else."""
    if text is None:
        return None
    try:
        if text.isascii():  # `float` also takes digits of other scripts
            return [float(word) for word in text.split(",")]
    except ValueError:
        pass
    raise OptionError(f"{flag} takes numbers", expected=f"{flag} 0.5,0.5,0.5", got=text)


def parse_assignments(given: Sequence[str] | None, flag: str) -> dict[str, str]:
    """Values by name. Raises `OptionError` for what is not NAME=VALUE."""
    found: dict[str, str] = {}
    for one in given or []:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise OptionError(f"{flag} takes NAME=VALUE", expected=f"{flag} split=val", got=one)
        found[name.strip()] = value.strip()
    return found


def reader_options(given: Sequence[str] | None) -> dict[str, Any]:
    """`--data-option NAME=VALUE`: several values with commas between them; numbers, but for names."""
    found: dict[str, Any] = {}
    for name, text in parse_assignments(given, "--data-option").items():
        if name in ("classes", "columns") and "," in text:
            found[name] = text.split(",")
            continue
        found[name] = [literal_or_word(v) for v in text.split(",")] if "," in text else literal_or_word(text)
    return found
