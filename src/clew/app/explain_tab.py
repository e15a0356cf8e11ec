"""The tab that explains: one input, several methods, their maps side by side."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Generator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..attributions import Attribution, compare
from ..errors import ClewError, WriteError
from ..explainers import methods
from ..files import write_all
from ..minis import captioned_scenes, reviews, scenes
from ..models import LoadedModel
from .components import AT_ONCE, QUEUED, Inputs, kept_results, status
from .folders import Folders
from .maps import Card, cards, message, row_of
from .memory import release_memory
from .page_requests import OfferedModels, PageRequest, check_request, explain_request, open_upload, predictions, snippet

logger = logging.getLogger("clew")
DEFAULT = ["beyond_intuition_token", "attn_lrp", "raw_attention"]
NOTHING = "Nothing explained yet: choose an input, or try one of the examples."
PARTS = {"all of it": "all", "content alone": "semantic", "positions alone": "position"}


def _chosen(names: Sequence[str], parts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Methods by name; `pa_lrp` once for each part that is switched on."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        if name != "pa_lrp":
            found.append((name, {}))
            continue
        wanted = [PARTS[part] for part in parts] or ["all"]
        found += [(name, {} if part == "all" else {"part": part}) for part in wanted]
    return found


def _titled(name: str, options: dict[str, Any]) -> str:
    said = {value: words for words, value in PARTS.items()}
    return f"{name} ({said[options['part']]})" if "part" in options else name


def explain_tab(gr: Any, models: OfferedModels, folders: Folders) -> None:
    """Put the tab on the page that is being built."""
    first = models.names[0]
    kind = models.kind(first)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            model = gr.Dropdown(models.names, value=first, label="Model", elem_id="model", filterable=True)
            inputs = Inputs(gr, models, kind, "explain")
            target = gr.Textbox(
                label="What to explain", placeholder="the predicted class",
                info="A class by name or number, or a next token; 'cat / dog' for one rather than the other",
                elem_id="target", max_length=1000,
            )  # fmt: skip
            names = gr.Dropdown(
                list(methods()), value=DEFAULT, multiselect=True, label="Methods", elem_id="methods", filterable=True
            )
            parts = gr.CheckboxGroup(
                list(PARTS), value=["all of it"], label="Parts of pa_lrp", visible=False, elem_id="parts",
                info="What spoke by its content, and what by its position",
            )  # fmt: skip
            truncate = gr.Checkbox(
                False, label="Cut texts that are too long", visible=kind == "text", elem_id="truncate"
            )
            with gr.Row():
                go = gr.Button("Explain", variant="primary", elem_id="explain", min_width=120)
                stop = gr.Button("Cancel", elem_id="cancel", min_width=100)
            gr.Markdown("Try one:")
            with gr.Row():
                tries = [
                    (gr.Button(name, size="sm", min_width=130), given) for name, given in _examples(folders).items()
                ]
        with gr.Column(scale=2, min_width=320):
            told = gr.HTML(status(NOTHING), elem_id="status")
            shown = gr.HTML("", elem_id="maps")
            downloads, code = kept_results(gr)

    def explain(*given: Any) -> Generator[tuple[Any, ...]]:
        with release_memory():
            yield from answer(*given)

    def answer(
        name: str, path: Any, text: str, texts: str, wanted: str, chosen: list[str], sides: list[str], cut: bool
    ) -> Generator[tuple[Any, ...]]:
        off = [gr.update(interactive=False, value=None)] * 3
        asked_for = _chosen(chosen or [], sides or [])
        yield status(f"getting {name} ready …", 0, len(asked_for)), "", "", *off
        try:
            loaded = models[name]
            image = open_upload(path) if models.kind(name) != "text" else None  # what lies there may be broken
            asked = PageRequest(name, asked_for, image, text or "", (texts or "").splitlines(), wanted or "")
            asked = check_request(asked, models.kind(name))
            found: list[Attribution] = []
            made: list[Card] = []
            failed = ""
            steps = explain_request(asked, loaded, cut)
            for k, (method, options) in enumerate(asked_for):
                yield status(f"{method} …", k, len(asked_for)), _shown(loaded, found, made, failed), "", *off
                got = next(steps)
                title = _titled(method, options)
                if isinstance(got, ClewError):
                    failed += message(f"{title}: {got}")
                    continue
                found.append(got)
                made += cards([got], [title])
            said = f"{len(found)} of {len(asked_for)} methods" if failed else "done"
            written = snippet(asked, loaded, cut)
            yield status(said), _shown(loaded, found, made, failed), written, *off
            try:
                files = _files(gr, found, folders)
            except WriteError:  # what is shown stays
                logger.exception("what is shown cannot be written")
                failed += message("This cannot be downloaded: the server could not write it. Its log says why.")
                files = off
            yield status(said), _shown(loaded, found, made, failed), written, *files
        except ClewError as error:
            yield status("not explained"), message(str(error)), "", *off
        except Exception as error:
            logger.exception("the page met an error")
            said = f"Something went wrong on the server: {type(error).__name__}. Its log says more."
            yield status("not explained"), message(said), "", *off

    outputs = [told, shown, code, *downloads]
    given = [model, *inputs.all, target, names, parts, truncate]
    events = [go.click(explain, given, outputs, trigger_mode="always_last", **QUEUED)]
    for widget in (inputs.text, target):
        events.append(widget.submit(explain, given, outputs, **QUEUED))

    def switched(name: str) -> list[Any]:
        kind = models.kind(name)
        return [*inputs.shown_for(name), gr.update(visible=kind == "text"), gr.update(visible=kind != "pair")]

    model.input(switched, model, [*inputs.places, truncate, target], **AT_ONCE)
    names.change(lambda some: gr.update(visible="pa_lrp" in (some or [])), names, parts, **AT_ONCE)
    for button, values in tries:
        filled = [model, *inputs.all, target, names]
        events.append(
            button.click(lambda values=values: list(values), None, filled, **AT_ONCE)
            .then(switched, model, [*inputs.places, truncate, target], **AT_ONCE)
            .then(explain, given, outputs, **QUEUED)
        )
    stop.click(None, cancels=events, **AT_ONCE).then(lambda: status("stopped"), None, told, **AT_ONCE)


def _shown(loaded: LoadedModel, found: Sequence[Attribution], made: Sequence[Card], failed: str) -> str:
    bars = ""
    if found and (best := predictions(found[0], loaded)):
        rows = "".join(
            f"<span>{escape(name)}</span><b style='width:{p:.1%}'></b><span>{p:.1%}</span>" for name, p in best
        )
        bars = f'<p class="clew-sub">What the model says:</p><div class="clew-bars">{rows}</div>'
    return bars + (row_of(made) if made else "") + failed


def _files(gr: Any, found: Sequence[Attribution], folders: Folders) -> list[Any]:
    """Files to download, written to a folder of their own, of which Gradio keeps and serves copies."""
    if not found:
        return [gr.update(interactive=False, value=None)] * 3
    folder = folders.new()
    page = compare(found, folder / "clew.html")
    png: Path | None = None
    if found[0].kind != "text":
        png = compare(found, folder / "clew.png")
    numbers = found[0].save(folder / "clew.safetensors") if len(found) == 1 else _zipped(found, folder)
    return [gr.update(interactive=p is not None, value=None if p is None else str(p)) for p in (page, png, numbers)]


def _zipped(found: Sequence[Attribution], folder: Path) -> Path:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for i, result in enumerate(found):
            archive.writestr(f"{i + 1}-{result.method}.safetensors", result.to_safetensors())
    return write_all({folder / "clew.zip": content.getvalue()})[0]


def _examples(folders: Folders) -> dict[str, tuple[Any, ...]]:
    """Inputs of the bundled models: model, file, text, captions, target, methods."""
    folder = folders.new(keep=True)

    def picture(name: str, image: Any) -> str:
        content = io.BytesIO()
        image.save(content, format="PNG")
        return str(write_all({folder / f"{name}.png": content.getvalue()})[0])

    digit, two = scenes(), captioned_scenes()
    review = reviews(2)
    return {
        "A digit among clutter": ("mini:digits", picture("digit", digit.images[0]), "", "", "", DEFAULT),
        "One digit rather than another": (
            "mini:digits", picture("digits", two.images[0]), "", "",
            " / ".join(c.split()[-1] for c in two.captions[0]), ["attn_lrp", "beyond_intuition_head"],
        ),
        "Content or position": ("mini:digits", picture("position", digit.images[1]), "", "", "", ["pa_lrp"]),
        "Words of a review": ("mini:reviews-bert", None, review[0].text, "", "", DEFAULT),
        "A Llama reads": ("mini:reviews-llama", None, review[1].text, "", "", ["attn_lrp", "pa_lrp"]),
        "Which caption, where": (
            "mini:digits-clip", picture("captions", two.images[1]), "", "\n".join(two.captions[1]), "",
            ["beyond_intuition_token", "attn_lrp"],
        ),
    }  # fmt: skip
