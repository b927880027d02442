"""What the tests with guests share: one image, two guests and one with the host's programs, and trees for a module.

    python -m pytest tests/guest --thorough

runs all of them. Without the option those marked `thorough` are left out, which cost much time for the few errors that
the others do not find: more ways of mounting, larger trees.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import TEST_SECONDS
from ..support import needs
from ..support.stage import Stage, watchdog
from . import toolbox
from .machine import Guest, Image
from .toolbox import Toolbox


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="tests with guests: the slow ones, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: runs with --thorough only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The option is not known to a run of all tests, for which this file is read after the command line.
    if not config.getoption("--thorough", default=False):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def image(inherited: None) -> Iterator[Image]:
    """What guests are booted from."""
    needs.root()  # not for guests, but for what they look at
    with tempfile.TemporaryDirectory(prefix="fusemap-test-") as scratch:
        yield Image(Path(scratch))


@pytest.fixture(scope="package")
def guests(image: Image) -> Iterator[tuple[Guest, Guest]]:
    """Two guests, booted at the same time. Who mounts something in them unmounts it."""
    with tempfile.TemporaryDirectory(prefix="fusemap-test-") as scratch:
        with Guest(image, Path(scratch), "first") as one, Guest(image, Path(scratch), "second") as two:
            with watchdog.limit(TEST_SECONDS):
                both = one.up(), two.up()
            yield both


@pytest.fixture(scope="package")
def box(image: Image) -> Iterator[Toolbox]:
    """A guest with the host's programs. Who mounts something in it unmounts it."""
    with tempfile.TemporaryDirectory(prefix="fusemap-test-") as scratch:
        port = Path(scratch) / "port"
        with Guest(image, Path(scratch), "toolbox", options=toolbox.options(port)) as guest:
            with watchdog.limit(TEST_SECONDS):
                made = Toolbox(guest.up(), port)
            yield made


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
