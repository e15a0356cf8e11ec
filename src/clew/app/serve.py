"""Serve the page: on this machine alone, with limits, without telemetry, and with nothing from anywhere else."""

from __future__ import annotations

import os
from importlib import resources
from typing import Any

from ..shapes import OptionError, optional_import
from .asking import LARGEST_FILE, Models
from .results import Results


def serve(
    models: Models,
    results: Results | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    open_browser: bool = False,
    block: bool = True,
) -> tuple[Any, str]:
    """Start the page; returns the Gradio app and its address, at once where `block` is False.

    `host` other than 127.0.0.1 lets other machines reach it, and `share` the whole world, through Gradio's servers;
    neither is ever chosen by itself. `port`: default the first free one from 7860.

    Raises `MissingDependency` without gradio, `OptionError` for a port that is taken.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read on import
    optional_import("gradio", extra="ui", purpose="show the page")
    from .blocks import build

    page = build(models, results)
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    folder = resources.files("clew").joinpath("templates")
    script = folder.joinpath("app.js").read_text(encoding="utf-8")
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=open_browser,
            prevent_thread_lock=not block,
            quiet=not block,
            show_error=False,
            footer_links=[],
            allowed_paths=[],
            max_file_size=LARGEST_FILE,
            max_threads=8,
            state_session_capacity=100,
            enable_monitoring=False,
            strict_cors=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            css=folder.joinpath("app.css").read_text(encoding="utf-8"),
            head=f"<script>{script}</script>",
        )
    except OSError as error:
        raise OptionError(
            "the page cannot be served there", expected="a free port", got=error, todo="--port 0…65535"
        ) from error
    return page, address
