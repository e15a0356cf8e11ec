"""Texts in the formats in which they are distributed, on small files of those formats: ERASER, IMDB, tables."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from sklearn.model_selection import train_test_split
from support import text_data as made
from support.text_data import DOCUMENTS, REVIEWS, TEST, everything, lines, parquet, refused, separated

from clew.datasets import fingerprint, open_dataset
from clew.datasets.stored import indexed, unique
from clew.errors import InputError, OptionError

# --- what holds for all ---------------------------------------------------------------------------------------------


def test_fingerprints_are_the_same_in_another_process(tmp_path):
    places = [
        made.eraser(tmp_path / "eraser"), made.imdb(tmp_path / "imdb.csv"), made.texts(tmp_path / "texts"),
        lines(tmp_path / "arc.jsonl", made.ai2()), made.newsgroups(tmp_path / "news"),
    ]  # fmt: skip
    code = (
        "import sys; from clew.datasets import fingerprint, open_dataset; "
        "print(*(fingerprint(open_dataset(path)) for path in sys.argv[1:]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *map(str, places)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert said.stdout.split() == [fingerprint(open_dataset(place)) for place in places]
    assert len(set(said.stdout.split())) == len(places)


def test_parts_of_a_data_set_of_texts(tmp_path):
    place = made.imdb(tmp_path / "imdb.csv")
    count = len(REVIEWS)
    drawn = open_dataset(place, sample=6, seed=3)
    expected = random.Random(3).sample(range(count), 6)
    assert [example.text for example in everything(drawn)] == [REVIEWS[i][0] for i in expected]
    assert list(open_dataset(place, limit=2).ids) == ["0", "1"]
    assert list(open_dataset(place, subset=[4, 1]).ids) == ["4", "1"]
    half, whole = (open_dataset(place, fraction=f, seed=1) for f in (0.5, 1.0))
    assert len(half) == count // 2 and list(whole.ids[: count // 2]) == list(half.ids)
    with refused(OptionError, "1/20", "0.01"):
        open_dataset(place, fraction=0.01)
    with refused(OptionError, "twice", "[4]"):
        open_dataset(place, subset=[4, 1, 4])


@pytest.mark.parametrize(
    ("names", "kind", "options"),
    [
        (["README.txt", "data.neg"], None, {}),
        (["other.bin"], "texts", {}),
        (["test.jsonl", "docs/a.txt"], "eraser", {}),
    ],
)
def test_data_without_examples_are_refused(names, kind, options, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with refused(InputError, "no examples", str(tmp_path)):
        open_dataset(tmp_path, kind, **options)


def test_ids_are_unique_whatever_they_were():
    assert unique(["a", "a", "a#2", "b", "a"]) == ["a", "a#3", "a#2", "b", "a#4"]


# --- ERASER ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_eraser(zipped, tmp_path):
    data = open_dataset(made.eraser(tmp_path, zipped=zipped))
    assert list(data.ids) == ["neg_1.txt", "pos_1.txt"] and list(data.classes) == ["NEG", "POS"]
    first, second = everything(data)
    assert first.text == "a dull film . really , dull\u00e9 acting" and first.words == tuple(first.text.split(" "))
    assert first.rationale == ((1, 3), (4, 7))  # what marks no word is left out
    assert first.words[4:7] == ("really", ",", "dull\u00e9") and first.label == 0
    assert second.rationale == ((2, 3),) and second.words[2] == "charming" and second.label == 1


def test_several_splits_and_documents_of_eraser(tmp_path):
    data = open_dataset(made.eraser(tmp_path), split="test + train", classes=["POS", "NEG"])
    assert list(data.ids) == ["neg_1.txt", "pos_1.txt", "both", "one.txt"]
    _, _, both, one = everything(data)
    assert both.text == "and then the second the first of two" and both.rationale == ((3, 4), (4, 6))
    assert [both.words[a:b] for a, b in both.rationale] == [("second",), ("the", "first")]
    assert one.text == DOCUMENTS["one.txt"] and one.rationale == ()
    assert list(data.classes) == ["POS", "NEG"] and (both.label, one.label) == (0, 1)
    twice = open_dataset(tmp_path, split="train+train")
    assert list(twice.ids) == ["both", "one.txt", "both#2", "one.txt#2"]


def test_every_change_of_eraser_changes_the_fingerprint(tmp_path):
    def changed(name, **more):
        return fingerprint(open_dataset(made.eraser(tmp_path / name, **more)))

    base = changed("base")
    assert base == changed("zipped", zipped=True)
    assert base == changed("white", documents=DOCUMENTS | {"pos_1.txt": "what  a\ncharming film"})
    others = [
        changed("word", documents=DOCUMENTS | {"pos_1.txt": "what a charming play"}),
        changed("label", test=[TEST[0] | {"classification": "POS"}, TEST[1] | {"classification": "NEG"}]),
        changed("id", test=[TEST[0], TEST[1] | {"annotation_id": "other", "docids": ["pos_1.txt"]}]),
        changed("span", test=[TEST[0], TEST[1] | {"evidences": [[made.evidence("pos_1.txt", 2, 4)]]}]),
        changed("none", test=[TEST[0], TEST[1] | {"evidences": [], "docids": ["pos_1.txt"]}]),
        changed("order", test=TEST[::-1]),
        changed("fewer", test=TEST[:1]),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_what_eraser_cannot_read(tmp_path):
    rows = [
        {"annotation_id": "gone", "classification": "NEG", "docids": ["gone.txt"], "evidences": []},
        {"annotation_id": "long", "classification": "NEG", "evidences": [[made.evidence("pos_1.txt", 3, 5)]]},
        {"annotation_id": "back", "classification": "NEG", "evidences": [[made.evidence("pos_1.txt", 3, 2)]]},
        {"annotation_id": "lone", "classification": "NEG", "evidences": [[{"docid": "pos_1.txt"}]]},
        {
            "annotation_id": "else", "classification": "NEG", "docids": ["one.txt"],
            "evidences": [[made.evidence("two.txt", 0, 1)]],
        },
        {"classification": "NEG", "evidences": []},
    ]  # fmt: skip
    data = open_dataset(made.eraser(tmp_path, test=rows))
    assert list(data.ids) == ["gone", "long", "back", "lone", "else", "5"]
    for index, said in enumerate(
        [["gone.txt"], ["3 to 5 of pos_1.txt", "long"], ["3 to 2"], ["start_token"], ["0 to 1 of two.txt", "one.txt"]]
    ):
        with refused(InputError, *said):
            data.read(index)
    with pytest.raises(InputError):
        data.read(5)


def test_files_that_eraser_lacks(tmp_path):
    made.eraser(tmp_path / "whole")
    with refused(InputError, "val.jsonl", "test.jsonl, train.jsonl", "split="):
        open_dataset(tmp_path / "whole", split="test+val")
    lines(tmp_path / "bare" / "test.jsonl", TEST)
    with refused(InputError, "docs/ or docs.zip", "test.jsonl"):
        open_dataset(tmp_path / "bare", "eraser")
    with refused(InputError, "eraserbenchmark.com/zipped/movies.tar.gz", "docs.zip"):
        open_dataset(tmp_path / "movies")
    with refused(InputError, "OTHER, POS", "NEG", "classes="):
        open_dataset(tmp_path / "whole", classes=["OTHER", "POS"])
    with refused(OptionError, "twice: POS"):
        open_dataset(tmp_path / "whole", classes=["POS", "POS"])
    (tmp_path / "whole" / "test.jsonl").write_text('{"annotation_id": "a"}\n{"annotation_id"')
    with refused(InputError, "test.jsonl, line 2", "fetch the file again"):
        open_dataset(tmp_path / "whole")


def test_documents_that_are_no_utf_8(tmp_path):
    data = open_dataset(made.eraser(tmp_path))
    (tmp_path / "docs" / "pos_1.txt").write_bytes(b"caf\xe9")
    with refused(InputError, "pos_1.txt", "utf-8"):
        data.read(1)


# --- IMDB -----------------------------------------------------------------------------------------------------------


def test_imdb(tmp_path):
    data = open_dataset(made.imdb(tmp_path / "IMDB Dataset.csv"))
    found = everything(data)
    assert [(e.text, data.classes[e.label]) for e in found] == REVIEWS  # as written, with line breaks and all
    assert list(data.classes) == ["negative", "positive"] and list(data.ids) == [str(i) for i in range(len(REVIEWS))]
    assert found[0].words is found[0].rationale is None
    turned = open_dataset(tmp_path, classes=["positive", "negative"])
    assert [turned.read(i).label for i in (0, 1)] == [0, 1]


def test_splits_of_imdb_are_scikit_learns(tmp_path):
    place = made.imdb(tmp_path / "imdb.csv")
    train, test = train_test_split(REVIEWS, test_size=0.3, random_state=42)
    for split, expected in (("train", train), ("test", test)):
        data = open_dataset(place, split=split)
        assert [(e.text, data.classes[e.label]) for e in everything(data)] == expected
        assert [REVIEWS[int(id)] for id in data.ids] == expected


def test_imdb_in_another_encoding_and_by_other_names(tmp_path, untyped):
    separated(tmp_path / "old.csv", [("review", "sentiment"), ("caf\u00e9", "pos"), ("bar", "neg")], "latin-1")
    data = open_dataset(tmp_path / "old.csv", "imdb", encoding="latin-1", classes=["neg", "pos"])
    assert [(e.text, e.label) for e in everything(data)] == [("caf\u00e9", 1), ("bar", 0)]
    assert open_dataset(tmp_path / "old.csv", "imdb", encoding="latin-1").classes == ("neg", "pos")
    with refused(InputError, "no text", "utf-8", "encoding="):
        open_dataset(tmp_path / "old.csv", "imdb")
    with refused(InputError, "no text", "utf-7000", "encoding="):
        open_dataset(tmp_path / "old.csv", "imdb", encoding="utf-7000")
    with refused(InputError, "kaggle.com", "review and sentiment"):
        open_dataset(tmp_path / "IMDB Dataset.csv")
    with refused(OptionError, "'sentiment'", "review, stars"):
        open_dataset(separated(tmp_path / "a.csv", [("review", "stars"), ("a", "3")]), "imdb")
    with pytest.raises(OptionError, match="train or test"):
        open_dataset(made.imdb(tmp_path / "b.csv"), split="val")


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (("NEGATIVE", "POSITIVE"), ("negative", "positive")),
        (("positive", "Positive"), ("negative", "positive")),
        (("bad", "good"), ("bad", "good")),
        (("0", "1"), None),
    ],
)
def test_any_reviews_with_sentiments_are_read(words, classes, tmp_path):
    rows = [("id", "review", "sentiment"), ("a", "dull", words[0]), ("b", "brilliant", words[1])]
    data = open_dataset(separated(tmp_path / "mine.csv", rows))
    assert [e.label for e in everything(data)] == ([1, 1] if words[0] == "positive" else [0, 1])
    assert data.classes == classes and list(data.ids) == ["a", "b"]


# --- tables ---------------------------------------------------------------------------------------------------------

ROWS = [
    {"id": "r1", "sentence": 'He said "no",\u2028then left', "label": 1},
    {"id": "r2", "sentence": "\u00fcber, all", "label": 0},
    {"id": "r3", "sentence": "", "label": 1},
]


def same_tables(folder):
    header = list(ROWS[0])
    return [
        separated(folder / "a.csv", [header, *(row.values() for row in ROWS)]),
        separated(folder / "bom.csv", [header, *(row.values() for row in ROWS)], "utf-8-sig"),
        separated(folder / "b.tsv", [header, *(row.values() for row in ROWS)]),
        lines(folder / "c.jsonl", ROWS),
        lines(folder / "bom.jsonl", ROWS, "utf-8-sig", end="\n\n \n"),
        lines(folder / "windows.jsonl", ROWS, end="\r\n"),
        lines(folder / "d.json", [ROWS]),
        parquet(folder / "e.parquet", ROWS),
    ]


def test_all_kinds_of_tables_give_the_same(tmp_path):
    found = [open_dataset(place) for place in same_tables(tmp_path)]
    for data in found:
        assert list(data.ids) == ["r1", "r2", "r3"] and data.classes is None
        assert [(e.text, e.label) for e in everything(data)] == [(row["sentence"], row["label"]) for row in ROWS]
    assert len({fingerprint(data) for data in found}) == 1
    wide = separated(tmp_path / "w.csv", [list(ROWS[0]), *(row.values() for row in ROWS)], "utf-16")
    assert fingerprint(open_dataset(wide, encoding="utf-16")) == fingerprint(found[0])


def test_columns_and_classes_of_tables(tmp_path):
    rows = [{"title": "t1", "text": "x1", "kind": "b"}, {"title": "t2", "text": "x2", "kind": "a"}]
    place = lines(tmp_path / "a.jsonl", rows)
    plain = everything(open_dataset(place))
    assert [(e.id, e.text, e.label) for e in plain] == [("0", "x1", None), ("1", "x2", None)]
    data = open_dataset(place, text="title", label="kind", id="text")
    assert [(e.id, e.text, e.label) for e in everything(data)] == [("x1", "t1", 1), ("x2", "t2", 0)]
    assert list(data.classes) == ["a", "b"]
    (tmp_path / "classes.txt").write_text("b\n\n a \n")
    data = open_dataset(place, label="kind", classes=tmp_path / "classes.txt")
    assert list(data.classes) == ["b", "a"] and [data.read(i).label for i in (0, 1)] == [0, 1]
    for option in ("text", "label", "id"):
        with refused(OptionError, "'nothing'", "title, text, kind"):
            open_dataset(place, **{option: "nothing"})
    with refused(OptionError, "text or sentence or review", "words, n", "text=", "columns="):
        open_dataset(lines(tmp_path / "b.jsonl", [{"words": "a", "n": 1}]))


def test_a_table_without_a_line_of_names(tmp_path):
    place = separated(tmp_path / "a.tsv", [('"a b', 1), ("c, d", 0)])
    data = open_dataset(place, columns=["sentence", "label"], classes=["bad", "good"])
    assert [(e.text, e.label) for e in everything(data)] == [('"a b', 1), ("c, d", 0)]
    assert list(data.classes) == ["bad", "good"]
    with refused(OptionError, '"a b, 1', "columns="):
        open_dataset(place)


def test_labels_and_texts_that_are_missing(tmp_path):
    rows = [("text", "label", "id"), ("a", 1, "x"), ("b", "", ""), ("c", 0, "x")]
    found = everything(open_dataset(separated(tmp_path / "a.csv", rows)))
    assert [e.label for e in found] == [1, None, 0] and [e.id for e in found] == ["x", "1", "x#2"]
    few = [{"text": "a"}, {"text": "b", "label": "good", "id": 7}, {"label": "bad"}]
    data = open_dataset(lines(tmp_path / "b.jsonl", few))
    assert list(data.ids) == ["0", "7", "2"] and [data.read(i).label for i in (0, 1)] == [None, 1]
    with refused(InputError, "b.jsonl: 2", "'text'", "NoneType"):
        data.read(2)
    assert len(fingerprint(data)) == 64
    floats = parquet(tmp_path / "c.parquet", [{"text": "a", "label": 2.0}, {"text": "b", "label": None}])
    assert [e.label for e in everything(open_dataset(floats))] == [2, None]


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        (["b", "a", None, "b"], None, ([1, 0, None, 1], ("a", "b"))),
        (["1", " 0", ""], None, ([1, 0, None], None)),
        ([True, False], None, ([1, 0], None)),
        ([1, 0], ["bad", "good"], ([1, 0], ("bad", "good"))),
        (["1", "2"], ["2", "1"], ([1, 0], ("2", "1"))),  # names that are numbers
        (["B", "a"], ["A", "b"], ([1, 0], ("A", "b"))),  # in another case
        (["a", "A"], ["A", "a"], ([1, 0], ("A", "a"))),  # two classes
        ([None, ""], ["a"], ([None, None], ("a",))),
    ],
)
def test_labels_become_positions(values, classes, expected):
    assert indexed(values, classes, "here") == expected


def test_labels_that_are_no_class(tmp_path):
    for values, classes, said in (
        ([0, 2], ["a", "b"], ["0 to 1", "[2]"]),
        ([-1, 0], None, ["0 or more", "[-1]"]),
        (["a", "c"], ["a", "b"], ["a, b", "c", "classes=['a', 'c']", "--data-option classes=a,c"]),
        (["Aa"], ["AA", "aa"], ["AA, aa", "Aa"]),
    ):
        with refused(InputError, "here has labels that are no class", *said):
            indexed(values, classes, "here")
    with pytest.raises(InputError, match=r"no classes in .*nowhere\.txt"):
        indexed(["a"], tmp_path / "nowhere.txt", "here")


def test_splits_of_a_folder_of_tables(tmp_path):
    for name, text in {"my_train": "a", "latest": "b", "test": "c", "dev": "d"}.items():
        lines(tmp_path / "data" / f"{name}.jsonl", [{"text": text}])
    for split, expected in {"test": "c", "train+test": "ac", "TEST": "c", "dev + train": "da"}.items():
        data = open_dataset(tmp_path, split=split)
        assert "".join(e.text for e in everything(data)) == expected
        assert list(data.ids) == [str(i) for i in range(len(expected))]
    for options, said in (({}, "several tables"), ({"split": "val"}, "no table for split 'val'")):
        with refused(OptionError, said, "data/dev.jsonl", "split="):
            open_dataset(tmp_path, **options)


@pytest.mark.parametrize("sums", [("", ""), ("-0123456789abcdef", "-fedcba9876543210")])
def test_tables_in_pieces(sums, tmp_path):
    names = [f"test-0000{i}-of-00002{end}.parquet" for i, end in enumerate(sums)]
    for name in names:
        parquet(tmp_path / "data" / name, [{"text": name}])
    assert [e.text for e in everything(open_dataset(tmp_path, split="test"))] == names
    (tmp_path / "data" / names[0]).unlink()
    with refused(InputError, "2 pieces", names[1]):
        open_dataset(tmp_path, split="test")
    assert open_dataset(tmp_path / "data" / names[1]).read(0).text == names[1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\none,1\ntwo\n", ["line 3", "text, label", "['two']", "columns="]),
        ("a.csv", "text,label\none, two,1\n", ["line 2", "text, label"]),
        ("a.csv", 'text,label\n"one,1\n', ["a csv table", "line 2"]),
        ("a.tsv", "text\tlabel\none\ttwo\t1\n", ["line 2", "text, label"]),
        ("a.jsonl", '{"text": "a"}\n[1]\n', ["row 2", "list"]),
        ("a.json", '{"text": "a"}', ["a list of objects", "dict"]),
        ("a.json", "[", ["no JSON"]),
        ("a.parquet", "text", ["a Parquet file"]),
        ("a.csv", "text,label\n", ["no rows", "text or sentence"]),
    ],
)
def test_tables_that_cannot_be_read(name, content, said, tmp_path):
    (tmp_path / name).write_text(content)
    with refused((InputError, OptionError), name, *said):
        open_dataset(tmp_path / name, "table")


def test_a_text_may_be_longer_than_csv_allows(tmp_path):
    place = separated(tmp_path / "a.csv", [("text",), ("word " * 40_000,)])
    assert len(open_dataset(place).read(0).text) == 200_000
