"""What is learned from, what decides when to stop and what measures the result have no example in common."""

from __future__ import annotations

import random
from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_files
from sklearn.model_selection import train_test_split
from support.labelled_data import film_folder, picture_folder, reviews, table
from support.text_data import refused, separated

from clew.datasets import Dataset, Example, open_dataset
from clew.errors import InputError, OptionError
from clew.training.data import split_data
from clew.training.recipes import TASKS


def texts(part):
    return [part.data.read(i).text for i in range(len(part))]


def pairs(part):
    """Texts and labels, which the data's own agree with."""
    assert [part.data.read(i).label for i in range(len(part))] == list(part.labels)
    return list(zip(texts(part), part.labels, strict=True))


def apart(parts):
    """Nothing is in two parts."""
    sets = [set(texts(part)) for part in (parts.train, parts.validation, parts.test)]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    return sets


# Parts that the data bring


def test_reviews_for_validation_that_are_among_those_for_training_are_taken_out_of_them(tmp_path):
    val, test = ["neg_1", "pos_2", "neg_3"], ["pos_8", "neg_9"]
    train = ["pos_4", *val, "neg_5", "pos_6"]  # as the released files are
    source = film_folder(tmp_path / "movies", train=train, val=val, test=test)
    parts = split_data(TASKS["movies"], source)
    assert texts(parts.train) == ["what pos_4 says", "what neg_5 says", "what pos_6 says"]
    assert texts(parts.validation) == [f"what {name} says" for name in val]
    assert texts(parts.test) == [f"what {name} says" for name in test]
    assert parts.classes == ("NEG", "POS") and parts.train.labels == [1, 0, 1] and parts.is_text
    assert parts.validation.labels == [0, 1, 0] and parts.test.labels == [1, 0]
    assert parts.notes == ("train: 3 examples are left out that are in the validation part, too",)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation", "test")])
def test_folders_of_pictures_named_train_val_and_test(tmp_path, names):
    for i, name in enumerate(names):
        # Sorted by name, dog would come first in a part without cats: the training part says what the classes are.
        picture_folder(tmp_path / name, 3 - i, ("cat", "dog", "emu") if i < 2 else ("dog", "emu"), seed=i)
    twin = tmp_path / names[0] / "emu" / "9.png"
    twin.write_bytes((tmp_path / names[2] / "emu" / "0.png").read_bytes())
    parts = split_data(TASKS["images"], tmp_path)
    assert not parts.is_text and parts.classes == ("cat", "dog", "emu")
    assert [dict(Counter(part.labels)) for part in (parts.train, parts.validation, parts.test)] == [
        {0: 3, 1: 3, 2: 3}, {0: 2, 1: 2, 2: 2}, {1: 1, 2: 1},
    ]  # fmt: skip
    assert "emu/9" not in parts.train.data.ids and len(parts.notes) == 1
    stored = np.asarray(Image.open(tmp_path / names[2] / "dog" / "0.png"))
    assert (np.asarray(parts.test.data.read(0).image) == stored).all()


def test_tables_in_a_folder_and_a_folder_that_datasets_saved(tmp_path):
    rows = {"train": reviews(12), "validation": reviews(4, start=50), "test": reviews(6, start=80)}
    names = datasets.ClassLabel(names=["good", "bad"])  # not sorted
    columns = datasets.Features({"text": datasets.Value("string"), "label": names})
    saved = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list(
                [{"text": t, "label": names.str2int(label)} for t, label in some], features=columns
            )
            for name, some in rows.items()
        }
    )
    saved.save_to_disk(tmp_path / "saved")
    for name, some in rows.items():
        table(tmp_path / "tables" / f"{'dev' if name == 'validation' else name}.csv", some)
    for source, classes in (("saved", ("good", "bad")), ("tables", ("bad", "good"))):
        parts = split_data(TASKS["text"], tmp_path / source)
        assert parts.classes == classes and not parts.notes
        for name in rows:
            assert pairs(getattr(parts, name)) == [(t, classes.index(label)) for t, label in rows[name]]


