"""Trees without a mount, for tests that call them directly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fusemap.host.creds import Caller
from fusemap.qid import Mapper
from fusemap.tree import Node, Tree

ME = Caller(os.geteuid(), os.getegid(), os.getpid(), 0o022)


@contextmanager
def opened(source: Path, mapper: Mapper | None = None) -> Iterator[Tree]:
    """A tree of `source`; afterwards every descriptor that it took must be closed."""
    before = descriptors()
    tree = Tree(source, mapper or Mapper())
    try:
        yield tree
    finally:
        tree.close()
    assert descriptors() == before, "descriptors are left open"


def descriptors() -> set[str]:
    """This process's open descriptors, by number and what they are of."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:  # the one by which the list was read
            continue
    return found


def walk(tree: Tree, path: str) -> Node:
    """The node at a path below the root; every step's look-up count is raised."""
    node = tree.root
    for name in filter(None, path.split("/")):
        node, _ = tree.lookup(node, os.fsencode(name))
    return node


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Removes a file and puts another one at its place that has the inode number of the first."""
    inode = path.stat().st_ino
    (os.rmdir if path.is_dir() else os.unlink)(path)
    fillers = [path.with_name(f"filler-{n}") for n in range(60)]
    try:
        for filler in fillers:  # ext4 keeps the number of a file that was just removed for the last
            os.statvfs(path.parent)  # makes xfs go on with freeing what was removed
            make(filler)
            if filler.lstat().st_ino == inode:
                filler.rename(path)
                return
        raise AssertionError("the inode number did not come up again")
    finally:
        for filler in fillers:
            if os.path.lexists(filler):
                (os.rmdir if filler.is_dir() else os.unlink)(filler)
