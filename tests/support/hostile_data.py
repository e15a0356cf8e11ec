"""Results, trainings, pictures and data as somebody hostile, or an accident, would make them; see `hostile`."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from support.hostile import DEEP, HUGE, LOST, RAW, Case, edited
from torch import Tensor

import clew
from clew.datasets import open_dataset

# Results that were saved


def result(kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain values of a small result, as they are saved."""
    plain: dict[str, Any] = {
        "kind": kind, "method": "random", "options": {}, "target": ["a", "b"], "labels": ["a", "b", "c"],
        "checks": {"note": "x"}, "provenance": {"clew": "1"},
    }  # fmt: skip
    tensors = {"all_scores": torch.rand(2, 5), "score": torch.rand(2), "logits": torch.rand(2, 3)}
    if kind == "image":
        plain |= {
            "prefix": 1, "patch_grid": [2, 2], "patch_size": [4, 4], "input_size": [8, 8], "maps_per_image": 1,
            "boxes": [[0, 0, 8, 8], [0, 0, 8, 8]],
        }  # fmt: skip
        tensors |= {f"picture.{i}": torch.zeros(8, 8, 3, dtype=torch.uint8) for i in range(2)}
        tensors["pixels"] = torch.rand(2, 8, 8)
    else:
        plain |= {"tokens": [list("abcde"), list("abcde")], "texts": ["abcde", "abcde"]}
        truth = torch.ones(2, 5, dtype=torch.bool)
        tensors |= {"input_ids": torch.zeros(2, 5, dtype=torch.int64), "mask": truth, "special": ~truth}
        tensors["offsets"] = torch.tensor([[[i, i + 1] for i in range(5)]] * 2)
    return tensors, plain


def saved(
    kind: str,
    changes: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    header: dict[str, str] | None = None,
) -> Case:
    """A saved result with other values and tensors."""

    def make(folder: Path) -> Callable[[], Any]:
        own, plain = result(kind)
        own = {k: v for k, v in (own | (tensors or {})).items() if v is not LOST}
        said = {"format": "clew-attribution-1", "attribution": json.dumps(edited(plain, changes or {}))}
        save_file(own, folder / "a.safetensors", {k: v for k, v in (said | (header or {})).items() if v is not LOST})

        def look() -> Any:
            found = clew.Attribution.load(folder / "a.safetensors")
            return found.to_html(), found.facts(1), found[0]

        return look

    return make


def plain_file(content: bytes) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        (folder / "a.safetensors").write_bytes(content)
        return lambda: clew.Attribution.load(folder / "a.safetensors")

    return make


