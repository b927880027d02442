"""What is exported: a ground for attacks, and directories on several kinds of file systems."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.stage import Stage
from .ground import Ground
from .users import known_users


@pytest.fixture
def ground(stage: Stage) -> Iterator[Ground]:
    ground = Ground(stage.tmpfs("ground"))
    yield ground
    ground.check()


@pytest.fixture
def disk_ground(stage: Stage) -> Iterator[Ground]:
    """On a file system that has file handles, extended attributes of users, and inode numbers that come again."""
    ground = Ground(stage.ext4("ground"))
    yield ground
    ground.check()


class Disks:
    """A file system of each kind, for a whole module."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.tops = {"ext4": stage.ext4("ext4"), "xfs": stage.disk("xfs", "xfs"), "tmpfs": stage.tmpfs("tmpfs")}
        self._made = 0

    def directory(self, kind: str) -> Path:
        """A new one, root's own, which all may search."""
        self._made += 1
        path = self.tops[kind] / str(self._made)
        path.mkdir(0o755)
        return path


@pytest.fixture(scope="module")
def disks() -> Iterator[Disks]:
    stage = Stage()
    try:
        yield Disks(stage)
    finally:
        stage.close()


@pytest.fixture
def source(disks: Disks, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory to be exported, on ext4 or on what the test is parametrized with."""
    path = disks.directory(getattr(request, "param", "ext4"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def known() -> Iterator[None]:
    """This host knows alice, bob and member."""
    stage = Stage()
    try:
        with known_users(stage):
            yield
    finally:
        stage.close()
