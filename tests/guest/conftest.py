"""What the tests with guests share: one image for the whole run, and guests and trees for a module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import TEST_SECONDS
from ..support import needs
from ..support.stage import Stage, watchdog
from .machine import Image


@pytest.fixture(scope="session")
def image(inherited: None) -> Iterator[Image]:
    """What guests are booted from."""
    needs.root()  # not for guests, but for what they look at
    with tempfile.TemporaryDirectory(prefix="fusemap-test-") as scratch:
        yield Image(Path(scratch))


@pytest.fixture(scope="module")
def place() -> Iterator[Stage]:
    """A stage for a whole module."""
    with_stage = Stage()
    try:
        yield with_stage
    finally:
        with watchdog.limit(TEST_SECONDS):
            with_stage.close()


def populate(top: Path, files: int = 5) -> None:
    """Files, a directory with files, a hard link, a symbolic link and a fifo."""
    (top / "below").mkdir()
    for n in range(files):
        (top / f"file{n}").write_text(f"{n} of {top}")
        (top / "below" / f"file{n}").touch()
    os.link(top / "file0", top / "below" / "hard")
    os.symlink("file0", top / "symlink")
    os.mkfifo(top / "fifo")
