"""What identifies data stays: results of before are known by it. Fingerprints were taken at commit f6667ca."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest
import scipy.io
from support import text_data as made
from support.text_data import lines, parquet, separated

from clew.datasets import fingerprint, open_dataset

WNIDS = ["n01440764", "n01443537", "n01484850"]
ODD = [
    {"text": 'a "b", c\u2028', "label": "1", "uid": "x"}, {"text": "\u00e9\n", "label": "0", "uid": ""},
    {"text": "", "label": "1", "uid": "x"},
]  # fmt: skip


def write(folder, *names):
    """Files whose bytes say their names: what identifies a picture is its file, which is not decoded."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"bytes of " + name.encode())
    return folder


def packed(folder):
    """The same files in a zip, with a folder above them, and in a tar."""
    places = [folder, folder.with_suffix(".zip"), folder.with_suffix(".tar")]
    with zipfile.ZipFile(places[1], "w") as z, tarfile.open(places[2], "w") as t:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                z.write(file, f"top/{file.relative_to(folder)}")
                t.add(file, file.relative_to(folder))
    return places


def tables(folder):
    header = [list(ODD[0]), *(list(row.values()) for row in ODD)]
    rows = [{**ODD[0], "more": [{"a": None}]}, {"text": "b", "label": None}, {"label": "0", "text": "2020-01-01"}]
    yield "csv", separated(folder / "a.csv", header), {}
    yield "csv in latin-1", separated(folder / "b.csv", [["text"], ["caf\u00e9"]], "latin-1"), {"encoding": "latin-1"}
    yield "tsv", separated(folder / "a.tsv", [["a", '"x'], ["b", "y z"]]), {"columns": ["class", "document"]}
    yield "jsonl", lines(folder / "a.jsonl", rows), {"classes": ["1", "0"]}
    yield "json", lines(folder / "a.json", [rows]), {"id": "text", "label": "text", "text": "text"}
    yield "parquet", parquet(folder / "a.parquet", rows), {}
    for i in range(2):
        parquet(folder / "pieces" / f"test-0000{i}-of-00002.parquet", [{"text": str(i), "label": 2.0, "idx": i}])
    yield "pieces", folder / "pieces", {"split": "test"}
    yield "imdb", made.imdb(folder / "imdb.csv"), {}
    yield "imdb, test", folder / "imdb.csv", {"split": "test"}
    for split in ("test", "train+test"):
        yield f"eraser, {split}", made.eraser(folder / split), {"split": split}
    yield "eraser, zipped", made.eraser(folder / "zipped", zipped=True), {"classes": ["POS", "NEG"]}
    yield "arc, AI2", lines(folder / "arc.jsonl", made.ai2()), {}
    yield "arc, numbers", lines(folder / "arc.json", [made.hugging_face()]), {"keep": ["1", "2", "3"]}
    news = made.newsgroups(folder / "news")
    yield "newsgroups", news, {}
    yield "newsgroups, whole", news, {"split": "all", "remove": []}


def saved(folder):
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": -1}]
    picture = {"bytes": b"bytes", "path": None}
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).save_to_disk(folder / "labels")
    features = dict.fromkeys(("image", "mask"), datasets.Image()) | {"uid": datasets.Value("string")}
    rows = [{"image": picture, "mask": picture, "uid": "one"}]
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).save_to_disk(folder / "pictures")
    datasets.Dataset.from_list(made.hugging_face()).save_to_disk(folder / "questions")
    yield "saved, labels", folder / "labels", {}
    yield "saved, pictures", folder / "pictures", {}
    yield "saved, masks", folder / "pictures", {"mask": "mask", "ignore": 255}
    yield "saved, questions", folder / "questions", {}
    parquet(folder / "hub" / "train.parquet", ODD)
    yield "hub", "hf:hub", {"split": "train"}
    yield "hub, two", "hf:hub", {"split": "train", "take": 2, "classes": ["0", "1"]}


