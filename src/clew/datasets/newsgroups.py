"""20 Newsgroups, by date: from the folders as distributed, or from scikit-learn's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError, NoSplit, OptionError, optional_import
from . import Dataset, reader
from .places import Files
from .rows import Rows, TextOf

_CACHE = "20news-bydate_py3.pkz"
_GET = (
    "unpack http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz (SHA-256 "
    "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610) and pass the folder; or run "
    "sklearn.datasets.fetch_20newsgroups once and pass ~/scikit_learn_data"
)
_PARTS = ("headers", "footers", "quotes")
Part = Literal["headers", "footers", "quotes"]


def _sees(files: Files) -> bool:
    return _CACHE in files.names or any(
        name.startswith("20news-bydate-") for name in (*files.names, files.path.name) if "." not in name.split("/")[0]
    )


@reader(
    "newsgroups",
    what="20 Newsgroups: the folders 20news-bydate-train/ and 20news-bydate-test/, or scikit-learn's cache of them",
    get=_GET,
    sees=_sees,
    known=("20news*", "*newsgroups*", "scikit_learn_data"),
)
def newsgroups(files: Files, *, split: str = "test", remove: Sequence[Part] = _PARTS) -> Dataset:
    """20 Newsgroups in the order in which `sklearn.datasets.fetch_20newsgroups` gives them; ids are GROUP/NUMBER.

    `split`: "test", "train" or "all". `remove`: which of headers, footers and quotes go, as scikit-learn finds them; a
    text may be empty without them.

    Needs scikit-learn. Its cache is a pickle, which can run code when it is opened: pass one that you made yourself.
    Raises `InputError` where neither the folders nor the cache are there.
    """
    wrong = [part for part in remove if part not in _PARTS]
    if split not in ("train", "test", "all") or wrong:
        raise (OptionError if wrong else NoSplit)(
            "no such split or part",
            expected=f"train, test or all; {', '.join(_PARTS)}",
            got=", ".join([split, *wrong]),
            todo="choose split=… and remove=[…] of these",
        )
    if _CACHE in files.names:
        found = _cached(files, split, tuple(remove))
    else:
        found = _from_folders(files, split, tuple(remove))
    rows = [{"text": text} for text in found.data]
    ids = ["/".join(Path(str(name)).parts[-2:]) for name in found.filenames]
    labels, classes = [int(label) for label in found.target], tuple(found.target_names)
    return Rows(files.path.name, rows, TextOf("text"), ids=ids, labels=labels, classes=classes)


def _cached(files: Files, split: str, remove: tuple[str, ...]) -> Any:
    sklearn = optional_import("sklearn.datasets", extra="bench", purpose="read 20 Newsgroups")
    try:
        return sklearn.fetch_20newsgroups(
            data_home=str(files.path), subset=split, remove=remove, download_if_missing=False
        )
    except OSError as error:
        raise InputError(
            f"{files.where(_CACHE)} cannot be read", expected="scikit-learn's cache", got=error, todo="fetch it again"
        ) from error


def _from_folders(files: Files, split: str, remove: tuple[str, ...]) -> Any:
    """What `fetch_20newsgroups` makes of the same folders: read, stripped, and shuffled by its usual seed."""
    sklearn = optional_import("sklearn.datasets", extra="bench", purpose="read 20 Newsgroups")
    strip = optional_import("sklearn.datasets._twenty_newsgroups", extra="bench", purpose="read 20 Newsgroups")
    parts = [
        sklearn.load_files(str(_folder(files.path, name)), encoding="latin1")
        for name in (("train", "test") if split == "all" else (split,))
    ]
    found = parts[-1]
    texts: list[str] = [text for part in parts for text in part.data]
    for part, function in (
        ("headers", strip.strip_newsgroup_header),
        ("footers", strip.strip_newsgroup_footer),
        ("quotes", strip.strip_newsgroup_quoting),
    ):
        texts = [function(text) for text in texts] if part in remove else texts
    order = np.arange(len(texts))
    np.random.RandomState(42).shuffle(order)
    found.data = [texts[i] for i in order]
    found.target = np.concatenate([part.target for part in parts])[order]
    found.filenames = np.concatenate([part.filenames for part in parts])[order]
    return found


def _folder(path: Path, name: str) -> Path:
    own = f"20news-bydate-{name}"
    folder = path if path.name == own else path / own
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}", expected=own, got="nothing there", todo=f"pass the folder that holds it, or {_GET}"
        )
    return folder
