"""Runs: what is stored, that they go on where they stopped, and that nothing is lost when something fails."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clew
import clew.store
import clew.work
from clew.shapes import CaptureError, InputError, OptionError

QUIET = {"show_progress": False, "batch_size": 2, "shard_size": 4}
METHODS = ["random", "raw_attention"]


@pytest.fixture(scope="module")
def digits():
    return clew.load("mini:digits")


def run(model, out=None, methods=METHODS, data="mini:digits", benchmark="segmentation", limit=9, **options):
    return clew.evaluate(benchmark, model, data, methods=methods, out=out, limit=limit, **{**QUIET, **options})


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.glob("*.parquet"))}


def lasting(path: Path) -> dict:
    """The manifest without what a machine's speed decides."""
    found = json.loads((path / "manifest.json").read_text())
    for shard in found["shards"].values():
        del shard["seconds"], shard["measuring"]
    return found


# What is stored


def test_a_run_has_a_row_for_each_example_and_method(digits, tmp_path):
    found = run(digits, tmp_path / "run", limit=5)
    table = found.table
    assert table.column("example").to_pylist() == [str(i) for i in range(5) for _ in METHODS]
    assert table.column("method").to_pylist() == METHODS * 5
    assert table.column("error").null_count == 10 and found.failed == 0
    one = clew.explain(digits, digits.preprocess(clew.scenes("digits").images[3])[0][None], method="raw_attention")
    np.testing.assert_allclose(table.column("scores")[7].as_py(), one.scores[0].numpy(), atol=1e-5)
    assert table.column("target")[7].as_py() == one.name_of_target(0)
    assert "forward" in " ".join(json.loads(table.column("checks")[7].as_py()))
    assert sorted(files(tmp_path / "run")) == ["part-00000.parquet", "part-00001.parquet"]
    assert found.manifest["complete"] and found.manifest["protocol"]["threshold"] == ["mean"]
    assert set(found.manifest["versions"]) >= {"clew", "torch", "transformers"}
    # A forward for each example; the first batch is tried without instrumentation, too.
    assert sum(s["forwards"]["raw_attention"] for s in found.manifest["shards"].values()) >= 5
    again = clew.Run(tmp_path / "run")
    assert again.table.equals(table) and "segmentation" in repr(again)
    assert {row["method"] for row in again.summary()} == set(METHODS)


def test_a_report_is_written_into_the_folder_and_does_not_hinder_going_on(digits, tmp_path):
    found = run(digits, tmp_path / "run", limit=4)
    assert {p.name for p in found.report()} == {"report.html", "report.csv", "report.md", "report.tex"}
    assert run(digits, tmp_path / "run", limit=4).table.equals(found.table)


def test_a_run_without_a_folder_lasts_as_long_as_its_result(digits):
    found = run(digits, limit=2)
    path = found.path
    assert path.is_dir() and found.table.num_rows == 4
    del found
    assert not path.exists()


def test_random_numbers_are_drawn_for_each_example_by_its_place(digits, tmp_path):
    both = [run(digits, methods=["random"], batch_size=b, shard_size=s, limit=5) for b, s in ((1, 2), (3, 5))]
    scores = [one.table.column("scores").to_pylist() for one in both]
    assert scores[0] == scores[1] and len({tuple(row) for row in scores[0]}) == 5
    assert run(digits, methods=["random"], limit=5, seed=1).table.column("scores").to_pylist()[0] != scores[0][0]
    assert run(digits, methods=["random(seed=7)"], limit=5).table.column("scores").to_pylist()[0] != scores[0][0]


def test_a_report_shows_what_was_marked(digits):
    found, data = run(digits, limit=3), clew.open_dataset("mini:digits", limit=3)
    shown = clew.Shown(found, digits, data)
    page = found.report(show=shown)[0].read_text()
    assert page.count("data:image/jpeg") == 3 * 2 * 2  # best and worst of three examples, two methods
    # What is drawn is what an explanation of that example looks like.
    x = digits.preprocess(data.read(2).image)[0][None]
    fresh = clew.explain(digits, x, method="raw_attention", checks="off")
    assert shown("2", "raw_attention") == sys.modules["clew.shown"]._picture(fresh)
    assert shown("2", "raw_attention") != shown("2", "random") and shown("2", "saliency") == ""
    with pytest.raises(InputError, match="other data"):
        clew.Shown(found, digits, clew.open_dataset("mini:digits", limit=2))


