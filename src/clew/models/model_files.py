"""Checks a model's files before it is built: sizes in range, no larger than its weights, no code from the files."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import threading
import weakref
import zipfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.modules import module as registry

from ..errors import LoadError
from ..files import kind

_CLASSES = 10**6
_BLOCKS = 10**4
_SPARE = 2**26  # numbers that a model may have beside its weights, such as masks and new heads
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64}

# What counts something that is built one by one, and what is a size.
_BUILT = re.compile(r"(^|_)(n_)?(layers?|depths?|blocks|stages)$")
_COUNTS = re.compile(
    r"^(num_|n_|encoder_|decoder_)+(hidden_)?(layers?|heads|attention_heads|key_value_heads|channels)$"
    r"|^(hidden|image|img|patch|vocab|intermediate|input)_size$|^(embed|hidden)_dim$|^(width|depth|layers)$"
)


def check_configuration(config: Mapping[str, Any], where: str | Path) -> None:
    """Look at a configuration before anything is built of it.

    Raises `LoadError` for counts and sizes below 0 or beyond reason, for names of classes that are none, and for code
    that it wants to be run.
    """
    for path, value in _values(config):
        name = path.rpartition(".")[2]
        if name in ("num_labels", "num_classes"):
            _within(value, 0, _CLASSES, path, where)
        elif _BUILT.search(name):
            _within(value, 0 if _COUNTS.search(name) else -_BLOCKS, _BLOCKS, path, where)
        elif _COUNTS.search(name):
            _within(value, 0, 2**31 - 1, path, where)
        elif name in ("id2label", "label2id"):
            _names(value, path, where, numbers_first=name == "id2label")
        elif name == "problem_type" and not (value is None or isinstance(value, str)):
            raise _wrong(path, where, "text, or null", kind(value))
        elif name.strip("_").startswith("attn_implementation") and "/" in str(value):
            raise remote_code_error(str(where), f"{path} names {value!r}, code of the Hub")


def remote_code_error(name: str, got: object) -> LoadError:
    """The error for a model that brings code of its own."""
    return LoadError(
        f"{name} brings code of its own, and clew runs no code from model folders",
        expected="a model of a kind that the installed transformers has (`model_type`)",
        got=got,
        todo="if you have read that code and trust it, load the model yourself and pass clew.LoadedModel(model, …)",
    )


def no_foreign_code(name: str, model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a loader without `trust_remote_code`, which is never true.

    Raises `LoadError` where it is asked for.
    """
    if model_args.get("trust_remote_code"):
        raise remote_code_error(name, "trust_remote_code=True")
    return {key: value for key, value in model_args.items() if key != "trust_remote_code"}


def _values(config: Any, above: str = "") -> Generator[tuple[str, Any]]:
    """Values by their paths, those of objects within, too."""
    for key, value in config.items():
        path = f"{above}{key}"
        yield path, value
        if isinstance(value, Mapping) and key not in ("id2label", "label2id"):
            yield from _values(value, f"{path}.")


def _within(value: Any, least: int, most: int, path: str, where: str | Path) -> None:
    for one in cast("list[Any]", value) if isinstance(value, list) else [value]:
        if isinstance(one, (int, float)) and not least <= one <= most:  # nor is NaN; others are the library's to check
            raise _wrong(path, where, f"a number from {least:,} to {most:,}", one)


def _names(value: Any, path: str, where: str | Path, *, numbers_first: bool) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise _wrong(path, where, 'an object: {"0": "cat", …}', kind(value))
    items = cast("Iterable[tuple[Any, Any]]", value.items())
    for number, name in items if numbers_first else ((number, name) for name, number in items):
        if isinstance(name, (list, dict)):
            raise _wrong(path, where, "names of classes that are text", kind(name))
        written = str(number)
        if len(written) > 20 or not written.lstrip("-").isdecimal() or not 0 <= int(written) <= _CLASSES:
            raise _wrong(path, where, f"numbers of classes from 0 to {_CLASSES:,}", written[:40])


def _wrong(path: str, where: str | Path, expected: str, got: object) -> LoadError:
    return LoadError(f"{path} of {where} cannot be", expected=expected, got=got, todo="correct it, or fetch it again")


# How much is stored


