"""The same evaluation on Ray: a real cluster of two nodes on this machine, and a worker that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import ray
import torch
from support.running import METHODS, files, lasting, run

import clew
from clew.cli.plugins import run_plugin
from clew.errors import OptionError


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, and this process connected to them."""
    from ray.cluster_utils import Cluster

    # Workers find the tests and the library where this process does.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(clew.__file__).parent.parent)])
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


class Marked(clew.Dataset):
    """Bundled scenes; the model's workers leave their process numbers in a folder."""

    def __init__(self) -> None:
        self.base = clew.open_dataset("mini:digits", limit=9)
        self.name, self.ids, self.classes = self.base.name, self.base.ids, self.base.classes

    def read(self, index: int) -> clew.Example:
        return self.base.read(index)


def noting(folder: Path):
    """A method that writes down who computes, and in a folder that is armed kills its process once."""

    def noted(subject: clew.Subject) -> torch.Tensor:
        """Attention of the last block."""
        (folder / f"{os.getpid()}-{len(list(folder.iterdir()))}-{torch.get_num_threads()}").touch()
        armed = folder / "armed"
        if armed.exists() and len(list(folder.iterdir())) > 3:
            armed.rename(folder / "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return clew.methods()["raw_attention"](subject).scores

    return noted


def test_two_nodes_give_what_one_process_gives(cluster, digits, tmp_path):
    assert len([n for n in ray.nodes() if n["Alive"]]) == 2
    (tmp_path / "who").mkdir()
    method = noting(tmp_path / "who")
    for engine in ("ray", "local"):
        run(digits, tmp_path / engine, [*METHODS, method], data=Marked(), engine=engine)
    workers = {p.name.partition("-")[0] for p in (tmp_path / "who").iterdir()} - {str(os.getpid())}
    assert len(workers) == 2
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert lasting(tmp_path / "ray")["data"] == lasting(tmp_path / "local")["data"]


def test_a_worker_that_is_killed_loses_nothing(cluster, digits, tmp_path):
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "there" / "armed").touch()
    here, there = (noting(tmp_path / folder) for folder in ("here", "there"))
    run(digits, tmp_path / "local", [here, "random"], shard_size=2, threads=2)
    # What began here goes on there, with as many threads, though no machine has two cores.
    shutil.copytree(tmp_path / "local", tmp_path / "ray")
    for k in (1, 3, 4):
        (tmp_path / "ray" / f"part-{k:05d}.parquet").unlink()
    found = run(digits, tmp_path / "ray", [there, "random"], engine="ray", shard_size=2, workers=1)
    assert (tmp_path / "there" / "killed").exists()
    assert {p.name[-2:] for p in (tmp_path / "there").iterdir() if p.name != "killed"} == {"-2"}
    assert found.failed == 0 and files(tmp_path / "ray") == files(tmp_path / "local")


def test_errors_of_workers_are_ours(cluster, digits, tmp_path):
    def wrong(subject: clew.Subject) -> torch.Tensor:
        """Always wrong."""
        raise OptionError("no such option", got=3)

    with pytest.raises(OptionError, match="no such option"):
        run(digits, tmp_path, [wrong], engine="ray")
    assert json.loads((tmp_path / "manifest.json").read_text())["shards"] == {}
    with pytest.raises(OptionError, match="no worker fits"):
        run(digits, tmp_path / "other", [wrong], engine="ray", threads=64)


def test_workers_know_the_methods_of_a_plugin(cluster, digits, tmp_path, monkeypatch):
    """A file of the user's, which workers cannot import; what it registers is undone."""
    import clew.explainers as register

    clew.methods()
    monkeypatch.setattr(register, "_registered", dict(register._registered))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_on_ray.py").write_text(
        'import clew\n\nSIZE = 2.0\n\n\n@clew.method(paper="mine", summary="the same everywhere")\n'
        "def same_on_ray(subject: clew.Subject):\n    return subject.x.new_full((subject.batch, 65), SIZE)\n"
    )
    run_plugin(tmp_path / "mine_on_ray.py")
    try:
        found = run(digits, tmp_path / "run", methods=["same_on_ray"], engine="ray")
        assert found.failed == 0, found.errors[0]
    finally:
        del sys.modules["plugin_mine_on_ray"]
