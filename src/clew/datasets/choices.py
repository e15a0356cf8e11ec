"""Questions with several answers to choose from: ARC, as AI2 distributes it and as the Hugging Face Hub does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from ..errors import InputError
from ..validation import parse_integer
from . import Dataset, reader
from .labels import row_ids
from .places import Files
from .rows import Rows, Table
from .tables import columns_of, read_rows, split_names, table_names

COLUMNS = {"question", "answerKey"}
LETTERS = ("A", "B", "C", "D")
_SUFFIXES = (".jsonl", ".json", ".parquet")  # AI2 puts a csv of other columns beside each jsonl


def choice_rows(name: str, rows: Table, keep: Sequence[str]) -> Dataset:
    """Questions as prompts, those alone whose answer is one of the letters to `keep`."""
    keys = [str(rows[i].get("answerKey")) for i in range(len(rows))]
    ids = row_ids([rows[i].get("id") for i in range(len(rows))])
    kept = [i for i, key in enumerate(keys) if key in keep]
    return Rows(name, rows, multiple_choice, ids=ids).subset(kept)


def multiple_choice(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question with its answers as a prompt: what is fixed in it is `protected`; the label is the right letter.

    Answers that are numbered while the right one is a letter are given letters. Raises `InputError` for a row without
    question or answers, or whose right answer is none of them.
    """
    question, options = _question(row)
    letters, answer = [letter for letter, _ in options], str(row.get("answerKey"))
    if answer not in letters and all(parse_integer(letter) is not None for letter in letters):
        letters = list(ascii_uppercase[: len(options)])
    if answer not in letters:
        raise InputError(
            "the right answer is none of the answers",
            expected=", ".join(letters) or "two answers or more",
            got=answer,
            todo="leave this row out",
        )
    pieces = ["The following is a multiple-choice question; one of the answers below it is right.\n\n", question]
    for letter, (_, text) in zip(letters, options, strict=True):
        pieces += [f"\n{letter}. ", text]
    named = f"{', '.join(letters[:-1])} or {letters[-1]}"
    pieces.append(f"\n\nReply with the letter of the right answer only: {named}.\nAnswer:")
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    fixed = tuple((end - len(piece), end) for piece, end in zip(pieces[::2], ends[::2], strict=True))
    return {"text": "".join(pieces), "protected": fixed, "choices": tuple(letters), "label": answer}


def _question(row: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The question, and each answer with what it is labelled; AI2 keeps both in `question`."""
    try:
        inner: Any = row["question"]
        if isinstance(inner, Mapping):
            return _string(inner["stem"]), [(str(c["label"]), _string(c["text"])) for c in inner["choices"]]
        choices: Any = row["choices"]
        options = zip(choices["label"], choices["text"], strict=True)
        return _string(inner), [(str(letter), _string(text)) for letter, text in options]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "this is no question with answers",
            expected="question.stem and question.choices, or question, choices.text and choices.label",
            got=f"columns {', '.join(map(str, row))}; {type(error).__name__}: {error}",
            todo="fetch the data again, or leave this row out",
        ) from error


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _sees(files: Files) -> bool:
    tables = table_names(files, _SUFFIXES)
    return bool(tables) and columns_of(files, tables[0]) >= COLUMNS


@reader(
    "arc",
    what="ARC's multiple-choice questions, as jsonl (AI2), json or Parquet (Hugging Face)",
    get="download https://huggingface.co/datasets/allenai/ai2_arc and pass the folder ARC-Easy with split=…, or one of "
    "its files; or pass hf:allenai/ai2_arc with config='ARC-Easy'",
    sees=_sees,
    known=("*arc*easy*", "*arc*challenge*"),
)
def arc(files: Files, *, split: str | None = None, keep: Sequence[str] = LETTERS) -> Dataset:
    """Multiple-choice questions as prompts that end in "Answer:"; the label is the right letter.

    What is fixed in a prompt (all but the question and the answers' texts) is `protected`.
    `split`: which table of a folder, by a word in its name ("test", "train+test").
    `keep`: the right answers of the questions that are kept; by default those that are A, B, C or D.
    """
    rows = [row for name in split_names(files, split, _SUFFIXES) for row in read_rows(files, name)]
    return choice_rows(files.path.name, rows, keep)
