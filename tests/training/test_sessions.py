"""A training that was stopped goes on and ends the same; its folder is whole, and says what was measured."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from support.full_disk import longest_file
from support.labelled_data import reviews, table
from support.text_data import refused
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer
from typer.testing import CliRunner

import clew
import clew.training.loop
import clew.training.session
from clew.cli.main import app
from clew.errors import ClewError, InputError, OptionError, WriteError
from clew.training.checkpoints import last_checkpoint, seal
from clew.training.data import split_data
from clew.training.finetune import finetune
from clew.training.models import Trainable
from clew.training.recipes import TASKS

FILES = ["README.md", "config.json", "finetune.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def quick(source, out, model="mini:reviews-bert", **options):
    """A training of a few steps."""
    usual = {"epochs": 2.0, "batch_size": 8, "before": False, "show_progress": False, "lr": 1e-3}
    return finetune(str(source), model, out=out, **{**usual, **options})


def weights(folder):
    return load_file(str(folder / "model.safetensors"))


def same(one, other):
    found, expected = weights(one), weights(other)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def facts(folder):
    return json.loads((folder / "finetune.json").read_text())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Reviews whose classes are a matter of chance: the more is learned, the worse is what was not seen."""
    rows = [(r.text, ("good", "bad")[(7 * i) % 10 < 5]) for i, r in enumerate(clew.reviews(40))]
    return table(tmp_path_factory.mktemp("data") / "reviews.csv", rows)


class Stopped(Exception):
    """As if the machine went off."""


def stopping(at):
    """A `tell` that stops at an evaluation, before what it measured is saved."""
    said = []

    def tell(line):
        said.append(line)
        if sum(one.startswith("epoch ") for one in said) == at:
            raise Stopped

    return tell


# Going on


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Trained without being stopped; the model has dropout, and is evaluated in the middle of an epoch."""
    return quick(source, tmp_path_factory.mktemp("whole"), eval_steps=3, epochs=4.0, patience=0)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TORN = {
    "none": lambda newest: None,
    "state gone": lambda newest: (newest / "trainer_state.json").unlink(),
    "state cut": lambda newest: cut(newest / "trainer_state.json"),
    "weights gone": lambda newest: (newest / "model.safetensors").unlink(),
    "weights cut": lambda newest: cut(newest / "model.safetensors"),
    "weights zero": lambda newest: (newest / "model.safetensors").write_bytes(bytes(9)),
    "optimizer gone": lambda newest: (newest / "optimizer.pt").unlink(),
    "optimizer empty": lambda newest: (newest / "optimizer.pt").write_bytes(b""),
    "random numbers gone": lambda newest: (newest / "rng_state.pth").unlink(),
    "random numbers cut": lambda newest: cut(newest / "rng_state.pth"),
    "not finished": lambda newest: (newest / "whole.json").unlink(),
}


@pytest.fixture(scope="module")
def stopped(source, tmp_path_factory):
    """A training that was stopped with several checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.raises(Stopped):
        quick(source, folder, tell=stopping(4), eval_steps=3, epochs=4.0, patience=0)
    return folder


@pytest.mark.parametrize("torn", TORN)
def test_a_checkpoint_that_is_torn_is_passed_over_for_the_last_whole_one(stopped, tmp_path, torn, caplog):
    checkpoints = shutil.copytree(stopped / "checkpoints", tmp_path / "checkpoints")
    TORN[torn](checkpoints / "checkpoint-9")
    found = last_checkpoint(checkpoints)
    assert found is not None and (found.name == "checkpoint-9") == (torn == "none")
    assert ("checkpoint-9 is passed over, and removed: " in caplog.text) == (torn != "none")
    for older in checkpoints.iterdir():
        TORN["weights cut"](older)
    assert last_checkpoint(checkpoints) is None and not list(checkpoints.iterdir())


def test_the_newest_checkpoint_is_of_no_use_without_the_best_weights(tmp_path, caplog):
    def checkpoint(step, best):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir(exist_ok=True)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_global_step": best}))
        for name in ("model.safetensors", "optimizer.pt"):
            (folder / name).write_bytes(b"numbers")
        seal(folder)
        return folder

    first, last = checkpoint(3, 3), checkpoint(12, 3)
    (first / "optimizer.pt").unlink()  # which the end does not need
    assert last_checkpoint(tmp_path) == last
    cut(first / "model.safetensors")
    assert last_checkpoint(tmp_path) is None
    assert "the best weights are those of checkpoint-3, and model.safetensors is torn" in caplog.text


