"""Every command of docs/reproduce.md runs, as it stands there, on small stand-ins of what it reads."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import timm
import transformers
from support import standins
from support.browser import served
from support.commands import COMMANDS, parsed
from typer.testing import CliRunner

import clew
from clew.cli.main import app
from clew.explainers import parse_method

pytestmark = [  # of PEFT, which asks transformers for what has another name now, and the Hub for a configuration
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@dataclass(frozen=True)
class Outcome:
    """A command that ran: its words, its arguments as it parsed them, its folder, what it printed."""

    words: list[str]
    given: dict[str, Any]
    folder: Path
    output: str


# The page is served by a process of its own, in which timm's models are small, too.
SMALL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import timm
from support import standins
timm.create_model = standins.create_model
from clew.cli.main import main
main()
"""


class Runs:
    """Runs commands, each in a folder of its own in which its inputs lie, and each once."""

    def __init__(self, root: Path) -> None:
        self._root, self._done = root, dict[str, Outcome]()
        self.inputs = standins.StandIns(root / "inputs")

    def __call__(self, words: list[str]) -> Outcome:
        key = " ".join(words)
        if key not in self._done:
            folder = Path(tempfile.mkdtemp(dir=self._root))
            self.inputs.place(words, folder)
            self._place_results(words, folder)
            self._done[key] = self._run(reduced(words), folder)
        return self._done[key]

    def _run(self, words: list[str], folder: Path) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            if words[1] == "ui":
                return Outcome(words, parsed(words)[1], folder, offered(folder, words[2:]))
            found = runner.invoke(app, words[1:])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == 0, found.output
        return Outcome(words, parsed(words)[1], folder, found.output)

    def _place_results(self, words: list[str], folder: Path) -> None:
        """What commands before this one in the text have written, which it reads."""
        if words[1] != "report":
            return
        before = COMMANDS[: COMMANDS.index(words)]
        given = parsed(words)[1]
        for run in given["runs"] or []:
            makers = [one for one in before if one[1] == "bench" and "--help" not in one]
            maker = next((one for one in reversed(makers) if folder_of(one) == run), None)
            assert maker, f"no command before writes {run}; they write {', '.join(map(str, map(folder_of, makers)))}"
            shutil.copytree(self(maker).folder / run, folder / run)
        if given["eraser"] is not None:
            maker = next(one for one in reversed(before) if "--predictions" in one)
            wanted = sorted(self(maker).folder.rglob(given["eraser"].name))
            shutil.copy(wanted[0], folder / given["eraser"])


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("reproduce"))


@pytest.fixture(autouse=True)
def _as_users_run_it(untyped):
    """Without the tests' type checker, for which 100 is no float: what is typed is read and checked by clew itself."""


@pytest.fixture(autouse=True)
def _nothing_is_fetched(runs, tmp_path_factory, monkeypatch):
    cache = str(runs.inputs.cache)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
    if hasattr(transformers.utils.hub, "TRANSFORMERS_CACHE"):  # older releases have a copy of it
        monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    # timm knows its models by their names alone, in full size: there is no folder to give it instead. Only how large
    # they are, and that their weights are random, differs from what it makes of a name.
    monkeypatch.setattr(timm, "create_model", standins.create_model)


# What makes a kind of command small where it does not say so itself: what every such command takes, the text says.
# Nothing that a command says is replaced; there is enough of every data set for it, and little beyond.
SMALLER = {
    "clew bench": {"--limit": "2"},
    "clew finetune": {"--limit": "4", "--epochs": "1", "--warmup-epochs": "0.5"},
}


def kind_of(words: list[str], kinds: Mapping[str, Any]) -> str | None:
    """The longest of some beginnings of commands that a command has."""
    return max((kind for kind in kinds if words[: len(kind.split())] == kind.split()), key=len, default=None)


