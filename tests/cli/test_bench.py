"""`clew bench` and `clew report`: what is typed arrives, what is wrong is said."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

import clew
from clew.cli import bench
from clew.cli import report as reports
from clew.cli.main import app
from clew.errors import ClewError, OptionError


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """The console is made on import, with the width of whatever ran then."""
    monkeypatch.setattr(bench, "console", Console(width=200))


runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
DIGITS = ["--model", "mini:digits", "--data", "mini:digits", "--limit", "4", "--batch-size", "2"]


def typed(*words):
    found = runner.invoke(app, ["bench", *map(str, words)])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_a_run_is_written_reported_and_gone_on_with(tmp_path):
    out = tmp_path / "run"
    command = ["segmentation", *DIGITS, "--method", "random", "--method", "raw_attention(layer=2)", "--out", out]
    found = typed(*command, "--threshold", "mean,otsu", "--class", "target")
    assert found.exit_code == 0 and "raw_attention(layer=2)" in found.output and "report.html" in found.output
    run = clew.Run(out)
    assert run.manifest["methods"] == ["random", "raw_attention(layer=2)"]
    assert run.benchmark.threshold == ("mean", "otsu") and run.benchmark.explain == "given"
    row = next(r for r in run.summary() if r["metric"] == "map" and r["method"] == "random")
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in found.output
    before = (out / "manifest.json").read_bytes()
    assert typed(*command, "--threshold", "mean,otsu", "--explain", "given").exit_code == 0
    assert (out / "manifest.json").read_bytes() == before


def test_a_narrow_terminal_shows_all_names_and_what_they_mean(tmp_path, monkeypatch):
    out, methods = tmp_path / "run", ["--method", "raw_attention(layer=2)", "--method", "random"]
    typed("perturbation", *DIGITS, *methods, "--fractions", "0,0.5,1", "--shard-size", "2", "--out", out)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["shards"]["part-00001.parquet"]
    (out / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    monkeypatch.setattr(reports, "console", Console(width=80))
    shown = runner.invoke(app, ["report", str(out)]).output
    cells = zip(
        *([c.strip() for c in re.split("[│┃]", line)] for line in shown.splitlines() if "┃" in line), strict=True
    )
    assert [" ".join(filter(None, cell)) for cell in cells][1:-1] == [
        "method",
        "predicted / black / positive: hits AUC ↓",
        "predicted / black / negative: hits AUC ↑",
        "predicted / black: logit SRG ↑",
    ]
    flat = re.sub(r"\s+", " ", shown)
    assert "…" not in flat and "raw_attention(layer=2)" in re.sub(r"[\s│]", "", shown)
    assert "symmetric relevance gain: by how much the logit" in flat and "the most relevant first (positive)" in flat
    assert "By predicted/black: logit SRG" in flat and "told apart from random on 2 examples: take more" in flat
    assert "is not complete: these numbers are of the examples done so far" in flat


def test_options_with_several_values_are_repeated_or_separated_by_commas(tmp_path):
    out = tmp_path / "run"
    typed(
        "perturbation", *DIGITS, "--method", "random", "--out", out, "--direction", "positive",
        "--eraser", "black,mean", "--class", "predicted", "--class", "3", "--fractions", "0,0.5,1", "--units",
        "patches", "--limit", "1",
    )  # fmt: skip
    protocol = clew.Run(out).benchmark
    assert protocol.eraser == ("black", "image_mean") and protocol.explain == ("predicted", 3)
    assert protocol.fractions == (0, 0.5, 1) and protocol.direction == ("positive",)


def test_a_grid_is_searched_and_the_choice_reported(tmp_path):
    out = tmp_path / "run"
    found = typed(
        "segmentation", *DIGITS, "--method", "lrp(rules='gamma')", "--grid", "gamma_linear=0.0,0.5", "--out", out,
        "--limit", "8",
    )  # fmt: skip
    assert found.exit_code == 0 and "on the others" in found.output and (out / "chosen.html").exists()


def test_data_options_reach_the_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = typed(
        "rationale", "--model", "mini:reviews-bert", "--data", "mini:reviews", "--data-option", "count=3", "--method",
        "random", "--thresholds", "0.5",
    )  # fmt: skip
    assert found.exit_code == 0
    (folder,) = (tmp_path / "clew-runs").iterdir()
    assert clew.Run(folder).manifest["data"]["examples"] == 3 and folder.name.startswith("rationale-mini_reviews_bert")


def test_planted_evidence_needs_no_data_and_is_reported(tmp_path):
    out = tmp_path / "run"
    found = typed("planted", "--model", "mini:digits-chat", "--method", "saliency", "--limit", "2", "--out", out)
    assert found.exit_code == 0 and "quarter" in found.output and "word" in found.output
    assert clew.Run(out).manifest["data"]["name"] == "mini:digits-chat"
    page = (out / "report.html").read_text("utf-8")
    assert "<img" in page and "digit" in page and "<em>" not in page
    assert all((out / f"report.{suffix}").stat().st_size for suffix in ("csv", "md", "tex"))


def test_the_joint_table_chooses_options_and_goes_on(tmp_path):
    out = tmp_path / "run"
    words = ["joint", *DIGITS, "--limit", "8", "--method", "random", "--method", "res_lrp", "--fractions", "0.2,0.6"]
    found = typed(*words, "--out", out)
    assert found.exit_code == 0 and "SRG" in found.output and "on the others" in found.output
    run = clew.Run(out)
    assert run.manifest["methods"] == ["random", "res_lrp(gamma=0.25)", "res_lrp(gamma=1.0)"] and not run.failed
    assert (out / "chosen.html").exists() and "relevance inside" in (out / "report.md").read_text("utf-8")
    before = (out / "manifest.json").read_bytes()
    assert typed(*words, "--out", out).exit_code == 0 and (out / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "metric"),
    [
        (["perturbation", "--model", "mini:digits-chat", "--stream", "image"], "predicted/black: logit SRG"),
        (["flipping", "--model", "mini:reverse", "--stream", "source", "--data", "mini:reverse"], "prune AUAC"),
    ],
)
def test_one_stream_of_several_is_erased(tmp_path, words, metric):
    out = tmp_path / "run"
    more = ["--method", "saliency", "--method", "random", "--fractions", "0,0.5,1", "--limit", "2"]
    found = typed(*words, *more, "--out", out)
    assert found.exit_code == 0 and metric in found.output
    run = clew.Run(out)
    assert run.benchmark.stream == words[4] and not run.failed
    assert "<em>" not in (out / "report.html").read_text("utf-8")


def test_help_teaches():
    everything = runner.invoke(app, ["bench", "--help"]).output
    assert all(name in everything for name in clew.benchmarks())
    for name, cls in clew.benchmarks().items():
        shown = re.sub(r"[\s│]+", " ", runner.invoke(app, ["bench", name, "--help"]).output)
        for option in (field.name for field in dataclasses.fields(cls)):
            assert f"--{option.replace('_', '-')}" in shown, (name, option)
            assert re.search(rf"--{option.replace('_', '-')}[, ].{{0,60}}<\S+> \S", shown), (name, option)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "gamma_linear"], "NAME=VALUE"),
        (["--method", "random", "--threshold", "medain"], "mean"),
        (["--variant", "chefer"], "pa_lrp"),
        (["--method", "atn_lrp"], "attn_lrp"),
        (["--data-option", "colour=red"], "no option 'colour'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, words, message):
    with pytest.raises(ClewError, match=message):
        typed("segmentation", *DIGITS, "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_runs_are_reported_side_by_side(tmp_path):
    for seed in (0, 1):
        typed("segmentation", *DIGITS, "--method", "random", "--seed", seed, "--out", tmp_path / f"seed{seed}")
    words = [
        "report",
        str(tmp_path / "seed0"),
        str(tmp_path / "seed1"),
        "--out",
        str(tmp_path / "both.html"),
        "--latex",
    ]
    found = runner.invoke(app, words)
    assert found.exit_code == 0 and "\\begin{tabular}" in found.output and (tmp_path / "both.csv").exists()
    assert "seed0" in found.output and "seed1" in found.output
    with pytest.raises(OptionError, match="nothing to report"):
        raise runner.invoke(app, ["report"]).exception


def test_predictions_in_erasers_format_are_scored(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_text("a fine film indeed")
    evidence = {"docid": "a", "start_token": 1, "end_token": 2, "text": "fine"}
    annotation = {"annotation_id": "a", "evidences": [[evidence]], "classification": "POS"}
    (tmp_path / "test.jsonl").write_text(json.dumps(annotation) + "\n")
    spans = [{"start_token": 1, "end_token": 2}, {"start_token": 3, "end_token": 4}]
    guess = {"annotation_id": "a", "rationales": [{"docid": "a", "hard_rationale_predictions": spans}]}
    (tmp_path / "guess.jsonl").write_text(json.dumps(guess) + "\n")
    words = ["report", "--eraser", str(tmp_path / "guess.jsonl"), "--annotations", str(tmp_path / "test.jsonl")]
    found = runner.invoke(app, words)
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["token_prf"]["instance_micro"] == {"p": 0.5, "r": 1.0, "f1": pytest.approx(2 / 3)}
