"""What the tests of 9P share: a tree of real file systems, and our server on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemap.p9 import metadata, transfer
from fusemap.tree import live

from ..conftest import TEST_SECONDS
from ..support.process import run
from ..support.stage import Stage, watchdog
from .served import Served


def build(stage: Stage) -> Path:
    """An ext4, and below it two btrfs subvolumes and a tmpfs."""
    source = stage.ext4("export")
    image = stage.image("btrfs")
    top = stage.mount(image, stage.path / "btrfs-top", "-o", "loop")
    for name in ("subvol-a", "subvol-b"):
        run("btrfs", "subvolume", "create", top / name)
    device = run("findmnt", "-no", "SOURCE", top).stdout.split("[")[0].strip()
    for name in ("subvol-a", "subvol-b"):
        stage.mount(device, source / name, "-o", f"subvol={name}")
    stage.tmpfs(source / "tmpfs")
    return source


@pytest.fixture(scope="module")
def p9_tree() -> Iterator[Path]:
    """A tree of four file systems, on the host, for a whole module."""
    stage = Stage()
    try:
        with watchdog.limit(TEST_SECONDS):
            source = build(stage)
        yield source
    finally:
        stage.close()


@pytest.fixture(scope="module")
def served(p9_tree: Path) -> Iterator[Served]:
    """`fusemap serve` of `p9_tree`."""
    with watchdog.limit(TEST_SECONDS):
        server = Served(p9_tree, p9_tree.parent)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 32 KiB (see talk.large) take long to truncate and to remove."""
    for module in (transfer, metadata, live):
        monkeypatch.setattr(module, "LONG_REMOVAL_BLOCKS", 32)
