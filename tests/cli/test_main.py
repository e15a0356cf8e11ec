"""The command line as a user types it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from support.commands import run

import clew
from clew.cli import main as cli
from clew.cli.methods import entries, references
from clew.demo import METHODS
from clew.errors import ClewError, InputError, OptionError
from clew.explainers import parse_method

TWO = ["--method", "raw_attention", "--method", "saliency"]


@pytest.fixture
def pictures(tmp_path):
    files = []
    for i, image in enumerate(clew.scenes().images[:3]):
        image.save(tmp_path / f"scene{i}.png")
        files.append(str(tmp_path / f"scene{i}.png"))
    return files


def test_explain_writes_a_page_that_compares_methods(pictures, tmp_path):
    out = tmp_path / "a.html"
    method = "beyond_intuition_token(start_layer=2, n_steps=3)"
    done = run("explain", *pictures, "-m", "mini:digits", "--method", "raw_attention", "--method", method, "-o", out)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert text.count("heatmap: raw_attention") == 3 and ">clew: scene0.png, scene1.png, scene2.png<" in text
    assert "start_layer=2" in text
    assert "scene2.png" in done.output
    assert "integration error" in done.output


def test_a_checkpoint_comes_with_labels_and_normalisation_of_its_own(pictures, tmp_path):
    folder = tmp_path / "model"
    loaded = clew.load("mini:digits")
    loaded.model.save_pretrained(folder)
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    more = (
        "--labels",
        tmp_path / "names.txt",
        "--mean",
        "0.4,0.5,0.6",
        "--std",
        "1,1,1",
        "--target",
        "class 3 / class 5",
    )
    out = tmp_path / "a.safetensors"
    done = run("explain", pictures[0], "-m", folder, "--method", "raw_attention", "-o", out, *more)
    assert done.exit_code == 0, done.output
    found = clew.Attribution.load(out)
    assert found.target == ["class 3 - class 5"] or "class 3" in found.target[0]
    own = clew.load(folder, mean=(0.4, 0.5, 0.6), std=(1.0, 1.0, 1.0))
    image = clew.open_image(pictures[0])
    assert (
        found.logits is not None
        and (found.logits - clew.explain(own, image, method="raw_attention").logits).abs().max() < 1e-5
    )
    with pytest.raises(OptionError, match="--mean takes numbers"):
        run("explain", pictures[0], "-m", folder, "--mean", "grey")


def test_explain_writes_safetensors_and_takes_targets(pictures, tmp_path):
    out = tmp_path / "a.safetensors"
    done = run(
        "explain", pictures[0], "-m", "mini:digits", "--target", "seven / one", "--method", "saliency", "-o", out
    )
    assert done.exit_code == 0, done.output
    found = clew.Attribution.load(out)
    assert found.target == ["seven rather than one"]
    assert found.provenance["model"] == "mini:digits"
    done = run("explain", pictures[0], "-m", "mini:digits", "-t", "3", "--score", "probability", "-o", out)
    assert clew.Attribution.load(out).target == ["three"]
    assert clew.Attribution.load(out).score < 1


def test_the_terminal_says_in_words_what_was_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "a dull and shallow film . " * 120
    Path("long.txt").write_text(text)
    Path("short.txt").write_text("a joy")
    model = clew.load("mini:reviews-bert")
    asked = ["-m", "mini:reviews-bert", "--method", "saliency"]
    done = run("explain", "long.txt", *asked, "--truncate", "--target", "positive / negative", "-o", "a.html")
    shown = " ".join(done.output.split())
    cut = int(clew.explain(model, text.strip(), method="saliency", truncate=True).checks["characters_cut"])
    assert cut > 1000 and "(predicted: negative; on tokens that the tokenizer added: " in shown
    assert f"characters cut: {cut:,})" in shown and f"… ({cut:,} characters cut)" in shown
    assert 20 < shown.count("shallow") < 40  # of 120
    done = run("explain", "long.txt", "short.txt", *asked, "--window", "32", "-o", "a.html")
    shown = " ".join(done.output.split())
    assert "windows: 1, of 32 tokens, one every 16)" in shown and "predicted" not in shown
    assert 20 < shown.count("shallow") < 40 and " … " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "-m", "mini:digits", "--method", "rollout"], "attention_rollout"),
        (["{0}", "-m", "mini:digits", "--method", "raw_attention(__import__('os'))"], "is written NAME"),
        (["{0}", "-m", "mini:digits", "-o", "a.pdf"], r"\.html, \.png, \.csv, \.json, \.npy, \.safetensors"),
        (["-m", "not loaded", "-o", "a.pdf"], r"\.html, \.png, \.csv, \.json, \.npy, \.safetensors"),
        (["-m", "not loaded", *TWO, "-o", "a.CSV"], r"\.html, \.png or \.tex .*\n.*\n.*once for each method"),
        (["-m", "not loaded", *TWO, "-o", "a.json"], "--json writes a line for each method"),
        (["{0}", "-m", "mini:digits", "-t", "ten"], "no label 'ten'"),
        (["nothing.png", "-m", "mini:digits"], "no image file"),
        (["{0}", "-m", "mini:letters"], "no bundled model"),
    ],
)
def test_errors_say_what_to_do(pictures, arguments, message):
    with pytest.raises(ClewError, match=message):
        run("explain", *(a.format(*pictures) for a in arguments))


def test_an_error_is_shown_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "clew", "explain", "no.png", "-m", "mini:digits"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 1
    assert "no image file" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_methods_models_and_doctor():
    listed = run("methods").output
    assert all(name in listed for name, m in clew.methods().items() if m.function.__module__.startswith("clew."))
    assert "n_steps=8" in run("methods", "beyond_intuition_head").output
    models = run("models").output
    assert "timm_vit" in models and "BertForSequenceClassification" in models and "…" not in models
    assert "Whisper" in models and "LLaVA" in models and "T5" in models
    assert "beyond_intuition_token, of models" in " ".join(run("explain", "--help").output.split())
    done = run("doctor", "mini:digits")
    assert (done.exit_code, done.output.count("│ ok │")) == (0, 10)


def test_demo(tmp_path):
    done = run("demo", "--out", tmp_path / "demo.html", "--limit", 2)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "demo.html").read_text().count("heatmap:") == 2 * len(METHODS) + 2 * 2
    assert "maximum on the digit" in done.output


def test_the_version_is_that_of_the_package():
    done = run("--version")
    assert (done.exit_code, done.output) == (0, f"clew {metadata.version('clew')}\n")


def test_methods_are_listed_as_they_are_registered():
    """Names, papers, summaries, docstrings, options and their defaults, though the files are not run for the list."""
    registered = {
        m.name: (m.paper, m.summary, inspect.getdoc(m.function), {k: repr(v) for k, v in m.options.items()})
        for m in clew.methods().values()
        if m.function.__module__.startswith("clew.")
    }
    assert list(registered.items()) == [(k, (e.paper, e.summary, e.doc, e.options)) for k, e in entries().items()]
    with pytest.raises(OptionError, match="did you mean 'saliency'"):
        run("methods", "salency")
    default = inspect.signature(clew.explain).parameters["method"].default
    assert f"takes {default}" in " ".join(run("methods").output.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_listed_as_its_help_begins(name):
    command = cli.Command(name, help=cli.COMMANDS[name]).command()
    assert " ".join(command.help.partition("\n\n")[0].split()) == cli.COMMANDS[name]
    assert name in run("--help").output


@pytest.mark.parametrize("command", ["explain", "methods", "models", "doctor", "demo"])
def test_help_teaches(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert len(done.output) > 200


def test_methods_with_options_are_literals():
    assert parse_method("saliency") == ("saliency", {})
    assert parse_method("a(x=1, y='b', z=[1, 2.5])") == ("a", {"x": 1, "y": "b", "z": [1, 2.5]})
    for wrong in ("", "a(1)", "a(x=y)", "a.b", "a(**{})", "1 + 1", "a(x=print())"):
        with pytest.raises(OptionError):
            parse_method(wrong)


def test_every_method_is_found_from_the_command_line(pictures, tmp_path):
    options = {
        "integrated_gradients": "(n_steps=4)",
        "smoothgrad": "(n_samples=2)",
        "dave": "(n_samples=2)",
        "tis": "(n_masks=8)",
    }
    chosen = [a for name in clew.methods() if name != "value_norm" for a in ("--method", name + options.get(name, ""))]
    done = run("explain", pictures[0], "-m", "mini:digits", *chosen, "-o", tmp_path / "all.png")
    assert done.exit_code == 0, done.output
    assert Path(tmp_path / "all.png").stat().st_size > 10_000


@pytest.fixture
def pair_scene(tmp_path):
    clew.captioned_scenes().images[0].save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_explain_compares_a_picture_with_texts(pair_scene, tmp_path):
    page = tmp_path / "pair.html"
    texts = ["--text", "a seven", "--text", "a two"]
    done = run("explain", pair_scene, "-m", "mini:digits-clip", *texts, "-o", page)
    assert done.exit_code == 0, done.output
    assert "a seven" in done.output and "a two" in done.output
    assert page.read_text().count('class="words"') == 2 and page.read_text().count('<section class="row">') == 1
    done = run("explain", pair_scene, "-m", "mini:digits-clip", *texts, "-o", tmp_path / "pair.png")
    assert done.exit_code == 0, done.output
    done = run("explain", pair_scene, "-m", "mini:digits-clip", "-t", "a two / a six", "-o", tmp_path / "c.safetensors")
    assert done.exit_code == 0, done.output
    assert clew.Attribution.load(tmp_path / "c.safetensors").target == ["a two rather than a six"]
    done = run(
        "explain", pair_scene, "-m", "mini:digits-clip", *texts, "--side", "text", "-o", tmp_path / "t.safetensors"
    )
    assert done.exit_code == 0, done.output
    assert clew.Attribution.load(tmp_path / "t.safetensors").kind == "text"


def test_a_picture_and_an_image_text_model_need_something_to_compare(pair_scene, tmp_path):
    with pytest.raises(OptionError, match="what to compare"):
        run("explain", pair_scene, "-m", "mini:digits-clip", "-o", tmp_path / "a.html")


def broken(folder: Path, name: str = "cut.jpg") -> Path:
    clew.scenes().images[3].resize((300, 300)).save(folder / "whole.jpg.part", format="JPEG")
    (folder / name).write_bytes((folder / "whole.jpg.part").read_bytes()[:900])
    return folder / name


@pytest.mark.parametrize("command", ["explain", "figure"])
def test_what_is_broken_in_a_folder_is_named_and_the_rest_goes_on(command, pictures, tmp_path):
    folder, out = tmp_path, tmp_path / "results" / "a.png"
    out.parent.mkdir()
    (folder / "._scene0.png").write_bytes(b"\0\5\x16\7")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "folder.jpg").mkdir()
    asked = (command, folder, "-m", "mini:digits", "--method", "raw_attention", "-o", out)
    done = run(*asked)
    assert done.exit_code == 0 and out.is_file() and "left out" not in done.output, done.output
    out.unlink()
    name = str(broken(folder))
    done = run(*asked)
    assert done.exit_code == 1 and out.is_file()
    assert "left out" in done.stderr and name in done.stderr and "is broken" in done.stderr
    assert "._scene0" not in done.output and "left out" not in done.stdout


def test_a_broken_file_that_is_named_does_not_stop_the_others(pictures, tmp_path):
    out = tmp_path / "a.safetensors"
    asked = ("-m", "mini:digits", "--method", "raw_attention", "-o", out)
    done = run("explain", pictures[0], broken(tmp_path), tmp_path / "missing.png", pictures[1], *asked)
    assert done.exit_code == 1 and done.stderr.count("left out") == 2 and "missing.png" in done.stderr
    both = clew.explain(clew.load("mini:digits"), clew.scenes().images[:2], method="raw_attention")
    assert len(clew.Attribution.load(out)) == 2
    assert (clew.Attribution.load(out).scores == both.scores).all()
    out.unlink()
    with pytest.raises(ClewError, match="is broken"):
        run("explain", broken(tmp_path), *asked)
    with pytest.raises(ClewError, match=r"none of the inputs can be read(.|\n)*cut.jpg(.|\n)*other.jpg"):
        run("explain", broken(tmp_path), broken(tmp_path, "other.jpg"), *asked)
    assert not out.exists()


def test_texts_of_a_folder_alike(tmp_path):
    (tmp_path / "a.txt").write_text("a brilliant film")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00caf\xe9")
    (tmp_path / "c.txt").write_text(" \n")
    (tmp_path / "._a.txt").write_bytes(b"\xff")
    out = tmp_path / "out.safetensors"
    done = run("explain", tmp_path, "-m", "mini:reviews-bert", "--method", "raw_attention", "-o", out)
    assert done.exit_code == 1 and len(clew.Attribution.load(out)) == 1
    assert "b.txt is no text" in done.stderr and "c.txt is empty" in done.stderr and "._a" not in done.stderr


OWN = """
import neighbour
import clew

