"""What all tests of the page in a browser share."""

import pytest
from support.browser import started


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the server of a module runs."""
    return tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    with started() as found:
        yield found
