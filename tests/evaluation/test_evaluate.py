"""Runs: what is stored, and that nothing is lost when something fails."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.full_disk import full_after
from support.running import METHODS, counting, files, run

import clew
from clew.errors import CaptureError, InputError, OptionError, WriteError
from clew.evaluation import examples as drawn
from clew.evaluation.report import report as reports

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
    checks = json.loads(table.column("checks")[7].as_py())
    assert "target" in checks and "forward difference" not in checks  # that is the process's, not the example's
    assert sorted(files(tmp_path / "run")) == ["part-00000.parquet", "part-00001.parquet"]
    assert found.manifest["complete"] and found.manifest["protocol"]["threshold"] == ["mean"]
    assert set(found.manifest["versions"]) >= {"clew", "torch", "transformers"}
    # A forward for each example: that the model is also called by itself, to check, is no cost of the method.
    assert sum(s["forwards"]["raw_attention"] for s in found.manifest["shards"].values()) == 5
    again = clew.Run(tmp_path / "run")
    assert repr(found) == repr(again) and repr(found).endswith(f"{tmp_path / 'run'})")
    assert again.table.equals(table) and "segmentation" in repr(again)
    assert {row["method"] for row in again.summary()} == set(METHODS)


def test_a_report_is_written_into_the_folder_and_does_not_hinder_going_on(digits, tmp_path):
    found = run(digits, tmp_path / "run", limit=4)
    assert {p.name for p in found.report()} == {"report.html", "report.csv", "report.md", "report.tex"}
    assert run(digits, tmp_path / "run", limit=4).table.equals(found.table)


def test_a_run_without_a_folder_lasts_as_long_as_its_result(digits):
    found = run(digits, limit=2)
    path = found.path
    assert path.is_dir() and found.table.num_rows == 4 and f"{path}, gone with this object: out=…" in repr(found)
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
    assert shown("2", "raw_attention") == drawn._picture(fresh)
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
    full_after(monkeypatch, 3)  # the manifest, the first shard, the manifest that names it
    with pytest.raises(WriteError, match=r"part-00001[\s\S]*No space left[\s\S]*make room[\s\S]*goes on from here"):
        run(digits, tmp_path, [method])
    assert len(files(tmp_path)) == 1 and sorted(p.name for p in tmp_path.glob(".*")) == [".lock"]
    monkeypatch.undo()
    calls.clear()
    found = run(digits, tmp_path, [method])
    assert sum(calls) == 5 and found.table.num_rows == 9 and found.manifest["complete"]


# Names and files as they come


class Odd(clew.Dataset):
    """Bundled scenes under names of one's own; some cannot be read."""

    name, classes = "odd", None

    def __init__(self, ids, errors=()):
        self.ids, self.errors = ids, dict(errors)
        self.base = clew.open_dataset("mini:digits", limit=len(ids))

    def read(self, index):
        if index in self.errors:
            raise self.errors[index]
        return dataclasses.replace(self.base.read(index), id=self.ids[index])


def test_any_name_and_any_error_of_a_reader_is_kept_as_a_row(digits, tmp_path):
    ids = ["plain", "caf\udce9", "<b>&\n", "🧶"]
    found = run(digits, tmp_path, data=Odd(ids, {0: KeyError("image"), 3: OSError("gone")}), limit=None)
    assert found.table.column("example").to_pylist()[::2] == ["plain", "caf\\udce9", "<b>&\n", "🧶"]
    errors = found.table.column("error").to_pylist()[::2]
    assert errors == ["KeyError: 'image'", None, None, "OSError: gone"]
    page = found.report()[0].read_text()
    assert "<b>&" not in page
    with pytest.raises(InputError, match="ids of their own"):
        run(digits, data=Odd(["a", "a"]), limit=None)


def test_folders_with_dots_in_their_names_get_their_report(digits, tmp_path):
    out = tmp_path / "segmentation-deit.fb_in1k-gtsegs_ijcv.mat"
    found = run(digits, out, limit=2)
    assert {p.parent for p in found.report()} == {out} and (out / "report.html").exists()
    assert clew.report(found, out=out)[0] == out / "report.html"


def test_a_model_whose_rows_all_failed_does_not_take_the_others_page_with_it(digits, tmp_path):
    def broken(subject: clew.Subject) -> torch.Tensor:
        """Never a number."""
        return torch.full((subject.batch, subject.run([subject.last]).tokens), float("nan"))

    bad, good = run(digits, tmp_path / "bad", [broken], limit=3), run(digits, tmp_path / "good", limit=3)
    assert bad.failed == 3
    rows = [row for row in reports.summary(bad, good) if row["metric"] == "map"]
    assert [row["n"] for row in rows] == [0, 3, 3] or sorted(row["n"] for row in rows) == [0, 3, 3]


def test_what_a_protocol_leaves_out_did_not_fail(digits, caplog):
    found = run(digits, benchmark="perturbation", misclassified=True, fractions=(0.0, 1.0), limit=4)
    assert found.failed == 0 and found.left_out > 0 and "no numbers" not in caplog.text


def test_data_of_which_no_example_can_be_measured_are_refused_before_anything_is_computed(digits, tmp_path):
    for i, image in enumerate(clew.scenes("digits").images[:3]):
        image.save(tmp_path / f"{i}.png")
    method, calls = counting()
    with pytest.raises(InputError, match=r"no example(.|\n)*needs a mask(.|\n)*masks/"):
        run(digits, tmp_path / "run", [method], tmp_path)
    with pytest.raises(InputError, match=r"no example(.|\n)*class of each example"):
        run(digits, tmp_path / "run", [method], tmp_path, "perturbation", explain="given")
    assert not calls and not (tmp_path / "run").exists()
    found = run(digits, None, [method], Odd(["a", "b"], {0: OSError("gone")}), limit=None)
    assert found.failed == 1  # one that can be measured is enough


def test_what_is_no_model_and_no_data_is_told_what_would_be(digits, untyped):
    for model in ("mini:digits", Path("mini:digits")):
        with pytest.raises(InputError, match=r"clew\.load\('mini:digits'\)"):
            clew.evaluate("segmentation", model, "mini:digits")
    for data in ([("a film", "good")], {"text": ["a film"]}, 3):
        with pytest.raises(OptionError, match=r"no data(.|\n)*text,label(.|\n)*clew\.Dataset"):
            clew.evaluate("flipping", digits, data)