def test_a_report_shows_words():
    model, data = clew.load("mini:reviews-bert"), clew.open_dataset("mini:reviews", limit=2)
    found = run(model, data=data, benchmark="rationale", methods=["attn_lrp"], thresholds=(), limit=None)
    html = clew.Shown(found, model, data)("1", "attn_lrp")
    assert all(word in html for word in data.read(1).words if word.isalpha()) and "background" in html
    result = clew.explain(model, data.read(1).text, method="attn_lrp", target=data.read(1).label)
    numbers = [float(title.replace("−", "-")) for title in re.findall(r'title="([^"]*)"', html)]
    assert numbers == pytest.approx(result.scores[0].tolist(), rel=0.01, abs=1e-4)


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
}


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
    ours, theirs = lasting(tmp_path / "killed"), lasting(tmp_path / "whole")
    for found in (ours, theirs):  # whether the first batch is also tried without instrumentation is the process's
        for shard in found["shards"].values():
            del shard["forwards"]
    assert ours == theirs


def counting():
    calls = []

    def counted(subject: clew.Subject, *, start: int = 0) -> torch.Tensor:
        """Counts its calls."""
        calls.append(subject.batch)
        return torch.arange(float(subject.run([subject.last]).tokens)).expand(subject.batch, -1)

    return counted, calls


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
    store = clew.store.Store(other, clew.Run(other).manifest)
    with pytest.raises(InputError, match="another process"):
        run(digits, other, limit=2)
    store.close()
    run(digits, other, limit=2)


# What fails


def test_an_unreadable_picture_costs_its_own_rows(digits, tmp_path):
    for i, image in enumerate(clew.scenes("digits").images[:4]):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        image.save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(clew.scenes("digits").masks[i].astype(np.uint8) * 255).save(tmp_path / "masks" / f"{i}.png")
    whole = run(digits, data=tmp_path).table
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    found = run(digits, tmp_path / "out", data=tmp_path)
    errors = found.table.column("error").to_pylist()
    assert [i for i, e in enumerate(errors) if e] == [4, 5] and "2.png" in errors[4]
    kept = [0, 1, 2, 3, 6, 7]
    both = [np.array(one.column("scores").take(kept).to_pylist()) for one in (found.table, whole)]
    np.testing.assert_allclose(*both, atol=1e-6)
    assert "0x" not in errors[4]  # or the same run would end with other bytes
    assert found.table.column("average_precision")[4].as_py() is None
    assert found.failed == 2 and found.summary()[0]["n"] == 3


def test_a_result_that_is_not_finite_costs_its_own_row(digits):
    def broken(subject: clew.Subject) -> torch.Tensor:
        """NaN where the picture's first value is that of example 1."""
        scores = torch.ones(subject.batch, subject.run([subject.last]).tokens)
        scores[(subject.x[:, 0, 0, 0] - marked).abs() < 1e-7] = float("nan")
        return scores

    squashed = digits.preprocess(clew.scenes("digits").images[1])[0]
    marked = squashed[0, 0, 0]
    found = run(digits, methods=[broken, "raw_attention"], limit=4)
    errors = found.table.column("error").to_pylist()
    bad = [i for i, e in enumerate(errors) if e]
    assert 2 in bad and all("not finite" in errors[i] for i in bad) and all(i % 2 == 0 for i in bad)
    assert found.table.column("average_precision").null_count == len(bad) < 4


def test_a_batch_out_of_memory_is_halved_and_the_manifest_says_so(digits, tmp_path):
    def hungry(subject: clew.Subject) -> torch.Tensor:
        """What raw attention gives, of one image at a time."""
        if subject.batch > 1 and starving:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return clew.methods()["raw_attention"](subject).scores

    starving = True
    found = run(digits, tmp_path / "hungry", [hungry, "random"], limit=4, batch_size=4)
    starving = False
    whole = run(digits, tmp_path / "whole", [hungry, "random"], limit=4, batch_size=4)
    notes = [shard["notes"] for shard in found.manifest["shards"].values()]
    assert notes == [{"batches halved: out of memory": 3}] and found.failed == 0
    for name in ("scores", "average_precision"):
        values = [np.array(one.table.column(name).to_pylist()) for one in (found, whole)]
        np.testing.assert_allclose(*values, atol=1e-6)


