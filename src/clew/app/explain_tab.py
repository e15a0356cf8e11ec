"""The tab that explains: one input, several methods, their maps side by side."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator, Sequence
from html import escape
from typing import Any

from ..attributions import Attribution
from ..errors import ClewError, WriteError
from ..files import write_all
from ..minis import captioned_scenes, reviews, scenes
from ..models import LoadedModel
from .choosers import MethodChooser, classes_of, read_targets, target_box
from .components import AT_ONCE, QUEUED, Inputs, status
from .downloads import kept_results, nothing_kept, side_by_side, written
from .folders import Folders
from .long_texts import LongTexts, options_for
from .maps import Card, cards, message, row_of
from .memory import release_memory
from .offered_methods import OfferedMethods
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


def explain_tab(gr: Any, models: OfferedModels, offered: OfferedMethods, folders: Folders) -> MethodChooser:
    """Put the tab on the page that is being built."""
    first = models.names[0]
    kind = models.kind(first)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            model = gr.Dropdown(models.names, value=first, label="Model", elem_id="model", filterable=True)
            inputs = Inputs(gr, models, kind, "explain")
            target = target_box(
                gr, models[first], "What to explain", "target", visible=kind != "pair",
                info="Nothing: the predicted class. Else a class, by a part of its name or by number, or a next token; "
                "'cat / dog' for one rather than the other",
            )  # fmt: skip
            chooser = MethodChooser(gr, offered, model, DEFAULT, "Methods", "methods", several=True)
            names = chooser.names
            parts = gr.CheckboxGroup(
                list(PARTS), value=["all of it"], label="Parts of pa_lrp", visible=False, elem_id="parts",
                info="What spoke by its content, and what by its position",
            )  # fmt: skip
            long = LongTexts(gr, models[first])
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
        name: str,
        path: Any,
        text: str,
        texts: str,
        wanted: str | None,
        chosen: list[str],
        sides: list[str],
        how: str,
        window: int | None,
        stride: int | None,
    ) -> Generator[tuple[Any, ...]]:
        off = nothing_kept(gr)
        asked_for = _chosen(chosen or [], sides or [])
        yield status(f"getting {name} ready …", 0, len(asked_for)), "", "", *off
        try:
            loaded = models[name]
            image = open_upload(path) if models.kind(name) != "text" else None  # what lies there may be broken
            cut = options_for(loaded, how, window, stride)
            asked = PageRequest(name, asked_for, image, text or "", (texts or "").splitlines(), wanted or "", cut)
            asked = check_request(asked, models.kind(name))
            found: list[Attribution] = []
            made: list[Card] = []
            failed = ""
            steps = explain_request(asked, loaded)
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
            python = snippet(asked, loaded, side_by_side(found))
            yield status(said), _shown(loaded, found, made, failed), python, *off
            try:
                files = written(gr, found, folders)
            except WriteError:  # what is shown stays
                logger.exception("what is shown cannot be written")
                failed += message("This cannot be downloaded: the server could not write it. Its log says why.")
                files = off
            yield status(said), _shown(loaded, found, made, failed), python, *files
        except ClewError as error:
            yield status("not explained"), message(str(error)), "", *off
        except Exception as error:
            logger.exception("the page met an error")
            said = f"Something went wrong on the server: {type(error).__name__}. Its log says more."
            yield status("not explained"), message(said), "", *off

    outputs = [told, shown, code, *downloads]
    given = [model, *inputs.all, target, names, parts, *long.all]
    read = read_targets(target=given.index(target))
    events = [
        go.click(explain, given, outputs, trigger_mode="always_last", js=read, **QUEUED),
        inputs.text.submit(explain, given, outputs, js=read, **QUEUED),
    ]

    def switched(name: str, chosen: list[str], how: str) -> list[Any]:
        loaded, kind = models[name], models.kind(name)
        box = gr.update(choices=classes_of(loaded), visible=kind != "pair")
        return [*inputs.shown_for(name), box, *chooser.shown_for(name, chosen), *long.shown_for(loaded, how)]

    asks, places = [model, names, long.how], [*inputs.places, target, *chooser.places, *long.all]
    chooser.tried_after(model.input(switched, asks, places, **AT_ONCE))
    names.change(lambda some: gr.update(visible="pa_lrp" in (some or [])), names, parts, **AT_ONCE)
    for button, values in tries:
        filled = [model, *inputs.all, target, names]
        events.append(
            button.click(lambda values=values: list(values), None, filled, **AT_ONCE)
            .then(switched, asks, places, **AT_ONCE)
            .then(explain, given, outputs, **QUEUED)
        )
    stop.click(None, cancels=events, **AT_ONCE).then(lambda: status("stopped"), None, told, **AT_ONCE)
    return chooser


def _shown(loaded: LoadedModel, found: Sequence[Attribution], made: Sequence[Card], failed: str) -> str:
    bars = ""
    if found and (best := predictions(found[0], loaded)):
        rows = "".join(
            f"<span>{escape(name)}</span><b style='width:{p:.1%}'></b><span>{p:.1%}</span>" for name, p in best
        )
        bars = f'<p class="clew-sub">What the model says:</p><div class="clew-bars">{rows}</div>'
    return bars + (row_of(made) if made else "") + failed


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
        "A digit among clutter": ("mini:digits", picture("digit", digit.images[0]), "", "", None, DEFAULT),
        "One digit rather than another": (
            "mini:digits", picture("digits", two.images[0]), "", "",
            " / ".join(c.split()[-1] for c in two.captions[0]), ["attn_lrp", "beyond_intuition_head"],
        ),
        "Content or position": ("mini:digits", picture("position", digit.images[1]), "", "", None, ["pa_lrp"]),
        "Words of a review": ("mini:reviews-bert", None, review[0].text, "", None, DEFAULT),
        "A Llama reads": ("mini:reviews-llama", None, review[1].text, "", None, ["attn_lrp", "pa_lrp"]),
        "Which caption, where": (
            "mini:digits-clip", picture("captions", two.images[1]), "", "\n".join(two.captions[1]), None,
            ["beyond_intuition_token", "attn_lrp"],
        ),
    }  # fmt: skip
