"""The chat tab without a browser: which models it asks, what is refused, and that answers are those of the library."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.tokenized_models import writer

import clew
from clew.app import chat_tab, components
from clew.app.chat_requests import (
    MOST_PICTURES,
    ChatRequest,
    answer_chat,
    chat_snippet,
    check_chat,
    has_messages,
    reads,
    why_not,
)
from clew.app.folders import Folders
from clew.app.maps import framed
from clew.app.page_requests import MOST_CHARACTERS, OfferedModels, PageRequest, explain_request
from clew.errors import ClewError, InputError, OptionError

SCENE = clew.chat_scenes()[0]
PICTURE = Image.fromarray(SCENE.image)
CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def models():
    return OfferedModels()


def finished(asked, loaded):
    """The result, and how many tokens were said to be explained on the way."""
    steps, told = answer_chat(asked, loaded), []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            return end.value, told


def test_models_that_write_are_offered_there_and_no_others(models):
    assert models.writers == ["mini:digits-chat", "mini:reverse"]
    assert not set(models.writers) & set(models.names)
    assert OfferedModels(["mini:reverse", "hf:a/b"]).writers == ["mini:reverse", "hf:a/b", "mini:digits-chat"]
    with pytest.raises(OptionError, match="not offered"):
        models["mini:nothing"]


def test_what_a_model_goes_on_from(models):
    assert reads(models["mini:digits-chat"]) == "pictures"
    assert reads(models["mini:reverse"]) == "source"
    assert not any(reads(models[name]) for name in models.names)
    loaded = writer()
    assert reads(loaded) == "words"
    assert not has_messages(loaded)
    loaded.tokenizer.chat_template = CHAT
    assert has_messages(loaded)


def test_a_model_that_hears_is_refused_with_what_explains_it(models):
    class Processor:
        feature_extractor = object()

    hearing = replace(models["mini:reverse"], processor=Processor())
    assert not reads(hearing) and "clew generate --audio FILE" in why_not(hearing, "a:whisper")
    assert "writes no answers" in why_not(models["mini:digits"], "mini:digits")
    for answer in (
        lambda: check_chat(ChatRequest("a:whisper", "attn_lrp", "a b"), hearing),
        lambda: next(explain_request(PageRequest("a:whisper", [("attn_lrp", {})], text="a b"), hearing)),
    ):
        with pytest.raises(InputError, match="takes no sound") as refused:
            answer()
        assert "clew explain --audio FILE" in str(refused.value)


@pytest.mark.parametrize(("asked", "words"), [
    (ChatRequest("mini:digits-chat", "attn_lrp", "what ?"), "no picture"),
    (ChatRequest("mini:digits-chat", "attn_lrp", "what ?", [PICTURE] * (MOST_PICTURES + 1)), "too many pictures"),
    (ChatRequest("mini:digits-chat", "attn_lrp", " ", [PICTURE]), "no text"),
    (ChatRequest("mini:reverse", "attn_lrp", "a" * (MOST_CHARACTERS + 1)), "too long"),
    (ChatRequest("mini:reverse", "attn_lrp", "a", answer="a" * (MOST_CHARACTERS + 1)), "too long"),
    (ChatRequest("mini:reverse", "nothing", "a b"), "nothing"),
    (ChatRequest("mini:digits", "attn_lrp", "a b"), "not for chat"),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused(models, asked, words):
    with pytest.raises(ClewError, match=words):
        check_chat(asked, models[asked.model])


@pytest.mark.parametrize(
    "asked",
    [
        ChatRequest("mini:digits-chat", "attn_lrp", SCENE.question, [PICTURE]),
        ChatRequest("mini:reverse", "saliency", "a 'b' c d e f g h", [PICTURE], most=6),
        ChatRequest("mini:reverse", "attn_lrp", "a b c", answer="c b"),
    ],
    ids=["picture", "source", "answer"],
)
def test_the_answer_and_the_code_that_is_shown_give_the_same(models, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PICTURE.save("picture1.png")
    found, told = finished(asked, models[asked.model])
    assert told[0] == (0, len(found))
    assert told[-1] == (len(found), len(found))
    names: dict = {}
    exec(chat_snippet(check_chat(asked, models[asked.model]), models[asked.model]).replace("print(", "str("), names)
    assert names["g"].tokens == found.tokens
    torch.testing.assert_close(names["g"].scores, found.scores, rtol=1e-4, atol=1e-6)
    assert (tmp_path / "clew.html").is_file()


def test_words_of_a_language_model_as_they_are_or_as_a_message():
    loaded = writer()
    loaded.tokenizer.chat_template = CHAT
    for message in (False, True):
        asked = ChatRequest("m", "saliency", "once upon", message=message, most=3)
        found, _ = finished(asked, loaded)
        given = [{"role": "user", "content": "once upon"}] if message else "once upon"
        direct = clew.explain_generation(loaded, given, method="saliency", max_new_tokens=3)
        assert found.tokens == direct.tokens
        assert "<h2>" not in found.to_html()  # no panels: the text is all there is


def test_work_that_is_stopped_ends_between_tokens(models):
    steps = answer_chat(ChatRequest("mini:reverse", "saliency", "a b c d e f g h"), models["mini:reverse"])
    next(steps)
    assert next(steps)[0] == 4
    steps.close()


def test_a_frame_cannot_be_left():
    frame = framed('<a href="x">"\'</iframe><script>alert(1)</script>')
    assert frame.count("<") == 2
    assert frame.count('"') == 8


def test_several_previews(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    shown = components.previews([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert shown.count("<img") == 1 and "this file" in shown
    assert components.previews(None) == ""


def test_examples_can_be_asked(models, tmp_path):
    for name, paths, words, answer in chat_tab._tries(Folders(tmp_path)).values():
        asked = ChatRequest(name, "attn_lrp", words, chat_tab._opened(paths), answer)
        assert check_chat(asked, models[name]).words == words
