"""`--json`: standard output holds JSON by the schema and nothing else; and the files of other programs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import validate
from support.commands import run

import clew
from clew.errors import ClewError


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, image in enumerate(clew.scenes().images[:2]):
        image.save(f"scéne{i}.png")
    return ["scéne0.png", "scéne1.png"]


def said(done):
    """What is on standard output, line by line."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one in found:
        validate(one, clew.Attribution.json_schema())
    return found


def test_a_line_for_each_method_and_the_rest_on_standard_error(pictures, tmp_path):
    methods = ["raw_attention", "attention_rollout"]
    done = run("explain", *pictures, "-m", "mini:digits", "--json", *(w for m in methods for w in ("--method", m)))
    assert done.exit_code == 0, done.output
    found = said(done)
    assert [one["method"] for one in found] == methods
    assert done.stdout.isascii()  # whatever the encoding of the terminal
    assert [example["input"] for example in found[0]["examples"]] == pictures
    assert "raw_attention: " in done.stderr
    assert sorted(f.name for f in tmp_path.iterdir()) == pictures  # no page
    expected = clew.explain(clew.load("mini:digits"), clew.open_image(pictures[1]), method="raw_attention")
    columns = found[0]["examples"][1]["streams"]["image"]["columns"]
    np.testing.assert_allclose(columns["score"], expected.scores[0], rtol=1e-4, atol=1e-7)


def test_files_say_which_input_a_score_is_of(pictures):
    for name in ("a.csv", "a.JSON"):
        done = run("explain", *pictures, "-m", "mini:digits", "--method", "raw_attention", "-o", name)
        assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(Path("a.csv").read_text("utf-8").splitlines()))
    examples = json.loads(Path("a.JSON").read_text("utf-8"))["examples"]
    assert list(dict.fromkeys(row["input"] for row in rows)) == pictures == [one["input"] for one in examples]
    assert float(rows[0]["target_score"]) == examples[0]["score"]


def test_a_script_reads_it_from_a_process(pictures):
    script = "import sys; from clew.cli.main import main; main()"
    words = ["explain", pictures[0], "broken.png", "-m", "mini:digits", "--method", "raw_attention", "--json"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 1 and "broken.png" in done.stderr  # it cannot be read; the others are there
    assert [example["input"] for example in json.loads(done.stdout)["examples"]] == pictures[:1]


def test_both_sides_of_a_pair_and_a_page_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenes = clew.captioned_scenes()
    scenes.images[0].save("scene.png")
    words = [word for caption in scenes.captions[0] for word in ("--text", caption)]
    done = run("explain", "scene.png", "-m", "mini:digits-clip", "--json", "-o", "a.html", *words)
    (found,) = said(done)
    assert [example["input"] for example in found["examples"]] == ["scene.png"] * 2
    assert list(found["examples"][0]["streams"]) == ["image", "text"]
    assert (tmp_path / "a.html").exists()


def test_several_inputs_and_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (found,) = said(run("explain", "--source", "q a f k z b c d e g", "--model", "mini:reverse", "--json"))
    assert {stream["kind"] for stream in found["examples"][0]["streams"].values()} == {"text"}
    (found,) = said(run("generate", "--source", "q a f k z b c d e g", "--model", "mini:reverse", "--json"))
    assert found["kind"] == "generation" and len(found["examples"]) >= 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npy", ".png"])
def test_files_for_other_programs(suffix, tmp_path):
    out = tmp_path / f"a{suffix}"
    done = run("explain", "a graceful film", "-m", "mini:reviews-bert", "--method", "raw_attention", "-o", out)
    assert done.exit_code == 0 and out.stat().st_size > 100
    assert run("generate", "--source", "q a f k z b c d e g", "-m", "mini:reverse", "-o", out).exit_code == 0


def test_files_of_one_result_are_not_for_several(pictures):
    words = ["--method", "raw_attention", "--method", "attention_rollout", "-o", "a.json"]
    with pytest.raises(ClewError, match="a line for each method"):
        run("explain", *pictures, "-m", "mini:digits", *words)
    with pytest.raises(ClewError, match=r"\.csv"):
        run("generate", "so", "-m", "mini:reverse", "-o", "a.pdf")
