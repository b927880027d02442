"""What all tests stand on: a mount namespace of their own, a limit to every test's time, stages and mounts.

`stage` is a scratch directory for one test, `house` one for all tests of a module with a mounted tree of several file
systems, and `pair` a new directory for one test: on the host below the house, as the mount shows it, and a plain twin.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

from .support import needs, process
from .support.house import House, Pair
from .support.stage import Stage, watchdog

TEST_SECONDS = 300.0

process.private_mounts()
process.adopt_orphans()
os.umask(0o022)
signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is ended cleans up as after Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands would ignore it, and all below


@pytest.fixture(autouse=True, scope="session")
def inherited() -> Iterator[None]:
    """What every program that a test starts finds in its environment."""
    with tempfile.TemporaryDirectory(prefix="fusemap-state-") as scratch:
        process.set_environment(scratch)
        yield


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """A test that hangs on a mount loses its server, so that it fails instead."""
    with watchdog.limit(TEST_SECONDS):
        yield
    assert not watchdog.barked, f"the test took longer than {TEST_SECONDS} s; its servers were killed"


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """A verb of the command line that is called in this process sets what is logged, for good."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A scratch directory, for one test."""
    with_stage = Stage()
    try:
        yield with_stage
    finally:
        with_stage.close()


def _house(*options: str) -> Iterator[House]:
    needs.fuse()
    stage = Stage()
    try:
        with watchdog.limit(TEST_SECONDS):
            house = House(stage, *options)
        yield house
    finally:
        with watchdog.limit(TEST_SECONDS):
            stage.close()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """A tree of ext4, xfs, btrfs with two subvolumes, tmpfs and overlay, mounted with fusemap, for a whole module."""
    yield from _house()


@pytest.fixture
def pair(house: House, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A new directory on the house's ext4; fails the test when the server logged an error during it."""
    yield house.pair(request.node.name)
    house.mounted.check_log()


@pytest.fixture(scope="module")
def uncached_house() -> Iterator[House]:
    """A house whose mount keeps nothing, so that every call reaches the server."""
    yield from _house("--cache", "none")


@pytest.fixture
def uncached(uncached_house: House, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """As `pair`, in the house whose mount keeps nothing."""
    yield uncached_house.pair(request.node.name)
    uncached_house.mounted.check_log()
