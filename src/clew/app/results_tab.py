"""The tab of results: runs of `clew bench`, their examples sorted, and every method on one of them."""

from __future__ import annotations

from typing import Any

from .components import AT_ONCE, guarded
from .results import RunBrowser


def results_tab(gr: Any, results: RunBrowser) -> None:
    """Put the tab on the page that is being built."""
    names = results.names
    with gr.Row():
        run = gr.Dropdown(names, value=names[0], label="Run", elem_id="run")
        metric = gr.Dropdown(
            results.metrics(names[0]), value=results.metrics(names[0])[0], label="Sort by", elem_id="metric"
        )
        method = gr.Dropdown(results.methods(names[0]), value=results.methods(names[0])[0], label="of", elem_id="of")
        worst = gr.Checkbox(False, label="Worst first", elem_id="worst")
    table = gr.Dataframe(
        value=results.table(names[0], results.metrics(names[0])[0], results.methods(names[0])[0], False),
        interactive=False, max_height=320, elem_id="table", wrap=True,
    )  # fmt: skip
    gr.Markdown("Click a row to see what every method says about that example.")
    shown = gr.HTML("", elem_id="example")

    def switched(name: str) -> list[Any]:
        some, of = results.metrics(name), results.methods(name)
        table = results.table(name, some[0], of[0], False)
        return [gr.update(choices=some, value=some[0]), gr.update(choices=of, value=of[0]), table, ""]

    def opened_row(name: str, event: Any) -> str:  # by its name: the table may have been sorted in the browser
        return guarded(lambda: results.example(name, str(event.row_value[0])))

    opened_row.__annotations__["event"] = gr.SelectData
    run.input(switched, run, [metric, method, table, shown], **AT_ONCE)
    for widget in (metric, method, worst):
        widget.input(results.table, [run, metric, method, worst], table, **AT_ONCE)
    table.select(opened_row, run, shown, show_progress="minimal", api_visibility="private")
