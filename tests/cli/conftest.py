"""Directories to mount, and daemons that do not outlive a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import needs
from ..support.command import Daemons
from ..support.stage import Stage


@pytest.fixture
def daemons(stage: Stage) -> Iterator[Daemons]:
    needs.fuse()
    found = Daemons(stage)
    yield found
    found.close()


@pytest.fixture
def source(stage: Stage) -> Path:
    """A directory with a file in it."""
    path = stage.directory("src")
    (path / "f").write_text("f")
    return path


@pytest.fixture
def target(stage: Stage) -> Path:
    """An empty directory."""
    return stage.directory("mnt")
