"""The page, in Gradio: its tabs, and sliders that all maps share."""

from __future__ import annotations

from typing import Any

from ..errors import optional_import
from .chat_tab import chat_tab
from .compare_tab import compare_tab
from .components import AT_ONCE
from .explain_tab import explain_tab
from .folders import Folders
from .offered_methods import OfferedMethods
from .page_requests import OfferedModels
from .results import RunBrowser
from .results_tab import results_tab

OPACITY = "(v) => { document.documentElement.style.setProperty('--clew-opacity', v); }"
THRESHOLD = "(v) => { document.documentElement.style.setProperty('--clew-threshold', v); }"
SMOOTH = "(v) => { document.documentElement.style.setProperty('--clew-blur', v ? '7px' : '0px'); }"
ABOUT = """# clew: what did this model look at?
Choose a model, drop a picture or type a text, and see which parts of it spoke for the answer. **Red or bright** parts
speak for it, **blue** parts against it. A map is a claim about the model, not about the world: compare methods, and
look at what was checked."""


def build(models: OfferedModels, results: RunBrowser | None, folders: Folders) -> Any:
    """The page as `gradio.Blocks`; nothing is served yet. What it writes goes into `folders`."""
    gr = optional_import("gradio", extra="ui", purpose="show the page")
    offered = OfferedMethods(models)
    with gr.Blocks(title="clew", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            opacity = gr.Slider(0, 1, 0.75, step=0.01, label="Opacity of the maps", elem_id="opacity")
            threshold = gr.Slider(0, 1, 0, step=0.01, label="Hide parts weaker than this", elem_id="threshold")
            smooth = gr.Checkbox(False, label="Smooth", info="Blur the edges of patches", elem_id="smooth")
        for widget, script in ((opacity, OPACITY), (threshold, THRESHOLD), (smooth, SMOOTH)):
            widget.change(None, widget, js=script, **AT_ONCE)  # in the browser: nothing is computed anew
        with gr.Tab("Explain"):
            choosers = [explain_tab(gr, models, offered, folders)]
        with gr.Tab("Chat and answers"):
            chat_tab(gr, models, folders)
        with gr.Tab("Compare"):
            choosers += compare_tab(gr, models, offered)
        if results is not None:
            with gr.Tab("Results of clew bench"):
                results_tab(gr, results)
        if models.names[0] not in models.bundled:  # those of the model that the page begins with are not tried yet
            for chooser in choosers:
                chooser.tried_after(page.load(None, **AT_ONCE))
    return page
