"""Texts: files in folders, columns of tables, and the IMDB reviews."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import NoSplit, optional_import
from ..inputs import IMAGE_SUFFIXES
from . import Dataset, reader
from .labels import Classes, by_folder, indexed, unique
from .places import Files
from .rows import text_rows
from .sheets import stem
from .stored import Entries, Entry
from .tables import columns_of, read_rows, split_names, table_names

_ABOUT = ("readme", "notice", "license", "licence")


def _is_imdb(files: Files) -> bool:
    tables = table_names(files)
    return len(files.names) == 1 == len(tables) and {"review", "sentiment"} <= columns_of(files, tables[0])


@reader(
    "imdb",
    what="the 50,000 IMDB reviews as a csv with the columns review and sentiment",
    get="download https://www.kaggle.com/datasets/lakshmi25npathi/imdb-dataset-of-50k-movie-reviews and pass the csv",
    sees=_is_imdb,
    known=("*imdb*",),
)
def imdb(
    files: Files, *, split: str | None = None, classes: Classes = ("negative", "positive"), encoding: str = "utf-8"
) -> Dataset:
    """IMDB reviews, as written; ids are the numbers of the rows.

    `split`: "train" or "test" of sklearn's `train_test_split(test_size=0.3, random_state=42)`, in its order.
    `classes`: the sentiments in the order of the model's classes. `encoding`: of the file.

    Needs scikit-learn for a split. Raises `InputError` for sentiments that `classes` does not have.
    """
    rows = read_rows(files, split_names(files, None)[0], encoding=encoding)
    data = text_rows(files.path.name, rows, text="review", label="sentiment", classes=classes)
    if split is None:
        return data
    selection = optional_import("sklearn.model_selection", extra="bench", purpose="split the IMDB reviews")
    train, test = selection.train_test_split(range(len(rows)), test_size=0.3, random_state=42)
    parts = {"train": train, "test": test}
    if split not in parts:
        raise NoSplit("no such split", expected="train or test", got=split)
    return data.subset(parts[split])


def _is_table(files: Files) -> bool:
    return bool(table_names(files)) and not files.ending(*IMAGE_SUFFIXES)


@reader(
    "table",
    what="texts in a column of a csv, tsv, jsonl, json or Parquet file",
    get="pass the path of the table",
    sees=_is_table,
    general=True,
)
def table(
    files: Files,
    *,
    text: str | None = None,
    label: str | None = None,
    id: str | None = None,
    classes: Classes | None = None,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """Texts from a table, or from one of the tables in a folder.

    `text`, `label`, `id`: the columns; by default the first of text, sentence, review, content, document; of label,
    labels, sentiment, class, where there is one; of id, idx, uid, else the number of the row.
    `classes`: names in the order of the model's classes; by default the labels sorted. Whole numbers are positions.
    `split`: which table of a folder, by a word in its name ("test", "train+test").
    `columns`: names of the columns of a csv or tsv without a first line that names them. `encoding`: of the file.
    """
    names = split_names(files, split)
    rows = [row for name in names for row in read_rows(files, name, encoding=encoding, columns=columns)]
    return text_rows(files.path.name, rows, text=text, label=label, id=id, classes=classes)


def _is_texts(files: Files) -> bool:
    return bool(files.ending(".txt")) and not files.ending(*IMAGE_SUFFIXES) and not table_names(files)


@reader(
    "texts",
    what="texts in .txt files, in a folder for each class or not",
    get="pass the folder (or zip, or tar) of the texts",
    sees=_is_texts,
    general=True,
)
def texts(files: Files, *, classes: Classes | None = None, encoding: str = "utf-8") -> Dataset:
    """A text from each .txt file, as written; the first folder that it lies in is its class.

    `classes`: names of the folders in the order of the model's classes, as a list or a text file; by default sorted by
    name. Texts without folders, or in one folder alone where `classes` is not given, have no label. `encoding`: of the
    files. README.txt and files of that sort beside the folders are left out.
    """
    names = [name for name in files.ending(".txt") if stem(name).lower() not in _ABOUT]
    found, known = indexed(by_folder(names, classes), classes, str(files.path), positions=False)
    ids = unique([stem(name) for name in names])
    entries = [Entry(id, text=name, label=label) for id, name, label in zip(ids, names, found, strict=True)]
    return Entries(files, entries, known, encoding=encoding)
