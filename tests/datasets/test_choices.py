"""Texts in folders and archives, questions with answers, 20 Newsgroups, what `datasets` loads, and what ships."""

from __future__ import annotations

import codecs
import pickle
import tarfile
import zipfile
from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import fetch_20newsgroups, load_files
from support import text_data as made
from support.text_data import GROUPS, POST, QUESTIONS, STRIPPED, everything, lines, parquet, refused

import clew
from clew.datasets import fingerprint, open_dataset
from clew.datasets.table_readers import multiple_choice
from clew.errors import InputError, OptionError

ALL = ("A", "B", "C", "D", "E", "1", "2", "3", "4")

# --- ARC ------------------------------------------------------------------------------------------------------------


def pieces(example):
    """The fixed parts of a prompt, and what stands between them."""
    fixed, free, last = [], [], 0
    for start, end in example.protected:
        free.append(example.text[last:start])
        fixed.append(example.text[start:end])
        last = end
    assert free[0] == "" and last == len(example.text)
    return fixed, free[1:]


def sources(folder):
    return [
        lines(folder / "ai2.jsonl", made.ai2()),
        lines(folder / "hf.jsonl", made.hugging_face()),
        lines(folder / "hf.json", [made.hugging_face()]),
        parquet(folder / "hf.parquet", made.hugging_face()),
    ]


def test_questions_in_all_their_formats(tmp_path):
    found = [open_dataset(place, keep=ALL) for place in sources(tmp_path)]
    for data in found:
        assert list(data.ids) == [question[0] for question in QUESTIONS] and data.classes is None
        for example, (_, stem, letters, texts, key) in zip(everything(data), QUESTIONS, strict=True):
            shown = tuple("ABCD" if key == "B" else letters)  # numbered answers, a letter for the right one
            fixed, free = pieces(example)
            assert free == [stem, *texts] and example.choices == shown and example.label == key
            assert fixed[0].endswith(".\n\n") and fixed[1:-1] == [f"\n{letter}. " for letter in shown]
            named = ", ".join(shown[:-1]) + f" or {shown[-1]}"
            assert fixed[-1] == f"\n\nReply with the letter of the right answer only: {named}.\nAnswer:"
            assert example.rationale is example.words is None
    assert len({fingerprint(data) for data in found}) == 1


def test_questions_are_kept_by_their_right_answer(tmp_path):
    for place in sources(tmp_path):
        assert list(open_dataset(place).ids) == ["Mercury_1", "MCAS_3", "TIMSS_4", "mixed_6"]
        assert list(open_dataset(place, keep=["1", "2", "3", "4"]).ids) == ["NYSED_2"]
        with refused(InputError, "no examples", "['Z']"):
            open_dataset(place, keep=["Z"])


def test_a_folder_of_ai2_has_a_csv_beside_each_jsonl(tmp_path):
    for i, split in enumerate(("Dev", "Test", "Train")):
        lines(tmp_path / f"ARC-Easy-{split}.jsonl", made.ai2(QUESTIONS[i:]))
        made.separated(tmp_path / f"ARC-Easy-{split}.csv", [("questionID", "AnswerKey", "question"), ("a", "B", "c")])
    assert list(open_dataset(tmp_path, split="test", keep=ALL).ids) == [q[0] for q in QUESTIONS[1:]]
    assert len(open_dataset(tmp_path, split="dev+test", keep=ALL)) == 11
    with refused(OptionError, "several tables", "ARC-Easy-Dev.jsonl", "split="):
        open_dataset(tmp_path)
    with refused(InputError, "huggingface.co/datasets/allenai/ai2_arc", "multiple-choice"):
        open_dataset(tmp_path / "ARC-Easy")


