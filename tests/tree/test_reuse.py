"""Inode numbers that the host gives again, for those who want no number shown twice (`by_generation`)."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fusemap.errors import MappingExhausted
from fusemap.qid import Allocator, Mapper
from fusemap.table import Table, open_table
from fusemap.tree import Directory, Tree, changes

from ..support.stage import Stage
from ..support.trees import ME, opened, replace, walk
from .test_live import fails

STATES = ["auto", "sqlite", "none"]


@pytest.fixture
def source(stage: Stage) -> Path:
    """An ext4 with so few inodes that it gives them again at once, and a file on it."""
    path = stage.ext4("src", 16, "-N", "64")
    (path / "f").write_text("first")
    return path


@contextmanager
def shown(stage: Stage, source: Path, state: str = "auto", by_generation: bool = True) -> Iterator[tuple[Tree, Table]]:
    """A tree with its lasting table."""
    name = f"sqlite:{stage.path}/own.sqlite" if state == "sqlite" else state
    table = open_table(source, name, directory=str(stage.state))
    try:
        with closing(Tree(source, table.mapper(by_generation))) as tree:
            yield tree, table
    finally:
        table.close()


def listed(tree: Tree) -> dict[bytes, int]:
    """The numbers that a listing of the root shows, for both kinds of client."""
    directory = Directory(tree, tree.root)
    try:
        directory.names_left = 1000
        found = {entry.name: number for entry, _, number, _ in directory.read(0)}
        assert {entry.name: number for entry, number, _ in directory.stats(0, tree.root)} == found
        return found
    finally:
        directory.close()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_later_file_has_a_number_of_its_own(
    stage: Stage, source: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with shown(stage, source) as (tree, _):
        old, _ = tree.lookup(tree.root, b"f")
        assert old.number == tree.mapper.path(old.device.key, old.inode)
        tree.rest()
        if kind == "file":
            replace(source / "f", lambda path: path.write_text("second"))
        else:
            replace(source / "f", os.mkdir)
        new, st = tree.lookup(tree.root, b"f")
        assert (new.inode, st.ino) == (old.inode, old.inode)
        assert new.number != old.number
        assert tree.node(old.number) is old
        fails(errno.ESTALE, lambda: tree.stat(old))
        assert tree.stat(new).mode & 0o170000 == (stat.S_IFREG if kind == "file" else stat.S_IFDIR)
        assert tree.mapper.locate(new.number) == (new.device.key, new.inode)
        assert listed(tree)[b"f"] == new.number
        assert tree.lookup(tree.root, b"f")[0] is new
        assert tree.reused == 1
    told = [record.message for record in caplog.records if "to another file" in record.message]
    assert len(told) == 1
    assert str(new.number) in told[0]
    assert "gave 1 inode numbers of known files to other files" in caplog.text


@pytest.mark.parametrize("state", ["auto", "sqlite"])
def test_numbers_last_and_none_comes_twice(stage: Stage, source: Path, state: str) -> None:
    """Also for files that came and went while nobody was looking."""
    seen = []
    inode = (source / "f").stat().st_ino
    for _ in range(4):
        for _ in range(2):
            with shown(stage, source, state) as (tree, _):
                node = walk(tree, "f")
                assert node.inode == inode
                seen.append(node.number)
        replace(source / "f", lambda path: path.write_text("another"))
    assert seen[::2] == seen[1::2]
    assert len(set(seen)) == 4
    with shown(stage, source, state, by_generation=False) as (tree, table):
        new = walk(tree, "f").number  # which nobody asked to keep apart
        assert new == seen[0]
        assert table.ledger().holder_count >= 1
        assert sum(full.generation is not None for full in table.ledger().full.values()) == 3


def test_without_it_the_number_stays_and_those_given_before_last(stage: Stage, source: Path) -> None:
    with shown(stage, source) as (tree, _):
        first = walk(tree, "f").number
        tree.rest()
        replace(source / "f", lambda path: path.write_text("second"))
        second = walk(tree, "f").number
    with shown(stage, source, by_generation=False) as (tree, _):
        assert walk(tree, "f").number == second
        assert listed(tree)[b"f"] == second
        tree.rest()
        replace(source / "f", lambda path: path.write_text("third"))
        assert walk(tree, "f").number == first


def test_two_processes_agree(stage: Stage, source: Path) -> None:
    with shown(stage, source) as (one, _), shown(stage, source) as (two, _):
        for turn in range(6):
            first, second = (one, two) if turn % 2 else (two, one)
            number = walk(first, "f").number
            assert walk(second, "f").number == number
            first.rest(), second.rest()
            (source / str(turn)).touch()
            assert walk(second, str(turn)).number == walk(first, str(turn)).number
            first.rest(), second.rest()
            os.unlink(source / "f")
            os.unlink(source / str(turn))
            (source / "f").write_text("another")


def test_a_thousand_files_move_the_table_to_a_database(stage: Stage) -> None:
    source = stage.ext4("src")
    for n in range(1000):
        (source / str(n)).touch()
    with shown(stage, source) as (tree, table):
        before = listed(tree)
        assert table.state == "sqlite"
        assert table.ledger().holder_count >= 1001
        assert table.ledger().full == {}
    with shown(stage, source) as (tree, table):
        assert listed(tree) == before
    with shown(stage, source, "none", by_generation=False) as (tree, table):
        assert listed(tree) == before


def test_removing_and_hard_links(stage: Stage, source: Path) -> None:
    with shown(stage, source, "none") as (tree, _):
        node = walk(tree, "f")
        tree.rest()
        replace(source / "f", lambda path: path.write_text("second"))
        new = walk(tree, "f")
        assert changes.link(tree, new, tree.root, b"g")[0] is new
        changes.unlink(tree, tree.root, b"f")
        changes.unlink(tree, tree.root, b"g")
        assert tree.stat(new).nlink == 0  # kept for whoever knows it
        assert node.number != new.number
        made, _ = changes.mkdir(tree, tree.root, b"d", 0o755, ME)
        assert walk(tree, "d") is made
        assert tree.lookup(made, b"..")[0] is tree.root


def test_a_listing_below_shows_the_directory_above(stage: Stage, source: Path) -> None:
    (source / "d" / "e").mkdir(parents=True)
    with shown(stage, source, "none") as (tree, _):
        walk(tree, "d")
        tree.rest()
        (source / "d" / "e").rmdir()
        replace(source / "d", os.mkdir)
        os.mkdir(source / "d" / "e")
        above, below = walk(tree, "d"), walk(tree, "d/e")
        assert above.number != tree.mapper.path(above.device.key, above.inode)
        directory = Directory(tree, below)
        try:
            assert {entry.name: number for entry, _, number, _ in directory.read(0)}[b".."] == above.number
        finally:
            directory.close()
        assert tree.find(os.fsencode(source / "d")) is above


def test_when_no_number_is_left_the_later_file_is_refused(source: Path) -> None:
    with opened(source, Mapper(source=Allocator(counter=1 << 31), by_generation=True)) as tree:
        walk(tree, "f")
        tree.rest()
        replace(source / "f", lambda path: path.write_text("second"))
        with pytest.raises(MappingExhausted):
            walk(tree, "f")


def test_xfs_tells_later_files_too(stage: Stage) -> None:
    source = stage.disk("xfs", "src")
    (source / "f").write_text("first")
    with shown(stage, source) as (tree, _):
        old = walk(tree, "f")
        tree.rest()
        replace(source / "f", lambda path: path.write_text("second"))
        new = walk(tree, "f")
        assert (new.inode, new.number == old.number) == (old.inode, False)
    with shown(stage, source) as (tree, _):
        assert walk(tree, "f").number == new.number


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_other_file_systems_are_as_they_were(stage: Stage, kind: str) -> None:
    source = stage.tmpfs("src") if kind == "tmpfs" else stage.overlay("src")
    (source / "f").write_text("f")
    (source / "d").mkdir()
    with shown(stage, source, "none") as (tree, table), closing(Tree(source, Mapper())) as plain:
        for name in os.listdir(source):
            assert walk(tree, name).number == walk(plain, name).number
        node = walk(tree, "f")
        changes.chmod(tree, node, 0o600)
        tree.rest()
        assert walk(tree, "f") is node
        # A tmpfs without a name gives no number twice, so there is nothing to remember of its files.
        assert (table.ledger().holder_count == 0) == (kind == "tmpfs")