def folders(folder):
    for place in packed(made.texts(folder / "texts")):
        yield f"texts{place.suffix}", place, {}
    for place in packed(write(folder / "images", "dog/a.png", "cat/b/a.JPG", "cat/.c.png", "dog/a.jpg")):
        yield f"images{place.suffix}", place, {}
    yield "images, classes", folder / "images", {"classes": ["dog", "fox", "cat"]}
    labels = separated(folder / "labels.csv", [["file", "class"], ["dog/a", "d"], ["a.JPG", "c"], ["gone", "c"]])
    yield "images, labels", folder / "images", {"kind": "images", "labels": labels}
    pairs = [f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("x/1", "x/2", "y/1")]
    for place in packed(write(folder / "masks", *pairs, "images/lonely.png")):
        yield f"masks{place.suffix}", place, {"ignore": None}
    rows = [["frame", "x0", "y0", "x1", "y1", "class_index", "class_name"], ["x/2", 0, 0, 1, 2, 3, "c"]]
    crops = separated(folder / "crops.tsv", [*rows, ["x/2.png", 1, 0, 2, 2, 3, "c"], ["z", 0, 0, 1, 1, 1, "a"]])
    yield "masks, crops", folder / "masks", {"crops": crops}
    yield "masks, labels", folder / "masks", {"labels": crops, "classes": ["c", "a"]}
    voc = write(folder / "voc", *(f"{f}/{n}.png" for f in ("JPEGImages", "SegmentationClass") for n in "ab"))
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    yield "masks, VOC", voc, {"split": "val"}
    with h5py.File(folder / "a.mat", "w") as file:
        image, mask = np.arange(24, dtype=np.uint8).reshape(3, 4, 2), np.eye(4, 2, dtype=np.uint8)
        for name, array in {"img": image, "gt": mask, "target": np.array([[ord(c)] for c in WNIDS[1]])}.items():
            ref = file.create_dataset(f"refs/{name}", data=array).ref
            file.create_dataset(f"value/{name}", data=np.array([[ref]], dtype=h5py.ref_dtype))
    yield "segmentation", folder / "a.mat", {}
    yield "segmentation, classes", folder / "a.mat", {"classes": WNIDS}


