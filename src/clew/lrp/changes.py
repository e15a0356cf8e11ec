"""Models that change tensors in place which the backward pass needs: they get copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from ..errors import CaptureError, ClewError
from ..seam import owning_model

_T = TypeVar("_T")
_changing: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def with_copies(model: nn.Module, run: Callable[[bool], _T]) -> _T:
    """`run(copies)`: without copies, and again with them where the model was seen to need that, which is remembered.

    Raises `CaptureError` where copies are not enough.
    """
    owner = owning_model(model)
    for copies in (True,) if owner in _changing else (False, True):
        try:
            found = run(copies)
        except RuntimeError as error:
            if "inplace operation" not in str(error) or isinstance(error, ClewError):
                raise
            if copies:
                raise CaptureError(
                    "the model changes a tensor in place that its own backward pass needs",
                    expected="a model whose gradients autograd can compute",
                    got=str(error).splitlines()[0],
                    todo="replace the change in place (x += …, x[…] = …) by one that makes a new tensor",
                ) from error
        else:
            if copies:
                _changing[owner] = True
            return found
    raise AssertionError("one of the two runs returns or raises")