RESULTS: dict[str, Case] = {
    "image: nothing wrong": saved("image"),
    "text: nothing wrong": saved("text"),
    **{f"a file of {n}": plain_file(c) for n, c in {"nothing": b"", "text": b"hello", "ones": b"\xff" * 99}.items()},
    "a folder": lambda folder: lambda: clew.Attribution.load(folder),
    "nothing there": lambda folder: lambda: clew.Attribution.load(folder / "x"),
    "a pickle": plain_file(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."),
    "another form": saved("image", header={"format": "clew-attribution-9"}),
    "no plain values": saved("image", header={"attribution": LOST}),  # type: ignore[dict-item]
    "plain values cut": saved("image", header={"attribution": '{"kind": '}),
    "plain values null": saved("image", header={"attribution": "null"}),
    "plain values nested": saved("image", header={"attribution": DEEP.decode()}),
    "unknown kind": saved("image", {"kind": "evil"}),
    "kind of a number": saved("image", {"kind": 5}),
    "a text that says it is an image": saved("text", {"kind": "image"}),
    "an image that says it is a pair": saved("image", {"kind": "pair"}),
    "a pair with a broken text": saved("image", {"kind": "pair", "text/": {"kind": "text"}}),
    "no method": saved("image", {"method": LOST}),
    "method of a number": saved("image", {"method": 5}),
    "an additional value": saved("image", {"evil": 5}),
    "an additional tensor": saved("image", tensors={"evil": torch.rand(2)}),
    "targets of numbers": saved("image", {"target": [1, 2]}),
    "too many targets": saved("image", {"target": list("abc")}),
    "targets in a text": saved("image", {"target": "ab"}),
    "labels of numbers": saved("image", {"labels": [1, 2, 3]}),
    "options in a list": saved("image", {"options": []}),
    "checks in a list": saved("image", {"checks": []}),
    "provenance null": saved("image", {"provenance": None}),
    "stages without names": saved("image", tensors={"checks.relevance_by_stage": torch.rand(2, 4)}),
    "no scores": saved("image", tensors={"all_scores": LOST}),
    "scores of whole numbers": saved("image", tensors={"all_scores": torch.ones(2, 5, dtype=torch.int64)}),
    "scores of one dimension": saved("image", tensors={"all_scores": torch.rand(5)}),
    "scores of other tokens": saved("image", tensors={"all_scores": torch.rand(2, 6)}),
    "scores of other examples": saved("image", tensors={"all_scores": torch.rand(3, 5)}),
    "logits of other examples": saved("image", tensors={"logits": torch.rand(3, 3)}),
    "no score": saved("image", tensors={"score": LOST}),
    "a prefix below 0": saved("image", {"prefix": -1}),
    "a prefix of text": saved("image", {"prefix": "1"}),
    "no grid": saved("image", {"patch_grid": LOST}),
    "a grid of a billion": saved("image", {"patch_grid": [HUGE, HUGE]}),
    "a grid of three": saved("image", {"patch_grid": [2, 2, 1]}),
    "patches of a million": saved("image", {"patch_size": [10**6, 10**6]}),
    "patches of 0": saved("image", {"patch_size": [0, 0]}),
    "an input of a million": saved("image", {"input_size": [10**6, 10**6]}),
    "an input of NaN": saved("image", {"input_size": [math.nan, 8]}),
    "boxes of text": saved("image", {"boxes": [["a"] * 4] * 2}),
    "boxes of three": saved("image", {"boxes": [[0, 0, 8]] * 2}),
    "boxes of NaN": saved("image", {"boxes": [[math.nan] * 4] * 2}),
    "too many boxes": saved("image", {"boxes": [[0, 0, 8, 8]] * 9}),
    "no maps of an image": saved("image", {"maps_per_image": 0}),
    "a billion maps of an image": saved("image", {"maps_per_image": HUGE}),
    "a picture is missing": saved("image", tensors={"picture.1": LOST}),
    "a picture of floats": saved("image", tensors={"picture.1": torch.rand(8, 8, 3)}),
    "a picture of two sides": saved("image", tensors={"picture.1": torch.zeros(8, 8, dtype=torch.uint8)}),
    "an empty picture": saved("image", tensors={"picture.1": torch.zeros(0, 8, 3, dtype=torch.uint8)}),
    "pixels of another size": saved("image", tensors={"pixels": torch.rand(2, 9, 9)}),
    "a part of other tokens": saved("image", tensors={"details.semantic": torch.rand(2, 9)}),
    "tokens of numbers": saved("text", {"tokens": [[1] * 5] * 2}),
    "too few tokens": saved("text", {"tokens": [list("abcd")] * 2}),
    "tokens null": saved("text", {"tokens": None}),
    "texts of numbers": saved("text", {"texts": [1, 2]}),
    "too many texts": saved("text", {"texts": list("abc")}),
    "no numbers of tokens": saved("text", tensors={"input_ids": LOST}),
    "numbers of tokens in floats": saved("text", tensors={"input_ids": torch.rand(2, 5)}),
    "a mask of numbers": saved("text", tensors={"mask": torch.ones(2, 5)}),
    "a mask of another shape": saved("text", tensors={"mask": torch.ones(2, 6, dtype=torch.bool)}),
    "offsets of three": saved("text", tensors={"offsets": torch.zeros(2, 5, 3, dtype=torch.int64)}),
    "offsets beyond the text": saved("text", tensors={"offsets": torch.full((2, 5, 2), 10**12)}),
    "offsets below 0": saved("text", tensors={"offsets": torch.full((2, 5, 2), -3)}),
}


# Pictures


def picture(name: str, content: Callable[[], bytes]) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        (folder / name).write_bytes(content())
        return lambda: clew.open_image(folder / name)

    return make


def encoded(size: tuple[int, int] = (32, 32), form: str = "PNG", mode: str = "RGB", **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **more)
    return buffer.getvalue()


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """A PNG that says that it is so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def frames(count: int) -> bytes:
    """A GIF of so many frames: one, over and over."""
    whole = encoded(form="GIF")
    start = whole.index(b",")
    return whole[:start] + whole[start:-1] * count + b";"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"

PICTURES: dict[str, Case] = {
    "a png that is cut": picture("a.png", lambda: encoded((900, 900))[:200]),
    "a jpeg that is cut": picture("a.jpg", lambda: encoded(form="JPEG")[:300]),
    "a gif that is cut": picture("a.gif", lambda: encoded(form="GIF")[:20]),
    "a webp that is cut": picture("a.webp", lambda: encoded(form="WEBP")[:30]),
    "a tiff that is cut": picture("a.tif", lambda: encoded(form="TIFF")[:40]),
    "a bmp that is cut": picture("a.bmp", lambda: encoded(form="BMP")[:60]),
    "a png of nothing": picture("a.png", lambda: png(0, 0)),
    "a png of a billion": picture("a.png", lambda: png(2**31 - 1, 2**31 - 1)),
    "a png of a hundred thousand": picture("a.png", lambda: png(10**5, 10**5, zlib.compress(bytes(10**6)))),
    "a png that lacks its pixels": picture("a.png", lambda: png(9000, 9000, zlib.compress(b"\0"))),
    "a png of an unknown kind": picture("a.png", lambda: png(8, 8, colour=7, depth=5)),
    "a png with a large comment": picture(
        "a.png",
        lambda: png(8, 8, more=struct.pack(">I", len(z := b"a\0\0" + zlib.compress(bytes(2**27)))) + b"zTXt" + z
                    + struct.pack(">I", zlib.crc32(b"zTXt" + z))),
    ),
    "a gif of a hundred thousand frames": picture("a.gif", lambda: frames(10**5)),
    "a picture with another suffix": picture("a.png", lambda: encoded(form="JPEG")),
    "a text with the suffix of a picture": picture("a.png", lambda: b"hello"),
    "a page of PostScript": picture("a.png", lambda: EPS),
    "nothing": picture("a.png", lambda: b""),
    "broken EXIF": picture("a.jpg", lambda: encoded(form="JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "EXIF of nonsense": picture("a.png", lambda: encoded(exif=b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x05" * 9)),
    "other colours": picture("a.tif", lambda: encoded(form="TIFF", mode="LAB")),
    "floats": picture("a.tif", lambda: encoded(form="TIFF", mode="F")),
    "a very long name": lambda folder: lambda: clew.open_image(folder / ("a" * 5000 + ".png")),
    "a pipe": lambda folder: (os.mkfifo(folder / "a.png"), lambda: clew.open_image(folder / "a.png"))[1],
    "a loop": lambda folder: (
        os.symlink(folder / "a.png", folder / "a.png"),
        lambda: clew.open_image(folder / "a.png"),
    )[1],
    "no end": lambda folder: (os.symlink("/dev/zero", folder / "a.png"), lambda: clew.open_image(folder / "a.png"))[1],
}  # fmt: skip


def lazily(folder: Path) -> Callable[[], Any]:
    """A picture that Pillow opened, and that breaks where it is first looked at."""
    (folder / "a.png").write_bytes(encoded((900, 900))[:200])

    def call() -> Any:
        with Image.open(folder / "a.png") as image:
            return clew.explain(clew.load("mini:digits"), image, method="raw_attention", target=0)

    return call


def narrow(folder: Path) -> Callable[[], Any]:
    """A picture that would become a hundred times as large where its shorter side is resized."""
    prepare = clew.Preprocess.from_hf({"size": {"shortest_edge": 256}, "do_center_crop": True}, (224, 224))
    return lambda: prepare(Image.new("RGB", (10**6, 3)))


PICTURES |= {"a picture that is read late": lazily, "a picture that is very narrow": narrow}


# Data


def table(name: str, content: bytes | Callable[[], bytes], **options: Any) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        return lambda: read_all(open_dataset(folder / name, **options))

    return make


def read_all(data: Any) -> Any:
    return [data.read(i) for i in range(min(len(data), 3))], data.classes


def zipped(entries: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(entries: dict[str, bytes], sizes: dict[str, int] | None = None) -> bytes:
    """A tar whose headers may say other sizes."""
    parts = []
    for name, content in entries.items():
        info = tarfile.TarInfo(name)
        info.size = (sizes or {}).get(name, len(content))
        parts += [info.tobuf(tarfile.GNU_FORMAT), content.ljust(-(-len(content) // 512) * 512, b"\0")]
    return b"".join([*parts, bytes(1024)])


def parquet(rows: int, **more: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["a good film " * 10])
    one = pa.table({"text": column})
    with pq.ParquetWriter(buffer, one.schema, compression="zstd") as writer:
        big = pa.concat_tables([one] * 1000).combine_chunks()
        for _ in range(rows // 10**6):
            writer.write_table(big, row_group_size=10**7)
    return buffer.getvalue()


def folder_with(write: Callable[[Path], Any], **options: Any) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        inner = folder / "data"
        inner.mkdir()
        write(inner)
        return lambda: read_all(open_dataset(inner, **options))

    return make


def _loops(folder: Path) -> None:
    (folder / "a.txt").write_text("text")
    for name in "xyz":
        os.symlink(folder, folder / name)


def _outside(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(encoded())
    (folder / "a.png").write_bytes(encoded())
    (folder / "labels.csv").write_text("image,label\na.png,x\n../secret.png,y\n")


def _eraser(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "docs").mkdir()
    (folder / "docs" / "one").write_text("text")
    row = {"annotation_id": "../../secret", "classification": "NEG", "query": "", "evidences": []}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")


def _eraser_of(row: Any) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        (folder / "docs").mkdir()
        (folder / "docs" / "one").write_text("some text is here")
        (folder / "test.jsonl").write_text(json.dumps(row) + "\n")

    return write


def _marks(**changes: Any) -> Callable[[Path], Any]:
    mark = {"docid": "one", "start_token": 0, "end_token": 1, "text": "some", "start_sentence": -1, "end_sentence": -1}
    row = {"annotation_id": "one", "classification": "NEG", "query": "", "evidences": [[mark | changes]]}
    return _eraser_of(row)


DATA: dict[str, Case] = {
    **{f"json {name}": table("a.json", content) for name, content in RAW.items() if "far" not in name},
    "jsonl nested deeply": table("a.jsonl", DEEP + b"\n"),
    "jsonl of lists": table("a.jsonl", b"[1]\n"),
    "jsonl with a number of 5,000 digits": table("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}"),
    "jsonl with texts of numbers": table("a.jsonl", b'{"text": 5}\n'),
    "jsonl with labels of lists": table("a.jsonl", b'{"text": "a", "label": [1]}\n'),
    "jsonl with labels of objects": table("a.jsonl", b'{"text": "a", "label": {"a": 1}}\n'),
    "jsonl with labels of NaN": table("a.jsonl", b'{"text": "a", "label": NaN}\n'),
    "jsonl with half a character": table("a.jsonl", b'{"text": "\\ud800", "label": 1}\n'),
    "csv of nothing": table("a.csv", b""),
    "csv of NULs": table("a.csv", bytes(50)),
    "csv without rows": table("a.csv", b"text,label\n"),
    "csv with an open quote": table("a.csv", b'text,label\n"abc,1\n'),
    "csv not UTF-8": table("a.csv", b"text,label\n\xff\xfe,1\n"),
    "csv with rows too long": table("a.csv", b"text,label\na,1,2,3\n"),
    "csv with a label of 5,000 digits": table("a.csv", b"text,label\na," + b"9" * 5000 + b"\n"),
    "csv with a label of a billion": table("a.csv", b"text,label\na,1000000000\n"),
    "csv with other digits": table("a.csv", "text,label\na,²\n".encode()),
    "csv with the same column twice": table("a.csv", b"text,text\na,b\n"),
    "parquet of nothing": table("a.parquet", b""),
    "parquet of text": table("a.parquet", b"PAR1hello" + b"\xff" * 20 + b"PAR1"),
    "parquet that is cut": table("a.parquet", lambda: parquet(10**6)[:300]),
    "parquet of one row, over and over": table("a.parquet", lambda: parquet(4 * 10**6)),
    "zip of nothing": table("a.zip", b""),
    "zip that is cut": table("a.zip", lambda: zipped({"a/x.txt": b"text" * 100})[:60]),
    "zip without files": table("a.zip", lambda: zipped({})),
    "zip with names from above": table("a.zip", lambda: zipped({"../a.txt": b"text", "/etc/b.txt": b"text"})),
    "zip that is a bomb": table("a.zip", lambda: zipped({"a.txt": bytes(2**28)})),
    "zip of a broken file": table(
        "a.zip", lambda: zipped({"a.txt": b"text" * 100}, zipfile.ZIP_STORED).replace(b"texttext", b"evilevil")
    ),
    "tar of nothing": table("a.tar", b""),
    "tar that is cut": table("a.tar", lambda: tarred({"a.txt": b"text" * 1000})[:700]),
    "tar with names from above": table("a.tar", lambda: tarred({"../a.txt": b"text", "/b.txt": b"text"})),
    "tar that says it is huge": table("a.tar", lambda: tarred({"a.txt": b"text"}, {"a.txt": 2**40})),
    "tar that says more than there is": table("a.tar", lambda: tarred({"a.txt": b"text"}, {"a.txt": 2**62})),
    "tar that is compressed": table("a.tar.gz", lambda: gzip.compress(tarred({"a.txt": b"text"}))),
    "a folder of loops": folder_with(_loops),
    "a folder with a pipe": folder_with(lambda folder: os.mkfifo(folder / "a.txt")),
    "a folder with an endless file": folder_with(lambda folder: os.symlink("/dev/zero", folder / "a.txt")),
    "a table that names what lies outside": folder_with(_outside, kind="images", labels="labels.csv"),
    "rationales of what lies outside": folder_with(_eraser),
    "rationales of a list": folder_with(_eraser_of([1])),
    "rationales of null": folder_with(_eraser_of(None)),
    "rationales without marks": folder_with(_eraser_of({"annotation_id": "one", "classification": "NEG"})),
    "rationales with marks of text": folder_with(_marks(start_token="x")),
    "rationales with marks of a billion": folder_with(_marks(end_token=HUGE)),
    "rationales with marks below 0": folder_with(_marks(start_token=-5)),
    "pictures that are broken": folder_with(lambda folder: (folder / "a.png").write_bytes(encoded()[:50])),
    "pictures of PostScript": folder_with(lambda folder: (folder / "a.png").write_bytes(EPS)),
    "pictures with labels of a billion": folder_with(
        lambda folder: (
            (folder / "a.png").write_bytes(encoded()),
            (folder / "labels.csv").write_text("image,class_index,class\na.png,1000000000,x\n"),
        ),
        kind="images",
        labels="labels.csv",
    ),
    "questions with answers of numbers": table("a.jsonl", b'{"question": "a", "choices": 5, "answerKey": "A"}\n'),
    "a MATLAB file of text": table("a.mat", b"hello"),
    "positions of text": table("a.csv", b"text,label\na,1\n", subset="/etc/passwd"),
    "a saved data set that is null": folder_with(
        lambda folder: [(folder / n).write_text("null") for n in ("dataset_info.json", "state.json")]
    ),
    "a cache of newsgroups with code": folder_with(
        lambda folder: (folder / "20news-bydate_py3.pkz").write_bytes(b"hello")
    ),
    "a very long name": lambda folder: lambda: open_dataset(folder / ("a" * 5000)),
}

# What is strange, and works all the same.
FINE = {
    "image: nothing wrong",
    "text: nothing wrong",
    "a gif of a hundred thousand frames",
    "a picture with another suffix",
    "broken EXIF",
    "EXIF of nonsense",
    "other colours",
    "jsonl with labels of lists",
    "jsonl with labels of objects",
    "jsonl with labels of NaN",
    "jsonl with half a character",
    "csv with a label of 5,000 digits",
    "csv with other digits",
    "csv with the same column twice",
    "tar with names from above",
    "a folder of loops",
    "rationales without marks",
}


# Trainings

SCORES = {
    "accuracy": 0.5, "low": 0.1, "high": 0.9, "f1": 0.5, "examples": 4,
    "classes": {"neg": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "examples": 2}},
}  # fmt: skip
TRAINING = {
    "format": 1,
    "asked": {"model": "mini:reviews-bert", "recipe": {"lr": 0.1}, "more": {}},
    "notes": [], "command": "clew finetune", "versions": {"torch": "2"}, "before": None, "files": ["config.json"],
    "results": {
        "kind": "text", "test": SCORES, "evaluations": [{"epoch": 1.0, "loss": math.nan, "accuracy": 0.5}],
        "epochs": 1.0, "max_length": 64,
    },
}  # fmt: skip
TRAININGS: dict[str, bytes] = {
    **RAW,
    **{
        name: json.dumps(edited(TRAINING, changes)).encode()
        for name, changes in {
            "another format": {"format": 2},
            "no format": {"format": LOST},
            "nothing was asked": {"asked": LOST},
            "asked is a list": {"asked": []},
            "asked is null": {"asked": None},
            "another recipe, of text": {"asked.recipe": "x"},
            "more was asked, in a list": {"asked.more": [1]},
            "an additional field": {"evil": 1},
            "results are a list": {"results": []},
            "results without a test": {"results.test": LOST},
            "an accuracy of text": {"results.test.accuracy": "good"},
            "an accuracy of a billion": {"results.test.accuracy": HUGE},
            "an accuracy of NaN": {"results.test.accuracy": math.nan},
            "examples below 0": {"results.test.examples": -1},
            "classes in a list": {"results.test.classes": []},
            "evaluations of text": {"results.evaluations": ["x"]},
            "before is a number": {"before": 5},
            "notes are text": {"notes": "x"},
            "versions are numbers": {"versions": {"torch": 2}},
            "files are a number": {"files": 5},
            "files from above": {"files": ["../secret"]},
            "files by their paths": {"files": ["/secret"]},
            "files that are its own": {"files": ["finetune.json"]},
            "files without names": {"files": [""]},
        }.items()
    },
}
