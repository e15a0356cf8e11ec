"""Files are written whole or not at all; what the system says against it is told, by every writer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.full_disk import full_after, longest_file
from support.running import run

import clew
from clew.app.downloads import _zipped
from clew.app.folders import Folders, own_folder
from clew.attributions.figure import figure
from clew.errors import WriteError
from clew.files.atomic import write, write_all, write_errors
from clew.metrics import write_top_k
from clew.minis.training import write_processor, write_scenes


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def results(digits):
    image = digits.preprocess(clew.scenes("digits").images[3])[0][None]
    return [clew.explain(digits, image, method=name) for name in ("random", "raw_attention")]


@pytest.fixture(scope="module")
def segmented(digits, tmp_path_factory):
    return run(digits, tmp_path_factory.mktemp("run") / "run", limit=2)


WRITERS = {
    "numbers": lambda out, results, run: results[0].save(out / "a.safetensors"),
    "page": lambda out, results, run: results[0].save(out / "a.html"),
    "picture": lambda out, results, run: results[0].save(out / "a.png"),
    "side by side": lambda out, results, run: clew.compare(results, out / "a.html"),
    "figure": lambda out, results, run: figure(results, out / "a.pdf"),
    "report": lambda out, results, run: run.report(out / "a.html"),
    "predictions": lambda out, results, run: write_top_k(out, {"doc": [0.5, 1.0]}, [1, 2]),
    "processor": lambda out, results, run: write_processor(out, "ViTImageProcessor", 8),
    "scenes": lambda out, results, run: write_scenes(out, images=torch.zeros(3).numpy()),
    "zip": lambda out, results, run: _zipped([Path(__file__)], out / "a.zip"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_that_says_what_to_do_and_leaves_all_as_it_was(
    writer, results, segmented, tmp_path, monkeypatch
):
    WRITERS[writer](tmp_path, results, segmented)
    before = content(tmp_path)
    for path in before:
        (tmp_path / path).write_bytes(b"older")
    # Where several files belong together, the last one is the one that does not fit.
    full_after(monkeypatch, len(before) - 1)
    with pytest.raises(WriteError, match=r"cannot write .*\n.*No space left on device\n.*make room") as error:
        WRITERS[writer](tmp_path, results, segmented)
    assert error.value.errno == errno.ENOSPC and str(list(before)[-1]).partition(".")[0] in str(error.value)
    assert content(tmp_path) == dict.fromkeys(before, b"older")


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "a folder that you may write to"),
        (errno.EACCES, "a folder that you may write to"),
        (errno.EIO, "write elsewhere"),
    ],
)
def test_what_the_system_says_decides_what_to_do(tmp_path, monkeypatch, number, todo):
    def refuse(*_args, **_more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(WriteError, match=f"{os.strerror(number)}[\\s\\S]*{todo}"):
        write(tmp_path / "new" / "a.txt", {".txt": lambda: "words"})
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(WriteError, match="temporary folder"):
        Folders(tmp_path).new()
    with pytest.raises(WriteError, match="temporary folder"), own_folder():
        pass


def test_names_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "a.txt").mkdir()
    for path, todo in (
        (tmp_path / "file" / "a.txt", "in the way"),
        (tmp_path / "a.txt", "in the way"),
        (tmp_path / f"{'n' * 300}.txt", "a shorter name"),
    ):
        with pytest.raises(WriteError, match=todo):
            write_all({path: "words"})
    assert write_all({tmp_path / f"{'é' * 120}.txt": "words"})[0].read_text() == "words"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("how", ["safetensors", "torch", "python"])
def test_libraries_that_raise_no_error_of_the_system(tmp_path, how):
    tensors = {"a": torch.zeros(100_000)}
    writers = {
        "safetensors": lambda: save_file(tensors, tmp_path / "a"),
        "torch": lambda: torch.save(tensors, tmp_path / "a"),
        "python": lambda: (tmp_path / "a").write_bytes(bytes(400_000)),
    }
    with (
        longest_file(20_000),
        pytest.raises(WriteError, match=r"cannot write the weights[\s\S]*make room[\s\S]*; then go"),
        write_errors("the weights", then="go on"),
    ):
        writers[how]()
    with pytest.raises(KeyError), write_errors("the weights"):  # which is no business of the disk
        raise KeyError("a")


def test_the_standard_output_may_be_full(monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "clew", "methods"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1 and "No space left" in ended.stderr and "Traceback" not in ended.stderr