@pytest.mark.parametrize("torn", ["none", "state gone", "optimizer empty"])
def test_a_stopped_training_goes_on_and_ends_with_the_same_bits(source, whole, tmp_path, torn):
    asked = {"eval_steps": 3, "epochs": 4.0, "patience": 0}
    with pytest.raises(Stopped):
        quick(source, tmp_path, tell=stopping(4), **asked)
    checkpoints = tmp_path / "checkpoints"
    assert "results" not in facts(tmp_path) and not (tmp_path / "model.safetensors").exists()
    assert (checkpoints / "checkpoint-9" / "trainer_state.json").is_file()
    TORN[torn](checkpoints / "checkpoint-9")
    said = []
    done = quick(source, tmp_path, tell=said.append, **asked)
    going = [line for line in said if line.startswith("going on from")]
    assert len(going) == 1 and going[0].endswith("checkpoint-9") == (torn == "none")
    same(tmp_path, whole.folder)
    assert done.facts["results"] == whole.facts["results"]
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES


def test_all_that_was_cut_off_begins_anew(source, whole, tmp_path):
    with pytest.raises(Stopped):
        quick(source, tmp_path, tell=stopping(2), eval_steps=3, epochs=4.0, patience=0)
    state = tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    said = []
    quick(source, tmp_path, tell=said.append, eval_steps=3, epochs=4.0, patience=0)
    assert not any("going on" in line for line in said)
    same(tmp_path, whole.folder)


@pytest.fixture(scope="module")
def learnable(tmp_path_factory):
    """A class that can be told by a word, and the parts it is divided into."""
    rows = [(f"{text}, {['dull', 'superb'][label == 'good']} it was", label) for text, label in reviews(40)]
    return table(tmp_path_factory.mktemp("words") / "words.csv", rows)


def test_a_killed_command_typed_again_ends_as_if_it_had_not_been_killed(learnable, tmp_path):
    words = [
        "finetune", str(learnable), "--model", "mini:reviews-llama", "--reinit", "2", "--lr", "0.005", "--epochs",
        "8", "--batch-size", "8", "--patience", "0", "--no-before",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(clew.__file__).parent.parent)}
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "clew", *words, "--out", str(killed)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        while running.poll() is None and not list(killed.glob("checkpoints/checkpoint-*/whole.json")):
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        said = running.stderr.read().decode()
    assert running.returncode == -signal.SIGKILL, said
    assert "results" not in facts(killed) and not (killed / "model.safetensors").exists()

    found = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [*words, "--out", str(killed)])
    assert found.exit_code == 0 and "going on from" in found.output
    options = {"model": "mini:reviews-llama", "reinit": 2, "lr": 0.005, "epochs": 8.0, "patience": 0}
    done = quick(learnable, tmp_path / "whole", **options)
    same(killed, done.folder)
    assert facts(killed)["results"] == done.facts["results"]

    # It has learned its examples by heart, and loads as any other model.
    parts = split_data(TASKS["text"], learnable)
    model = AutoModelForSequenceClassification.from_pretrained(killed).eval()
    tokenizer = AutoTokenizer.from_pretrained(killed)
    texts = [parts.train.data.read(i).text for i in range(len(parts.train))]
    with torch.no_grad():
        guessed = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1)
    assert guessed.tolist() == list(parts.train.labels) and model.config.id2label == {0: "bad", 1: "good"}
    assert model.dtype == torch.float32
    loaded = clew.load(killed)
    text = "superb it was"
    a = clew.explain(loaded, text, target=clew.Contrast("good", "bad"), method="attn_lrp")
    assert list(loaded.labels) == ["bad", "good"] and a.scores.abs().sum() > 0


def scripted(monkeypatch, values):
    """Evaluations with these results, whatever the model does; they are counted by epoch."""
    real = clew.training.loop.compute_metrics
    left = iter(values)

    def measured(prediction):
        return real(prediction) | {"selection": next(left, 0.0)}

    monkeypatch.setattr(clew.training.loop, "compute_metrics", measured)


def test_patience_is_counted_across_a_stop(source, tmp_path, monkeypatch):
    asked = {"epochs": 9.0, "patience": 3}
    scripted(monkeypatch, [0.5, 0.6, 0.4, 0.4, 0.4, 0.9])
    alone = quick(source, tmp_path / "alone", **asked)
    assert alone.facts["results"]["epochs"] == 5.0
    scripted(monkeypatch, [0.5, 0.6, 0.4, 0.4])
    with pytest.raises(Stopped):
        quick(source, tmp_path / "stopped", tell=stopping(4), **asked)
    scripted(monkeypatch, [0.4, 0.4, 0.9])  # the fourth again, the fifth
    done = quick(source, tmp_path / "stopped", **asked)
    assert done.facts["results"]["epochs"] == 5.0
    same(done.folder, alone.folder)


