"""What the data tests share."""

from collections.abc import Iterator

import pytest
from file_server import FileServer, serve


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A running server without files."""
    with serve() as running:
        yield running
