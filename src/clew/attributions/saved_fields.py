"""The fields of a saved result; each is validated before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import LoadError
from ..files import ANY, kind, mismatch, parsed

MOST_PIXELS = 2**26  # of a heatmap
_LACKING: Any = object()


class SavedFields:
    """Tensors and plain values of a result that was saved, by their names.

    All that takes one out raises `LoadError` where it is missing, or of another kind or shape.
    """

    def __init__(self, where: str, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        self._where, self._tensors, self._plain = where, tensors, plain

    @staticmethod
    def read(path: str | Path, form: str) -> SavedFields:
        """All that is in a file of safetensors whose header says that it is of this form."""
        where = str(path)
        try:
            with safe_open(where, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                header: dict[str, str] = file.metadata() or {}
                if header.get("format") != form:
                    raise LoadError(f"{path} is no attribution", expected=form, got=header.get("format"))
                tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except LoadError:
            raise
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise LoadError(f"{path} cannot be read", expected="a .safetensors file of clew", got=error) from error
        try:
            plain: Any = parsed(header.get("attribution", ""))
        except ValueError as error:
            raise _broken(where, "JSON under `attribution` in its header", error) from error
        if not isinstance(plain, dict):
            raise _broken(where, "an object under `attribution` in its header", kind(plain))
        return SavedFields(where, tensors, plain)

    def value(self, name: str, shape: Any, default: Any = _LACKING) -> Any:
        """A plain value of a shape, see `json_files.mismatch`."""
        if name not in self._plain and default is not _LACKING:
            return default
        if name not in self._plain:
            raise self.wrong(name, "a value", "nothing")
        found = self._plain.pop(name)
        if (wrong := mismatch(found, shape, name)) is not None:
            raise self.wrong(*wrong)
        return found

    def tensor(self, name: str, kinds: str, shape: Sequence[int | None], *, optional: bool = False) -> Any:
        """A tensor whose kind of numbers is "floats", "whole" or "truth", and its sizes; None for one of any length."""
        found = self._tensors.pop(name, None)
        if found is None and optional:
            return None
        expected = f"{kinds} ({', '.join('any' if size is None else str(size) for size in shape)})"
        if found is None:
            raise self.wrong(name, expected, "nothing")
        dtype = found.dtype
        own = "floats" if dtype.is_floating_point else "truth" if dtype == torch.bool else "whole"
        fits = found.ndim == len(shape) and all(
            size in (None, there) for size, there in zip(shape, found.shape, strict=True)
        )
        if own != kinds or dtype.is_complex or not fits:
            raise self.wrong(name, expected, f"{str(dtype).removeprefix('torch.')} {tuple(found.shape)}")
        return found

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """All tensors whose names begin so, by the rest of their names."""
        names = [name for name in self._tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._tensors.pop(name) for name in names}

    def detail(self, name: str, shape: Sequence[int | None]) -> None:
        """Look at one of the details, where it is there, and leave it in its place."""
        key = f"details.{name}"
        if key in self._tensors:
            self._tensors[key] = self.tensor(key, "floats", shape)

    def inner(self, name: str) -> SavedFields:
        """The result that is saved within this one under a name."""
        return SavedFields(f"{self._where}, {name}", self.tensors(f"{name}/"), self.value(f"{name}/", {str: ANY}))

    def done(self) -> None:
        """Raise `LoadError` where something is left that nobody took."""
        if left := [*self._tensors, *self._plain]:
            raise self.wrong("something", "what clew knows", ", ".join(name[:40] for name in left[:5]))

    def wrong(self, name: str, expected: str, got: object) -> LoadError:
        """The error for what cannot be under a name."""
        return _broken(self._where, f"{name}: {expected}", got)


def _broken(where: str, expected: str, got: object) -> LoadError:
    return LoadError(f"{where} is no whole result", expected=expected, got=got, todo="save the result anew")
