"""The error for an input on which the model raised: its message, the module and line, and advice where there is any."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CaptureError, ClewError, InputError
from ..seam import original

_TORCH = str(Path(torch.__file__).parent)
_SIZES = re.compile(
    r"\b(sizes?|shapes?|height|width|resolution|dimensions?|mat1|mat2|patch(es)?|positions?|channels?|seq_len|length)\b"
    r"|out of (range|bounds)|doesn't match|must match|not divisible"
)
_ARGUMENTS = re.compile(
    r"unexpected keyword argument|missing \d+ required|positional arguments? but|multiple values for"
)


def is_about_input(error: Exception) -> bool:
    """Whether an error that a model raised may be about what it was given."""
    if isinstance(error, (ValueError, AssertionError, TypeError, IndexError)):
        return True
    return type(error) is RuntimeError and bool(_SIZES.search(str(error).lower())) and "inplace" not in str(error)


def input_error(model: nn.Module, error: Exception, shape: tuple[int, ...], *, is_text: bool) -> InputError:
    """The error for an input on which the model raised one. Advice on sizes is given only where it is about sizes."""
    said, what, place = str(error), f"{type(model).__name__} does not take this input", _place(model, error)
    if isinstance(error, TypeError) and _ARGUMENTS.search(said) and f"{type(model).__name__}.forward()" in said:
        takes, place = ", ".join(inspect.signature(model.forward).parameters), ""
        todo = f"its forward takes {takes}: pass a mapping of these, or correct `input_name` in the declaration"
    elif is_text and re.search("padding token|pad_token", said):
        todo = "several texts need config.pad_token_id"
    elif not _SIZES.search(said.lower()):
        what = f"{type(model).__name__} raised an error on this input"
        todo = "look there; model(**inputs) without clew should raise the same"
    elif is_text:
        todo = "check token numbers and lengths against model.config"
    else:
        todo = (
            "resize the images; Hugging Face ViTs take other sizes with a mapping {'pixel_values': …, "
            "'interpolate_pos_encoding': True}"
        )
    got = f"{shape}: {type(error).__name__}: {said}" + (f"\n  raised in {place}" if place else "")
    return InputError(what, expected="inputs that model(**inputs) takes", got=got, todo=todo)


@contextmanager
def refusals_told(model: nn.Module, shape: tuple[int, ...], *, is_text: bool) -> Generator[None]:
    """Around a pass of a model: `InputError` in place of what it raises about its input."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ClewError) or not is_about_input(error):
            raise
        raise input_error(model, error, shape, is_text=is_text) from error


def _place(model: nn.Module, error: Exception) -> str:
    """The module and the line that raised an error; torch's own lines only where there are no others."""
    frames = list(traceback.walk_tb(error.__traceback__))
    inside = [f for f in frames if not f[0].f_code.co_filename.startswith((_TORCH, str(Path(__file__).parent)))]
    if not frames:
        return ""
    frame, line = (inside or frames)[-1]
    code, owner = frame.f_code, frame.f_locals.get("self")
    where = f"{code.co_filename}:{line}, in {code.co_name}"
    if not isinstance(owner, nn.Module):
        return where
    path = next((name for name, part in model.named_modules() if part is original(owner)), None)
    return f"{type(owner).__name__}{f' ({path})' if path else ''}, {where}"


def refused_cache(tokens: int) -> InputError:
    """The error for methods that go to every token, some of which are in a cache."""
    return InputError(
        "this method follows attention and relevance to every token, but some are in a cache",
        expected="the whole text, or a method of gradients, such as input_x_gradient",
        got=f"{tokens} tokens after those of a cache",
        todo="pass the whole text, without its cache of keys and values (past_key_values)",
    )


def not_shown(name: str, what: str, axes: str, seen: Tensor | None) -> CaptureError:
    """The error for a module of a declaration that did not show what it was declared for."""
    return CaptureError(
        f"the declared {name} did not show {what}",
        expected=f"an output of {axes}",
        got=tuple(seen.shape) if seen is not None else "it was not called",
        todo="correct `patches` and `embeddings` in the declaration",
    )
