"""When no number is left: ENFILE for what is new, nothing half-made, and what has a number goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemap.errors import MappingExhausted
from fusemap.qid import Allocator, Entry, FullEntry, Mapper
from fusemap.tree import Directory, Tree, changes

from ..support.stage import Stage
from ..support.trees import ME, opened, walk


class Scarce(Allocator):
    """Gives out a few entries and then none."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.left = entries

    def allocate(self, *arguments: object) -> Entry | FullEntry:
        if not self.left:
            raise MappingExhausted
        self.left -= 1
        return super().allocate(*arguments)  # type: ignore[arg-type]


@pytest.fixture
def full(stage: Stage) -> Iterator[tuple[Path, Tree]]:
    """A tree whose root's device has numbers, and in which a second device, "other", gets none any more."""
    source = stage.ext4("src")
    (source / "d").mkdir()
    (source / "f").write_text("f")
    other = stage.tmpfs("src/other")
    (other / "f").write_text("never seen")
    with opened(source, Mapper(source=Scarce(1))) as tree:
        yield source, tree


def exhausted(act: Callable[[], object]) -> None:
    with pytest.raises(MappingExhausted) as failed:
        act()
    assert failed.value.errno == errno.ENFILE


def test_a_new_device_is_refused_and_the_known_one_goes_on(full: tuple[Path, Tree]) -> None:
    source, tree = full
    exhausted(lambda: tree.lookup(tree.root, b"other"))
    node, _ = tree.lookup(tree.root, b"f")
    assert tree.stat(node).size == 1
    changes.mkdir(tree, tree.root, b"new", 0o755, ME)
    assert (source / "new").is_dir()


def test_a_listing_stops_with_the_error_and_can_be_taken_up(full: tuple[Path, Tree]) -> None:
    _, tree = full
    directory = Directory(tree, tree.root)
    try:
        names = []
        with pytest.raises(MappingExhausted):
            for record, _, _, _ in directory.read(0):
                names.append(record.name)
        assert b"other" not in names
    finally:
        directory.close()


@pytest.mark.parametrize("kind", ["mkdir", "mknod", "symlink", "create"])
def test_what_gets_no_number_is_not_made(stage: Stage, kind: str) -> None:
    """A new file whose inode is the first with its top bits, on an overlay, finds no entry left."""
    source = stage.overlay("src")
    with opened(source, Mapper(source=Scarce(1))) as tree:
        before = sorted(os.listdir(source))
        make: dict[str, Callable[[], object]] = {
            "mkdir": lambda: changes.mkdir(tree, tree.root, b"new", 0o755, ME),
            "mknod": lambda: changes.mknod(tree, tree.root, b"new", 0o100644, 0, ME),
            "symlink": lambda: changes.symlink(tree, tree.root, b"new", b"target", ME),
            "create": lambda: changes.create(tree, tree.root, b"new", os.O_RDWR, 0o644, ME),
        }
        known = tree.mapper.used()
        try:
            make[kind]()
        except MappingExhausted:
            assert sorted(os.listdir(source)) == before
        else:
            assert tree.mapper.used() == known, "it needed a new entry and should not have got one"
            with pytest.raises(MappingExhausted):
                walk(tree, "from-0")  # a lower layer's file, whose top bits are others


def test_a_link_to_a_known_file_needs_no_number(full: tuple[Path, Tree]) -> None:
    source, tree = full
    node, _ = tree.lookup(tree.root, b"f")
    linked, st = changes.link(tree, node, walk(tree, "d"), b"g")
    assert linked is node
    assert st.nlink == 2
    assert (source / "d" / "g").read_text() == "f"