def test_every_change_of_a_question_changes_the_fingerprint(tmp_path):
    id, stem, letters, texts, key = QUESTIONS[0]
    changed = [
        ("other", stem, letters, texts, key), (id, stem + " ", letters, texts, key), (id, stem, "ABDC", texts, key),
        (id, stem, letters, [*texts[:3], "a cow"], key), (id, stem, letters, texts, "C"),
        (id, stem, letters[:3], texts[:3], key), QUESTIONS[0],
    ]  # fmt: skip
    places = [lines(tmp_path / f"{i}.jsonl", made.ai2([one, *QUESTIONS[1:]])) for i, one in enumerate(changed)]
    assert len({fingerprint(open_dataset(place, keep=ALL)) for place in places}) == len(changed)
    assert fingerprint(open_dataset(places[-1])) != fingerprint(open_dataset(places[-1], keep=ALL))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"answerKey": "D", "choices": {"text": ["x", "y"], "label": ["A", "B"]}},
            ["A, B", "D", "none of the answers"],
        ),
        ({"choices": {"text": [], "label": []}}, ["none of the answers", "B"]),
        ({"choices": None}, ["question.stem", "columns id, question"]),
        ({"choices": {"text": ["x"], "label": ["A", "B"]}}, ["choices.text and choices.label"]),
        ({"choices": {"text": ["x", None], "label": ["A", "B"]}}, ["None is no text"]),
        ({"question": None}, ["None is no text"]),
        ({"question": {"stem": 3, "choices": []}}, ["3 is no text"]),
        ({"question": {"choices": []}}, ["question.stem"]),
    ],
)
def test_rows_that_are_no_questions(change, said, tmp_path):
    row = made.hugging_face()[0] | change
    with refused(InputError, *said):
        multiple_choice(row)
    data = open_dataset(lines(tmp_path / "arc.jsonl", [row, *made.hugging_face()[2:]]))
    with refused(InputError, "arc.jsonl: Mercury_1", *said):
        data.read(0)
    assert data.read(1).label == "A" and len(fingerprint(data)) == 64


# --- 20 Newsgroups --------------------------------------------------------------------------------------------------


def cache(folder, place):
    """What scikit-learn makes of the folders when it downloads them."""
    stored = {part: load_files(str(folder / f"20news-bydate-{part}"), encoding="latin1") for part in ("train", "test")}
    place.mkdir()
    (place / "20news-bydate_py3.pkz").write_bytes(codecs.encode(pickle.dumps(stored), "zlib_codec"))
    return place


def test_newsgroups_from_folders_and_from_the_cache(tmp_path):
    folder = made.newsgroups(tmp_path / "folders")
    home = cache(folder, tmp_path / "scikit_learn_data")
    for split, count in {"test": 12, "train": 12, "all": 24}.items():
        for remove in ((), ("headers",), ("footers",), ("quotes",), ("headers", "footers", "quotes")):
            found = [open_dataset(place, split=split, remove=remove) for place in (folder, home)]
            theirs = fetch_20newsgroups(data_home=home, subset=split, remove=remove, download_if_missing=False)
            for data in found:
                examples = everything(data)
                assert len(data) == count and tuple(data.classes) == GROUPS
                assert [e.text for e in examples] == theirs.data
                assert [e.label for e in examples] == theirs.target.tolist()
                assert all(e.id.startswith(f"{GROUPS[e.label]}/") for e in examples)
            assert fingerprint(found[0]) == fingerprint(found[1])


def test_what_is_removed_from_newsgroups(tmp_path):
    folder = made.newsgroups(tmp_path)
    stripped = {e.id: e.text for e in everything(open_dataset(folder))}
    whole = {e.id: e.text for e in everything(open_dataset(folder, remove=[]))}
    assert whole["sci.space/220"] == POST and stripped["sci.space/220"] == STRIPPED
    assert stripped["alt.atheism/203"] == "number 3 of alt.atheism, test\n"
    alone = open_dataset(folder / "20news-bydate-test")
    assert fingerprint(alone) == fingerprint(open_dataset(folder))
    (folder / "20news-bydate-test" / "sci.space" / "221").write_text("From: x\n\nanother text\n")
    assert fingerprint(open_dataset(folder)) != fingerprint(alone)
    assert {e.id: e.text for e in everything(open_dataset(folder))} == stripped | {"sci.space/221": "another text\n"}


def test_newsgroups_that_are_not_there(tmp_path, untyped):
    folder = made.newsgroups(tmp_path / "folders")
    for options, said in (({"split": "val"}, "val"), ({"remove": ["headers", "bodies"]}, "bodies")):
        with refused(OptionError, "train, test or all; headers, footers, quotes", said):
            open_dataset(folder, **options)
    for place in (folder / "20news-bydate-test", tmp_path / "nothing"):
        place.mkdir(exist_ok=True)
        with refused(InputError, "20news-bydate-train", "qwone.com"):
            open_dataset(place, "newsgroups", split="train")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "20news-bydate_py3.pkz").write_bytes(b"broken")
    with refused(InputError, "20news-bydate_py3.pkz", "scikit-learn's cache", "fetch it again"):
        open_dataset(tmp_path / "home")


