"""Small files in the formats in which texts are distributed, and what must hold for all that reads them."""

from __future__ import annotations

import csv
import json
import pickle
import zipfile
from contextlib import contextmanager

import pyarrow
import pyarrow.parquet
import pytest

from clew.datasets import fingerprint


@contextmanager
def refused(error, *said):
    """An error that says what was expected, what came and what to do, and some words more."""
    with pytest.raises(error) as found:
        yield
    text = str(found.value)
    missing = [part for part in ("expected:", "got:", "to do:", *said) if part not in text]
    assert not missing, f"{missing} not in:\n{text}"


def everything(data):
    """All examples; ids are unique, a pickled copy is the same, and so are parts of it."""
    examples = [data.read(i) for i in range(len(data))]
    assert len(set(data.ids)) == len(data) == len(data.ids)
    assert [example.id for example in examples] == list(data.ids)
    copy = pickle.loads(pickle.dumps(data))
    assert [copy.read(i) for i in range(len(copy))] == examples and copy.classes == data.classes
    assert fingerprint(copy) == fingerprint(data)
    turned = data.subset(range(len(data))[::-1])
    assert [turned.read(i) for i in range(len(data))] == examples[::-1] and turned.classes == data.classes
    return examples


def lines(path, rows, encoding="utf-8", end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding))
    return path


def separated(path, rows, encoding="utf-8"):
    """A csv, as spreadsheets write it, or a tsv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        if path.suffix == ".tsv":
            file.writelines("\t".join(map(str, row)) + "\n" for row in rows)
        else:
            csv.writer(file).writerows(rows)
    return path


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


# --- ERASER ---------------------------------------------------------------------------------------------------------


def evidence(document, start, end):
    return {"docid": document, "start_token": start, "end_token": end, "start_sentence": -1, "end_sentence": -1}


DOCUMENTS = {
    "neg_1.txt": "a  dull film .\n\nreally , dull\u00e9 acting\n",
    "pos_1.txt": "what a charming film\n",
    "one.txt": "the first of two",
    "two.txt": "and then\nthe second",
}
TEST = [
    {
        "annotation_id": "neg_1.txt", "classification": "NEG", "docids": None, "query": "what is it ?",
        "evidences": [[evidence("neg_1.txt", 4, 7), evidence("neg_1.txt", 2, 2)], [evidence("neg_1.txt", 1, 3)]],
    },
    {"annotation_id": "pos_1.txt", "classification": "POS", "evidences": [[evidence("pos_1.txt", 2, 3)]]},
]  # fmt: skip
TRAIN = [
    {
        "annotation_id": "both", "classification": "POS", "docids": ["two.txt", "one.txt"],
        "evidences": [[evidence("one.txt", 0, 2)], [evidence("two.txt", 3, 4)]],
    },
    {"annotation_id": "one.txt", "classification": "NEG", "docids": [], "evidences": []},
]  # fmt: skip


def eraser(folder, *, test=TEST, documents=DOCUMENTS, zipped=False):
    lines(folder / "test.jsonl", test)
    lines(folder / "train.jsonl", TRAIN, end="\n\n")
    if zipped:
        with zipfile.ZipFile(folder / "docs.zip", "w") as archive:
            for name, text in documents.items():
                archive.writestr(f"docs/{name}", text)
        return folder
    (folder / "docs").mkdir()
    for name, text in documents.items():
        (folder / "docs" / name).write_text(text, "utf-8")
    return folder


# --- IMDB -----------------------------------------------------------------------------------------------------------

REVIEWS = [
    ('One of the other reviewers said "watch it".<br /><br />I did, and, well, liked it.', "positive"),
    ("Dull.\nAnd long, too.", "negative"),
    ("A caf\u00e9 in Paris \u2013 \u00abwonderful\u00bb!", "positive"),
    ("", "negative"),
    ("N/A", "negative"),
] + [(f"review number {i}, as written", ("negative", "positive")[i % 2]) for i in range(5, 20)]


def imdb(path):
    return separated(path, [("review", "sentiment"), *REVIEWS])


# --- ARC ------------------------------------------------------------------------------------------------------------

QUESTIONS = [
    ("Mercury_1", "Which is a mammal?", "ABCD", ["a frog", "a bat", "a trout", "a hen"], "B"),
    ("NYSED_2", "How many legs has\nan ant?", "1234", ["two", "four", "six", "eight"], "3"),
    ("MCAS_3", "A. B. or C.?", "ABC", ["A. yes", "no: A", "Answer:"], "A"),
    ("TIMSS_4", "Where is iron?", "ABCDE", ["air", "sea", "core", "moon", "sun"], "C"),
    ("TIMSS_5", "Was ist s\u00fc\u00df?", "ABCDE", ["Salz", "Mehl", "Essig", "Wasser", "Zucker"], "E"),
    ("mixed_6", "Which is hot?", "1234", ["ice", "fire", "snow", "sleet"], "B"),
]


def ai2(questions=QUESTIONS):
    return [
        {
            "id": id, "answerKey": key,
            "question": {"stem": stem, "choices": [{"text": t, "label": c} for c, t in pairs]},
        }
        for id, stem, letters, texts, key in questions
        for pairs in [list(zip(letters, texts, strict=True))]
    ]  # fmt: skip


def hugging_face(questions=QUESTIONS):
    return [
        {"id": id, "question": stem, "choices": {"text": texts, "label": list(letters)}, "answerKey": key}
        for id, stem, letters, texts, key in questions
    ]


# --- 20 Newsgroups --------------------------------------------------------------------------------------------------

POST = (
    "From: a@b.example (A. B.)\nSubject: Re: orbit\n\nIn article <1@x> someone writes:\n> quoted words\n"
    "The orbit is low, Andr\u00e9.\nVery low.\n\n--\nA. B., somewhere\n"
)
STRIPPED = "The orbit is low, Andr\u00e9.\nVery low.\n"
GROUPS = ("alt.atheism", "comp.graphics", "sci.space")


def newsgroups(folder):
    for part, start in (("train", 100), ("test", 200)):
        for g, group in enumerate(GROUPS):
            for i in range(4):
                place = folder / f"20news-bydate-{part}" / group / str(start + 10 * g + i)
                place.parent.mkdir(parents=True, exist_ok=True)
                text = POST if i == 0 else f"From: x\n\nnumber {i} of {group}, {part}\n"
                place.write_bytes(text.encode("latin-1"))
    return folder


# --- texts ----------------------------------------------------------------------------------------------------------


def texts(folder):
    for name, text in {
        "pos/b.txt": "good\n", "pos/a.txt": "\ufefffine", "neg/a.txt": "bad \u00e9", "README.txt": "about",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder
