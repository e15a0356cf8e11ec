"""Data sets: which examples, how they are recognised, and what identifies them; no format in particular."""

from __future__ import annotations

import json
import os
import pickle
import random
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

import clew
from clew.datasets import Dataset, Example, fingerprint, joined, open_dataset, reader, readers
from clew.datasets.places import open_files
from clew.errors import ClewError, InputError, OptionError


class Held(Dataset):
    """Examples in memory, of which some cannot be read."""

    name, classes = "held", None

    def __init__(self, texts, label=0):
        self.texts, self.label = texts, label
        self.ids = [str(i) for i in range(len(texts))]

    def read(self, index):
        if self.texts[index] is None:
            raise InputError(f"/some/place/{index} is broken")
        return Example(id=self.ids[index], text=self.texts[index], label=self.label)


def numbers(n=50):
    return Held([f"text {i}" for i in range(n)])


def pictures(folder, names, size=(6, 4)):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10 * i, 20, 30)).save(folder / name)


# --- which examples -------------------------------------------------------------------------------------------------


def test_a_data_set_is_taken_as_it_is():
    data = numbers()
    assert open_dataset(data) is data
    assert len(open_dataset(data, limit=7)) == 7
    for more in ({"kind": "images"}, {"classes": ["a"]}):
        with pytest.raises(OptionError, match="open already"):
            open_dataset(data, **more)


def test_a_subset_keeps_the_order_of_its_list(tmp_path):
    np.save(tmp_path / "pert_index.npy", np.array([7, 3, 11]))
    for subset in ([7, 3, 11], np.array([7, 3, 11]), tmp_path / "pert_index.npy", str(tmp_path / "pert_index.npy")):
        data = open_dataset(numbers(), subset=subset)
        assert list(data.ids) == ["7", "3", "11"]
        assert [data.read(i).text for i in range(3)] == ["text 7", "text 3", "text 11"]
    assert list(open_dataset(data, subset=[2, 0]).ids) == ["11", "7"]  # positions in the subset


def test_a_sample_is_what_pythons_random_draws():
    random.seed(0)
    expected = random.sample(range(50), 12)
    assert list(open_dataset(numbers(), sample=12).ids) == [str(i) for i in expected]
    random.seed(3)
    expected = random.sample(range(50), 12)
    assert list(open_dataset(numbers(), sample=12, seed=3).ids) == [str(i) for i in expected]


def test_a_fraction_is_what_numpys_choice_draws():
    np.random.seed(42)
    expected = np.random.choice(list(range(57)), size=int(57 * 0.1), replace=False)
    assert list(open_dataset(numbers(57), fraction=0.1, seed=42).ids) == [str(i) for i in expected]
    larger = open_dataset(numbers(57), fraction=0.5, seed=42).ids
    assert list(larger[: len(expected)]) == [str(i) for i in expected]


def test_a_limit_takes_the_first_or_with_a_seed_random_ones():
    assert list(open_dataset(numbers(), limit=4).ids) == ["0", "1", "2", "3"]
    expected = np.random.RandomState(5).permutation(50)[:4]
    assert list(open_dataset(numbers(), limit=4, seed=5).ids) == [str(i) for i in expected]
    assert list(open_dataset(numbers(), sample=9, seed=5, limit=4).ids) == list(
        open_dataset(numbers(), sample=9, seed=5).ids[:4]
    )
    assert len(open_dataset(numbers(), limit=1000)) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": [0, 50]}, "held has 50 examples"),
        ({"subset": [-1]}, "held has 50 examples"),
        ({"subset": np.array([0.0, 1.0])}, "lists positions"),
        ({"subset": np.zeros((2, 2), int)}, "lists positions"),
        ({"subset": "nowhere.npy"}, "cannot be read"),
        ({"sample": 51}, "cannot draw so many"),
        ({"fraction": 0.0}, "share of the examples"),
        ({"fraction": 1.5}, "share of the examples"),
        ({"limit": 0}, "number of examples"),
    ],
)
def test_what_cannot_be_drawn(options, message, untyped):
    with pytest.raises(ClewError, match=message):
        open_dataset(numbers(), **options)


def test_positions_are_never_unpickled(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        open_dataset(numbers(), subset=tmp_path / "bad.npy")


# --- what identifies the content ------------------------------------------------------------------------------------


def test_the_fingerprint_follows_ids_order_and_content():
    base = fingerprint(numbers(5))
    assert base == fingerprint(numbers(5)) == fingerprint(numbers(9).subset([0, 1, 2, 3, 4]))
    changed = Held([f"text {i}" for i in range(5)], label=1)
    others = [
        changed, numbers(4), numbers(5).subset([1, 0, 2, 3, 4]), Held(["text 0", "text 1", None, "text 3", "text 4"]),
    ]  # fmt: skip
    assert len({base, *map(fingerprint, others)}) == 5


def test_a_broken_example_has_the_same_fingerprint_wherever_it_lies():
    class Elsewhere(Held):
        def read(self, index):
            if self.texts[index] is None:
                raise InputError(f"/other/place/{index} is broken")
            return super().read(index)

    assert fingerprint(Held(["a", None])) == fingerprint(Elsewhere(["a", None]))


def test_content_tells_every_field_apart():
    red, blue = Image.new("RGB", (2, 3), "red"), Image.new("RGB", (2, 3), "blue")
    one, two = np.zeros((2, 3), np.int8), np.zeros((3, 2), np.int8)
    fields = [
        {}, {"image": None}, {"image": red}, {"image": blue}, {"image": red.resize((3, 2))}, {"mask": one},
        {"mask": two}, {"text": "a"}, {"text": "b"}, {"label": 1}, {"label": "1"}, {"text": "a", "label": None},
        {"words": ("a b",)}, {"words": ("a", "b")}, {"image": b"x"}, {"image": "x"}, {"text": "ab", "x": "c"},
        {"text": "a", "x": "bc"}, {"text": "\ud800"},
    ]  # fmt: skip
    assert len({joined(f) for f in fields}) == len(fields)


# --- recognising ----------------------------------------------------------------------------------------------------


def test_files_that_are_not_there_say_where_to_get_them(tmp_path):
    with pytest.raises(InputError, match=r"calvin-vision\.net") as error:
        open_dataset(tmp_path / "gtsegs_ijcv.mat")
    assert "imagenet_segmentation" in str(error.value) and "newsgroups" not in str(error.value)
    with pytest.raises(InputError, match="29b22e2961454d5413ddabcf34fc5622"):
        open_dataset(tmp_path / "ILSVRC2012_img_val.tar")
    with pytest.raises(InputError, match=r"qwone\.com"):
        open_dataset(tmp_path / "20news-bydate")
    with pytest.raises(InputError, match=r"eraserbenchmark\.com"):
        open_dataset(tmp_path / "anything", kind="eraser")
    with pytest.raises(InputError, match="check the path") as error:
        open_dataset(tmp_path / "anything")
    assert all(f"{kind}:" in str(error.value) for kind in readers())


def test_files_that_fit_no_kind_or_several(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"\0")
    for place in (tmp_path, tmp_path / "data.bin"):
        with pytest.raises(OptionError, match="fits no kind of data") as error:
            open_dataset(place)
        assert "data.bin" in str(error.value) and "kind=" in str(error.value)
    pictures(tmp_path, ["images/a.png", "masks/a.png"])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    (tmp_path / "test.jsonl").write_text("{}")
    with pytest.raises(OptionError, match="fits several kinds of data") as error:
        open_dataset(tmp_path)
    assert "eraser:" in str(error.value) and "masks:" in str(error.value) and "images:" not in str(error.value)
    assert len(open_dataset(tmp_path, kind="masks")) == 1


def test_unknown_kinds_and_options(tmp_path):
    pictures(tmp_path, ["cat/a.png", "dog/b.png"])
    with pytest.raises(OptionError, match="did you mean 'images'"):
        open_dataset(tmp_path, kind="image")
    with pytest.raises(OptionError, match="did you mean 'classes'"):
        open_dataset(tmp_path, clases=["cat", "dog"])


def test_every_reader_says_what_it_reads_and_documents_its_options():
    for kind, found in readers().items():
        assert found.what and found.get, kind
        assert (found.sees is None) == (found.prefix is not None), kind
        for name in found.options:
            assert f"`{name}`" in found.function.__doc__ or "options as for" in found.function.__doc__, (kind, name)


def test_a_reader_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr("clew.datasets._registered", dict(readers()))

    @reader("lines", what="lines of a .lines file", get="write one", sees=lambda files: bool(files.ending(".lines")))
    def lines(files, *, upper=False):
        text = files.text(files.names[0])
        return Held((text.upper() if upper else text).splitlines())

    (tmp_path / "a.lines").write_text("one\ntwo")
    assert open_dataset(tmp_path / "a.lines", upper=True).read(1).text == "TWO"
    with pytest.raises(ClewError, match="registered already"):
        reader("lines", what="", get="")(lines)


# --- folders and archives -------------------------------------------------------------------------------------------


def test_folders_and_archives_give_the_same_examples(tmp_path):
    names = ["cat/1.png", "cat/2.png", "dog/1.png"]
    pictures(tmp_path / "whole", names)
    (tmp_path / "whole" / ".hidden").write_text("no")
    (tmp_path / "whole" / "cat" / "._1.png").write_text("no")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as z, tarfile.open(tmp_path / "whole.tar", "w") as t:
        z.mkdir("top")
        z.writestr("__MACOSX/top/cat/1.png", b"no")
        for name in names:
            z.write(tmp_path / "whole" / name, f"top/inner/{name}")
            t.add(tmp_path / "whole" / name, name)
    folder, zipped, tarred = (open_dataset(tmp_path / n) for n in ("whole", "whole.zip", "whole.tar"))
    assert list(folder.ids) == ["cat/1", "cat/2", "dog/1"]
    assert list(folder.classes) == ["cat", "dog"]
    for other in (zipped, tarred, *(pickle.loads(pickle.dumps(d)) for d in (folder, zipped, tarred))):
        assert list(other.ids) == list(folder.ids) and list(other.classes) == list(folder.classes)
        assert fingerprint(other) == fingerprint(folder)
        assert [other.read(i).image.getpixel((0, 0)) for i in range(3)] == [(0, 20, 30), (10, 20, 30), (20, 20, 30)]


def test_a_file_is_opened_anew_in_each_process(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("a.txt", "a")
    files = open_files(tmp_path / "a.zip")
    first = files._zip.get()
    assert files._zip.get() is first
    real = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: real + 1)
    assert files._zip.get() is not first
    assert files.read("a.txt") == b"a"


def test_broken_archives(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="is broken"):
        open_dataset(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as t:
        t.add(tmp_path / "a.zip", "a.txt")
    with pytest.raises(InputError, match="unpack it"):
        open_dataset(tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "b.tar", "w") as t:
        t.add(tmp_path / "a.zip", "a.txt")
    files = open_files(tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(data[:514])
    with pytest.raises(InputError, match="is cut off"):
        files.read("a.txt")
    for place in (files, open_files(tmp_path)):
        with pytest.raises(InputError, match="nothing there"):
            place.read("missing.txt")


# --- what ships -----------------------------------------------------------------------------------------------------


def test_the_digits_that_ship():
    data, scenes = open_dataset("mini:digits"), clew.scenes()
    assert len(data) == len(scenes.images) and list(data.classes) == list(clew.load("mini:digits").labels)
    for i in (0, 13):
        example = data.read(i)
        assert example.image.tobytes() == scenes.images[i].tobytes()
        assert example.mask.dtype == np.int8 and np.array_equal(example.mask == 1, scenes.masks[i])
        assert example.label == scenes.labels[i]


def test_the_captioned_digits_that_ship():
    data, scenes = open_dataset("mini:digits-clip"), clew.captioned_scenes()
    assert len(data) == 2 * len(scenes.images) == len(set(data.ids))
    for i in (0, 7):
        for which in (0, 1):
            example = data.read(2 * i + which)
            assert example.text == scenes.captions[i][which]
            assert example.label == scenes.labels[i, which]
            assert np.array_equal(example.mask == 1, scenes.masks[i, which])


def test_the_reviews_that_ship():
    data = open_dataset("mini:reviews", count=20)
    assert len(data) == 20 and list(data.classes) == ["negative", "positive"]
    for i, review in enumerate(clew.reviews(20)):
        example = data.read(i)
        assert example.text == review.text == " ".join(example.words) and example.label == review.label
        marked = [w for start, end in example.rationale for w in example.words[start:end]]
        assert marked == [review.text[a:b] for a, b in sorted(review.decisive)]


def test_there_is_no_other_that_ships():
    with pytest.raises(OptionError, match="did you mean 'digits'"):
        open_dataset("mini:digit")


def test_a_damaged_entry_of_a_zip_is_said_and_costs_itself_alone(tmp_path):
    (tmp_path / "eraser").mkdir()
    text = " ".join(f"word{i}" for i in range(3000))
    with zipfile.ZipFile(tmp_path / "eraser" / "docs.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("docs/a", text)
        packed.writestr("docs/b", "fine")
        start = packed.getinfo("docs/a").header_offset + 30 + len("docs/a")
    content = bytearray((tmp_path / "eraser" / "docs.zip").read_bytes())
    content[start] = 0xFF  # a kind of block that there is not
    (tmp_path / "eraser" / "docs.zip").write_bytes(content)
    rows = [{"annotation_id": name, "evidences": [], "classification": "POS"} for name in "ab"]
    (tmp_path / "eraser" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_dataset(tmp_path / "eraser")
    with pytest.raises(InputError, match="cannot be read"):
        data.read(0)
    assert data.read(1).text == "fine" and fingerprint(data) == fingerprint(open_dataset(tmp_path / "eraser"))
