"""What is typed as inputs: rows of tables are texts by their ids."""

import pandas

from clew.errors import InputError
from clew.requests.inputs import read_texts

CSV = 'id,text,label\na7,"dull, and long",negative\nb2,a joy,positive\nc1, ,positive\n'
JSONL = '{"sentence": "dull", "label": 0}\n{"sentence": "a joy", "label": 1}\n'


def named(found):
    return [(item.name, item.value) for item in found.items]


def test_rows_of_a_table_are_texts_by_their_ids(tmp_path):
    (tmp_path / "reviews.csv").write_text(CSV)
    (tmp_path / "reviews.TSV").write_text('review\tstars\nso "so"\t3\n')
    (tmp_path / "reviews.jsonl").write_text(JSONL)
    (tmp_path / "one.txt").write_text("words")
    found = read_texts([str(tmp_path / "reviews.csv")])
    assert named(found) == [("a7", "dull, and long"), ("b2", "a joy")]
    assert len(found.errors) == 1 and "c1 is empty" in str(found.errors[0])
    assert named(read_texts([str(tmp_path / "reviews.TSV")])) == [("0", 'so "so"')]
    several = read_texts([str(tmp_path / "reviews.jsonl"), str(tmp_path / "one.txt")])
    assert named(several) == [("reviews.jsonl: 0", "dull"), ("reviews.jsonl: 1", "a joy"), ("one.txt", "words")]


def test_parquet_too(tmp_path):
    pandas.DataFrame({"id": [4, 2], "text": ["dull", "a joy"]}).to_parquet(tmp_path / "a.parquet")
    assert named(read_texts([str(tmp_path / "a.parquet")])) == [("4", "dull"), ("2", "a joy")]


def test_a_table_without_a_column_of_texts_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("words,stars\ndull,1\n")
    (tmp_path / "a.json").write_text('{"text": "dull"}')
    for name, said in (("a.csv", "call the column of the texts text or sentence"), ("a.json", "a list of objects")):
        (error,) = read_texts([str(tmp_path / name)]).errors
        assert isinstance(error, InputError) and said in str(error)
    (error,) = read_texts([str(tmp_path / "nothing.csv")]).errors
    assert "no file" in str(error)