def test_the_best_evaluation_is_kept_and_not_the_last(source, tmp_path, monkeypatch):
    two = quick(source, tmp_path / "two", schedule="constant")
    scripted(monkeypatch, [0.1, 0.5, 0.3, 0.4])
    four = quick(source, tmp_path / "four", schedule="constant", epochs=4.0)
    assert len(four.facts["results"]["evaluations"]) == 4
    monkeypatch.undo()
    last = two.facts["results"]["evaluations"]
    assert four.facts["results"]["evaluations"][:2] == last
    scripted(monkeypatch, [0.1, 0.2])
    same(quick(source, tmp_path / "last", schedule="constant").folder, four.folder)


# The folder


def test_what_is_done_is_not_done_again_and_nothing_else_is_done_there(source, tmp_path):
    done = quick(source, tmp_path, before=True)
    state = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()}
    again = quick(source, tmp_path, before=True, tell=lambda line: pytest.fail(line))
    assert (again.before, again.after, again.facts) == (done.before, done.after, done.facts)
    for other, said in (
        ({"lr": 2e-3}, "lr=0.001.*lr=0.002"), ({"epochs": 3, "seed": 1}, "epochs=2.*seed=42.*epochs=3.*seed=1"),
        ({"model": "mini:reviews-llama"}, "model=mini:reviews-bert.*model=mini:reviews-llama"),
        ({"limit": 20}, "parts=.*content=.*limit=None.*limit=20"),
        ({"lora": 2}, "lora=None.*lora=2"), ({"test": 0.5}, "content="),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"(?s)holds another training.*" + said + ".*--overwrite"):
            quick(source, tmp_path, **other)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()} == state
    new = quick(source, tmp_path, lr=2e-3, overwrite=True, before=True)
    assert new.facts["asked"]["recipe"]["lr"] == facts(tmp_path)["asked"]["recipe"]["lr"] == 2e-3
    assert new.before == done.before and sorted(p.name for p in tmp_path.iterdir()) == FILES
    whole = quick(source, tmp_path.parent / f"{tmp_path.name}-alone", lr=2e-3)
    same(tmp_path, whole.folder)


