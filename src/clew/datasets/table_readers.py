"""Readers of tables: any in files, the IMDB reviews, ARC's questions, and what Hugging Face `datasets` loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from ..errors import InputError, NoSplit, OptionError, optional_import
from ..inputs import IMAGE_SUFFIXES
from ..validation import parse_integer
from . import Dataset, reader
from .places import Files, reading, some
from .stored import Classes, Columns, Ignore, Stored, row_examples, row_ids
from .tables import SUFFIXES, Row, columns_of, read_rows, split_names

_QUESTION = {"question", "answerKey"}
SENTIMENTS = ("negative", "positive")
LETTERS = ("A", "B", "C", "D")
_SUFFIXES = (".jsonl", ".json", ".parquet")  # AI2 puts a csv of other columns beside each jsonl


@reader(
    "imdb",
    get="download https://www.kaggle.com/datasets/lakshmi25npathi/imdb-dataset-of-50k-movie-reviews and pass the csv",
    sees=lambda files: (
        len(files.names) == len(files.ending(*SUFFIXES)) == 1
        and columns_of(files, files.names[0]) >= {"review", "sentiment"}
    ),
    known=("*imdb*",),
)
def imdb(files: Files, *, split: str | None = None, classes: Classes | None = None, encoding: str = "utf-8") -> Dataset:
    """The 50,000 IMDB reviews as a csv with the columns review and sentiment.

    `split`: "train" or "test" of sklearn's `train_test_split(test_size=0.3, random_state=42)`, in its order.
    `classes`: the sentiments in the order of the model's classes; by default negative, positive, or where the data have
    others, those sorted. `encoding`: of the file.
    Needs scikit-learn for a split.
    """
    rows = read_rows(files, split_names(files, None)[0], encoding=encoding)
    if classes is None:  # the columns' names are those of any reviews
        written = {str(row.get("sentiment") or "").lower() for row in rows} - {""}
        classes = SENTIMENTS if written <= set(SENTIMENTS) else None
    data = row_examples(files.path.name, rows, Columns(text="review", label="sentiment"), classes)
    if split not in (None, "train", "test"):
        raise NoSplit("no such split", expected="train or test", got=split)
    if split is None:
        return data
    selection = optional_import("sklearn.model_selection", extra="bench", purpose="split the IMDB reviews")
    train, test = selection.train_test_split(range(len(rows)), test_size=0.3, random_state=42)
    return data.subset(test if split == "test" else train)


@reader(
    "table",
    get="pass the path of the table",
    sees=lambda files: bool(files.ending(*SUFFIXES)) and not files.ending(*IMAGE_SUFFIXES),
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
    """Texts in a column of a csv, tsv, jsonl, json or Parquet file.

    `text`, `label`, `id`: the columns; by default the first of text, sentence, review, content, document; of label,
    labels, sentiment, class, where there is one; of id, idx, uid, else the number of the row.
    `classes`: names in the order of the model's classes; by default the labels sorted. Whole numbers are positions.
    `split`: which table of a folder, by a word in its name ("test", "train+test").
    `columns`: names of the columns of a csv or tsv without a first line that names them. `encoding`: of the file.
    """
    names = split_names(files, split)
    rows: list[Row] = [row for name in names for row in read_rows(files, name, encoding=encoding, columns=columns)]
    return row_examples(files.path.name, rows, Columns(text=text, label=label, id=id), classes)


@reader(
    "saved",
    what="a folder that Hugging Face `datasets` wrote with save_to_disk",
    get="pass the folder that save_to_disk wrote",
    sees=lambda files: "dataset_dict.json" in files.names or {"dataset_info.json", "state.json"} <= set(files.names),
)
@reader(
    "hub",
    get="write hf:ORG/NAME; offline, it must be in the cache of Hugging Face `datasets`",
    prefix="hf:",
)
def hub(
    source: str | Files,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    take: int | None = None,
    text: str | None = None,
    label: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    id: str | None = None,
    classes: Classes | None = None,
    ignore: Ignore = "auto",
    keep: Sequence[str] = LETTERS,
) -> Dataset:
    """A data set of the Hugging Face Hub: hf:ORG/NAME, or a folder of data files; or one that `datasets` saved.

    `config`, `split` ("test", "train+test", "train[:1%]") and `revision` as `datasets.load_dataset` has them. `take`:
    stream the first so many rows instead of downloading everything. Of a saved one, `split` alone: where several were.
    `text`, `label`, `image`, `mask`, `id`: the columns; by default those of kind "table", the first of pictures, and no
    mask. `classes`: names in the order of the model's classes; by default the data set's own. `ignore`: how to read
    masks, as for kind "masks". `keep`: of data with the columns question, choices and answerKey, which become prompts
    as for kind "arc", the right answers of the questions that are kept. Needs `datasets`.
    """
    datasets = optional_import("datasets", extra="bench", purpose="load data sets of the Hugging Face Hub")
    if isinstance(source, Files):
        name, where = source.path.name, str(source.path)
        if not config is revision is take is None:
            expected = "no config, revision and take"
            raise OptionError(f"{where} was saved, and is not of the Hub", expected=expected, got="one of them")
        with reading(where, "what save_to_disk wrote", Exception, todo="write the folder anew"):
            found = datasets.load_from_disk(where)
    else:
        name = where = f"hf:{source}"
        more = {"revision": revision, "streaming": take is not None, "trust_remote_code": False}
        try:
            found = datasets.load_dataset(source, config, split=split, **more)
        except Exception as error:  # of many kinds: no network, no such name, no such split, a broken file
            said = str(error).strip().partition("\n")[0]
            expected = "a data set of the Hub, reachable or in the cache, with that config and split"
            got = f"{type(error).__name__}: {said}"
            todo = "check name, config and split; offline, pass a folder that save_to_disk wrote elsewhere"
            kind = NoSplit if "Unknown split" in said else InputError
            raise kind(f"{where} could not be loaded", expected=expected, got=got, todo=todo) from error
    if isinstance(found, Mapping):  # by split: the one that is asked for, or the only one
        splits: list[Any] = list(found)
        wanted = splits[0] if split is None and len(splits) == 1 else split
        if wanted not in splits:
            what = f"{where} has several splits" if split is None else f"{where} has no split {split!r}"
            raise NoSplit(what, expected=some(splits, 20), got=split or "no split", todo="say which: split=…")
        found = found[wanted]
    table: Any = found
    for column, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image):  # pictures stay bytes: they are decoded as all others are
            table = table.cast_column(column, datasets.Image(decode=False))
    if take is not None:
        table = datasets.Dataset.from_list(list(table.take(take)), features=table.features)
    if set(table.features) >= _QUESTION and text is image is None:
        return _choices(name, table, keep)
    return row_examples(name, table, Columns(text, image, mask, label, id, ignore), classes)


def _choices(name: str, rows: Any, keep: Sequence[str]) -> Dataset:
    """Questions as prompts, those alone whose answer is one of the letters to `keep`."""
    keys = [str(rows[i].get("answerKey")) for i in range(len(rows))]
    ids = row_ids([rows[i].get("id") for i in range(len(rows))])
    kept = [i for i, key in enumerate(keys) if key in keep]
    return Stored(name, rows, multiple_choice, ids=ids).subset(kept)


def multiple_choice(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question with its answers as a prompt: what is fixed in it is `protected`; the label is the right letter.

    Answers that are numbered while the right one is a letter are given letters. Raises `InputError` for a row without
    question or answers, or whose right answer is none of them.
    """
    expected = "question.stem and question.choices, or question, choices.text and choices.label"
    what, todo = f"columns {some(row, 20)}", "fetch the data again, or leave this row out"
    with reading(what, expected, (KeyError, TypeError, ValueError), said="are no question with answers", todo=todo):
        question: Any = row["question"]
        choices: Any = row.get("choices")
        if isinstance(question, Mapping):  # AI2 keeps both in it
            options = [(str(one["label"]), one["text"]) for one in question["choices"]]
            question = question["stem"]
        else:
            options = list(zip(map(str, choices["label"]), choices["text"], strict=True))
        for text in (question, *(text for _, text in options)):
            if not isinstance(text, str):
                raise TypeError(f"{text!r} is no text")
    letters, answer = [letter for letter, _ in options], str(row.get("answerKey"))
    if answer not in letters and all(parse_integer(letter) is not None for letter in letters):
        letters = list(ascii_uppercase[: len(options)])
    if answer not in letters:
        what, expected = "the right answer is none of the answers", ", ".join(letters) or "two answers or more"
        raise InputError(what, expected=expected, got=answer, todo="leave this row out")
    pieces = ["The following is a multiple-choice question; one of the answers below it is right.\n\n", question]
    for letter, (_, text) in zip(letters, options, strict=True):
        pieces += [f"\n{letter}. ", text]
    named = f"{', '.join(letters[:-1])} or {letters[-1]}"
    pieces.append(f"\n\nReply with the letter of the right answer only: {named}.\nAnswer:")
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    fixed = tuple((end - len(piece), end) for piece, end in zip(pieces[::2], ends[::2], strict=True))
    return {"text": "".join(pieces), "protected": fixed, "choices": tuple(letters), "label": answer}


@reader(
    "arc",
    get="download https://huggingface.co/datasets/allenai/ai2_arc and pass the folder ARC-Easy with split=…, or one of "
    "its files; or pass hf:allenai/ai2_arc with config='ARC-Easy'",
    sees=lambda files: any(columns_of(files, name) >= _QUESTION for name in files.ending(*_SUFFIXES)[:1]),
    known=("*arc*easy*", "*arc*challenge*"),
)
def arc(files: Files, *, split: str | None = None, keep: Sequence[str] = LETTERS) -> Dataset:
    """ARC's multiple-choice questions, as jsonl (AI2), json or Parquet (Hugging Face).

    They become prompts that end in "Answer:"; all but question and answers is `protected`, the label the right letter.
    `split`: which table of a folder, by a word in its name ("test", "train+test").
    `keep`: the right answers of the questions that are kept; by default those that are A, B, C or D.
    """
    rows = [row for name in split_names(files, split, _SUFFIXES) for row in read_rows(files, name)]
    return _choices(files.path.name, rows, keep)
