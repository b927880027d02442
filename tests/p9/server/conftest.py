"""A server for each test."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from .echo import Echo


@pytest.fixture
async def echo(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Echo]:
    """A server on a Unix socket, to be started by the test."""
    found = Echo(tmp_path, nursery)
    yield found
    if hasattr(found, "server"):
        await found.close()


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing worse than a warning is logged."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
