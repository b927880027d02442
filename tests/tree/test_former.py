"""The host gives a known file's inode number to another file: who holds the former one never reaches the later one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusemap.host.calls import Calls, Stat
from fusemap.tree import Directory, Node, Tree

from ..support.stage import Stage
from ..support.trees import opened, replace


@pytest.fixture
def source(stage: Stage) -> Path:
    """An ext4 of so few inodes that the same ones come again."""
    path = stage.ext4("src", 16, "-N", "64")
    (path / "f").write_text("former")
    return path


def read(tree: Tree, node: Node) -> str:
    with open(tree.open(node, os.O_RDONLY)) as file:
        return file.read()


def gone(tree: Tree, node: Node) -> None:
    for act in (lambda: tree.stat(node), lambda: tree.open(node, os.O_RDONLY)):
        with pytest.raises(OSError) as failed:
            act()
        assert failed.value.errno == errno.ESTALE
    tree.rest()


def test_the_later_file_is_a_node_of_its_own(source: Path) -> None:
    with opened(source) as tree:
        former, _ = tree.lookup(tree.root, b"f")
        tree.rest()
        replace(source / "f", lambda path: path.write_text("later"))
        later, _ = tree.lookup(tree.root, b"f")
        gone(tree, former)
        assert read(tree, later) == "later"
        assert (later.number, later.lookups) == (former.number, 1)
        assert later.generation != former.generation
        assert tree.node(later.number) is later
        tree.forget(former)
        assert tree.node(later.number) is later
        tree.forget(later)
        assert len(tree) == 1


def test_a_later_file_of_which_nobody_was_told_leaves_the_number_to_the_former(source: Path) -> None:
    with opened(source) as tree:
        former, _ = tree.lookup(tree.root, b"f")
        tree.rest()
        replace(source / "f", lambda path: path.write_text("later"))
        directory = Directory(tree, tree.root)
        for record, node, number, _ in directory.read(0):
            if node is not None:  # as for an entry for which a client has no room
                tree.forget(node, 0)
            if record.name == b"f":
                assert number == former.number
        directory.close()
        assert tree.node(former.number) is former
        gone(tree, former)
        tree.forget(former)
        assert len(tree) == 1


def test_several_in_turn(source: Path) -> None:
    """The number leads to the latest that is known; look-ups that are counted by number are the sum of theirs."""
    with opened(source) as tree:
        nodes = []
        for turn in range(4):
            nodes.append(tree.lookup(tree.root, b"f")[0])
            tree.rest()
            replace(source / "f", lambda path, turn=turn: path.write_text(f"{turn}"))  # type: ignore[misc]
        number = nodes[0].number
        tree.forget(nodes[1])
        tree.forget(nodes[3])
        assert tree.node(number) is nodes[2]
        tree.forget(nodes[2])
        assert tree.node(number) is nodes[0]
        later, _ = tree.lookup(tree.root, b"f")
        latest_sees = tree.inherit(later)
        assert latest_sees == (nodes[0],)
        assert (later.lookups, tree.inherit(later)) == (2, ())
        tree.forget(later)
        assert tree.node(number) is later
        tree.forget(later)
        assert len(tree) == 1


def test_an_open_file_and_another_with_its_inode_number(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bindfs over two disks shows them; on a disk the open file keeps its inode number from being used again."""
    statx = Calls.statx
    (source / "g").write_text("later")
    first, second = (source / "f").stat().st_ino, (source / "g").stat().st_ino

    def as_shown(self: Calls, dirfd: int, name: bytes) -> Stat:
        st = statx(self, dirfd, name)
        return st._replace(ino=first) if st.ino == second else st

    monkeypatch.setattr(Calls, "statx", as_shown)
    with opened(source) as tree:
        former, _ = tree.lookup(tree.root, b"f")
        fd = tree.open(former, os.O_RDONLY)
        tree.opened(former, fd)
        later, _ = tree.lookup(tree.root, b"g")
        assert later.number == former.number
        assert (read(tree, later), read(tree, former)) == ("later", "former")
        tree.closed(former, fd)
        os.close(fd)
