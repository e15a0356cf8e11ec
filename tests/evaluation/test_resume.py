"""Runs go on where they stopped, end with the same bytes, and are mixed with no other run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support.running import METHODS, counting, files, lasting, run

import clew
import clew.evaluation.store
from clew.errors import InputError, OptionError
from clew.evaluation import progress

# Going on


KILLED = """
import os, signal, sys
import torch
import clew
torch.set_num_threads(1)
benchmark, data, out, kill_at, options, methods, model = eval(sys.argv[1])
base = clew.open_dataset(data, limit=7)
class Killing(clew.Dataset):
    name, ids, classes = base.name, base.ids, base.classes
    def content(self, i): return base.content(i)
    def read(self, i):
        if i == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return base.read(i)
clew.evaluate(benchmark, clew.load(model), Killing(), methods=methods, out=out, batch_size=2, shard_size=2,
              show_progress=False, **options)
"""

CASES = {
    "segmentation": ("segmentation", "mini:digits", "mini:digits", {}),
    "perturbation": ("perturbation", "mini:digits", "mini:digits", {"fractions": (0.0, 0.5, 1.0)}),
    "sanity": ("sanity", "mini:digits", "mini:digits", {"stages": (0.0, 1.0)}),
    "rationale": ("rationale", "mini:reviews-bert", "mini:reviews", {"thresholds": (0.2,)}),
    "movies": ("flipping", "mini:reviews-bert", "mini:reviews", {"protocol": "movies", "fractions": (0.0, 0.5)}),
    "imdb": ("flipping", "mini:reviews-llama", "mini:reviews", {"fractions": (0.0, 0.5)}),
    "source": ("flipping", "mini:reverse", "mini:reverse", {"stream": "source", "fractions": (0.0, 0.5)}),
    "joint": ("joint", "mini:digits", "mini:digits", {"fractions": (0.0, 0.5, 1.0), "resize": "squash"}),
    "planted": ("planted", "mini:reverse", "mini:reverse", {"redraws": 1, "rationale": "letter"}),
}


@pytest.mark.sampled(0.34)
@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_and_ends_the_same_to_the_last_byte(case, tmp_path):
    benchmark, model, data, options = CASES[case]
    methods = ["random", "attn_lrp"]
    asked = (benchmark, data, str(tmp_path / "killed"), 5, options, methods, model)
    environment = {**os.environ, "PYTHONPATH": str(Path(clew.__file__).parent.parent)}
    ended = subprocess.run([sys.executable, "-c", KILLED, repr(asked)], env=environment, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    assert len(files(tmp_path / "killed")) == 2 and not clew.Run(tmp_path / "killed").manifest["complete"]
    before = files(tmp_path / "killed")
    more = {"batch_size": 2, "shard_size": 2, "limit": 7, "data": data, "benchmark": benchmark, **options}
    resumed = run(clew.load(model), tmp_path / "killed", methods, **more)
    whole = run(clew.load(model), tmp_path / "whole", methods, **more)
    assert resumed.failed == whole.failed == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert all(files(tmp_path / "killed")[name] == content for name, content in before.items())
    assert lasting(tmp_path / "killed") == lasting(tmp_path / "whole")


@pytest.mark.parametrize("named", [True, False])
def test_an_interrupted_run_says_how_far_it_came_and_goes_on(named, digits, tmp_path, caplog, capsys):
    method, calls = counting()

    def interrupted(subject: clew.Subject, *, start: int = 0) -> torch.Tensor:
        """Stops once, in the second shard."""
        if len(calls) == 3:
            calls.append(0)
            raise KeyboardInterrupt
        return method(subject)

    out = tmp_path / "run" if named else None
    with pytest.raises(KeyboardInterrupt):
        run(digits, out, [interrupted], show_progress=True)
    said = "stopped after 4 of 9 examples (they are stored 4 at a time" if named else "with out=…"
    assert said in caplog.text and capsys.readouterr().err.startswith("segmentation: 2 of 9 examples, about ")
    if named:
        assert run(digits, out, [interrupted], show_progress=True).manifest["complete"]
        assert capsys.readouterr().err.startswith("segmentation: going on with 4 of 9 examples\n")
        run(digits, out, [interrupted], show_progress=True)
        assert "all 9 examples are stored" in capsys.readouterr().err


def test_lines_come_now_and_then_with_an_estimate(monkeypatch, capsys):
    now = iter([0.0, 10.0, 20.0, 45.0, 50.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.run_progress(True) as begin:
        done = begin("mine", 100, 20)
        for _ in range(4):
            done(20)
    assert capsys.readouterr().err.splitlines() == [
        "mine: going on with 20 of 100 examples",
        "mine: 40 of 100 examples, about 30 s more",  # 10 s for 20
        "mine: 80 of 100 examples, about 15 s more",  # 45 s for 60
    ]
    assert [progress.duration(s) for s in (89.0, 600.0, 7200.0)] == ["89 s", "10 min", "2.0 h"]


def test_the_same_run_twice_computes_nothing(digits, tmp_path):
    method, calls = counting()
    first = run(digits, tmp_path, [method])
    assert sum(calls) == 9
    assert run(digits, tmp_path, [method]).table.equals(first.table) and sum(calls) == 9


def test_a_torn_or_lost_shard_is_done_again(digits, tmp_path):
    method, calls = counting()
    run(digits, tmp_path, [method])
    before, (torn, lost, _) = files(tmp_path), sorted(tmp_path.glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-7])
    lost.unlink()
    with pytest.raises(InputError, match="torn"):
        _ = clew.Run(tmp_path).table
    calls.clear()
    run(digits, tmp_path, [method])
    assert sum(calls) == 8 and files(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"batch_size": 3}, "batch_size: there 2, asked for 3"),
        ({"seed": 5}, "seed: there 0, asked for 5"),
        ({"limit": 8}, "data.examples: there 9, asked for 8"),
        ({"methods": ["random"]}, "methods: there .*raw_attention.*, asked for"),
        ({"threshold": "otsu"}, 'protocol.threshold: there \\["mean"\\], asked for \\["otsu"\\]'),
        ({"benchmark": "sanity", "stages": ()}, "benchmark: there .*segmentation"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_with_what_differs(digits, tmp_path, other, said):
    run(digits, tmp_path)
    before = files(tmp_path)
    with pytest.raises(InputError, match=said):
        run(digits, tmp_path, **other)
    assert files(tmp_path) == before


def test_of_a_method_more_it_is_said_how_both_runs_are_compared(digits, tmp_path):
    first = run(digits, tmp_path / "a", limit=4)
    with pytest.raises(InputError, match=r"run saliency alone(.|\n)*clew report") as refused:
        run(digits, tmp_path / "a", [*METHODS, "saliency"], limit=4)
    assert "hash" not in str(refused.value)
    later = run(digits, tmp_path / "b", ["saliency"], limit=4)
    together = [row for row in clew.evaluation.summary(first, later) if row["metric"] == "map"]
    assert len(together) == 3 and all(row["letters"] for row in together)
    with pytest.raises(InputError) as refused:
        run(digits, tmp_path / "a", [*METHODS, "saliency"], limit=4, seed=1)
    assert "another folder: out=…" in str(refused.value) and "alone" not in str(refused.value)


def test_a_method_of_the_same_name_and_another_code_is_refused(digits, tmp_path):
    def mine(subject: clew.Subject) -> torch.Tensor:
        return torch.ones(subject.batch, 65)

    run(digits, tmp_path, [mine], limit=2)

    def mine(subject: clew.Subject) -> torch.Tensor:
        return torch.zeros(subject.batch, 65)

    with pytest.raises(InputError, match=r"method_hashes\.mine: there [0-9a-f]{8}…, asked for [0-9a-f]{8}…"):
        run(digits, tmp_path, [mine], limit=2)


def test_another_model_is_refused(digits, tmp_path):
    run(digits, tmp_path, limit=2)
    other = clew.load("mini:digits")
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(InputError, match=r"model\.hash"):
        run(other, tmp_path, limit=2)


def test_a_folder_with_other_files_and_one_in_use_are_refused(digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        run(digits, tmp_path, limit=2)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    other = tmp_path / "run"
    run(digits, other, limit=2)
    store = clew.evaluation.store.Store(other, clew.Run(other).manifest)
    with pytest.raises(InputError, match="another process"):
        run(digits, other, limit=2)
    store.close()
    run(digits, other, limit=2)


# Manifests and shards that were changed


def setting(*names, to):
    """An edit of a manifest; `to` ... removes."""

    def edit(folder, manifest):
        inner = manifest
        for name in names[:-1]:
            inner = inner[name]
        if to is ...:
            del inner[names[-1]]
        else:
            inner[names[-1]] = to

    return edit


def renamed(name):
    def edit(folder, manifest):
        manifest["shards"][name] = manifest["shards"].pop(FIRST)

    return edit


def rewritten(change):
    """A shard that was changed, and the sum that its manifest has of it."""

    def edit(folder, manifest):
        change(folder / FIRST)
        manifest["shards"][FIRST]["sha256"] = hashlib.sha256((folder / FIRST).read_bytes()).hexdigest()

    return edit


def table(change):
    return rewritten(lambda file: pq.write_table(change(pq.read_table(file, partitioning=None)), file))


def linked(folder, manifest):
    (folder / FIRST).rename(folder.parent / "elsewhere")
    (folder / FIRST).symlink_to(folder.parent / "elsewhere")


FIRST = "part-00000.parquet"
MANIFESTS = {
    **{
        f"no {name}": (setting(name, to=...), f"one without {name}")
        for name in ("model", "methods", "shards", "complete", "protocol")
    },
    "model is a text": (setting("model", to="mini"), "model"),
    "no name": (setting("data", "name", to=...), "data[\\s\\S]*one without name"),
    "examples": (setting("data", "examples", to=9.0), r"data\.examples"),
    "fewer examples": (setting("data", "examples", to=5), r"shards"),
    "methods twice": (setting("methods", to=["random", "random"]), "methods"),
    "a method more": (setting("methods", to=["random", "raw_attention", "x"]), "rows"),
    "asked": (setting("asked", to=[{}]), r"asked\[0\]"),
    "grid": (setting("grid", to={"random": {"base": "random", "values": {}}}), "grid"),
    "threads": (setting("threads", to="2"), "threads"),
    "truth": (setting("complete", to="yes"), "complete"),
    "shards": (setting("shards", to=[FIRST]), "shards"),
    "a shard": (setting("shards", FIRST, to="x"), FIRST),
    "no sum": (setting("shards", FIRST, "sha256", to=...), "sha256"),
    "rows": (setting("shards", FIRST, "rows", to=3), "rows"),
    "seconds": (setting("shards", FIRST, "seconds", to={"random": 1.0}), "seconds"),
    "negative": (setting("shards", FIRST, "forwards", "random", to=-1), "forwards"),
    "lost": (setting("shards", FIRST, to=...), "missing"),
    **{name: (renamed(name), "shards") for name in ("../x", "/etc/passwd", "part-0.parquet", "part-00009.parquet")},
}
SHARDS = {
    "other examples": (rewritten(lambda file: shutil.copy(file.with_name("part-00001.parquet"), file)), "example"),
    "no table": (rewritten(lambda file: file.write_bytes(b"x")), "Parquet"),
    "no column": (table(lambda t: t.drop(["error"])), "error"),
    "too few rows": (table(lambda t: t.slice(0, 3)), "4 examples"),
    "another order": (table(lambda t: t.take([0, 3, 2, 1, 4, 5, 6, 7])), "mixed up"),
    "a link": (linked, "leads out of the folder"),
}


@pytest.fixture(scope="module")
def ended(digits, tmp_path_factory):
    return run(digits, tmp_path_factory.mktemp("ended") / "run").path


def changed(ended, tmp_path, edit):
    folder = shutil.copytree(ended, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(folder, manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_was_changed_is_refused(digits, ended, tmp_path, case):
    edit, said = MANIFESTS[case]
    folder = changed(ended, tmp_path, edit)
    before = files(folder)
    for use in (lambda: clew.Run(folder), lambda: run(digits, folder)):
        with pytest.raises(
            InputError, match=rf"json is not what this clew writes[\s\S]*{said}[\s\S]*to do: .*another folder"
        ):
            use()
    assert files(folder) == before


@pytest.mark.parametrize("case", SHARDS)
def test_a_shard_that_was_changed_with_its_sum_is_refused(digits, ended, tmp_path, case):
    edit, said = SHARDS[case]
    folder = changed(ended, tmp_path, edit)
    with pytest.raises(InputError, match=rf"{said}[\s\S]*to do: .*remove"):
        run(digits, folder)
    with pytest.raises(InputError, match=r"other rows|leads out"):
        _ = clew.Run(folder).table
    (folder / FIRST).unlink()  # as it says
    run(digits, folder)
    assert files(folder) == files(ended)


def test_what_a_manifest_cannot_be(ended, tmp_path):
    folder = shutil.copytree(ended, tmp_path / "run")
    text = (folder / "manifest.json").read_text()
    twice = text.replace('"shards": {', '"shards": {"part-00000.parquet": {},')
    for wrong in (twice, "[" * 100_000, "\udcff", ""):
        (folder / "manifest.json").write_text(wrong, errors="surrogateescape")
        with pytest.raises(InputError, match="cannot be read"):
            clew.Run(folder)


def test_a_lock_is_no_way_to_empty_a_file(digits, ended, tmp_path):
    folder = shutil.copytree(ended, tmp_path / "run")
    (tmp_path / "mine").write_text("mine")
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "mine")
    run(digits, folder)
    assert (tmp_path / "mine").read_text() == "mine"


# What makes two runs the same


def test_threads_belong_to_a_run_and_are_those_that_it_began_with(digits, tmp_path):
    seen = []

    def method(subject: clew.Subject) -> torch.Tensor:
        """Ones."""
        seen.append(torch.get_num_threads())
        return torch.ones(subject.batch, subject.run([subject.last]).tokens)

    first = run(digits, tmp_path, [method], limit=6, threads=3)
    assert first.manifest["threads"] == 3 and torch.get_num_threads() == 1
    (tmp_path / "part-00001.parquet").unlink()
    run(digits, tmp_path, [method], limit=6)  # not asked for: as it began
    assert set(seen) == {3} and torch.get_num_threads() == 1
    with pytest.raises(InputError, match="threads: there 3, asked for 1"):
        run(digits, tmp_path, [method], limit=6, threads=1)
    with pytest.raises(OptionError, match="threads is out of range"):
        run(digits, tmp_path, [method], limit=6, threads=0)


@pytest.mark.parametrize("change", ["mean", "labels", "config"])
def test_another_way_to_run_the_same_weights_is_another_model(tmp_path, change):
    model = clew.load("mini:digits")
    run(model, tmp_path, limit=2)
    if change == "mean":
        model.preprocess = dataclasses.replace(model.preprocess, mean=(0.4, 0.5, 0.5))
    elif change == "labels":
        model.labels = [*model.labels[1:], model.labels[0]]
    else:
        model.model.config.layer_norm_eps = 1e-3
    with pytest.raises(InputError, match=r"model\.(preprocess|labels|configuration)"):
        run(model, tmp_path, limit=2)


def test_a_method_is_what_it_does_and_not_what_it_is_called(digits, tmp_path):
    def mine(subject: clew.Subject) -> torch.Tensor:
        """Ones."""
        return torch.ones(subject.batch, subject.run([subject.last]).tokens)

    first = mine

    def mine(subject: clew.Subject) -> torch.Tensor:
        """Twos."""
        return 2 * torch.ones(subject.batch, subject.run([subject.last]).tokens)

    run(digits, tmp_path, [first], limit=2)
    with pytest.raises(InputError, match=r"method_hashes\.mine"):
        run(digits, tmp_path, [mine], limit=2)
    # Rule sets are equal if their rules are, in whatever order.
    rules = {"linear": clew.rules.Gamma(0.5), **{k: v for k, v in clew.RULE_SETS["gamma"].items() if k != "linear"}}
    other = dict(reversed(rules.items()))
    one, same, third = (
        run(digits, methods=[("lrp", {"rules": r})], limit=1).manifest
        for r in (rules, other, {**rules, "linear": clew.rules.Gamma(0.6)})
    )
    assert one["methods"] == same["methods"] != third["methods"] and one["method_hashes"] == same["method_hashes"]
    assert re.fullmatch(r"lrp\(rules=<dict [0-9a-f]{8}>\)", one["methods"][0])


def test_all_that_worked_is_not_tried_again(digits, tmp_path):
    first = run(digits, tmp_path, None, limit=1)
    passes = []
    handle = digits.model.register_forward_pre_hook(lambda *_: passes.append(1))
    again = run(digits, tmp_path, None, limit=1)
    handle.remove()
    assert not passes and again.table.equals(first.table)


def test_what_works_is_found_on_an_example_that_can_be_used():
    class Texts(clew.Dataset):
        name, classes, ids = "texts", ("NEGATIVE", "POSITIVE"), ("empty", "good")

        def read(self, index):
            return clew.Example(id=self.ids[index], text=("", "a fine film indeed")[index], label=1)

    found = run(clew.load("mini:reviews-bert"), None, None, Texts(), "flipping", None, protocol="movies")
    assert "attn_lrp" in found.manifest["methods"] and found.failed == 0
    assert found.left_out == len(found.manifest["methods"])  # the text without words
