"""Data of one source each: ERASER (DeYoung et al. 2020) and 20 Newsgroups by date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError, NoSplit, OptionError, optional_import
from . import Dataset, Example, reader
from .places import Files, open_files, reading, some
from .stored import Classes, Columns, Stored, indexed, row_ids, unique
from .tables import Row, read_rows

_CACHE = "20news-bydate_py3.pkz"
_GET = (
    "unpack http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz (SHA-256 "
    "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610) and pass the folder; or run "
    "sklearn.datasets.fetch_20newsgroups once and pass ~/scikit_learn_data"
)
_PARTS = ("headers", "footers", "quotes")
_FOLDERS = ("20news-bydate-train", "20news-bydate-test")
Part = Literal["headers", "footers", "quotes"]


@reader(
    "eraser",
    get="unpack https://www.eraserbenchmark.com/zipped/movies.tar.gz and pass the folder in which test.jsonl lies",
    sees=lambda files: (
        bool({"train.jsonl", "val.jsonl", "test.jsonl"} & set(files.names))
        and any(name.startswith(("docs/", "docs.zip")) for name in files.names)
    ),
    known=("*eraser*", "*movies*"),
)
def eraser(files: Files, *, split: str = "test", classes: Classes | None = None) -> Dataset:
    """An ERASER data set: docs/ or docs.zip, and train.jsonl, val.jsonl, test.jsonl.

    Texts are the words between white space, joined by single spaces; rationales, which of them humans marked. Ids are
    annotation ids. Several documents of one row are put together in the order of `docids`.
    `split`: "train", "val" or "test", another NAME.jsonl, or several ("test+train+val").
    `classes`: names of the classifications in the order of the model's classes; by default sorted ("NEG", "POS").
    """
    rows: list[Row] = []
    for name in (f"{one.strip()}.jsonl" for one in split.split("+")):
        if name not in files.names:
            what, got = f"no split {split!r} in {files.path}", some(files.ending(".jsonl"), 20, "no .jsonl")
            raise NoSplit(what, expected=name, got=got, todo="pass split=…")
        rows += read_rows(files, name)
    return _Eraser(files, rows, classes)


class _Eraser(Dataset):
    """Rows with the documents that they are about."""

    def __init__(self, files: Files, rows: Sequence[Row], classes: Classes | None) -> None:
        self.name, self._rows = files.path.name, rows
        self.ids = row_ids(row.get("annotation_id") for row in rows)
        self._labels, self.classes = indexed([row.get("classification") for row in rows], classes, str(files.path))
        self._prefix = "docs/" if any(name.startswith("docs/") for name in files.names) else ""
        if not self._prefix and "docs.zip" not in files.names:
            what, todo = f"no documents in {files.path}", "put the docs of the same archive beside the rows"
            raise InputError(what, expected="docs/ or docs.zip", got=some(files.names), todo=todo)
        self._docs = files if self._prefix else open_files(files.path / "docs.zip")

    def read(self, index: int) -> Example:
        where = f"{self.name}, {self.ids[index]}"
        expected = "annotation_id, and evidences with docid, start_token and end_token"
        with reading(where, expected, (KeyError, TypeError), said="is no row of ERASER", todo="fetch the rows again"):
            row = self._rows[index]
            evidences: list[dict[str, Any]] = [one for group in row.get("evidences") or [] for one in group]
            documents: list[str] = row.get("docids") or list(dict.fromkeys(one["docid"] for one in evidences))
            words, within = list[str](), dict[str, range]()
            for document in documents or [row["annotation_id"]]:
                found = self._docs.text(self._prefix + document).split()
                within[document] = range(len(words), len(words) + len(found))
                words += found
            spans: set[tuple[int, int]] = set()
            for one in evidences:
                start, end, document = one["start_token"], one["end_token"], one["docid"]
                place = within.get(document, range(0))
                if not 0 <= start <= end <= len(place):
                    what, got = f"{where}: marked words that are not there", f"{start} to {end} of {document}"
                    expected, todo = f"words of {', '.join(documents)}", "take rows and docs of the same archive"
                    raise InputError(what, expected=expected, got=got, todo=todo)
                if start < end:  # the film reviews have evidence of no words
                    spans.add((place.start + start, place.start + end))
        marked, label = tuple(sorted(spans)), self._labels[index]
        return Example(id=self.ids[index], text=" ".join(words), words=tuple(words), rationale=marked, label=label)


@reader(
    "newsgroups",
    get=_GET,
    sees=lambda files: any(name.split("/")[0] in (_CACHE, *_FOLDERS) for name in (*files.names, files.path.name)),
    known=("20news*", "*newsgroups*", "scikit_learn_data"),
)
def newsgroups(files: Files, *, split: str = "test", remove: Sequence[Part] = _PARTS) -> Dataset:
    """20 Newsgroups: the folders 20news-bydate-train/ and 20news-bydate-test/, or scikit-learn's cache of them.

    In the order in which `sklearn.datasets.fetch_20newsgroups` gives them; ids are GROUP/NUMBER.
    `split`: "test", "train" or "all". `remove`: which of headers, footers and quotes go, as scikit-learn finds them; a
    text may be empty without them.
    Needs scikit-learn. Its cache is a pickle, which can run code when it is opened: pass one that you made yourself.
    """
    parts = ("train", "test") if split == "all" else (split,)
    wrong = [part for part in remove if part not in _PARTS]
    if not {*parts} <= {"train", "test"} or wrong:
        expected, got = f"train, test or all; {', '.join(_PARTS)}", ", ".join([split, *wrong])
        todo, kind = "choose split=… and remove=[…] of these", OptionError if wrong else NoSplit
        raise kind("no such split or part", expected=expected, got=got, todo=todo)
    sklearn = optional_import("sklearn.datasets", extra="bench", purpose="read 20 Newsgroups")
    if _CACHE in files.names:
        home, removed = str(files.path), tuple(remove)
        with reading(files.where(_CACHE), "scikit-learn's cache", OSError, todo="fetch it again"):
            found = sklearn.fetch_20newsgroups(data_home=home, subset=split, remove=removed, download_if_missing=False)
        texts, order = found.data, range(len(found.data))
    else:  # the same from folders: stripped, and shuffled by its usual seed
        named = [f"20news-bydate-{part}" for part in parts]
        folders = [files.path if files.path.name == name else files.path / name for name in named]
        if lacking := [folder for folder in folders if not folder.is_dir()]:
            expected, todo = ", ".join(named), f"pass the folder that holds it, or {_GET}"
            raise InputError(f"no folder {lacking[0]}", expected=expected, got="nothing there", todo=todo)
        strip = optional_import("sklearn.datasets._twenty_newsgroups", extra="bench", purpose="read 20 Newsgroups")
        loaded = [sklearn.load_files(str(folder), encoding="latin1") for folder in folders]
        found, texts = loaded[-1], [text for part in loaded for text in part.data]
        for part, word in zip(_PARTS, ("header", "footer", "quoting"), strict=True):
            texts = [getattr(strip, f"strip_newsgroup_{word}")(text) for text in texts] if part in remove else texts
        found.target, found.filenames = (np.concatenate([p[key] for p in loaded]) for key in ("target", "filenames"))
        order = np.random.RandomState(42).permutation(len(texts))
    rows = [{"text": texts[i]} for i in order]
    ids = unique("/".join(Path(str(found.filenames[i])).parts[-2:]) for i in order)
    labels, classes = [int(found.target[i]) for i in order], tuple(found.target_names)
    return Stored(files.path.name, rows, Columns(text="text"), ids, labels, classes)
