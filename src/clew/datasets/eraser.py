"""ERASER: documents with the words that humans marked as the reason for their label (DeYoung et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError, NoSplit
from . import Dataset, Example, reader
from .labels import Classes, Label, indexed, row_ids, unique
from .places import Files, open_files
from .tables import Row, read_rows

_SPLITS = ("train", "val", "test")


def _sees(files: Files) -> bool:
    rows = any(f"{split}.jsonl" in files.names for split in _SPLITS)
    return rows and ("docs.zip" in files.names or any(name.startswith("docs/") for name in files.names))


@reader(
    "eraser",
    what="an ERASER data set: docs/ or docs.zip, and train.jsonl, val.jsonl, test.jsonl",
    get="unpack https://www.eraserbenchmark.com/zipped/movies.tar.gz and pass the folder in which test.jsonl lies",
    sees=_sees,
    known=("*eraser*", "*movies*"),
)
def eraser(files: Files, *, split: str = "test", classes: Classes | None = None) -> Dataset:
    """ERASER documents: the words between white space, joined by single spaces, and which of them humans marked.

    Ids are ERASER's annotation ids. Several documents of one row are put together in the order of `docids`.
    `split`: "train", "val" or "test", another NAME.jsonl, or several ("test+train+val").
    `classes`: names of the classifications in the order of the model's classes; by default sorted ("NEG", "POS").

    A missing document, and marks that are not in it, raise `InputError` when they are read.
    """
    rows: list[Row] = []
    for name in (f"{one.strip()}.jsonl" for one in split.split("+")):
        if name not in files.names:
            raise NoSplit(
                f"no split {split!r} in {files.path}",
                expected=name,
                got=", ".join(files.ending(".jsonl")) or "no .jsonl",
                todo="pass split=…",
            )
        rows += read_rows(files, name)
    labels, names = indexed([row.get("classification") for row in rows], classes, str(files.path))
    return _Eraser(files, rows, labels, names)


class _Eraser(Dataset):
    """Rows with the documents that they are about."""

    def __init__(
        self, files: Files, rows: Sequence[Row], labels: Sequence[Label], classes: Sequence[str] | None
    ) -> None:
        self.name, self.classes = files.path.name, classes
        self.ids = unique(row_ids([row.get("annotation_id") for row in rows]))
        self._rows, self._labels = rows, labels
        self._prefix = "docs/" if any(name.startswith("docs/") for name in files.names) else ""
        if not self._prefix and "docs.zip" not in files.names:
            raise InputError(
                f"no documents in {files.path}",
                expected="docs/ or docs.zip",
                got=", ".join(files.names[:5]),
                todo="put the docs of the same archive beside the rows",
            )
        self._docs = files if self._prefix else open_files(files.path / "docs.zip")

    def read(self, index: int) -> Example:
        try:
            return self._read(index)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.name}, {self.ids[index]}: this is no row of ERASER",
                expected="annotation_id, and evidences with docid, start_token and end_token",
                got=f"{type(error).__name__}: {error}",
                todo="fetch the rows again",
            ) from error

    def _read(self, index: int) -> Example:
        row = self._rows[index]
        evidences: list[dict[str, Any]] = [one for group in row.get("evidences") or [] for one in group]
        documents: list[str] = row.get("docids") or list(
            dict.fromkeys([one["docid"] for one in evidences] or [row["annotation_id"]])
        )
        words: list[str] = []
        within: dict[str, range] = {}
        for document in documents:
            found = self._docs.text(self._prefix + document).split()
            within[document] = range(len(words), len(words) + len(found))
            words += found
        spans: set[tuple[int, int]] = set()
        for one in evidences:
            start, end, document = one["start_token"], one["end_token"], one["docid"]
            place = within.get(document, range(0))
            if not 0 <= start <= end <= len(place):
                raise InputError(
                    f"{self.name}, {self.ids[index]}: marked words that are not there",
                    expected=f"words of {', '.join(documents)}",
                    got=f"{start} to {end} of {document}",
                    todo="take rows and docs of the same archive",
                )
            if start < end:  # the film reviews have evidence of no words
                spans.add((place.start + start, place.start + end))
        return Example(
            id=self.ids[index],
            text=" ".join(words),
            words=tuple(words),
            rationale=tuple(sorted(spans)),
            label=self._labels[index],
        )