def test_imdb_is_divided_as_in_the_paper_and_cut(tmp_path, untyped):
    rows = [(f"film {i}", ("positive", "negative")[i % 3 == 0]) for i in range(200)]
    source = separated(tmp_path / "imdb.csv", [("review", "sentiment"), *rows])
    train, test = train_test_split(rows, test_size=0.3, random_state=42)
    for limit in (None, 60):
        parts = split_data(TASKS["imdb"], source, limit=limit)
        first = train[:limit]
        labels = [label == "positive" for _, label in first]
        kept, held = train_test_split(first, test_size=0.1, random_state=42, stratify=labels)
        assert texts(parts.test) == [t for t, _ in test] and parts.classes == ("negative", "positive")
        assert pairs(parts.train) == [(t, int(label == "positive")) for t, label in kept]
        assert pairs(parts.validation) == [(t, int(label == "positive")) for t, label in held]
        assert any("first 60 of 140" in note for note in parts.notes) == (limit == 60)
        assert any(f"validation: {len(held)} examples (10%)" in note for note in parts.notes)


def test_newsgroups_hold_out_what_the_paper_held_out(tmp_path, untyped):
    draw = random.Random(0)
    for part, each in (("train", 10), ("test", 4)):
        for group in ("alt.atheism", "rec.autos", "sci.space"):
            place = tmp_path / f"20news-bydate-{part}" / group
            place.mkdir(parents=True)
            for i in range(each):
                (place / f"{part}{i}").write_text(f"From: a@b\n\nwords of {group} {part} {i} {draw.random()}\n")
    parts = split_data(TASKS["20newsgroups"], tmp_path)
    found = load_files(str(tmp_path / "20news-bydate-train"), encoding="latin1")
    order = np.arange(30)
    np.random.RandomState(42).shuffle(order)  # as fetch_20newsgroups does
    rows = [(found.data[i].partition("\n\n")[2].strip(), int(found.target[i])) for i in order]
    kept, held = train_test_split(rows, test_size=0.22, random_state=2018)
    assert [(t.strip(), label) for t, label in pairs(parts.train)] == kept
    assert [(t.strip(), label) for t, label in pairs(parts.validation)] == held and len(held) == 7
    assert parts.classes == ("alt.atheism", "rec.autos", "sci.space") and len(parts.test) == 12
    assert all(" test " in text for text in texts(parts.test))


# Parts that are held out


def test_a_table_is_divided_by_classes_and_the_same_every_time(tmp_path):
    rows = reviews(100, ("bad", "bad", "bad", "good"))
    source = table(tmp_path / "reviews.csv", rows)
    parts, again = split_data(TASKS["text"], source), split_data(TASKS["text"], source)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [72, 8, 20]
    assert [sum(part.labels) for part in (parts.train, parts.validation, parts.test)] == [18, 2, 5]
    assert set.union(*apart(parts)) == {text for text, _ in rows}
    assert dict(pairs(parts.train) + pairs(parts.validation) + pairs(parts.test)) == {
        text: int(label == "good") for text, label in rows
    }
    assert pairs(again.train) == pairs(parts.train) and pairs(again.test) == pairs(parts.test)
    assert again.content == parts.content and again.notes == parts.notes
    assert parts.notes == (
        "test: 20 examples (20%) are held out of the training part",
        "validation: 8 examples (10%) are held out of the training part",
    )