@dataclass(frozen=True)
class StoredSize:
    """How much the files of a model hold: how many `numbers` at most, in how many `tensors` (None: not known)."""

    numbers: int
    tensors: int | None = None

    @staticmethod
    def of(weights: Mapping[str, torch.Tensor]) -> StoredSize:
        """How much some weights are."""
        floats = [w.numel() if w.is_floating_point() else 8 * w.numel() * w.element_size() for w in weights.values()]
        return StoredSize(sum(floats), len(weights))


def stored_size(folder: str | Path) -> StoredSize | None:
    """How much the weights in a folder are; None where there are none that are known.

    Raises `LoadError` for weights that are packed to unfold to many times their size.
    """
    files = [Path(folder, name) for name in sorted(os.listdir(folder))]
    headers = [_header(file) for file in files if file.suffix == ".safetensors" and file.is_file()]
    if headers:
        return StoredSize(sum(h.numbers for h in headers), sum(h.tensors or 0 for h in headers))
    pickles = [file for file in files if file.suffix in (".bin", ".pt", ".pth") and file.is_file()]
    for file in pickles:
        refuse_bomb(file)
    return StoredSize(sum(file.stat().st_size for file in pickles)) if pickles else None


def _header(path: Path) -> StoredSize:
    """What the header of a safetensors file says; nothing for one that is broken, which its reader tells."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        if length > min(size, 10**8):
            return StoredSize(0, 0)
        try:
            entries: Any = json.loads(file.read(length))
            tensors = [e for name, e in entries.items() if name != "__metadata__"]
            # What is stored as whole numbers may be packed, down to single bits.
            numbers = [(e["data_offsets"][1] - e["data_offsets"][0]) * 8 // _BITS.get(e["dtype"], 1) for e in tensors]
            return StoredSize(min(sum(numbers), 8 * size), len(tensors))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return StoredSize(0, 0)


def refuse_bomb(path: Path) -> None:
    """Raise `LoadError` for a file of `torch.save` that unfolds to far more than it is; torch does not compress."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return  # its reader tells
    size = path.stat().st_size
    if unfolded > 4 * size + 2**20:
        raise LoadError(
            f"{path} unfolds to many times its size",
            expected="weights as torch.save writes them, not compressed",
            got=f"{size:,} bytes that become {unfolded:,}",
            todo="fetch it again from a source that you trust",
        )


# Building within that


def dry_build(build: Callable[[], Any], what: StoredSize | None, name: str) -> None:
    """Build a model without memory, to see that it is no larger than its weights before it is built in earnest.

    Raises `LoadError` for one that is. Other errors are left for the real thing to raise.
    """
    if what is None:
        return
    with torch.device("meta"), limit_size(what, name):
        try:
            build()
        except Exception:
            return


class _Building:
    """A model is being built while this is there."""


@contextmanager
def limit_size(what: StoredSize | None, name: str) -> Generator[None]:
    """Raise `LoadError` as soon as a model that is built meanwhile, in this thread, is larger than its weights.

    Without a limit where nothing is known of those.
    """
    if what is None:
        yield
        return
    most = 2 * what.numbers + _SPARE
    parts = math.inf if what.tensors is None else 8 * what.tensors + 1000
    counted, thread = [0, 0], threading.get_ident()
    building = _Building()  # gone with this frame: a hook that an interrupt leaves behind does nothing
    lasting = weakref.ref(building)

    def count(module: Any, key: str, tensor: torch.Tensor | None) -> None:
        if tensor is None or lasting() is None or threading.get_ident() != thread:
            return
        counted[0] += tensor.numel() if not isinstance(tensor, torch.nn.UninitializedParameter) else 0
        counted[1] += 1
        check()

    def check() -> None:
        if counted[0] > most or counted[1] > parts:
            raise LoadError(
                f"the configuration of {name} describes a larger model than its weights are of",
                expected=f"{what.numbers:,} numbers"
                + ("" if what.tensors is None else f" in {what.tensors:,} tensors"),
                got=f"{counted[0]:,} in {counted[1]:,} and more",
                todo="take configuration and weights from the same place, or fetch them again",
            )

    hooks: list[Any] = []
    try:
        hooks.append(registry.register_module_parameter_registration_hook(count))
        hooks.append(registry.register_module_buffer_registration_hook(count))
        yield
    except LoadError:
        raise
    except Exception:  # a library may have made another error of ours
        check()
        raise
    finally:
        for hook in hooks:
            hook.remove()
    check()