def test_a_folder_with_other_files_and_a_state_that_cannot_be_read_are_refused(source, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with refused(InputError, "holds something else", "thesis.tex", "--out"):
        quick(source, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    for broken in ("{", "[]", "{}"):
        (tmp_path / "finetune.json").write_text(broken)
        with pytest.raises(InputError, match="cannot be read"):
            quick(source, tmp_path)


def test_a_beginning_that_failed_is_no_training(source, tmp_path):
    with pytest.raises(OptionError, match="fewer blocks"):
        quick(source, tmp_path, train="9")
    assert quick(source, tmp_path, train="1").after["examples"] == 8


def test_to_overwrite_is_for_trainings_alone(source, tmp_path):
    for name in ("README.md", "adapter/mine.txt", "checkpoints/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="holds something else"):
        quick(source, tmp_path, overwrite=True)
    assert {p: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_that_was_moved_keeps_its_best_weights(source, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.1, 0.9, 0.2])
    whole = quick(source, tmp_path / "whole", epochs=3.0)
    scripted(monkeypatch, [0.1, 0.9, 0.2])
    write = clew.training.session.Session._write

    def stop(*_):
        raise Stopped

    monkeypatch.setattr(clew.training.session.Session, "_write", stop)
    with pytest.raises(Stopped):
        quick(source, tmp_path / "here", epochs=3.0)
    monkeypatch.setattr(clew.training.session.Session, "_write", write)
    (tmp_path / "here").rename(tmp_path / "there")
    same(quick(source, tmp_path / "there", epochs=3.0).folder, whole.folder)


def test_a_full_disk_costs_the_checkpoint_that_did_not_fit(source, whole, tmp_path, monkeypatch):
    asked = {"eval_steps": 3, "epochs": 4.0, "patience": 0}
    real = Trainer._save_rng_state

    def full(self, folder):
        if self.state.global_step < 9:
            return real(self, folder)
        with longest_file(2_000):
            return real(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", full)
    with pytest.raises(WriteError, match=r"checkpoint-9\n[\s\S]*make room[\s\S]*from the last checkpoint"):
        quick(source, tmp_path, **asked)
    assert not (tmp_path / "checkpoints" / "checkpoint-9").exists()
    monkeypatch.undo()
    said = []
    quick(source, tmp_path, tell=said.append, **asked)
    assert any("going on from" in line for line in said)
    same(tmp_path, whole.folder)


@pytest.mark.parametrize("broken", ["write", "check", "replace"])
def test_what_stops_while_the_model_is_written_leaves_no_half_of_it(source, tmp_path, monkeypatch, broken):
    def fail(*_args, **_more):
        raise OSError(errno.ENOSPC, "no space left on device")

    if broken == "write":
        real = Trainable.write

        def half(self, folder):
            real(self, folder)
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
            fail()

        monkeypatch.setattr(Trainable, "write", half)
    elif broken == "check":
        monkeypatch.setattr(clew.training.session.Session, "_check", fail)
    else:
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: fail() if ".writing" in str(a) else replace(a, b))
    with pytest.raises(OSError, match="no space left") as error:
        quick(source, tmp_path)
    assert broken == "check" or (isinstance(error.value, WriteError) and "make room" in str(error.value))
    assert "results" not in facts(tmp_path) and not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / ".writing").exists()
    monkeypatch.undo()
    said = []
    done = quick(source, tmp_path, tell=said.append)  # nothing is trained anew
    assert not any(line.startswith("epoch") for line in said) and len(done.facts["results"]["evaluations"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    same(tmp_path, quick(source, tmp_path / "alone").folder)


def test_a_model_that_loads_as_another_is_not_written(source, tmp_path, monkeypatch):
    real = Trainable.write

    def other(self, folder):
        with torch.no_grad():
            self.model.classifier.bias[0] += 0.05
        real(self, folder)

    monkeypatch.setattr(Trainable, "write", other)
    with pytest.raises(ClewError, match="the written model is not the trained one"):
        quick(source, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


# What is measured


@pytest.fixture(scope="module")
def measured_run(source, tmp_path_factory):
    """Three classes, long and short texts, a class called with a bar."""
    rows = [(text + " so it went" * (i % 7), ("a|b", "mid", "top")[i % 3]) for i, (text, _) in enumerate(reviews(60))]
    path = table(tmp_path_factory.mktemp("three") / "three.csv", rows)
    return path, quick(path, path.parent / "out", before=True, train="1")


def wilson(hits, count, z=1.959963984540054):
    share, extra = hits / count, z * z / count
    middle, half = share + extra / 2, z * np.sqrt(share * (1 - share) / count + extra / (4 * count))
    return (middle - half) / (1 + extra), (middle + half) / (1 + extra)


def guessed_one_by_one(folder, part):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [
            int(model(**tokenizer(part.data.read(i).text, return_tensors="pt")).logits.argmax())
            for i in range(len(part))
        ]


def test_the_numbers_are_those_of_the_model_in_the_folder(measured_run):
    path, done = measured_run
    parts = split_data(TASKS["text"], path)
    labels, guessed = list(parts.test.labels), guessed_one_by_one(done.folder, parts.test)
    after = done.after
    assert after["accuracy"] == accuracy_score(labels, guessed) and after["examples"] == len(labels) == 12
    hits = sum(a == b for a, b in zip(labels, guessed, strict=True))
    assert (after["low"], after["high"]) == pytest.approx(wilson(hits, 12))
    told = precision_recall_fscore_support(labels, guessed, labels=range(3), zero_division=0)
    assert after["f1"] == pytest.approx(told[2].mean())
    for i, name in enumerate(("a|b", "mid", "top")):
        ours = after["classes"][name]
        assert [ours[k] for k in ("precision", "recall", "f1", "examples")] == pytest.approx([t[i] for t in told])
    assert done.facts == facts(done.folder) and done.before["examples"] == 12
    loaded = done.load()
    assert list(loaded.labels) == ["a|b", "mid", "top"] and loaded.tokenizer is not None


def test_the_card_is_one_that_the_hub_reads(measured_run):
    _, done = measured_run
    card = huggingface_hub.ModelCard.load(done.folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-classification"
    result = card.data.eval_results[0]
    assert result.metric_type == "accuracy" and result.metric_value == round(done.after["accuracy"], 4)
    assert result.dataset_name == "three.csv" and result.dataset_split == "test"
    said = card.content
    for part in (
        f"**{done.after['accuracy']:.1%}**", f"{done.after['low']:.1%} to {done.after['high']:.1%}, 12 examples",
        f"| before | {done.before['accuracy']:.1%} | {done.before['f1']:.3f} |",
        f"| after | {done.after['accuracy']:.1%} | {done.after['f1']:.3f} |",
        "43 examples for training, 5 for validation, 12 for the test", "12 examples (20%)",
        "| train | 1 |", "| lr | 0.001 |", "| batch_size | 8 |", "longer than 256 tokens", "three.csv",
    ):  # fmt: skip
        assert part in said, part
    assert r"| a\|b | " in said  # a bar is no new cell
    for one in done.facts["results"]["evaluations"]:
        assert f"| {one['epoch']:.4g} | {one['loss']:.4f} | {one['accuracy']:.1%} |" in said
    assert re.search(r"`clew finetune .*three\.csv.* --model mini:reviews-bert .*--lr 0\.001.*--train 1`", said)