def test_shares_and_files_of_ones_own(tmp_path):
    source = table(tmp_path / "reviews.csv", reviews(40))
    parts = split_data(TASKS["text"], source, validation=0.25, test=0.5)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [15, 5, 20]
    # The other files name their classes in another order, and have reviews of the training part.
    val = table(tmp_path / "v.csv", [("other 1", "good"), ("review  number 3\nof them", "bad"), ("other 2", "bad")])
    test = table(tmp_path / "t.csv", [("last one", "good"), ("review number 0 of them", "bad"), ("other 2", "bad")])
    parts = split_data(TASKS["text"], source, validation=val, test=test)
    assert [text for text, _ in pairs(parts.test)] == ["last one", "review number 0 of them", "other 2"]
    assert parts.test.labels == [1, 0, 0]
    assert pairs(parts.validation) == [("other 1", 1), ("review  number 3\nof them", 0)]
    gone = {"review number 0 of them", "review number 3 of them"}  # white space makes no difference
    assert texts(parts.train) == [text for text, _ in reviews(40) if text not in gone]
    assert len(parts.notes) == 3
    mixed = split_data(TASKS["text"], source, validation=val, test=0.1)
    assert len(mixed.test) == 4 and len(mixed.validation) == 3 and len(mixed.train) in (35, 36)
    for share in (0.0, 1.0, 1.5, -0.1):
        with refused_option("above 0, below 1"):
            split_data(TASKS["text"], source, test=share)


def refused_option(said):
    return pytest.raises(OptionError, match=said)


def test_a_share_that_is_asked_for_is_held_out_although_the_data_have_that_part(tmp_path):
    for name, some in (("train", reviews(40)), ("val", reviews(10, start=50)), ("test", reviews(10, start=80))):
        table(tmp_path / f"{name}.csv", some)
    parts = split_data(TASKS["text"], tmp_path, validation=0.5, test=0.25)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [15, 15, 10]
    assert set.union(*apart(parts)) == {text for text, _ in reviews(40)}


def test_the_kind_of_data_can_be_said(tmp_path):
    source = table(tmp_path / "a.csv", reviews(20))
    parts = split_data(TASKS["movies"], source, options={"kind": "table"})
    assert parts.classes == ("bad", "good") and len(parts.test) == 4


def test_the_limit_is_of_training_examples_and_the_content_is_that_of_all_parts(tmp_path):
    source = table(tmp_path / "reviews.csv", reviews(50))
    whole, some = split_data(TASKS["text"], source), split_data(TASKS["text"], source, limit=10)
    assert texts(some.test) == texts(whole.test) and len(some.train) == 9 and len(some.validation) == 1
    left = [text for text, _ in reviews(50) if text not in set(texts(whole.test))]
    assert set(texts(some.train)) | set(texts(some.validation)) == set(left[:10])
    assert some.content != whole.content
    other = reviews(50)
    other[7] = (other[7][0], "bad")  # was good
    assert split_data(TASKS["text"], table(tmp_path / "reviews.csv", other)).content != whole.content


# What cannot be used


def test_rows_without_a_label_are_left_out(tmp_path):
    rows = [*reviews(20), ("nobody knows", ""), ("nor this", "")]
    parts = split_data(TASKS["text"], table(tmp_path / "a.csv", rows))
    assert set.union(*apart(parts)) == {text for text, _ in reviews(20)}
    assert parts.notes[0] == "train: 2 examples without a label are left out" and len(parts.classes) == 2


def test_a_test_part_whose_labels_are_secret_is_not_used(tmp_path):
    table(tmp_path / "train.csv", reviews(20))
    table(tmp_path / "test.csv", [(f"secret {i}", "") for i in range(5)])
    parts = split_data(TASKS["text"], tmp_path)
    assert len(parts.test) == 4 and not any("secret" in text for text in texts(parts.test))
    assert "test: 5 examples without a label are left out" in parts.notes


def test_data_that_nothing_can_be_learned_from(tmp_path):
    one = table(tmp_path / "one.csv", [(f"text {i}", "good") for i in range(9)])
    with pytest.raises(InputError, match="one class only"):
        split_data(TASKS["text"], one)
    none = separated(tmp_path / "none.csv", [("text", "stars"), ("a", "1"), ("b", "2")])
    with refused(InputError, "no labels", "data_options="):
        split_data(TASKS["text"], none)
    assert split_data(TASKS["text"], table(tmp_path / "x.csv", reviews(20)), options={"label": "label"}).is_text
    with pytest.raises(InputError, match="too few examples"):
        split_data(TASKS["text"], table(tmp_path / "few.csv", reviews(2)))
    table(tmp_path / "same" / "train.csv", reviews(4))
    table(tmp_path / "same" / "test.csv", reviews(4))
    with pytest.raises(InputError, match=r"all examples of the (train|validation) part are in another part"):
        split_data(TASKS["text"], tmp_path / "same")
    with refused(InputError, "nothing there", "eraserbenchmark"):
        split_data(TASKS["movies"], tmp_path / "movies")