# --- the Hub, and what `datasets` saved -----------------------------------------------------------------------------

SENTENCES = [{"idx": i, "sentence": f"text {i}", "label": i % 3} for i in (5, 3, 4)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that `datasets.load_dataset` opens as it opens a data set of the Hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parquet(tmp_path / "hub" / "train-00000-of-00001.parquet", SENTENCES)
    parquet(tmp_path / "hub" / "test-00000-of-00001.parquet", SENTENCES[:2])
    return f"hf:{tmp_path / 'hub'}"


def test_texts_by_the_name_of_a_data_set(hub):
    data = open_dataset(hub, split="train")
    assert [(e.id, e.text, e.label) for e in everything(data)] == [
        ("5", "text 5", 2),
        ("3", "text 3", 0),
        ("4", "text 4", 1),
    ]
    assert list(open_dataset(hub, split="train", take=2).ids) == ["5", "3"]
    assert len(open_dataset(hub, split="train+test")) == 5 and len(open_dataset(hub, split="train[:1]")) == 1
    assert list(open_dataset(hub, split="train", id="sentence", text="sentence").ids) == ["text 5", "text 3", "text 4"]
    named = open_dataset(hub, split="test", classes=["a", "b", "c"])
    assert list(named.classes) == ["a", "b", "c"] and named.read(0).label == 2
    assert fingerprint(data) == fingerprint(open_dataset(hub.removeprefix("hf:"), split="train"))


def test_what_the_hub_does_not_have(hub):
    with refused(OptionError, "has several splits", "test", "split="):
        open_dataset(hub)
    with refused(InputError, "could not be loaded", "val"):
        open_dataset(hub, split="val")
    with refused(InputError, "hf:someone/of-no-such-name could not be loaded", "offline"):
        open_dataset("hf:someone/of-no-such-name", split="test")
    for option in ("text", "label", "image", "mask", "id"):
        with refused(OptionError, "'nothing'", "idx, sentence, label"):
            open_dataset(hub, split="test", **{option: "nothing"})
    with refused(InputError, "0 to 1", "[2]"):
        open_dataset(hub, split="test", classes=["a", "b"])


def features(**more):
    return datasets.Features({"text": datasets.Value("string"), **more})


def saved(folder, rows, columns=None, **splits):
    if splits:
        found = datasets.DatasetDict({name: datasets.Dataset.from_list(some) for name, some in splits.items()})
    else:
        found = datasets.Dataset.from_list(rows, features=columns)
    found.save_to_disk(folder)
    return folder


def test_labels_that_name_their_classes(tmp_path):
    columns = features(label=datasets.ClassLabel(names=["neg", "pos"]))
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    data = open_dataset(saved(tmp_path / "whole", rows, columns))
    assert [(e.id, e.text, e.label) for e in everything(data)] == [("0", "a", 1), ("1", "b", 0), ("2", "c", None)]
    assert list(data.classes) == ["neg", "pos"]
    turned = open_dataset(tmp_path / "whole", classes=["pos", "neg"])
    assert [turned.read(i).label for i in range(3)] == [0, 1, None]
    with refused(InputError, "good, bad", "neg, pos", "classes="):
        open_dataset(tmp_path / "whole", classes=["good", "bad"])


def test_folders_that_datasets_saved(tmp_path):
    both = saved(tmp_path / "both", None, train=[{"text": "a"}], test=[{"text": "b"}, {"text": None}])
    data = open_dataset(both, split="test")
    assert data.read(0).text == "b" and data.read(0).label is None and data.classes is None
    with refused(InputError, "both: 1", "'text'", "NoneType"):
        data.read(1)
    for options, said in (({}, "has several splits"), ({"split": "val"}, "no split 'val'")):
        with refused(OptionError, said, "train, test", "split="):
            open_dataset(both, **options)
    questions = saved(tmp_path / "arc", made.hugging_face())
    other = lines(tmp_path / "arc.jsonl", made.ai2())
    for options in ({}, {"keep": ALL}):
        assert fingerprint(open_dataset(questions, **options)) == fingerprint(open_dataset(other, **options))
    with refused(OptionError, "no column for the text or the image", "words", "text="):
        open_dataset(saved(tmp_path / "words", [{"words": "a"}]))
    (tmp_path / "words" / "state.json").write_text("{}")
    with refused(InputError, "cannot be read", "save_to_disk"):
        open_dataset(tmp_path / "words")


def test_pictures_of_the_hub_stay_as_they_were_stored(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    image.save(tmp_path / "a.png")
    columns = features(image=datasets.Image(), label=datasets.Value("int64"))
    rows = [{"text": "a", "image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}, "label": 1}]
    for options, text in (({}, None), ({"text": "text"}, "a")):
        example = open_dataset(saved(tmp_path / str(text), rows, columns), **options).read(0)
        assert example.image.tobytes() == image.tobytes() and example.label == 1 and example.text == text


# --- what ships -----------------------------------------------------------------------------------------------------


def test_what_ships_is_the_same_every_time():
    for name in ("digits", "digits-clip", "reviews"):
        data = open_dataset(f"mini:{name}")
        assert fingerprint(data) == fingerprint(open_dataset(f"mini:{name}")) and len(set(data.ids)) == len(data) > 1
        assert {data.read(i).label for i in range(len(data))} <= set(range(len(data.classes)))
    fewer = open_dataset("mini:reviews", count=3)
    assert everything(fewer) == [data.read(i) for i in range(3)] and len(data) == 48
    assert list(fewer.classes) == list(clew.load("mini:reviews-bert").labels)
    with refused(InputError, "no examples in mini:reviews", "count=0"):
        open_dataset("mini:reviews", count=0)
    with refused(OptionError, "mini:films"):
        open_dataset("mini:films")


# --- folders of texts -----------------------------------------------------------------------------------------------


def test_folders_of_texts_and_archives_of_them(tmp_path):
    folder = made.texts(tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as z, tarfile.open(tmp_path / "whole.tar", "w") as t:
        t.add(folder, ".")  # as `tar c .` does
        for name in ("pos/b.txt", "pos/a.txt", "neg/a.txt", "README.txt"):
            z.write(folder / name, f"whole/{name}")
    with tarfile.open(tmp_path / "deep.tar", "w") as t:
        t.add(folder, "./top/whole")
    places = [folder, *(tmp_path / name for name in ("whole.zip", "whole.tar", "deep.tar"))]
    for place in places:
        data = open_dataset(place)
        found = [(e.id, e.text, data.classes[e.label]) for e in everything(data)]
        assert found == [("neg/a", "bad \u00e9", "neg"), ("pos/a", "fine", "pos"), ("pos/b", "good\n", "pos")]
        assert list(data.classes) == ["neg", "pos"]
    assert len({fingerprint(open_dataset(place)) for place in places}) == 1
    data = open_dataset(folder, classes=["pos", "other", "neg"])
    assert Counter(e.label for e in everything(data)) == {0: 2, 2: 1}
    (folder / "pos" / "b.txt").write_text("good")
    assert fingerprint(open_dataset(folder)) != fingerprint(open_dataset(places[1]))


def test_texts_without_classes(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_bytes(b"caf\xe9 " + name.encode())
    data = open_dataset(tmp_path, encoding="latin-1")
    assert [(e.id, e.text, e.label) for e in everything(data)] == [
        ("a", "caf\u00e9 a", None),
        ("b", "caf\u00e9 b", None),
    ]
    assert data.classes is None
    with refused(InputError, "a.txt", "utf-8", "encoding="):
        open_dataset(tmp_path).read(0)
    assert open_dataset(tmp_path / "a.txt", encoding="latin-1").read(0).text == "caf\u00e9 a"
    (tmp_path / "a.txt").unlink()
    with refused(InputError, "a.txt", "nothing there"):
        data.read(0)


def test_texts_beside_folders_of_texts(tmp_path):
    (made.texts(tmp_path) / "loose.txt").write_text("loose")
    with refused(InputError, "loose.txt beside neg, pos"):
        open_dataset(tmp_path)
    (tmp_path / "loose.txt").unlink()
    with refused(InputError, "good, pos", "neg", "classes="):
        open_dataset(tmp_path, classes=["good", "pos"])
