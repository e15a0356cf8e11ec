"""The tab of answers: pictures and a question, a source, or a beginning; what a model writes; each word explained."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator, Sequence
from typing import Any

from PIL import Image

from ..errors import ClewError, WriteError
from ..explainers import methods
from ..files import write_all
from ..minis import chat_scenes, reversals
from .chat_requests import (
    MOST_PICTURES,
    MOST_TOKENS,
    ChatRequest,
    answer_chat,
    chat_snippet,
    check_chat,
    has_messages,
    reads,
    why_not,
)
from .components import AT_ONCE, PREVIEWED, QUEUED, previews, status
from .downloads import kept_results, nothing_kept, written
from .folders import Folders
from .maps import framed, message
from .memory import release_memory
from .page_requests import MOST_CHARACTERS, OfferedModels, open_upload

logger = logging.getLogger("clew")
_WORDS = {"pictures": "Question", "source": "Source text", "words": "Text to go on from", "": "Text"}
INTRO = """Explains what models write: answers of language models, translations and summaries of encoder–decoders, chats
with pictures. Each word of an answer is explained: click one. Sound is not taken here, but by
`clew generate --audio FILE`."""
NOTHING = "Nothing asked yet: type something, or try one of the examples."


def chat_tab(gr: Any, models: OfferedModels, folders: Folders) -> None:
    """Put the tab on the page that is being built."""
    first = _first(models)
    kind, template = reads(models[first]), has_messages(models[first])
    gr.Markdown(INTRO)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            model = gr.Dropdown(models.writers, value=first, label="Model", elem_id="chat-model", filterable=True)
            files = gr.File(
                label=f"Pictures (drop up to {MOST_PICTURES} here)", file_types=["image"], file_count="multiple",
                type="filepath", height=110, visible=kind == "pictures", elem_id="chat-file",
            )  # fmt: skip
            preview = gr.HTML("", visible=kind == "pictures", elem_id="chat-preview")
            words = gr.Textbox(
                label=_WORDS[kind], lines=2, max_lines=10, max_length=MOST_CHARACTERS + 1, elem_id="chat-words",
            )  # fmt: skip
            as_message = gr.Checkbox(
                True,
                label="A message to an assistant, by the model's template",
                visible=template,
                elem_id="chat-message",
            )
            answer = gr.Textbox(
                label="Answer", placeholder="what the model writes", lines=1, max_lines=10, elem_id="chat-answer",
                info="Leave it empty, or type words to explain instead", max_length=MOST_CHARACTERS + 1,
            )  # fmt: skip
            method = gr.Dropdown(
                list(methods()), value="attn_lrp", label="Method", elem_id="chat-method", filterable=True
            )
            most = gr.Slider(1, MOST_TOKENS, 20, step=1, label="Tokens to write at most", elem_id="chat-most")
            with gr.Row():
                go = gr.Button("Ask", variant="primary", elem_id="ask", min_width=120)
                stop = gr.Button("Cancel", elem_id="chat-cancel", min_width=100)
            gr.Markdown("Try one:")
            with gr.Row():
                tries = [(gr.Button(name, size="sm", min_width=130), given) for name, given in _tries(folders).items()]
        with gr.Column(scale=2, min_width=320):
            told = gr.HTML(status(NOTHING), elem_id="chat-status")
            shown = gr.HTML("", elem_id="chat-shown")
            downloads, code = kept_results(gr, "chat-")

    def ask(*given: Any) -> Generator[tuple[Any, ...]]:
        with release_memory():
            yield from work(*given)

    def work(
        name: str, paths: list[str] | None, text: str, is_message: bool, wanted: str, by: str, count: float
    ) -> Generator[tuple[Any, ...]]:
        off = nothing_kept(gr)
        yield status(f"getting {name} ready …"), "", "", *off
        try:
            loaded = models[name]
            images = _opened(paths) if reads(loaded) == "pictures" else []
            asked = ChatRequest(name, by or "", text or "", images, wanted or "", bool(is_message), int(count or 1))
            asked = check_chat(asked, loaded)
            yield status("the model writes …"), "", "", *off
            steps, found = answer_chat(asked, loaded), None
            while found is None:
                try:
                    done, whole = next(steps)
                    yield status(f"{by}: {done} of {whole} tokens …", done, whole), "", "", *off
                except StopIteration as end:
                    found = end.value
            page, snippet = framed(found.to_html()), chat_snippet(asked, loaded)
            yield status("done"), page, snippet, *off
            try:
                made = written(gr, [found], folders)
            except WriteError:  # what is shown stays
                logger.exception("what is shown cannot be written")
                said = "This cannot be downloaded: the server could not write it. Its log says why."
                page, made = page + message(said), off
            yield status("done"), page, snippet, *made
        except ClewError as error:
            yield status("not explained"), message(str(error)), "", *off
        except Exception as error:
            logger.exception("the page met an error")
            said = f"Something went wrong on the server: {type(error).__name__}. Its log says more."
            yield status("not explained"), message(said), "", *off

    def switched(name: str) -> list[Any]:
        found = reads(models[name])
        note = "" if found else message(why_not(models[name], name), "note")
        return [
            gr.update(visible=found == "pictures"), gr.update(visible=found == "pictures"),
            gr.update(label=_WORDS[found]), gr.update(visible=has_messages(models[name])), note,
        ]  # fmt: skip

    places = [files, preview, words, as_message, shown]
    given = [model, files, words, as_message, answer, method, most]
    outputs = [told, shown, code, *downloads]
    files.change(previews, files, preview, **PREVIEWED)
    events = [go.click(ask, given, outputs, trigger_mode="always_last", **QUEUED)]
    for widget in (words, answer):
        events.append(widget.submit(ask, given, outputs, **QUEUED))
    model.input(switched, model, places, **AT_ONCE)
    for button, values in tries:
        events.append(
            button.click(lambda values=values: list(values), None, [model, files, words, answer], **AT_ONCE)
            .then(switched, model, places, **AT_ONCE)
            .then(ask, given, outputs, **QUEUED)
        )
    stop.click(None, cancels=events, **AT_ONCE).then(lambda: status("stopped"), None, told, **AT_ONCE)


def _first(models: OfferedModels) -> str:
    """The model that the page began with, if it writes, else a bundled one."""
    first = models.names[0]
    return first if first in models.writers and reads(models[first]) else models.bundled_writers[0]


def _opened(paths: Sequence[str] | None) -> list[Any]:
    chosen = list(paths or [])[: MOST_PICTURES + 1]  # one too many is refused
    return [open_upload(path) for path in chosen]


def _tries(folders: Folders) -> dict[str, tuple[Any, ...]]:
    """Questions to the bundled models: model, pictures, words, answer."""
    scene, letters, content = chat_scenes()[0], reversals(1)[0], io.BytesIO()
    Image.fromarray(scene.image).save(content, format="PNG")
    path = write_all({folders.new(keep=True) / "digits.png": content.getvalue()})[0]
    return {
        "One of four digits": ("mini:digits-chat", [str(path)], scene.question, ""),
        "Letters backwards": ("mini:reverse", None, letters.source, ""),
    }