@pytest.mark.parametrize("broken", ["train", "val", "test"])
def test_a_part_that_is_there_and_broken_is_not_replaced_by_another(tmp_path, broken):
    names = [f"{kind}_{i}" for kind in ("neg", "pos") for i in range(8)]
    splits = {"train": names[:6] + names[8:14], "val": ["neg_6", "pos_6"], "test": ["neg_7", "pos_7"]}
    source = film_folder(tmp_path / "movies", **splits)
    (source / f"{broken}.jsonl").write_text('{"annotation_id": "neg')
    with pytest.raises(InputError, match=f"{broken}.jsonl"):
        split_data(TASKS["movies"], source)


def test_nothing_is_learned_from_a_test_part(tmp_path):
    names = [f"{kind}_{i}" for kind in ("neg", "pos") for i in range(8)]
    with pytest.raises((InputError, OptionError), match="train"):
        split_data(TASKS["movies"], film_folder(tmp_path / "movies", test=names))


def test_a_test_part_with_another_class_is_not_replaced_by_another(tmp_path):
    table(tmp_path / "train.csv", reviews(40))
    table(tmp_path / "test.csv", reviews(10, ("bad", "superb"), start=80))
    with pytest.raises(InputError, match="superb"):
        split_data(TASKS["text"], tmp_path)


def test_parts_whose_classes_are_in_another_order_are_not_mixed_up():
    train = Listed([(f"text {i}", i % 2) for i in range(20)], classes=["bad", "good"])
    test = Listed([(f"other {i}", i % 2) for i in range(4)], classes=["good", "bad"])
    parts = split_data(TASKS["text"], train, test=test)
    assert parts.classes == ("bad", "good") and parts.test.labels == [1, 0, 1, 0]  # "good" is 1 for all


def test_a_training_part_that_is_left_with_one_class_is_refused(tmp_path):
    table(tmp_path / "train.csv", [("a", "bad"), ("b", "bad"), ("c", "good")])
    table(tmp_path / "val.csv", [("c", "good"), ("d", "bad")])
    table(tmp_path / "test.csv", [("e", "good"), ("f", "bad")])
    with pytest.raises(InputError, match="one class"):
        split_data(TASKS["text"], tmp_path)


class Listed(Dataset):
    """Texts with labels, from a list."""

    def __init__(self, rows, classes=None):
        self.name, self.classes, self.rows = "listed", classes, rows
        self.ids = [str(i) for i in range(len(rows))]

    def read(self, index):
        text, label = self.rows[index]
        return Example(id=self.ids[index], text=text, label=label)


def test_a_data_set_of_ones_own_with_numbers_as_classes():
    data = Listed([(f"text {i}", i % 3) for i in range(30)])
    parts = split_data(TASKS["text"], data)
    assert parts.classes == ("0", "1", "2") and [len(parts.train), len(parts.validation), len(parts.test)] == [
        21, 3, 6,
    ]  # fmt: skip
    strange = Listed([("new", 4), ("old", 0)], classes=list("abcde"))
    with pytest.raises(InputError, match=r"(?s)test part has classes.*got: +e$|got: +e\n"):
        split_data(TASKS["text"], Listed(data.rows, classes=["a", "b", "c"]), test=strange)
    assert len(split_data(TASKS["text"], open_dataset("mini:reviews"), test=0.5).test) == 24
    stars = split_data(TASKS["text"], Listed([(f"text {i}", 1 + i % 5) for i in range(50)]))
    assert stars.classes == ("1", "2", "3", "4", "5") and set(stars.train.labels) == {0, 1, 2, 3, 4}
