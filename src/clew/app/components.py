"""What several tabs of the page need: inputs, status, messages."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from ..draw import encode_image, is_tiny
from ..errors import ClewError
from .maps import message
from .memory import release_memory
from .page_requests import MOST_CHARACTERS, OfferedModels, open_upload

logger = logging.getLogger("clew")
# Of events that answer at once: beside the queue, without a spinner, and not part of an interface for programs.
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
# Of what takes long or much memory: one at a time, whoever asks, on whichever tab.
QUEUED: dict[str, Any] = {
    "api_visibility": "private", "show_progress": "hidden", "concurrency_id": "explaining", "concurrency_limit": 1,
}  # fmt: skip
# Of previews: one at a time as well, but they do not wait for what is being explained.
PREVIEWED: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "preview", "concurrency_limit": 1}
LONGEST_PREVIEW = 320


class Inputs:
    """A picture, a text and captions, of which those are shown that a model reads."""

    def __init__(self, gr: Any, models: OfferedModels, kind: str, where: str) -> None:
        self.gr, self.models = gr, models
        self.file = gr.File(
            label="Picture (drop one here)", file_types=["image"], type="filepath", height=110,
            visible=kind != "text", elem_id=f"{where}-file",
        )  # fmt: skip
        self.preview = gr.HTML("", visible=kind != "text", elem_id=f"{where}-preview")
        self.text = gr.Textbox(
            label="Text", lines=4, max_lines=10, visible=kind == "text", max_length=MOST_CHARACTERS + 1,
            placeholder="Type a text", elem_id=f"{where}-text",
        )  # fmt: skip
        self.texts = gr.Textbox(
            label="Captions", info="One on each line; 'a seven / a two' for one rather than the other",
            lines=2, visible=kind == "pair", max_length=MOST_CHARACTERS + 1, elem_id=f"{where}-texts",
        )  # fmt: skip
        self.all = [self.file, self.text, self.texts]
        self.file.change(_preview, self.file, self.preview, **PREVIEWED)

    def shown_for(self, model: str) -> list[Any]:
        """The inputs that a model reads, made visible."""
        kind = self.models.kind(model)
        update = self.gr.update
        return [
            update(visible=kind != "text"), update(visible=kind != "text"), update(visible=kind == "text"),
            update(visible=kind == "pair"),
        ]  # fmt: skip

    @property
    def places(self) -> list[Any]:
        """Where `shown_for` goes."""
        return [self.file, self.preview, self.text, self.texts]


@release_memory(cycles=False)
def _preview(path: str | None) -> str:
    if path is None:
        return ""
    notes: list[str] = []
    try:
        image = open_upload(path, notes.append, LONGEST_PREVIEW)
    except ClewError as error:
        return message(str(error))
    assert image is not None
    small = np.asarray(image)
    kept, kind = encode_image(small)
    data, tiny = base64.b64encode(kept).decode(), ' class="clew-tiny"' if is_tiny(small) else ""
    said = "".join(message(note, "note") for note in notes)
    shown = f'<img{tiny} alt="the picture" src="data:image/{kind};base64,{data}">'
    return f'<div class="clew-preview">{shown}{said}</div>'


def previews(paths: Sequence[str] | None) -> str:
    """Pictures that were uploaded, small."""
    return "".join(_preview(path) for path in list(paths or [])[:8])


def status(text: str, done: int = 0, whole: int = 0) -> str:
    """How far the work is."""
    bar = f' <progress value="{done}" max="{whole}"></progress>' if whole else ""
    return f'<div class="clew-status" role="status">{escape(text)}{bar}</div>'


def guarded(work: Callable[[], Any]) -> Any:
    """What work gives, or a message for the page: our errors in their words, others without the server's secrets."""
    try:
        return work()
    except ClewError as error:
        return message(str(error))
    except Exception as error:
        logger.exception("the page met an error")
        return message(f"Something went wrong on the server: {type(error).__name__}. Its log says more.")
