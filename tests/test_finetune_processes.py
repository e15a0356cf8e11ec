"""Several processes, as on several GPUs or machines, share each batch and end with the weights of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file
from test_finetune_data import reviews, table

import clew


def test_two_processes_train_what_one_does(tmp_path):
    """The model has no dropout, which each process draws for itself, and whole batches, of which each takes half."""
    table(tmp_path / "train.csv", reviews(16))
    table(tmp_path / "val.csv", reviews(4, start=100))
    table(tmp_path / "test.csv", reviews(4, start=200))
    steps = {"epochs": 1, "batch-size": 8, "lr": 1e-3}
    words = [
        "finetune",
        "text",
        "--data",
        str(tmp_path),
        "--model",
        "mini:reviews-llama",
        "--out",
        str(tmp_path / "two"),
    ]
    words += [word for name, value in steps.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    said = run([*torchrun, "-m", "clew", *words], environment)
    assert said.count("before: ") == 2 and said.count("epoch 1: ") == 1, said  # the line, and the summary of the first
    one = clew.finetune(
        "text", "mini:reviews-llama", tmp_path, out=tmp_path / "one", epochs=1, batch_size=8, lr=1e-3,
        show_progress=False,
    )  # fmt: skip
    found, expected = (load_file(str(tmp_path / name / "model.safetensors")) for name in ("two", "one"))
    start = clew.load("mini:reviews-llama").model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(value, start[name]) for name, value in expected.items() if name in start)
    facts = json.loads((tmp_path / "two" / "finetune.json").read_text())
    assert facts["results"]["test"]["examples"] == one.after["examples"] == 4


def run(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