@clew.method(paper="mine", summary="the same everywhere")
def plugged_in(subject: clew.Subject, *, size: float = neighbour.SIZE):
    return subject.x.new_full((subject.batch, 65), size)
"""


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    """A file with a method; what it changes is undone."""
    import clew.explainers as register

    clew.methods()
    monkeypatch.setattr(register, "_registered", dict(register._registered))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour.py").write_text("SIZE = 2.0")
    (tmp_path / "mine.py").write_text(OWN)
    yield tmp_path / "mine.py"
    for name in ("neighbour", "plugin_mine"):
        sys.modules.pop(name, None)


def test_a_method_of_ones_own_has_a_name_in_every_command(own_method, pictures, tmp_path):
    out = tmp_path / "a.json"
    named = ("--plugin", own_method)
    done = run(*named, "explain", pictures[0], "-m", "mini:digits", "--method", "plugged_in(size=3.0)", "-o", out)
    assert done.exit_code == 0, done.output
    assert '"method":"plugged_in"' in out.read_text().replace(" ", "")
    assert "plugged_in" in clew.methods()  # so that the page offers it, and every command knows it
    assert entries()["plugged_in"].options == {"size": "2.0"}


def test_plugins_that_are_none(tmp_path):
    (tmp_path / "bad.py").write_text("import clew\n\nclew.nothing\n")
    (tmp_path / "worse.py").write_text("def\n")
    for file, error, said in (
        ("gone.py", OptionError, "not there"),
        ("bad.py", InputError, r"bad\.py, line 3(.|\n)*nothing"),
        ("worse.py", InputError, "SyntaxError"),
    ):
        with pytest.raises(error, match=said):
            run("--plugin", tmp_path / file, "models")
    with pytest.raises(OptionError, match="--plugin FILE"):
        clew.explainers.find_method("nothing_like_it")


def test_every_paper_of_a_method_has_its_reference():
    for name, entry in entries().items():
        papers = [] if name == "random" else entry.paper.split(";")
        assert len(references(entry.paper)) == len(papers), name
    every = run("methods", "--bibtex").output
    written = (Path(clew.__file__).parent / "explainers" / "papers.bib").read_text("utf-8")
    assert every.count("@") == written.count("\n@") == 28
    blocks = [block for block in every.split("\n@") if block.strip()]
    assert all("title = {" in block and "author = {" in block and "year = {" in block for block in blocks)
    assert "Achtibat, Reduan" in every and "2402.05602" in every
    shown = run("methods", "transformer_attribution", "--bibtex").output
    assert shown.startswith("@inproceedings{chefer2021a,") and shown.count("@") == 1
    assert "by no paper" in run("methods", "random", "--bibtex").output
