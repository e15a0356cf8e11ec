"""A real browser on the page of `clew ui`: how it is started, and what is clicked."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

INSTALL = "install Chromium (Debian: apt-get install chromium) and `pip install playwright`"


def chromium() -> str:
    """Where Chromium is; without it, or playwright, tests are skipped, but never in CI."""
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is not None and find_spec("playwright") is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"no browser in CI: {INSTALL}")
    pytest.skip(f"no browser: {INSTALL}")


@contextmanager
def started() -> Generator[Any]:
    """A headless Chromium."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playing:
        found = playing.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _heeds_interrupts() -> None:
    """As a program on a terminal: what a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def served(
    folder: Path, *options: str, program: Sequence[str] = ("-m", "clew"), **variables: str
) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """The page, served by a process of its own with temporary files in `folder`/tmp; its address and the process."""
    port = free_port()
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "CLEW_UI_"))},
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp"), **variables,
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *program, "ui", "--port", str(port), *options],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_heeds_interrupts,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(1800):
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.1)
            else:
                pytest.fail(f"no page after three minutes: {(folder / 'log').read_text()}")
            yield address, process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail(f"SIGTERM does not end the page: {(folder / 'log').read_text()}")


class Page:
    """The page as a person uses it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.requests: list[str] = []
        self.trouble: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("dialog", lambda dialog: (self.trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_role("button", name="Explain", exact=True).wait_for()

    def choose(self, where: str, name: str) -> None:
        """One of a drop-down list."""
        self.page.locator(f"#{where} input").click()
        self.page.get_by_role("option", name=name, exact=True).first.click()

    def methods(self, *names: str) -> None:
        """These methods and no others."""
        tokens = self.page.locator("#methods .token-remove:visible")
        while tokens.count() > (1 if self.page.locator("#methods .remove-all:visible").count() else 0):
            tokens.first.click()
        for name in names:
            self.choose("methods", name)
        self.page.keyboard.press("Escape")

    def upload(self, file: str | dict[str, Any], where: str = "explain") -> None:
        """A file into the box for pictures."""
        self.page.locator(f"#{where}-file").wait_for()
        remove = self.page.locator(f"#{where}-file button[aria-label='Clear']")
        if remove.count():
            remove.first.click()
        self.page.locator(f"#{where}-file input[type=file]").set_input_files(file)
        self.page.wait_for_timeout(300)

    def explain(self, wait_for: str = "done") -> None:
        """Press the button, and wait for what the status then says."""
        self.forget()
        self.page.locator("#explain").click()
        self.said(wait_for)

    def forget(self) -> None:
        """Take away what the status said before."""
        self.page.evaluate("document.querySelector('#status .clew-status').textContent = ''")

    def said(self, text: str, where: str = "status") -> None:
        """Wait until the status says something (a regular expression)."""
        self.page.locator(f"#{where} .clew-status").get_by_text(re.compile(text)).first.wait_for()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def cards(self, where: str = "maps") -> list[str]:
        """The headings of the maps."""
        return self.page.locator(f"#{where} .clew-card h3").all_inner_texts()
