"""What a hostile file must come to: a clear error of clew's, in bounded memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from clew.errors import ClewError

ROOM = 3 * 2**30  # bytes of addresses, more than any case may take of memory


@pytest.fixture
def room():
    """Room for a few gigabytes more, where the system can limit that."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(call, *, fine, longest=2000):
    """A call that raises a clear error of clew's in a few words, not for want of memory; one that is `fine` runs."""
    if fine:
        call()
        return
    with pytest.raises(ClewError) as raised:
        call()
    said = str(raised.value)
    assert not isinstance(raised.value.__cause__, MemoryError)
    assert "expected:" in said and "got:" in said, said
    assert len(said) < longest
