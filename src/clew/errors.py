"""The errors that clew raises: what is wrong, what was expected, what came, and what to do."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr
from types import ModuleType
from typing import Any


class ClewError(Exception):
    """What went wrong, and where given: what was `expected`, what was `got`, and what `todo` next."""

    def __init__(self, what: str, *, expected: object = None, got: object = None, todo: str | None = None) -> None:
        parts = [_said(what)]
        if expected is not None:
            parts.append(f"  expected: {_said(expected)}")
        if got is not None:
            parts.append(f"  got:      {_said(got)}")
        if todo is not None:
            parts.append(f"  to do:    {_said(todo)}")
        super().__init__("\n".join(parts))


_LONGEST = 4_000  # characters of each part of an error


def _said(value: object) -> str:
    """A part of an error in words that can be printed: not endless, and without halves of characters."""
    try:
        text = str(value)
    except Exception:  # a list that contains itself, a huge int: an error message must not fail
        text = short_repr(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


_names = Repr()
_names.maxlevel, _names.maxstring, _names.maxother, _names.maxlong = 4, 80, 160, 40


def short_repr(value: object) -> str:
    """What a value looks like, in a few words, whatever it is."""
    try:
        return _names.repr(value)
    except Exception:  # also whatever a `__repr__` raises
        return f"a value of type {type(value).__name__}"


class InputError(ClewError, ValueError):
    """The inputs cannot be explained as they are."""


class TargetError(ClewError, ValueError):
    """The target does not exist in the model's output."""


class OptionError(ClewError, ValueError):
    """A method, or an option of a method, is unknown or out of range."""


class NoSplit(InputError, OptionError):
    """Data have no part of that name."""


class UnknownArchitecture(ClewError, TypeError):
    """No declaration fits the model."""


class CaptureError(ClewError, RuntimeError):
    """The forward pass did not show what the declaration promises."""


class CheckFailed(ClewError, RuntimeError):
    """What was computed disagrees with something independent of it, so that the result would be wrong."""


class LoadError(ClewError, OSError):
    """A model, a checkpoint or a result could not be read."""


class WriteError(ClewError, OSError):
    """A file could not be written; what was there before is as it was. `errno` is the system's number of the reason."""


class MissingDependency(ClewError, ImportError):
    """An optional package is needed for this."""


def close_matches(word: Any, known: Iterable[str]) -> str:
    """A sentence with the known words most like `word`, or all of them where none is, or it is no word."""
    word = word[:_LONGEST] if isinstance(word, str) else ""
    names = sorted(set(known))
    by_lower = {name.lower(): name for name in names}
    close = [by_lower[m] for m in get_close_matches(word.lower(), list(by_lower), n=3, cutoff=0.5)]
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    shown = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    return f"choose from: {shown}"


def optional_import(name: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional dependency, or say which extra brings it.

    Raises `MissingDependency` where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingDependency(
            f"{package} is needed to {purpose}", got=error, todo=f"pip install 'clew[{extra}]'"
        ) from error