def test_one_image_that_does_not_fit_at_all_is_a_row_with_its_error(digits):
    def greedy(subject: clew.Subject) -> torch.Tensor:
        """Never fits."""
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    found = run(digits, methods=[greedy, "random"], limit=3)
    assert found.failed == 3 and found.table.column("error").to_pylist()[1::2] == [None] * 3


def test_a_failing_measurement_is_laid_at_the_door_of_its_method(digits, monkeypatch):
    def small(subject: clew.Subject) -> clew.Result:
        """Pixels of another size."""
        scores = torch.ones(subject.batch, subject.run([subject.last]).tokens)
        return clew.Result(scores, pixels=torch.rand(subject.batch, 5, 5))

    found = run(digits, methods=["random", small], limit=2)
    errors = found.table.column("error").to_pylist()
    assert errors[0::2] == [None, None] and all("shape" in e for e in errors[1::2])


@pytest.mark.parametrize("error", [OptionError("no such option"), CaptureError("nothing seen")])
def test_what_no_example_would_survive_ends_the_run_at_once(digits, tmp_path, error):
    def wrong(subject: clew.Subject) -> torch.Tensor:
        """Always wrong."""
        raise error

    with pytest.raises(type(error), match=str(error)):
        run(digits, tmp_path, [wrong])


def test_a_full_disk_loses_nothing(digits, tmp_path, monkeypatch):
    method, calls = counting()
    real, written = clew.store.write, []

    def full(path, writers):
        written.append(path)
        if sum(p.suffix == ".parquet" for p in written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, writers)

    monkeypatch.setattr(clew.store, "write", full)
    with pytest.raises(clew.ClewError, match=r"No space left[\s\S]*make room"):
        run(digits, tmp_path, [method])
    assert len(files(tmp_path)) == 1 and not list(tmp_path.glob(".part*"))
    monkeypatch.setattr(clew.store, "write", real)
    calls.clear()
    found = run(digits, tmp_path, [method])
    assert sum(calls) == 5 and found.table.num_rows == 9 and found.manifest["complete"]


