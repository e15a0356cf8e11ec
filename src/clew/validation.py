"""Validates arguments: plain types as signatures name them, and numbers in their ranges."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from math import isfinite
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, cast

import numpy as np
from torch import Tensor, strided

from .errors import OptionError, short_repr

P = ParamSpec("P")
R = TypeVar("R")

SEEDS = 2**32  # seeds are below it: those that NumPy takes


def validate_call(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises `OptionError` for options that are not of the plain types that its signature names.

    Options are keyword-only arguments; what stands before them is looked at by the function itself, perhaps by
    `validate_arguments`, and so are targets, whose errors say more.
    """
    signature = inspect.signature(function)
    options = {name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY and name != "target"}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # Python's own words for it are best
            return function(*args, **kwargs)
        validate_arguments({name: value for name, value in given.items() if name in options}, function)
        return function(*args, **kwargs)

    return checked


def validate_arguments(given: Mapping[str, Any], function: Callable[..., Any], of: str = "") -> None:
    """Raise `OptionError` for the first argument that is not of the type that the function names for it."""
    hints = _hints(function)
    for name, value in given.items():
        if name in hints and not matches_type(value, hints[name]):
            raise OptionError(
                f"{of}{name} is not of a type that is taken",
                expected=_in_words(hints[name]),
                got=f"{short_repr(value)} ({type(value).__name__})",
            )


@lru_cache(maxsize=512)
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Types by argument; none where names in them are not known at run time. Those of `**options` are not single."""
    try:
        found = typing.get_type_hints(function)
        several = {p.name for p in inspect.signature(function).parameters.values() if p.kind in (2, 4)}
    except (NameError, TypeError, ValueError, AttributeError):
        return {}
    return {name: hint for name, hint in found.items() if name not in several}


def matches_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type. Whole numbers are numbers, truth values are none; what is no plain type is True."""
    inner = typing.get_args(hint)
    origin: Any = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return any(matches_type(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(value, Integral if hint is int else Real)
    if origin is Callable:
        return callable(value)
    if hasattr(hint, "array_type"):  # of jaxtyping: its axes are looked at where they are used
        return isinstance(value, hint.array_type)
    if hint is Tensor:
        return isinstance(value, (Tensor, np.ndarray))
    if origin is Sequence and isinstance(value, str):
        return inner in ((str,), ())
    if origin is Sequence:
        dense = isinstance(value, Tensor) and value.layout == strided and not value.is_meta
        if dense or isinstance(value, np.ndarray):
            value = cast("Any", value).tolist() if cast("Any", value).ndim == 1 else None
        several = isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray))
        return several and all(matches_type(one, inner[0]) for one in cast("Sequence[Any]", value) if inner)
    if origin is Mapping:
        keys: list[Any] = list(cast("Mapping[Any, Any]", value)) if isinstance(value, Mapping) else [None]
        return isinstance(value, Mapping) and all(matches_type(key, inner[0]) for key in keys if inner)
    if isinstance(origin, type):
        try:
            return isinstance(value, cast("type[Any]", origin))
        except TypeError:  # protocols that are not for run time
            return True
    return True


def _in_words(hint: Any) -> str:
    inner: tuple[Any, ...] = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, inner)))
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, inner))
    if hint is type(None):
        return "None"
    array: Any = getattr(hint, "array_type", typing.get_origin(hint) or hint)
    of = f" of {_in_words(inner[0])}" if array is Sequence and inner else ""
    return getattr(array, "__name__", str(array)) + of


# Numbers


def validate_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`. Raises `OptionError`, which says both, for anything else."""
    if not isinstance(value, bool) and isinstance(value, (Integral, np.integer)):
        number = int(value)
        if least <= number and (most is None or number <= most):
            return number
    raise OptionError(
        f"{name} is out of range", expected=f"a whole number, {_range(least, most)}", got=short_repr(value)
    )


def validate_size(name: str, value: Any) -> int:
    """How many at a time; more than there ever are is all. Raises `OptionError` for anything but 1 or more."""
    return min(validate_integer(name, value, 1), 2**31)


def validate_seed(name: str, value: Any) -> int:
    """A seed as random generators take them. Raises `OptionError` for anything else."""
    return validate_integer(name, value, 0, SEEDS - 1)


def validate_float(
    name: str, value: Any, least: float | int | None = None, most: float | int | None = None, *, above: bool = False
) -> float:
    """A finite number from `least` (or `above` it) to `most`. Raises `OptionError` for anything else."""
    try:
        number = float(value) if not isinstance(value, bool) and isinstance(value, (Real, np.number)) else float("nan")
    except (OverflowError, TypeError):
        number = float("nan")
    low = least is None or number > least or (number == least and not above)
    if isfinite(number) and low and (most is None or number <= most):
        return number
    raise OptionError(
        f"{name} is out of range", expected=f"a finite number, {_range(least, most, above)}", got=short_repr(value)
    )


def _range(least: float | int | None, most: float | int | None, above: bool = False) -> str:
    low = "" if least is None else f"above {least:,}" if above else f"{least:,} or more"
    if most is None:
        return low or "positive or negative"
    return f"{low}, at most {most:,}" if above or least is None else f"{least:,} to {most:,}"


# Words that are numbers


def parse_integer(text: str) -> int | None:
    """A whole number written in the digits 0 to 9, with a minus perhaps, and not too long for any index; else None.

    `str.isdigit` takes "²", and `int` takes the digits of every script, which nobody means as a number here.
    """
    bare = text.removeprefix("-")
    return int(text) if bare.isascii() and bare.isdecimal() and len(bare) <= 18 else None
