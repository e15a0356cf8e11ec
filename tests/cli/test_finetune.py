"""`clew finetune`: what is typed arrives, what is wrong is said."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import pytest
from rich.console import Console
from support.labelled_data import film_folder, reviews, table
from typer.testing import CliRunner

import clew.training.session
from clew.cli import finetune as command
from clew.cli.main import app, main
from clew.errors import ClewError, InputError, LoadError, OptionError
from clew.training.recipes import Recipe


@pytest.fixture(autouse=True)
def _wide(monkeypatch, tmp_path):
    """The console is made on import, with the width of whatever ran then; what has no place is written here."""
    monkeypatch.setattr(command, "console", Console(width=200))
    monkeypatch.chdir(tmp_path)


runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
QUICK = ["--model", "mini:reviews-bert", "--epochs", "1", "--lr", "0.001"]


def typed(*words):
    found = runner.invoke(app, ["finetune", *map(str, words)])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def facts(folder):
    return json.loads((folder / "finetune.json").read_text())


def test_a_table_is_all_that_is_needed(tmp_path):
    table(tmp_path / "reviews.csv", reviews(30))
    found = typed("reviews.csv", *QUICK)
    folder = tmp_path / "finetuned" / "reviews.csv-mini_reviews_bert"
    after, before = facts(folder)["results"]["test"], facts(folder)["before"]
    assert found.exit_code == 0
    assert (
        f"before: {before['accuracy']:.1%} of 6 test examples are right (95 % interval {before['low']:.1%} to"
        in found.output
    )
    one = facts(folder)["results"]["evaluations"][0]
    assert f"validation loss {one['loss']:.4f}, accuracy {one['accuracy']:.1%}" in found.output
    assert f"accuracy on 6 test examples: {after['accuracy']:.1%} (before: {before['accuracy']:.1%})" in found.output
    assert "6 examples (20%) are held out" in found.output and f"--model {folder.relative_to(tmp_path)}" in found.output
    again = typed("reviews.csv", *QUICK)
    assert (
        "validation loss" not in again.output
        and f"accuracy on 6 test examples: {after['accuracy']:.1%}" in again.output
    )
    assert facts(folder)["command"].startswith("clew finetune reviews.csv --model mini:reviews-bert")
    with pytest.raises(InputError, match="holds another training"):
        typed("reviews.csv", *QUICK, "--seed", 1)
    assert typed("reviews.csv", *QUICK, "--seed", 1, "--overwrite").exit_code == 0


def test_a_papers_task_with_its_recipe_and_all_options(tmp_path):
    names = [f"{kind}_{i}" for kind in ("neg", "pos") for i in range(8)]
    film_folder(tmp_path / "movies", train=names[:6] + names[8:14], val=["neg_6", "pos_6"], test=["neg_7", "pos_7"])
    found = typed(
        "movies", "--model", "mini:reviews-bert", "--epochs", 2, "--out", "here", "--device", "cpu", "--micro-batch", 5,
        "--no-before", "--train", 1, "--reinit", 1, "--eval-steps", 1, "--limit", 11, "--patience", 0, "--workers", 0,
        "--schedule", "cosine", "--warmup-epochs", 0.5, "--weight-decay", 0.1, "--adam-epsilon", 1e-7, "--max-length",
        100, "--max-grad-norm", 0.5, "--batch-size", 5, "--lr", 1e-4, "--seed", 3,
    )  # fmt: skip
    got = facts(tmp_path / "here")
    assert found.exit_code == 0 and got["before"] is None and "before" not in found.output
    assert got["asked"]["data"] == "movies" and got["asked"]["classes"] == ["NEG", "POS"]
    assert got["asked"]["recipe"] == {
        "lr": 1e-4, "batch_size": 5, "epochs": 2.0, "patience": 0, "schedule": "cosine", "warmup_epochs": 0.5,
        "weight_decay": 0.1, "adam_epsilon": 1e-7, "max_grad_norm": 0.5, "max_length": 100, "train": "1", "reinit": 1,
        "augment": False, "seed": 3,
    }  # fmt: skip
    assert got["asked"]["more"] == {"limit": 11, "eval_steps": 1}
    assert [one["epoch"] for one in got["results"]["evaluations"]] == pytest.approx(
        [k / 3 for k in range(1, 7)], abs=0.01
    )
    assert got["results"]["max_length"] == 100 and got["asked"]["parts"] == {"train": 11, "validation": 2, "test": 2}


def test_parts_options_of_the_reader_and_task_names(tmp_path):
    rows = [(text, {"bad": "0 stars", "good": "5 stars"}[label]) for text, label in reviews(30)]
    for name, some in (("a", rows[:20]), ("v", rows[20:25]), ("t", rows[25:])):
        path = table(tmp_path / f"{name}.csv", some)
        path.write_text(path.read_text().replace("text,label", "said,stars"))
    found = typed(
        "text", "a.csv", *QUICK, "--validation", "v.csv", "--test", "t.csv", "--data-option", "text=said",
        "--data-option", "label=stars", "--data-option", "classes=5 stars,0 stars", "--out", "one",
    )  # fmt: skip
    got = facts(tmp_path / "one")["asked"]
    assert found.exit_code == 0 and got["parts"] == {"train": 20, "validation": 5, "test": 5}
    assert got["classes"] == ["5 stars", "0 stars"]
    table(tmp_path / "b.csv", reviews(40))
    typed("text", "--data", "b.csv", *QUICK, "--validation", "0.5", "--test", "0.25", "--out", "two")
    assert facts(tmp_path / "two")["asked"]["parts"] == {"train": 15, "validation": 15, "test": 10}


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["reviewz.csv", "-m", "mini:reviews-bert"], InputError, "(?s)no data at reviewz.csv.*to do"),
        (["movies", "-m", "mini:reviews-bert"], InputError, "(?s)no data at movies.*eraserbenchmark.com"),
        (["20newsgroups", "-m", "mini:reviews-bert"], InputError, "(?s)no data at 20news-bydate.*qwone.com"),
        (["imdb", "-m", "mini:reviews-bert"], InputError, "(?s)no data at imdb.csv.*kaggle.com"),
        (["text", "-m", "mini:reviews-bert"], OptionError, "(?s)no data for the task 'text'.*to do"),
        (
            ["films", "there.csv", "-m", "mini:reviews-bert"],
            OptionError,
            "(?s)no task 'films'.*movies, 20newsgroups, imdb",
        ),
        (["there.csv"], OptionError, "(?s)no model to begin with.*hf:ORG/NAME"),
        (["text", "there.csv", "--data", "there.csv"], OptionError, "given twice"),
        (["there.csv", "-m", "mini:reviews"], LoadError, "(?s)no bundled model 'reviews'.*reviews-bert"),
        (["there.csv", "-m", "mini:reviews-bert", "--data-option", "text"], OptionError, "NAME=VALUE"),
        (["there.csv", "-m", "mini:reviews-bert", "--data-option", "txt=a"], OptionError, "no option 'txt'"),
        (["there.csv", "-m", "mini:reviews-bert", "--lr", "-1"], OptionError, "lr is out of range"),
        (["there.csv", "-m", "mini:reviews-bert", "--train", "heads"], OptionError, "train is out of range"),
        (["there.csv", "-m", "mini:reviews-bert", "--test", "1.5"], OptionError, "above 0, below 1"),
        (["there.csv", "-m", "mini:reviews-bert", "--validation", "no.csv"], InputError, "no data at no.csv"),
        (["there.csv", "-m", "mini:reviews-bert", "--quantize", "4bit"], OptionError, "lora=16 beside"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, words, error, said):
    table(tmp_path / "there.csv", reviews(20))
    with pytest.raises(error, match=said):
        typed(*words)
    assert not list(tmp_path.glob("finetuned/*/model.safetensors"))


def test_errors_are_shown_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clew", "finetune", "nothing.csv", "-m", "mini:reviews-bert"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "error: no data at nothing.csv" in said and "Traceback" not in said


def test_a_stop_by_the_keyboard_says_how_to_go_on(tmp_path, monkeypatch):
    table(tmp_path / "reviews.csv", reviews(20))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clew.training.session.Session, "_measure", stop)
    found = typed("reviews.csv", *QUICK)
    assert found.exit_code == 130 and "the same command goes on" in found.output
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert typed("reviews.csv", *QUICK).exit_code == 0


def test_the_help_has_every_field_of_a_recipe_with_its_defaults():
    found = typed("--help")
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", found.output).split())
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')} " in said
    for part in (
        "movies 1e-05, 20newsgroups 5e-06, imdb 0.0005",
        "movies 12345",
        "reinit",
        "accelerate launch",
        "Recipe",
    ):
        assert part in said, part
    assert typed("movies", "--learning-rate", 1).exit_code == 2
    assert issubclass(InputError, ClewError)
