"""What a run says while it computes, on the error stream: a bar, or where that is no terminal a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

EVERY = 30.0  # seconds between two lines
Begin = Callable[[str, int, int], Callable[[int], None]]


@contextmanager
def run_progress(show: bool) -> Generator[Begin]:
    """`begin(what, total, there)` begins a task of which some is there; what it gives is told how many more are."""
    if not show:
        yield lambda what, total, there: lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield partial(_lines, partial(console.print, markup=False, highlight=False, soft_wrap=True))
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def begin(what: str, total: int, there: int) -> Callable[[int], None]:
            if there:
                console.print(_going_on(what, total, there), markup=False)
            progress.reset(task, description=what, total=total, completed=there)
            return lambda more: progress.advance(task, more)

        yield begin


def _lines(say: Callable[[str], None], what: str, total: int, there: int) -> Callable[[int], None]:
    if there:
        say(_going_on(what, total, there))
    began, done, said = time.monotonic(), there, float("-inf")

    def advance(more: int) -> None:
        nonlocal done, said
        done, now = done + more, time.monotonic()
        if done < total and now - said >= EVERY:
            said = now
            left = duration((now - began) / (done - there) * (total - done))
            say(f"{what}: {done} of {total} examples, about {left} more")

    return advance


def _going_on(what: str, total: int, there: int) -> str:
    if there == total:
        return f"{what}: all {total} examples are stored; nothing is computed again"
    return f"{what}: going on with {there} of {total} examples"


def duration(seconds: float) -> str:
    """A time in words, roughly."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
