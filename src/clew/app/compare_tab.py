"""The tab that compares: two targets, methods or models on one input, and the difference of their maps."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..attributions import Attribution
from ..errors import ClewError
from .choosers import MethodChooser, classes_of, read_targets, target_box
from .components import AT_ONCE, QUEUED, Inputs, guarded, status
from .maps import Card, body, difference, in_plain_words, row_of
from .memory import release_memory
from .offered_methods import OfferedMethods
from .page_requests import OfferedModels, PageRequest, explain_request, open_upload


def compare_tab(gr: Any, models: OfferedModels, offered: OfferedMethods) -> list[MethodChooser]:
    """Put the tab on the page that is being built."""
    first = models.names[0]
    kind = models.kind(first)
    gr.Markdown("Two targets, two methods or two models on the same input, and what one map has more than the other.")
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            sides: list[list[Any]] = []
            choosers: list[MethodChooser] = []
            for letter, usual in (("A", "beyond_intuition_token"), ("B", "attn_lrp")):
                with gr.Group():
                    gr.Markdown(f"**{letter}**", padding=True)
                    model = gr.Dropdown(models.names, value=first, label=f"Model {letter}", elem_id=f"model-{letter}")
                    chooser = MethodChooser(
                        gr, offered, model, [usual], f"Method {letter}", f"method-{letter}", several=False
                    )
                    target = target_box(
                        gr, models[first], f"What to explain {letter}", f"target-{letter}",
                        info="Nothing: the predicted class",
                    )  # fmt: skip
                    choosers.append(chooser)
                    sides.append([model, chooser.names, target])
            inputs = Inputs(gr, models, kind, "compare")
            with gr.Row():
                go = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
                stop = gr.Button("Cancel", min_width=100)
        with gr.Column(scale=2, min_width=320):
            told = gr.HTML(status("Nothing compared yet."), elem_id="compare-status")
            shown = gr.HTML("", elem_id="compare-maps")

    def run(*given: Any) -> Generator[tuple[str, str]]:
        with release_memory():
            yield from answers_of(*given)

    def answers_of(*given: Any) -> Generator[tuple[str, str]]:
        one, two, (path, text, texts) = given[:3], given[3:6], given[6:]
        found: list[Attribution] = []
        for k, (name, method, wanted) in enumerate((one, two)):
            yield status(f"{'AB'[k]}: {method} …", k, 2), ""

            def answer(name: str = name, method: str = method, wanted: str = wanted) -> Any:
                loaded = models[name]
                lines = (texts or "").splitlines()
                if models.kind(name) == "pair" and wanted:
                    lines = [wanted]
                image = open_upload(path) if models.kind(name) != "text" else None
                asked = PageRequest(name, [(method, {})], image, text or "", lines, wanted or "")
                got = next(explain_request(asked, loaded))
                if isinstance(got, ClewError):
                    raise got
                return got

            got = guarded(answer)
            if isinstance(got, str):
                yield status("not compared"), got
                return
            found.append(got)
        yield status("done"), guarded(lambda: _compared(found, (one, two)))

    read = read_targets(target_A=2, target_B=5)
    event = go.click(run, [*sides[0], *sides[1], *inputs.all], [told, shown], js=read, **QUEUED)
    for k, chooser in enumerate(choosers):
        model, names, target = sides[k]

        def switched(name: str, chosen: str, k: int = k, chooser: MethodChooser = chooser) -> list[Any]:
            shown = inputs.shown_for(name) if k == 0 else []  # the input is that of A
            return [*chooser.shown_for(name, chosen), gr.update(choices=classes_of(models[name])), *shown]

        places = [*chooser.places, target, *(inputs.places if k == 0 else [])]
        chooser.tried_after(model.input(switched, [model, names], places, **AT_ONCE))
    stop.click(None, cancels=[event], **AT_ONCE).then(lambda: status("stopped"), None, told, **AT_ONCE)
    return choosers


def _compared(found: Sequence[Attribution], asked: Sequence[Sequence[str]]) -> str:
    a, b = found
    titles = [f"{letter}: {method}, {name}" for letter, (name, method, _) in zip("AB", asked, strict=True)]
    made = [
        Card(title, f"for {r.name_of_target(0)}", body(r, 0), in_plain_words(r, 0))
        for title, r in zip(titles, found, strict=True)
    ]
    more = Card("A − B", "each divided by its largest size", difference(a, b), {})
    return row_of([*made, more])
