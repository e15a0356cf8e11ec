"""Values as Python writes them, read from what is typed: numbers, words, lists; bounded, and nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence, Set
from typing import Any, cast

from .errors import OptionError, short_repr

LONGEST, DEEPEST = 4_000, 8  # characters; lists in lists


def parse_literal(text: str) -> Any:
    """The value that a text writes. Raises `ValueError` where it writes none, `OptionError` where it is endless."""
    return _value(parsed(text))


def call(text: str) -> tuple[str, dict[str, Any]] | None:
    """`NAME` or `NAME(key=literal, …)` as a name and its values; None for anything else. Raises as `parse_literal`."""
    try:
        tree = parsed(text.strip())
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            pairs = {k.arg: _value(k.value) for k in tree.keywords if k.arg is not None}
            return (tree.func.id, pairs) if len(pairs) == len(tree.keywords) else None
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
    return None


def parsed(text: str) -> ast.expr:
    """The expression of a text, of bounded length. Raises `ValueError` for what is none."""
    if len(text) > LONGEST:
        raise OptionError(
            "this is too long to be read", expected=f"at most {LONGEST:,} characters", got=f"{len(text):,}"
        )
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:  # what is nested too deep for Python's own parser
        raise ValueError(str(error)) from error


def _value(tree: ast.expr) -> Any:
    try:
        found = ast.literal_eval(tree)
    except (TypeError, SyntaxError, RecursionError, MemoryError) as error:  # a dict by lists, a set of lists
        raise ValueError(str(error)) from error
    if _depth(found, DEEPEST) > DEEPEST:
        raise OptionError(
            "this is nested too deep", expected=f"at most {DEEPEST} lists in lists", got=short_repr(found)
        )
    return found


def _depth(value: Any, most: int) -> int:
    """How deep lists are nested in it; looks no deeper than `most` allows to tell."""
    if isinstance(value, str | bytes) or not isinstance(value, (Sequence, Set, Mapping)) or most < 0:
        return 0
    inner = cast("Mapping[Any, Any]", value).values() if isinstance(value, Mapping) else cast("Sequence[Any]", value)
    return 1 + max((_depth(one, most - 1) for one in inner), default=0)
