"""Directory listings as a front end takes them: records, cookies, entries given back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusemap.tree import Directory, Tree

from ..support.stage import Stage
from ..support.trees import opened, walk


@pytest.fixture
def source(stage: Stage) -> Path:
    """500 files, a directory, and a mount point."""
    path = stage.ext4("src")
    for n in range(500):
        (path / f"{n:03d}").touch()
    (path / "d").mkdir()
    stage.tmpfs("src/disk")
    return path


def take(directory: Directory, cookie: int, count: int) -> tuple[list[bytes], int]:
    """The next `count` names after `cookie`, as a front end with little room takes them, and where it stands then."""
    names: list[bytes] = []
    for record, _, _, _ in directory.read(cookie):
        if len(names) == count:
            directory.reject(record, cookie)
            break
        names.append(record.name)
        cookie = record.cookie
    return names, cookie


def forget_all(tree: Tree) -> None:
    for node in [node for node in tree._nodes.values() if node is not tree.root and not node.lookups]:
        tree.forget(node, 0)


@pytest.mark.parametrize("room", [1, 2, 7, 100, 1000])
def test_everything_comes_once_however_little_fits(source: Path, room: int) -> None:
    with opened(source) as tree:
        directory = Directory(tree, tree.root)
        try:
            names: list[bytes] = []
            cookie = 0
            while True:
                got, cookie = take(directory, cookie, room)
                if not got:
                    break
                names += got
            assert sorted(names) == sorted([b".", b"..", *map(os.fsencode, os.listdir(source))])
            assert take(directory, 0, 3)[0] == names[:3], "a listing begins anew at cookie 0"
        finally:
            directory.close()
        forget_all(tree)


def test_numbers_and_stats_are_those_of_a_look_up(source: Path) -> None:
    with opened(source) as tree:
        directory = Directory(tree, tree.root)
        try:
            for record, node, number, st in directory.read(0):
                assert st is not None
                if record.name == b"..":
                    assert number == tree.root.number
                elif record.name == b".":
                    assert number == tree.root.number
                    assert st.ino == tree.root.inode
                else:
                    same, again = tree.lookup(tree.root, record.name)
                    assert (same, number, st.ino) == (node, same.number, again.ino)
            inside, _ = tree.lookup(tree.root, b"disk")
            assert inside.device is not tree.root.device
        finally:
            directory.close()


def test_dots_of_directories_below_and_of_mount_points(source: Path) -> None:
    with opened(source) as tree:
        for path in ("d", "disk"):
            node = walk(tree, path)
            directory = Directory(tree, node)
            try:
                numbers = {record.name: number for record, _, number, _ in directory.read(0)}
            finally:
                directory.close()
            assert numbers == {b".": node.number, b"..": tree.root.number}


def test_an_entry_removed_after_its_record_was_read_is_left_out(source: Path) -> None:
    with opened(source) as tree:
        directory = Directory(tree, tree.root)
        try:
            names: list[bytes] = []
            for record, _, _, _ in directory.read(0):
                if not names:
                    for n in range(0, 500, 2):
                        os.unlink(source / f"{n:03d}")
                names.append(record.name)
            assert {name for name in names if name.isdigit() and not int(name) % 2} == set()
            assert len([name for name in names if name.isdigit()]) == 250
        finally:
            directory.close()
        forget_all(tree)


def test_an_open_directory_outlives_its_removal(source: Path) -> None:
    with opened(source) as tree:
        node = walk(tree, "d")
        directory = Directory(tree, node)
        try:
            os.rmdir(source / "d")
            with pytest.raises(FileNotFoundError):  # the end, as getdents(2) tells it of a removed directory
                list(directory.read(0))
            assert tree.stat(node).nlink == 0
        finally:
            directory.close()
