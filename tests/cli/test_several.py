"""`clew explain` of models that take several inputs."""

import json

import numpy as np
import pytest
from PIL import Image
from support.commands import run

import clew
from clew.errors import ClewError


def test_a_source_and_what_is_written_so_far(tmp_path):
    out = tmp_path / "letters.html"
    given = ["--source", "q a f k z b c d e g", "--answer", "j h", "--target", "g"]
    done = run("explain", *given, "--model", "mini:reverse", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "'g'" in done.output
    assert "attn_lrp" in done.output
    assert "decoder_input_ids" in done.output
    assert "q" in out.read_text(encoding="utf-8")


def test_a_result_that_can_be_loaded(tmp_path):
    out = tmp_path / "letters.safetensors"
    given = ["--source", "q a f k z b c d e g", "--method", "generic_attribution", "--out", str(out)]
    assert run("explain", *given, "--model", "mini:reverse").exit_code == 0
    a = clew.Attribution.load(out)
    assert int(a["source"].scores.argmax()) == 9


@pytest.mark.parametrize(("given", "words"), [
    (["--answer", "j h"], "an answer to nothing"),
    (["--source", "q a", "--method", "attn_lrp", "--method", "cp_lrp"], "by one method"),
    (["--source", "q a", "--out", "x.pdf"], "cannot write that file"),
    (["--image", "picture.png", "--text", "what ?"], "takes no pictures"),
    (["--messages", "chat.json"], "holds no messages"),
    (["--audio", "sound.wav"], "takes no sound"),
])  # fmt: skip
def test_what_does_not_fit(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("picture.png")
    (tmp_path / "chat.json").write_text("[{", encoding="utf-8")
    with pytest.raises(ClewError, match=words):
        run("explain", *given, "--model", "mini:reverse")


def test_messages_of_a_chat_for_a_model_without_a_template(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"role": "user", "content": "q a"}]), encoding="utf-8")
    with pytest.raises(ClewError, match="takes no messages"):
        run("explain", "--messages", str(path), "--model", "mini:reverse")


# `clew generate`


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = next(iter(clew.chat_scenes()))
    Image.fromarray(found.image).save("scene.png")
    return found


@pytest.mark.parametrize("given", [["--text"], []], ids=["option", "prompt"])
def test_an_answer_about_a_picture(scene, given):
    done = run(
        "generate", "--image", "scene.png", *given, scene.question, "--model", "mini:digits-chat", "-o", "a.safetensors"
    )
    assert done.exit_code == 0, done.output
    assert scene.answer in done.output
    g = clew.Attribution.load("a.safetensors")
    assert g["image"].heatmap().shape == (1, 48, 48)
    shares = {name: float(g.shares()[name].sum()) for name in g.streams}
    rest = float(g.score.sum()) - sum(shares.values())  # biases, constants and what operations kept
    said = ", ".join(f"{name} {value:+.4g}" for name, value in [*shares.items(), ("the rest", rest)])
    assert said in " ".join(done.output.split())


def test_an_answer_to_a_source(tmp_path):
    one, out = clew.reversals(1)[0], tmp_path / "letters.html"
    given = ["--source", one.source, "--model", "mini:reverse", "--max-new-tokens", "3"]
    done = run("generate", *given, "--out", out)
    assert " ".join(one.answer.split()[:3]) in done.output
    assert "source (input_ids)" in out.read_text(encoding="utf-8")
    done = run("generate", *given, "--answer", "j h", "--out", tmp_path / "letters.safetensors")
    assert "".join(clew.Attribution.load(tmp_path / "letters.safetensors").outputs).split() == ["j", "h"]


@pytest.mark.parametrize(("given", "words"), [
    ([], "nothing to go on from"),
    (["what ?", "--text", "what ?"], "given twice"),
    (["what ?", "--source", "q a"], "given twice"),
    (["what ?", "--image", "scene.png", "--chat"], "for words alone"),
    (["--image", "scene.png", "--image", "scene.png", "--text", "<image> what ?"], "not as many pictures"),
    (["--image", "no.png", "--text", "what ?"], "no.png"),
    (["--audio", "sound.wav"], "takes no sound"),
    (["--source", "q a"], "takes no source text"),
    (["--messages", "no.json"], "holds no messages"),
])  # fmt: skip
def test_what_cannot_be_gone_on_from(scene, given, words):
    with pytest.raises(ClewError, match=words):
        run("generate", *given, "--model", "mini:digits-chat")
