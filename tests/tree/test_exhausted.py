"""When no number is left: ENFILE for what is new, nothing half-made, and what has a number goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemap.errors import MappingExhausted
from fusemap.host.calls import Stat
from fusemap.qid import Allocator, Mapper
from fusemap.tree import Directory, Node, Tree, changes

from ..support.stage import Stage
from ..support.trees import ME, opened, walk

LAST_COUNTER = 2**31 - 1  # of the full map of mode suffix, k = 0
NO_INDEX = 65536


def scarce(numbers: int) -> Mapper:
    """A mapper that is at its end: every file takes a number from the full map, which has this many left."""
    return Mapper(source=Allocator(NO_INDEX, LAST_COUNTER - numbers + 1))


@pytest.fixture
def full(stage: Stage) -> Iterator[tuple[Path, Tree]]:
    """A tree in which the root, "d" and "f" have numbers, and nothing else gets one."""
    source = stage.ext4("src")
    (source / "d").mkdir()
    (source / "f").write_text("f")
    with opened(source, scarce(3)) as tree:
        walk(tree, "d")
        walk(tree, "f")
        yield source, tree


def exhausted(act: Callable[[], object]) -> None:
    with pytest.raises(MappingExhausted) as failed:
        act()
    assert failed.value.errno == errno.ENFILE


def test_what_has_no_number_is_refused_and_the_rest_goes_on(full: tuple[Path, Tree]) -> None:
    source, tree = full
    exhausted(lambda: tree.lookup(tree.root, b"lost+found"))
    node, st = tree.lookup(tree.root, b"f")
    assert st.size == 1
    changes.rename(tree, tree.root, b"f", walk(tree, "d"), b"g", 0, ME)
    assert tree.stat(node).size == 1
    assert (source / "d" / "g").exists()
    changes.unlink(tree, walk(tree, "d"), b"g")
    assert os.listdir(source / "d") == []


@pytest.mark.parametrize("kind", ["mkdir", "mknod", "symlink", "create"])
def test_what_gets_no_number_does_not_stay_behind(full: tuple[Path, Tree], kind: str) -> None:
    source, tree = full
    make: dict[str, Callable[[], object]] = {
        "mkdir": lambda: changes.mkdir(tree, tree.root, b"new", 0o755, ME),
        "mknod": lambda: changes.mknod(tree, tree.root, b"new", 0o100644, 0, ME),
        "symlink": lambda: changes.symlink(tree, tree.root, b"new", b"target", ME),
        "create": lambda: changes.create(tree, tree.root, b"new", os.O_RDWR, 0o644, ME),
    }
    exhausted(make[kind])
    assert not os.path.lexists(source / "new")
    assert len(tree) == 3


def test_opening_what_is_there_without_a_number_leaves_it_alone(full: tuple[Path, Tree]) -> None:
    source, tree = full
    (source / "theirs").write_text("the host's")
    exhausted(lambda: changes.create(tree, tree.root, b"theirs", os.O_RDWR, 0o644, ME))
    assert (source / "theirs").read_text() == "the host's"


def test_a_link_to_a_known_file_needs_no_number(full: tuple[Path, Tree]) -> None:
    source, tree = full
    node, _ = tree.lookup(tree.root, b"f")
    linked, st = changes.link(tree, node, walk(tree, "d"), b"g")
    assert linked is node
    assert st.nlink == 2
    assert (source / "d" / "g").read_text() == "f"


def test_a_listing_ends_with_the_error(full: tuple[Path, Tree]) -> None:
    _, tree = full
    directory = Directory(tree, tree.root)
    try:
        exhausted(lambda: list(directory.read(0)))
    finally:
        directory.close()


def test_numbers_of_the_full_map_are_unique(stage: Stage) -> None:
    source = stage.tmpfs("src")
    for n in range(500):
        (source / str(n)).touch()
    with opened(source, scarce(501)) as tree:
        nodes = [tree.lookup(tree.root, str(n).encode())[0] for n in range(500)]
        assert len({node.number for node in nodes}) == 500
        exhausted(lambda: changes.mkdir(tree, tree.root, b"one more", 0o755, ME))


def test_a_listing_goes_on_where_neither_entry_nor_number_could_be_had(
    full: tuple[Path, Tree], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that the host refuses is given by name; without a number for that, it is not lost either."""
    source, tree = full
    (source / "new").touch()
    entry = Tree.entry

    def refusing(self: Tree, parent: Node, parent_fd: int, name: bytes, now_ns: int) -> tuple[Node, Stat]:
        if name == b"new":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return entry(self, parent, parent_fd, name, now_ns)

    monkeypatch.setattr(Tree, "entry", refusing)
    (source / "lost+found").rmdir()
    directory = Directory(tree, tree.root)
    names, cookie = [], 0

    def go_on() -> None:
        nonlocal cookie
        for record, _, _, _ in directory.read(cookie):
            names.append(record.name)
            cookie = record.cookie

    try:
        exhausted(go_on)
        exhausted(go_on)
        tree.mapper.path = Mapper().path  # type: ignore[method-assign]
        go_on()
    finally:
        directory.close()
    assert sorted(names) == [b".", b"..", b"d", b"f", b"new"]
