"""Results, trainings, pictures and data that are hostile, or broken: a clear error of clew's, in bounded memory."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import hostile_data
from support.bounds import refused
from support.bounds import room as room
from support.hostile import edited

import clew
from clew.datasets import open_dataset
from clew.datasets.places import open_files
from clew.errors import ClewError, InputError
from clew.files.json_files import ANY, Number, mismatch

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("untyped")]


@pytest.mark.parametrize("name", hostile_data.RESULTS)
def test_results_that_were_saved(name, tmp_path, room):
    refused(hostile_data.RESULTS[name](tmp_path), fine=name in hostile_data.FINE, longest=6000)


@pytest.mark.parametrize("name", hostile_data.PICTURES)
def test_pictures(name, tmp_path, room):
    refused(hostile_data.PICTURES[name](tmp_path), fine=name in hostile_data.FINE, longest=6000)


@pytest.mark.parametrize("name", hostile_data.DATA)
def test_data(name, tmp_path, room):
    refused(hostile_data.DATA[name](tmp_path), fine=name in hostile_data.FINE, longest=6000)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", hostile_data.TRAININGS)
def test_trainings(name, overwrite, tmp_path, room):
    from clew.training.state import open_training

    (tmp_path / "secret").write_text("mine")
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "finetune.json").write_bytes(hostile_data.TRAININGS[name])
    before = (folder / "finetune.json").read_bytes()
    harmless = (overwrite and "asked, in a list" in name) or (overwrite and "another recipe" in name)
    if not harmless:
        with pytest.raises(InputError, match=r"cannot be read|too large|another training"):
            open_training(folder, {"model": "mini:reviews-bert"}, overwrite)
        assert (folder / "finetune.json").read_bytes() == before
    assert (tmp_path / "secret").read_text() == "mine"


def test_a_training_that_was_not_edited_is_gone_on_with(tmp_path):
    from clew.training.state import open_training

    whole = hostile_data.TRAINING
    (tmp_path / "finetune.json").write_text(json.dumps(whole))
    found = open_training(tmp_path, whole["asked"], False)
    assert found["results"]["test"] == whole["results"]["test"]
    (tmp_path / "finetune.json").write_text(
        json.dumps(edited(whole, {"results": None, "before": whole["results"]["test"]}))
    )
    assert open_training(tmp_path, whole["asked"], False)["results"] is None


@pytest.mark.parametrize("state", ["[]", "null", '{"global_step": null}', '{"global_step": 7}', "[" * 10**5])
def test_checkpoints_of_a_training_that_are_none_are_left_out(state, tmp_path):
    from clew.training.checkpoints import last_checkpoint, seal

    for name, text in (("checkpoint-3", '{"global_step": 3}'), ("checkpoint-9", state)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(text)
        seal(tmp_path / name)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_shapes_of_json():
    shape = {"a": Number(0, 1), "b?": [str], "c?": (None, {str: ANY})}
    assert mismatch({"a": 0.5, "b": ["x"], "c": {"any": [1]}}, shape) is None
    assert mismatch({"a": 1, "c": None}, shape) is None
    assert mismatch({"a": 2}, shape) == ("a", "a number from 0 to 1", "2")
    assert mismatch({"a": True}, shape) == ("a", "a number from 0 to 1", "true")
    assert mismatch({"a": 1, "b": ["x", 3]}, shape) == ("b[1]", "text", "3")
    assert mismatch({"a": 1, "c": 4}, shape) == ("c", "null or an object", "4")
    assert mismatch({}, shape) == ("", "an object with a", "one without a")
    assert mismatch({"a": 1, "z": 1}, shape) == ("", "an object of a, b, c", "one with z")
    assert mismatch(float("nan"), Number()) is None
    assert mismatch(1.5, Number(whole=True)) is not None


def test_files_outside_of_a_folder_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("text")
    files = open_files(tmp_path / "data")
    assert files.read("a.txt") == b"text"
    for name in ("../secret", "x/../../secret", str(tmp_path / "secret")):
        with pytest.raises(InputError, match="lies outside"):
            files.read(name)


def test_links_are_followed_and_loops_are_not(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.txt").write_text("text")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    assert open_files(tmp_path / "data").names == ("a/x.txt", "b/x.txt")
    below = tmp_path / "many"
    for i in range(12):  # 4,096 ways to the last
        (below / str(i)).mkdir(parents=True)
        for name in "xy":
            if i:
                (below / str(i - 1) / name).symlink_to(below / str(i))
    with pytest.raises(InputError, match="again and again"):
        _ = open_files(below / "0").names


def test_positions_in_a_file_that_is_none(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,0\nb,1\n")
    np.savez(tmp_path / "several.npz", a=np.arange(2))
    (tmp_path / "empty.npy").touch()
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    np.save(tmp_path / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("several.npz", "empty.npy", "huge.npy", "code.npy"):
        with pytest.raises(InputError, match="cannot be read"):
            open_dataset(tmp_path / "a.csv", subset=tmp_path / name)
    np.save(tmp_path / "right.npy", np.array([1]))
    assert open_dataset(tmp_path / "a.csv", subset=tmp_path / "right.npy").ids == ["1"]


def test_arrays_of_a_matlab_file_that_are_not_there(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        huge = file.create_dataset("huge", shape=(3, 10**6, 10**6), dtype="u1", chunks=(3, 64, 64))
        for name in ("img", "gt"):
            file.create_dataset(f"value/{name}", data=np.array([[huge.ref]], dtype=h5py.ref_dtype))
    with pytest.raises(InputError, match="picture 0 cannot be read"):
        open_dataset(tmp_path / "a.mat").read(0)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"9" * 5000, "²".encode()])
def test_labels_of_imagenet_that_are_none(content, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "ILSVRC2012_val_00000001.png").write_bytes(hostile_data.encoded())
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ClewError):
        open_dataset(data, "imagenet", labels=tmp_path / "labels.txt")


def test_a_devkit_that_is_huge(tmp_path):
    import gzip

    data = tmp_path / "data"
    data.mkdir()
    (data / "ILSVRC2012_val_00000001.png").write_bytes(hostile_data.encoded())
    packed = gzip.compress(hostile_data.tarred({"big": b""}, {"big": 2**40}))
    (tmp_path / "devkit.tar.gz").write_bytes(packed)
    with pytest.raises(InputError, match="cannot be read"):
        open_dataset(data, "imagenet", labels=tmp_path / "devkit.tar.gz")


def test_documents_of_eraser_that_unfold(tmp_path):
    from clew.metrics.eraser_files import read_documents

    (tmp_path / "docs.zip").write_bytes(hostile_data.zipped({"docs/a": bytes(2**27)}))
    with pytest.raises(InputError, match="unfolds"):
        read_documents(tmp_path / "docs.zip", ["a"])
    (tmp_path / "docs.jsonl").write_bytes(hostile_data.DEEP)
    with pytest.raises(InputError, match="no JSON"):
        read_documents(tmp_path / "docs.jsonl", ["a"])


def test_names_of_classes_far_apart():
    from clew.errors import LoadError
    from clew.targets.heads import labels_by_index

    with pytest.raises(LoadError, match="go by their numbers"):
        labels_by_index({10**9: "x"})
    assert labels_by_index({0: "a", "2": "b"}) == ["a", "class 1", "b"]


def test_a_pair_is_looked_at_on_both_sides(tmp_path):
    tensors, plain = hostile_data.result("image")
    inner, text = hostile_data.result("text")
    plain |= {"kind": "pair", "text/": text}
    both = tensors | {f"text/{k}": v for k, v in inner.items()}
    said = {"format": "clew-attribution-1", "attribution": json.dumps(plain)}
    save_file(both, tmp_path / "a.safetensors", said)
    assert len(clew.Attribution.load(tmp_path / "a.safetensors").text) == 2
    save_file(both | {"text/mask": torch.ones(2, 4, dtype=torch.bool)}, tmp_path / "a.safetensors", said)
    with pytest.raises(ClewError, match="text is no whole result"):
        clew.Attribution.load(tmp_path / "a.safetensors")
