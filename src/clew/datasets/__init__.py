"""Data sets: examples with what is known about them (masks, rationales, labels), and the register of their readers.

    data = open_dataset("gtsegs_ijcv.mat", limit=100)
    example = data.read(0)

A reader is a function of the files (`Files`), or of what follows its prefix in a name ("mini:digits"), and of
keyword-only options; it returns a `Dataset`:

    @reader("mine", what="my own files", get="ask me for them", sees=lambda files: "mine.bin" in files.names)
    def mine(files: Files, *, classes: Sequence[str] | str | None = None) -> Dataset: ...
"""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ClewError, InputError, MissingDependency, NoSplit, OptionError, close_matches
from ..files import is_valid_filename
from ..registry import import_submodules
from ..validation import validate_call
from .content import joined
from .places import Files, open_files
from .selection import Positions, chosen

__all__ = ["Dataset", "Example", "Files", "Reader", "fingerprint", "open_dataset", "reader", "reader_of", "readers"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture or text, and what is known about it.

    `id` is unique in its data set and stays the same. `image` is RGB; `mask` int8 (height, width) of the picture as
    stored: 1 object, 0 background, -1 not labelled. `label` is an index in the data set's `classes` where it has any,
    else what was written. `rationale` are words [start, end) that humans marked, counted in `words`. `protected` are
    characters [start, end) of `text` that belong to a prompt. `choices` are the answers to choose from.
    """

    id: str
    image: Image.Image | None = None
    mask: NDArray[np.int8] | None = None
    text: str | None = None
    label: int | str | None = None
    rationale: tuple[tuple[int, int], ...] | None = None
    words: tuple[str, ...] | None = None
    protected: tuple[tuple[int, int], ...] = ()
    choices: tuple[str, ...] = ()


class Dataset(ABC):
    """Examples by position. Opens its files on first use, in each process anew; can be pickled."""

    name: str
    ids: Sequence[str]
    classes: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def read(self, index: int) -> Example:
        """The example at a position. Raises `InputError`, with the file's name, for what cannot be read."""

    def content(self, index: int) -> bytes:
        """What identifies an example's content: pixels, text, label, … Raises `InputError` as `read` does."""
        return joined({key: value for key, value in vars(self.read(index)).items() if key != "id"})

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The examples at some positions, in that order. Raises `OptionError` for positions that do not exist."""
        return _Some(self, indices)


class _Some(Dataset):
    """Some examples of another data set."""

    def __init__(self, base: Dataset, indices: Sequence[int]) -> None:
        self._base, self._indices = base, [int(i) for i in indices]
        wrong = [i for i in self._indices if not 0 <= i < len(base)]
        if wrong:
            raise OptionError(
                f"{base.name} has {len(base)} examples", expected=f"positions below {len(base)}", got=wrong[:5]
            )
        self.name, self.classes = base.name, base.classes
        self.ids = [base.ids[i] for i in self._indices]

    def read(self, index: int) -> Example:
        return self._base.read(self._indices[index])

    def content(self, index: int) -> bytes:
        return self._base.content(self._indices[index])


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 (hexadecimal) over the ids and contents of all examples, in their order.

    An example that cannot be read counts as that, so that the same broken file gives the same fingerprint everywhere.
    """
    found = hashlib.sha256()
    for index, name in enumerate(dataset.ids):
        try:
            content = dataset.content(index)
        except (MissingDependency, OptionError):
            raise
        except Exception:  # whatever a file makes its reader say
            content = None
        found.update(joined({"id": name, "content": content}))
    return found.hexdigest()


@dataclass(frozen=True)
class Reader:
    """A registered reader: what it reads, where to `get` that, and which files it `sees` as its own.

    A reader with a `prefix` reads names that start with it. One that is `general` is taken for files only where no
    other sees them. `known` are patterns of file names by which a missing file is recognised.
    """

    kind: str
    function: Callable[..., Dataset]
    what: str
    get: str
    sees: Callable[[Files], bool] | None
    prefix: str | None
    general: bool
    known: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Option names and defaults, read from the function's signature."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(self, source: Files | str, **options: Any) -> Dataset:
        """Open a data set. Raises `OptionError` for an option that the reader does not have."""
        for name in options:
            if name not in self.options:
                known = close_matches(name, self.options) if self.options else "it has no options"
                kind = NoSplit if name == "split" else OptionError
                raise kind(f"{self.kind} has no option {name!r}", got=f"{name}={options[name]!r}", todo=known)
        return self.function(source, **options)


_registered: dict[str, Reader] = {}


def reader(
    kind: str,
    *,
    what: str,
    get: str,
    sees: Callable[[Files], bool] | None = None,
    prefix: str | None = None,
    general: bool = False,
    known: tuple[str, ...] = (),
) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Register a function as the reader of a kind of data. Raises `ClewError` for a kind that is taken."""

    def add(function: Callable[..., Dataset]) -> Callable[..., Dataset]:
        if kind in readers():
            raise ClewError(f"a reader of {kind!r} is registered already", todo="choose another name")
        _registered[kind] = Reader(kind, function, what, get, sees, prefix, general, known)
        return function

    return add


def readers() -> dict[str, Reader]:
    """All readers, by kind. The files of this folder are read on first use."""
    import_submodules(__name__)
    return dict(_registered)


@validate_call
def open_dataset(
    source: str | Path | Dataset,
    kind: str | None = None,
    *,
    subset: Positions | None = None,
    sample: int | None = None,
    fraction: float | None = None,
    limit: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> Dataset:
    """Open a data set from a folder, a file or a name ("mini:digits", "hf:ORG/NAME"); a `Dataset` is taken as it is.

    `kind` says what it is where the files do not show it (`readers()` lists the kinds and their `options`). Which
    examples, in this order:
    `subset`: positions, as a list or a `.npy` file of integers (`pert_index.npy`);
    `sample`: so many, drawn by `random.Random(seed or 0).sample`;
    `fraction`: the first `int(fraction * n)` of `numpy.random.RandomState(seed or 0).permutation(n)`;
    `limit`: at most so many: the first of what is left or, where `seed` is given and nothing was drawn yet, the first
    of that permutation.
    Examples stay in the order in which they were drawn, so a smaller fraction is the beginning of a larger one.

    Raises `InputError` for data that are not there, with where to get them, and for data without examples;
    `OptionError` for files that fit no kind or several, and for unknown options.
    """
    if isinstance(source, Dataset):
        if kind is not None or options:
            got = ", ".join((["kind"] if kind is not None else []) + list(options))
            raise OptionError("this data set is open already", expected="a path or a name with these options", got=got)
        found = source
    else:
        found = _opened(str(source), kind, options)
        if not len(found):
            raise InputError(
                f"no examples in {source}",
                expected="one or more",
                got="none" + "".join(f", {name}={value!r}" for name, value in options.items()),
                todo="check what lies there and the options",
            )
    positions = chosen(len(found), subset=subset, sample=sample, fraction=fraction, limit=limit, seed=seed)
    return found if positions is None else found.subset(positions)


def _opened(source: str, kind: str | None, options: dict[str, Any]) -> Dataset:
    wanted, what = reader_of(source, kind)
    return wanted(what, **options)


def reader_of(source: str, kind: str | None = None) -> tuple[Reader, Files | str]:
    """The reader of a folder, a file or a name, and what it reads. Raises as `open_dataset` does."""
    known = readers()
    if kind is not None and kind not in known:
        raise OptionError(f"no data of kind {kind!r}", got=kind, todo=close_matches(kind, known))
    named = [r for r in known.values() if r.prefix is not None and source.startswith(r.prefix)]
    wanted = known[kind] if kind is not None else named[0] if named else None
    if wanted is not None and wanted.prefix is not None:
        return wanted, source.removeprefix(wanted.prefix)
    if not is_valid_filename(source):
        raise InputError("no data have such a name", expected="a name that a file could have", got=ascii(source[:60]))
    path = Path(source).expanduser()
    if not os.path.exists(path):
        raise _missing(path, wanted)
    files = open_files(path)
    return wanted or _fitting(files), files


def _fitting(files: Files) -> Reader:
    seeing = [r for r in readers().values() if r.sees is not None and r.sees(files)]
    fits = [r for r in seeing if not r.general] or seeing
    if len(fits) == 1:
        return fits[0]
    raise OptionError(
        f"{files.path} fits several kinds of data" if fits else f"{files.path} fits no kind of data",
        expected=_kinds(fits or readers().values()),
        got=", ".join(files.names[:5]) + (" …" if len(files.names) > 5 else "") or "an empty folder",
        todo="say which: kind=…",
    )


def _missing(path: Path, wanted: Reader | None) -> InputError:
    meant = [wanted] if wanted is not None else []
    meant = meant or [r for r in readers().values() if any(fnmatch.fnmatch(path.name.lower(), k) for k in r.known)]
    return InputError(
        f"no data at {str(path)[:200]}",
        expected=_kinds(meant or readers().values()),
        got="nothing there",
        todo="; or ".join(r.get for r in meant) or "check the path",
    )


def _kinds(some: Any) -> str:
    return "".join(f"\n    {r.kind}: {r.what}" for r in some)
