"""Which methods work on a model: each is tried, and of those that fail the reason is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def attempts(names: Iterable[str], work: Callable[[str], object]) -> Iterator[tuple[str, str | None]]:
    """Each name with None where `work(name)` gave something, or the reason why not, one line.

    Any error is a reason: a model of others may raise what it likes.
    """
    for name in names:
        try:
            work(name)
        except Exception as error:
            yield name, str(error).partition("\n")[0] or type(error).__name__
        else:
            yield name, None
