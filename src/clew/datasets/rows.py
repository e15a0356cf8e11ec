"""Data sets whose examples are rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..errors import InputError, OptionError
from .labels import Classes, Label, indexed, row_ids, unique
from .stored import Stored
from .tables import Row, column

TEXT = ("text", "sentence", "review", "content", "document")
LABEL = ("label", "labels", "sentiment", "class")
ID = ("id", "idx", "uid")


@runtime_checkable
class Table(Protocol):
    """Rows by number: a list, or a table of Hugging Face `datasets`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class TextOf:
    """The text of a row, from one of its columns."""

    column: str

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        text = row[self.column]
        if not isinstance(text, str):
            raise InputError(
                f"the column {self.column!r} holds no text",
                expected="a string",
                got=type(text).__name__,
                todo="choose another column: text=…, or leave this row out",
            )
        return {"text": text}


class Rows(Stored):
    """Rows and what to make of one: the fields of an `Example`, but for its label where `labels` has them."""

    def __init__(
        self,
        name: str,
        rows: Table,
        make: Callable[[Mapping[str, Any]], dict[str, Any]],
        *,
        ids: Sequence[str] | None = None,
        labels: Sequence[Label] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.name, self.classes = name, classes
        self.ids = unique(ids) if ids is not None else [str(i) for i in range(len(rows))]
        self._rows, self._make, self._labels = rows, make, labels

    def stored(self, index: int) -> dict[str, Any]:
        try:
            found = self._make(self._rows[index])
        except InputError as error:
            raise InputError(f"{self.where(index)}: {error}") from error
        return found if self._labels is None else {**found, "label": self._labels[index]}


def text_rows(
    name: str,
    rows: Sequence[Row],
    *,
    text: str | None = None,
    label: str | None = None,
    id: str | None = None,
    classes: Classes | None = None,
) -> Rows:
    """Rows with a column for the text and, where there are, for the label and the id.

    Raises `OptionError` where the text's column is not told and not found, `InputError` for labels that `classes` does
    not have.
    """
    of_text = column(rows, text, TEXT, "the text", name)
    if of_text is None:
        raise OptionError(
            f"{name} has no column for the text",
            expected=" or ".join(TEXT),
            got=", ".join(rows[0]) if rows else "no rows",
            todo="say which: text=…; or name the columns of a csv or tsv without a first line of names: columns=…",
        )
    of_label, of_id = column(rows, label, LABEL, "the label", name), column(rows, id, ID, "the id", name)
    labels, names = (None, None) if of_label is None else indexed([row[of_label] for row in rows], classes, name)
    ids = None if of_id is None else row_ids([row[of_id] for row in rows])
    return Rows(name, rows, TextOf(of_text), ids=ids, labels=labels, classes=names)