# What is asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"benchmark": "segmentatoin"}, "segmentation"),
        ({"colour": "red"}, "no option 'colour'"),
        ({"variant": "chefer"}, "beyond_intuition"),
        ({"methods": ["raw_atention"]}, "raw_attention"),
        ({"methods": ["raw_attention(depth=3)"]}, "no option 'depth'"),
        ({"methods": ["random", "random"]}, "twice"),
        ({"methods": []}, "no method"),
        ({"engine": "spark"}, "ray"),
        ({"workers": 3}, "engine='ray'"),
        ({"batch_size": 0}, "1 or more"),
        ({"grid": {"gamma_linear": (0.1,)}}, "no method has the option"),
        ({"zero_shot": "a {}"}, "image–text"),
        ({"benchmark": "rationale"}, "models of texts"),
        ({"data": "nowhere"}, "no data at"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(digits, options, message):
    with pytest.raises(clew.ClewError, match=message):
        run(digits, **options)


def test_labels_of_the_data_become_the_models_classes():
    numbers = sys.modules["clew.evaluate"].numbers_of
    assert numbers(["cat", "dog"], ["Dog", "bird", "cat"]) == {0: 2, 1: 0}
    assert numbers(["cat", "newt"], ["dog", "cat", "bird"]) == {0: 1, 1: None}
    assert numbers(["NEG", "POS"], ["NEGATIVE", "POSITIVE"]) is None
    assert numbers(["a", "b", "c"], ["x", "y"]) == {0: None, 1: None, 2: None}
    assert numbers(None, ["x", "y"]) == {"x": 0, "y": 1}
    assert numbers(["a"], None) is None


def test_without_methods_all_that_work_are_run(digits, caplog):
    found = run(digits, methods=None, limit=1, benchmark="segmentation")
    assert {"raw_attention", "attn_lrp", "smoothgrad"} <= set(found.manifest["methods"])


# Parameter search


def test_options_are_chosen_on_one_half_and_reported_on_the_other(digits, tmp_path):
    grid = {"gamma_linear": (0.0, 1.0), "gamma_conv": (0.25, 100.0)}
    found = run(digits, tmp_path, ["lrp(rules='gamma')", "random"], grid=grid, limit=8)
    assert len(found.manifest["methods"]) == 5
    picked = clew.chosen(found, "map")
    assert [c.method for c in picked.choices] == ["lrp(rules='gamma')", "random"]
    one = picked.choices[0]
    aps, ids, labels = (found.table.column(n).to_pylist() for n in ("average_precision", "example", "method"))
    from clew.statistics import split_half

    choosing, reporting = split_half([str(i) for i in range(8)])
    for label, value in one.tried.items():
        mine = [a for a, i, m in zip(aps, ids, labels, strict=True) if m == label and int(i) in choosing]
        assert value == pytest.approx(np.mean(mine))
    assert one.chosen == max(one.tried, key=one.tried.get) and len(one.tried) == 4
    assert {int(i) for i in picked.table.column("example").to_pylist()} == set(reporting)
    rows = {(r["method"], r["metric"]): r for r in picked.summary()}
    mine = [a for a, i, m in zip(aps, ids, labels, strict=True) if m == one.chosen and int(i) in reporting]
    assert rows[one.chosen, "map"]["value"] == pytest.approx(np.mean(mine))
    assert [p.name for p in picked.report()] == ["chosen.html", "chosen.csv", "chosen.md", "chosen.tex"]
    with pytest.raises(InputError, match="nothing to choose"):
        clew.chosen(run(digits, methods=["random"], limit=2))


def test_the_gamma_of_a_set_can_be_set(digits):
    x = digits.preprocess(clew.scenes("digits").images[0])[0][None]
    rules = {**clew.RULE_SETS["gamma"]}
    rules |= {"linear": clew.rules.Gamma(0.7), "conv": clew.rules.Gamma(3.0)}
    mine = clew.explain(digits, x, method="lrp", rules=rules).scores
    torch.testing.assert_close(
        clew.explain(digits, x, method="lrp", rules="gamma", gamma_linear=0.7, gamma_conv=3.0).scores, mine
    )
    with pytest.raises(OptionError, match="gamma_conv"):
        clew.explain(digits, x, method="lrp", rules="epsilon", gamma_conv=0.1)


# Zero-shot


def test_an_image_text_model_is_evaluated_as_a_classifier_of_the_datas_classes():
    pair = clew.load("mini:digits-clip")
    found = run(pair, data="mini:digits", limit=4, zero_shot="{}", explain="given")
    assert found.failed == 0 and "zero-shot" in found.manifest["model"]["name"]
    with pytest.raises(OptionError, match="zero_shot"):
        run(pair, limit=1)


def test_the_best_words_are_written_as_eraser_reads_them(tmp_path):
    found = run(clew.load("mini:reviews-bert"), data="mini:reviews", benchmark="rationale", thresholds=(), limit=4)
    files = found.predictions(tmp_path / "top", "raw_attention", [5, 40])
    assert [f.name for f in files] == ["identifier_results_5.json", "identifier_results_40.json"]
    data = clew.open_dataset("mini:reviews", limit=4)
    examples = [data.read(i) for i in range(4)]
    annotations = [
        {
            "annotation_id": e.id,
            "evidences": [[{"docid": e.id, "start_token": a, "end_token": b} for a, b in e.rationale]],
        }
        for e in examples
    ]
    scores = clew.metrics.eraser_scores(files[1], annotations, {e.id: list(e.words) for e in examples})
    of_run = next(r for r in found.summary() if r["metric"] == "f1@40" and r["method"] == "raw_attention")
    assert scores["token_prf"]["instance_macro"]["f1"] == pytest.approx(of_run["value"])
    with pytest.raises(OptionError, match="random"):
        found.predictions(tmp_path, "randon")