def reduced(words: list[str]) -> list[str]:
    kind = kind_of(words, SMALLER)
    more = {} if kind is None or "--help" in words else SMALLER[kind]
    if "--grid" in words:  # of which each half chooses, or is reported
        more = more | {"--limit": "4"}
    return words + [word for option in more if option not in words for word in (option, more[option])]


def folder_of(words: list[str]) -> Path:
    """Where a benchmark writes to; `check_bench` sees whether that is so."""
    name, given = parsed(words)
    parts = (name, given["model"], Path(given["data"]).name)
    return given["out"] or Path("clew-runs") / "-".join(re.sub(r"[^\w.]+", "_", p)[-40:].strip("_") for p in parts)


def same(methods: list[str]) -> list[tuple[str, dict[str, Any]]]:
    return [parse_method(one) for one in methods]


# --- What is checked of each kind of command ------------------------------------------------------------------------


def check_help(done: Outcome) -> None:
    assert "--method" in done.output and "--limit" in done.output


def check_methods(done: Outcome) -> None:
    name = done.given["name"]
    assert all(option in done.output for option in clew.methods()[name].options)


def check_bench(done: Outcome) -> None:
    (folder,) = (done.folder / "clew-runs").iterdir()
    assert folder == done.folder / folder_of(done.words)
    run = clew.Run(folder)
    assert run.failed == 0, run.errors[0]
    asked, methods = run.manifest["asked"], run.manifest["methods"]
    assert same(asked) == same(done.given["method"] or [name for name, m in clew.methods().items() if not m.only_named])
    combinations = np.prod([len(one.split(",")) for one in done.given["grid"] or []], dtype=int)
    assert len(methods) == len(asked) * combinations
    examples = run.manifest["data"]["examples"]
    assert examples >= 2
    rows = run.table.to_pylist()
    assert len(rows) == len({(row["example"], row["method"]) for row in rows}) == examples * len(methods)
    with_numbers = [row for row in rows if row["error"] is None]
    assert {row["method"] for row in with_numbers} == set(methods)
    assert all(isfinite(s) for row in with_numbers for s in row["scores"])
    varied = {row["method"] for row in with_numbers if len(set(row["scores"])) > 1}
    assert set(methods) - varied <= {"attention_gradcam"}  # which may be zero everywhere, for want of evidence
    with (folder / "report.csv").open(newline="") as file:
        reported = list(csv.DictReader(file))
    assert {row["method"] for row in reported} == set(methods)
    headlines = {metric.name for metric in run.metrics if metric.headline}
    assert headlines and all(isfinite(float(row["value"])) for row in reported if row["metric"] in headlines)
    for suffix in (".html", ".csv", ".md", ".tex"):
        written = folder / f"report{suffix}"
        assert written.stat().st_size > 100 and written.name in done.output.replace("\n", "")
    if done.given["grid"]:
        assert (folder / "chosen.html").exists()


def check_explain(done: Outcome) -> None:
    page = (done.folder / "clew.html").read_text("utf-8")
    methods = done.given["method"] or ["beyond_intuition_token"]
    for name, _ in same(methods):
        assert re.search(rf"<b[^>]*>(<bdi>)?{name}", page), name
    inputs = done.given["inputs"]
    texts = done.given["text"] or []
    if inputs[0].endswith(".jpg"):
        heatmaps = re.findall(r'class="heat" src="data:image/png;base64,([^"]+)"', page)
        assert len(heatmaps) == len(set(heatmaps)) == len(methods) * len(inputs) * max(1, len(texts))
    else:
        texts = inputs
        assert page.count("<figure>") == len(methods) * len(inputs)
    shown = re.sub(r"<[^>]*>", "", page)
    assert all(text in shown for text in texts)


def check_generate(done: Outcome) -> None:
    page = (done.folder / "clew.html").read_text("utf-8")
    assert page.count('class="t out"') == done.given["max_new_tokens"]
    assert done.given["prompt"] in done.output and done.given["prompt"] in re.sub(r"<[^>]*>", "", page)


