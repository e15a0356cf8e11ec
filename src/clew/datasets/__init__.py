"""Data sets: examples with what is known about them (masks, rationales, labels), and the register of their readers.

    example = open_dataset("gtsegs_ijcv.mat", limit=100).read(0)

A reader is a function of the files (`Files`), or of what follows its prefix in a name ("mini:digits"), and of
keyword-only options; it returns a `Dataset`:

    @reader("mine", get="ask me for them", sees=lambda files: "mine.bin" in files.names)
    def mine(files: Files, *, classes: Sequence[str] | str | None = None) -> Dataset:
        '''My own files.'''
"""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import json
import os
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ClewError, InputError, MissingDependency, NoSplit, OptionError, close_matches
from ..files import is_valid_filename
from ..registry import import_submodules
from ..validation import validate_call, validate_float, validate_integer, validate_seed, validate_size
from .places import Files, open_files, reading, some

__all__ = ["Dataset", "Example", "Files", "Reader", "fingerprint", "open_dataset", "reader", "reader_of", "readers"]

Positions = str | Path | Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture, text or sound, and what is known about it.

    `id` is unique in its data set and stays the same. `image` is RGB; `mask` int8 (height, width) of the picture as
    stored: 1 object, 0 background, -1 not labelled. `label` is an index in the data set's `classes` where it has any,
    else what was written. `rationale` are words [start, end) that humans marked, counted in `words`. `protected` are
    characters [start, end) of `text` that belong to a prompt. `choices` are the answers to choose from. `prefix` is
    what a decoder has written already, before the word that is `label`. `audio` are samples (sample,), so many in a
    second as `sampling_rate` says.
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
    prefix: str | None = None
    audio: NDArray[np.floating[Any]] | None = None
    sampling_rate: int | None = None


class Dataset(ABC):
    """Examples by position. Opens its files on first use, in each process anew; can be pickled.

    `evidence`: what the `mask` and the `rationale` of its examples are, where these are known to decide.
    """

    name: str
    ids: Sequence[str]
    classes: Sequence[str] | None = None
    evidence: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def read(self, index: int) -> Example:
        """The example at a position. Raises `InputError`, with the file's name, for what cannot be read."""

    def content(self, index: int) -> bytes:
        """What identifies an example's content: pixels, text, label, … Raises `InputError` as `read` does."""
        fields = {key: value for key, value in vars(self.read(index)).items() if key != "id"}
        later = ("prefix", "audio", "sampling_rate")  # examples had none when the first runs were stored
        return joined({key: value for key, value in fields.items() if value is not None or key not in later})

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The examples at some positions, in that order. Raises `OptionError` for positions that do not exist."""
        return _Some(self, indices)


class _Some(Dataset):
    """Some examples of another data set."""

    def __init__(self, base: Dataset, indices: Sequence[int]) -> None:
        self._base, self._indices = base, [int(i) for i in indices]
        if wrong := [i for i in self._indices if not 0 <= i < len(base)]:
            what, expected = f"{base.name} has {len(base)} examples", f"positions below {len(base)}"
            raise OptionError(what, expected=expected, got=wrong[:5])
        self.name, self.classes, self.evidence = base.name, base.classes, base.evidence
        self.ids = [base.ids[i] for i in self._indices]

    def read(self, index: int) -> Example:
        return self._base.read(self._indices[index])

    def content(self, index: int) -> bytes:
        return self._base.content(self._indices[index])


def joined(fields: Mapping[str, Any]) -> bytes:
    """Named values as bytes, each with its length, so that no two different sets of values give the same bytes."""
    parts: list[bytes] = []
    for name, value in sorted(fields.items()):
        value = np.asarray(value) if isinstance(value, Image.Image) else value
        if isinstance(value, np.ndarray):
            data = f"{value.dtype.str}{value.shape}:".encode() + np.ascontiguousarray(value).tobytes()
        elif isinstance(value, bytes):
            data = b"bytes:" + value
        else:
            data = b"json:" + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        parts += [part for one in (name.encode(), data) for part in (len(one).to_bytes(8, "big"), one)]
    return b"".join(parts)


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
    sees: Callable[[Files], bool] | None = None
    prefix: str | None = None
    general: bool = False
    known: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Option names and defaults, read from the function's signature."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __str__(self) -> str:
        return f"\n    {self.kind}: {self.what}"

    def __call__(self, source: Files | str, **options: Any) -> Dataset:
        """Open a data set. Raises `OptionError` for an option that the reader does not have."""
        known = self.options
        if strange := [name for name in options if name not in known]:
            name, kind = strange[0], NoSplit if strange[0] == "split" else OptionError
            todo = close_matches(name, known) if known else "it has no options"
            raise kind(f"{self.kind} has no option {name!r}", got=f"{name}={options[name]!r}", todo=todo)
        return self.function(source, **options)


_registered: dict[str, Reader] = {}


def reader(kind: str, **said: Any) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Register a function as the reader of a kind of data, with what `Reader` says of it: `get`, `sees`, …

    `what` it reads is the first line of its docstring. Raises `ClewError` for a kind that is taken.
    """

    def add(function: Callable[..., Dataset]) -> Callable[..., Dataset]:
        if kind in readers():
            raise ClewError(f"a reader of {kind!r} is registered already", todo="choose another name")
        said.setdefault("what", (inspect.getdoc(function) or kind).partition("\n")[0])
        _registered[kind] = Reader(kind, function, **said)
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
        wanted, what = reader_of(str(source), kind)
        found = wanted(what, **options)
        if not len(found):
            got = "none" + "".join(f", {name}={value!r}" for name, value in options.items())
            todo = "check what lies there and the options"
            raise InputError(f"no examples in {source}", expected="one or more", got=got, todo=todo)
    if subset is sample is fraction is limit is seed is None:
        return found
    drawn = list(range(len(found))) if subset is None else _positions(subset)
    seed = None if seed is None else validate_seed("seed", seed)
    if sample is not None:
        if not 1 <= validate_integer("sample", sample, 1) <= len(drawn):
            raise OptionError("cannot draw so many", expected=f"sample from 1 to {len(drawn)}", got=sample)
        drawn = random.Random(seed or 0).sample(drawn, sample)
    fraction = (
        None if fraction is None else validate_float("fraction, a share of the examples,", fraction, 0, 1, above=True)
    )
    if fraction is not None or (seed is not None and sample is None):
        order = np.random.RandomState(seed or 0).permutation(len(drawn)).tolist()
        share = len(drawn) if fraction is None else int(fraction * len(drawn))
        if drawn and not share:
            expected, todo = f"1/{len(drawn)} or more", "take a larger one, or limit=…"
            raise OptionError("so small a fraction is no example", expected=expected, got=fraction, todo=todo)
        drawn = [drawn[i] for i in order[:share]]
    if limit is not None:
        drawn = drawn[: validate_size("limit, a number of examples,", limit)]
    return found.subset(drawn)


