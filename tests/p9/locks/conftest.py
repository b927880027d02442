"""A file, locks on it, a process of the host, and threads for those who wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemap.p9.locks import Locks

from .support import HostProcess, Threads, checked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.fixture
def locks() -> Iterator[Locks]:
    with checked() as locks:
        yield locks


@pytest.fixture
def host(path: Path) -> Iterator[HostProcess]:
    process = HostProcess(path)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def pool(locks: Locks) -> Iterator[Threads]:
    """Threads for what waits. At the end everything is cancelled."""
    threads = Threads()
    try:
        yield threads
    finally:
        locks.close()
        threads.close()
