"""Progress bars for long work, on the error stream, gone when the work is done."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def progress_bar(name: str, show: bool, total: int | None = None) -> Generator[Callable[[int, int], None] | None]:
    """`update(done, all)`, or None where no bar is wanted."""
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)
