"""Serve the page: on this machine alone, with limits, without telemetry, and with nothing from anywhere else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import OptionError, optional_import
from .access import LOOPBACK, OnlyHosts, audience, in_url, is_loopback, refuse_without_login
from .folders import Folders, own_folder
from .memory import settle
from .page_requests import LARGEST_FILE, OfferedModels
from .results import RunBrowser


def serve(
    models: OfferedModels,
    results: RunBrowser | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    login: tuple[str, str] | None = None,
    no_auth: bool = False,
    open_browser: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """Show the page until the process is told to stop: Ctrl-C, SIGTERM, or a terminal that is closed (SIGHUP).

    `host` other than the loopback address lets other machines reach it, and `share` the whole world, through Gradio's
    servers; neither is ever chosen by itself, and both ask for a `login` (user and password), or `no_auth`. On the
    loopback address a request must name this machine as its host. `port`: default the first free one from 7860.
    `tell` is told the address, and who can reach it. Nothing that was written is left.

    Raises `MissingDependency` without gradio, `OptionError` for a port that is taken, an unknown host, and a page for
    others without a password.
    """
    refuse_without_login(host, share, login, no_auth)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read on import
    with _until_stopped() as stopped, own_folder() as folder:
        optional_import("gradio", extra="ui", purpose="show the page")
        page: Any = None
        try:
            page = _launched(models, results, folder, host, port, share, login, open_browser)
            settle()
            tell(f"The page of clew: {page.local_url}")
            tell(audience(host, page.server_port, page.share_url, login))
            while not stopped:
                time.sleep(3600)
        finally:
            if page is not None:
                _close(page)


def _launched(
    models: OfferedModels,
    results: RunBrowser | None,
    folder: Path,
    host: str,
    port: int | None,
    share: bool,
    login: tuple[str, str] | None,
    open_browser: bool,
) -> Any:
    from .page import build

    page = build(models, results, Folders(folder))
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    templates = resources.files("clew.draw").joinpath("templates")
    script = templates.joinpath("app.js").read_text(encoding="utf-8")
    public: set[str] = set()

    @asynccontextmanager
    async def kept(app: Any) -> AsyncGenerator[None]:  # outermost, which middleware that is given to Gradio is not
        app.middleware_stack = OnlyHosts(app.middleware_stack, dict.fromkeys((*LOOPBACK, in_url(host))), public)
        yield

    try:
        page.launch(
            server_name=in_url(host),
            server_port=port,
            share=share,
            auth=login,
            app_kwargs={"lifespan": kept} if is_loopback(host) else {},
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
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
            css=templates.joinpath("app.css").read_text(encoding="utf-8"),
            head=f"<script>{script}</script>",
        )
    except OSError as error:
        raise OptionError(
            "the page cannot be served there", expected="a free port", got=error, todo="--port 0…65535"
        ) from error
    if page.share_url:
        public.add(urlsplit(page.share_url).netloc)
    return page


@contextmanager
def _until_stopped() -> Generator[list[int]]:
    """Ends with the first signal to stop; those that are ignored (by nohup) stay so.

    The signals that came are listed, too: Python drops what is raised where it tidies up, in `__del__` for one.
    """
    came: list[int] = []
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}

    def stop(number: int, frame: object) -> None:
        came.append(number)
        for one in before:  # what is left to do is to tidy up: a second signal must not end that
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield came
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(page: Any) -> None:
    page.close(verbose=False)
    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in CURRENT_TUNNELS:
        tunnel.kill()