def check_report(done: Outcome) -> None:
    if done.given["eraser"] is not None:
        scores = json.loads(done.output)
        assert set(scores) == {"iou_scores", "rationale_prf", "token_prf"}
        assert 0 < scores["token_prf"]["instance_macro"]["f1"] < 1
        return
    (run,) = (clew.Run(done.folder / path) for path in done.given["runs"])
    methods = run.manifest["methods"]
    if done.given["latex"]:
        table = done.output[done.output.index("\\begin{tabular}") : done.output.index("\\end{tabular}")]
        assert all(method.partition("(")[0].replace("_", r"\_") in table for method in methods)
    if done.given["predictions"] is not None:
        folder = done.folder / done.given["predictions"]
        assert len(list(folder.iterdir())) == len(methods)
        for one in folder.iterdir():
            files = {path.name for path in one.iterdir()}
            assert files == {f"identifier_results_{k}.json" for k in range(5, 81, 5)}
            lines = (one / "identifier_results_40.json").read_text("utf-8").splitlines()
            assert {json.loads(line)["annotation_id"] for line in lines} == set(run.table.column("example").to_pylist())


def check_finetune(done: Outcome) -> None:
    (folder,) = (done.folder / "finetuned").iterdir()
    written = json.loads((folder / "finetune.json").read_text("utf-8"))
    results, parts = written["results"], written["asked"]["parts"]
    assert all(isfinite(one["loss"]) for one in results["evaluations"]) and results["evaluations"]
    assert results["test"]["examples"] == parts["test"] and 0 <= results["test"]["accuracy"] <= 1
    assert all(parts.values()) and (folder / "README.md").exists()
    assert folder.name.startswith(f"{done.words[2]}-") and folder.name in done.output
    loaded = clew.load(folder)
    assert list(loaded.labels or ()) == written["asked"]["classes"]
    assert clew.explain(loaded, "a brilliant film", method="attn_lrp").scores.isfinite().all()


# By the first words of a command; the longest that fits counts.
def offered(folder: Path, options: list[str]) -> str:
    """The page, served until it was read once: what models it offers."""
    page = served(folder, *options, program=("-c", SMALL))
    with page as (address, _), urllib.request.urlopen(f"{address}/config", timeout=30) as answer:
        parts = json.loads(answer.read())["components"]
    choices = next(part["props"]["choices"] for part in parts if part["props"].get("elem_id") == "model")
    return "\n".join(name for name, _ in choices)


def check_ui(done: Outcome) -> None:
    assert {*done.given["model"], "mini:digits"} <= set(done.output.splitlines())


CHECKS: dict[str, Callable[[Outcome], None]] = {
    "clew bench": check_bench,
    "clew explain": check_explain,
    "clew finetune": check_finetune,
    "clew generate": check_generate,
    "clew methods": check_methods,
    "clew report": check_report,
    "clew ui": check_ui,
}


def checker(words: list[str]) -> Callable[[Outcome], None]:
    if "--help" in words:
        return check_help
    kind = kind_of(words, CHECKS)
    if kind is None:
        pytest.fail(f"nothing says what `{' '.join(words)}` should do: add its first words to CHECKS")
    return CHECKS[kind]


@pytest.mark.sampled(0.15, by=lambda given: given["words"][1:3])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[5:80])
def test_the_command_runs(words, runs):
    check = checker(words)
    check(runs(words))


def test_no_two_commands_write_to_one_folder():
    """A benchmark goes on with what lies in its folder, and refuses that of another run."""
    written: dict[Path, list[str]] = {}
    for words in COMMANDS:
        if words[1] == "bench" and "--help" not in words:
            written.setdefault(folder_of(words), []).append(" ".join(words))
    twice = [f"{folder}:\n  " + "\n  ".join(several) for folder, several in written.items() if len(several) > 1]
    assert not twice, "\n".join(twice)


def test_a_command_of_a_kind_that_nothing_checks_is_noticed():
    with pytest.raises(pytest.fail.Exception, match="add its first words to CHECKS"):
        checker(["clew", "brew", "coffee"])