def imagenet(folder):
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]
    flat = write(folder / "flat", *names)
    for place in packed(flat):
        yield f"imagenet{place.suffix}", place, {"kind": "imagenet"}
    labels = {
        "wnids.txt": "\n".join(reversed(WNIDS)), "indices.txt": "2\n0\n1\n",
        "map.txt": "".join(f"{name} {WNIDS[i]}\n" for i, name in enumerate(names)),
        "boxes.csv": "ImageId,PredictionString\n" + "".join(f"{n[:-5]},{WNIDS[0]} 1 2\n" for n in names),
    }  # fmt: skip
    for name, text in labels.items():
        (folder / name).write_text(text)
        yield f"imagenet, {name}", flat, {"labels": folder / name, "wnids": WNIDS}
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    synsets = [(float(n), w, 0.0) for n, w in zip((3, 1, 2), WNIDS, strict=True)] + [(4.0, "n00001740", 3.0)]
    (folder / "devkit" / "data").mkdir(parents=True)
    (folder / "devkit" / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n1\n")
    scipy.io.savemat(folder / "devkit" / "data" / "meta.mat", {"synsets": np.array(synsets, dtype=kinds)[:, None]})
    with tarfile.open(folder / "devkit.tar.gz", "w:gz") as tar:
        tar.add(folder / "devkit", "devkit")
    for name in ("devkit", "devkit.tar.gz"):
        yield f"imagenet, {name}", flat, {"labels": folder / name}
    sorted_in = write(folder / "sorted", *(f"val/{WNIDS[i % 2]}/{name}" for i, name in enumerate(names)))
    yield "imagenet, folders", sorted_in, {"wnids": WNIDS, "classes": ["a", "b", "c"]}


def ships(folder):
    for name in ("digits", "digits-clip", "reviews"):
        yield name, f"mini:{name}", {}
    np.save(folder / "positions.npy", np.array([3, 1, 2]))
    for options in (
        {"limit": 5}, {"sample": 4, "seed": 3}, {"fraction": 0.2, "seed": 1}, {"limit": 3, "seed": 2}, {"sample": 3},
        {"subset": folder / "positions.npy"},
    ):  # fmt: skip
        yield ", ".join(options), "mini:reviews", options


def identity(place, options):
    data = open_dataset(place, **options)
    said = [fingerprint(data), data.name, list(data.ids), None if data.classes is None else list(data.classes)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


KNOWN = {
    "tables": {
        "csv": "ab8e775f586d100a",
        "csv in latin-1": "0a6df91a2386d4c3",
        "tsv": "bae45e04cb856583",
        "jsonl": "1201a9c50e8e474a",
        "json": "b548cbf0b3b9420d",
        "parquet": "941e6f93dc464599",
        "pieces": "a0685c40859678db",
        "imdb": "cbfa0a938abae177",
        "imdb, test": "fb4ba0c021014bd3",
        "eraser, test": "95a899ac98856fe1",
        "eraser, train+test": "8062921fd6301c1c",
        "eraser, zipped": "252afe22bacbe055",
        "arc, AI2": "2ceeb9bd4db70810",
        "arc, numbers": "0163a048b36d887c",
        "newsgroups": "d696cef0c30dc315",
        "newsgroups, whole": "19b845791fc8ba28",
    },
    "saved": {
        "saved, labels": "1ebda9a3eb17d4a0",
        "saved, pictures": "d8343fa4464d7144",
        "saved, masks": "e4433aebaf11c0f4",
        "saved, questions": "4d0725746e1f7092",
        "hub": "5f3ae4e2f4eea065",
        "hub, two": "ec0258e63ce13d8d",
    },
    "folders": {
        "texts": "67542d1ef261263f",
        "texts.zip": "1f51e8bc7187ad75",
        "texts.tar": "d660735994ffef42",
        "images": "6b0fbe37d80abbac",
        "images.zip": "5f3e46d4aa2c7998",
        "images.tar": "9aad44255fda19c7",
        "images, classes": "95983bedcb24a3aa",
        "images, labels": "5f90e1be5aa99d43",
        "masks": "daa05afb14ffd1a6",
        "masks.zip": "551e4a51e0ee7c14",
        "masks.tar": "1ee6e4f70b461025",
        "masks, crops": "7b2acd82e7615e5f",
        "masks, labels": "bdf1dad3a1431bd7",
        "masks, VOC": "5cebac17518ee640",
        "segmentation": "d768b597ae277b1a",
        "segmentation, classes": "830ae6c397fb5fe4",
    },
    "imagenet": {
        "imagenet": "d089395d06c56034",
        "imagenet.zip": "98b162cfe69de746",
        "imagenet.tar": "e7793051ce15fb51",
        "imagenet, wnids.txt": "f4fde5dadd6b4f61",
        "imagenet, indices.txt": "d6a34a84deaa7daa",
        "imagenet, map.txt": "4ef3bd98bb2c7bef",
        "imagenet, boxes.csv": "a3cedc57ce9582d6",
        "imagenet, devkit": "d6a34a84deaa7daa",
        "imagenet, devkit.tar.gz": "d6a34a84deaa7daa",
        "imagenet, folders": "babe1a6713dc45d2",
    },
    "ships": {
        "digits": "00c8e4be80692883",
        "digits-clip": "b353f3238e2783c5",
        "reviews": "01af84fa49e88b01",
        "limit": "4833f3dc6ea0193d",
        "sample, seed": "6754e8d8c80239c9",
        "fraction, seed": "c1ae94f24eb4715e",
        "limit, seed": "2ec2a1f8ba03ce5f",
        "sample": "5cc58c2c8a63c0ce",
        "subset": "5124304b02fdf9e5",
    },
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("makers", [tables, saved, folders, imagenet, ships])
def test_data_are_identified_as_before(makers, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    found = {name: identity(place, options) for name, place, options in makers(Path())}
    assert found == KNOWN[makers.__name__]