def _positions(subset: Positions) -> list[int]:
    values: Any = subset
    if isinstance(subset, (str, Path)):
        expected, kinds = "a .npy file of positions, as numpy.save writes it", (OSError, ValueError, EOFError)
        with reading(subset, expected, (*kinds, OverflowError), todo="write it again"):
            # As a map its size is compared with that of the file before there is room made for it.
            values = np.load(Path(subset).expanduser(), allow_pickle=False, mmap_mode="r")
            if not isinstance(values, np.ndarray):
                raise ValueError("several arrays")
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        got = f"{values.dtype} {values.shape}"
        raise OptionError("a subset lists positions", expected="integers, one dimension", got=got)
    found = [int(v) for v in values]
    if twice := sorted(v for v, count in Counter(found).items() if count > 1):
        raise OptionError("a subset lists a position twice", expected="each once", got=twice[:5], todo="leave it out")
    return found


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
        by_name = [r for r in known.values() if any(fnmatch.fnmatch(path.name.lower(), k) for k in r.known)]
        meant = [wanted] if wanted is not None else by_name
        todo = "; or ".join(r.get for r in meant) or "check the path"
        what, expected = f"no data at {str(path)[:200]}", "".join(map(str, meant or known.values()))
        raise InputError(what, expected=expected, got="nothing there", todo=todo)
    files = open_files(path)
    if wanted is not None:
        return wanted, files
    seeing = [r for r in known.values() if r.sees is not None and r.sees(files)]
    fits = [r for r in seeing if not r.general] or seeing
    if len(fits) != 1:
        what = f"{path} fits {'several kinds' if fits else 'no kind'} of data"
        got = some(files.names, 5, "an empty folder")
        raise OptionError(what, expected="".join(map(str, fits or known.values())), got=got, todo="say which: kind=…")
    return fits[0], files
