"""Who gets names only, and who gets everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fusemap.fuse import habits as module
from fusemap.fuse.attributes import CACHES
from fusemap.fuse.habits import PROBES, Habits
from fusemap.tree import Directory, Tree

from ..support.stage import Stage
from ..support.trees import opened

FILES = 20
LOOKS, SCANS = 1000, 2000


class Clock:
    """Stands in for time.monotonic(), and goes on by itself as little as that."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now


class Unchanged:
    """Stands in for the watch: nothing is mounted or unmounted."""

    def look(self) -> int:
        return 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def tree(stage: Stage) -> Iterator[Tree]:
    source = stage.tmpfs("src")
    for n in range(FILES):
        (source / f"{n}").touch()
    with opened(source) as tree:
        yield tree


Lists = Callable[..., int]


def lister(tree: Tree, habits: Habits) -> Lists:
    """A function that lists the root as a process does, and says how many entries came by name only."""

    def lists(pid: int, entries: int = 1000) -> int:
        directory = Directory(tree, tree.root)
        habits.listing(directory, pid)
        for (_, node, _, _), _ in zip(directory.read(0), range(entries), strict=False):
            if node is not None:
                tree.forget(node, 0)
        habits.listed(directory)
        directory.close()
        return directory.names_given

    return lists


@pytest.fixture
def lists(tree: Tree, clock: Clock) -> Lists:
    habits = Habits(tree, Unchanged(), CACHES["auto"].timeout)  # type: ignore[arg-type]
    lists = lister(tree, habits)
    assert lists(LOOKS) == PROBES
    habits.looked_up(tree.root)
    clock.now += 1
    return lists


def test_habits_are_learned_by_what_is_looked_up(lists: Lists, clock: Clock) -> None:
    assert lists(LOOKS) == 0
    assert [lists(SCANS) for _ in range(3)] == [PROBES, FILES, FILES]
    clock.now += 1
    assert lists(LOOKS) == 0


def test_what_the_kernel_has_just_been_given_is_not_given_again(lists: Lists, clock: Clock) -> None:
    """As Samba lists a directory, which its client has looked at, for every file that the client makes there."""
    given = [lists(LOOKS) for _ in range(100)]
    assert given == [0] + [FILES] * 99
    clock.now += 0.4
    assert lists(LOOKS) == 0  # a process that looks must find it there for some time yet


def test_a_listing_that_was_not_read_to_its_end_does_not_count(lists: Lists) -> None:
    assert lists(LOOKS, FILES) == 0
    assert lists(LOOKS) == 0
    assert lists(LOOKS) == FILES


def test_nothing_is_left_out_where_the_kernel_keeps_nothing(tree: Tree, clock: Clock) -> None:
    habits = Habits(tree, Unchanged(), CACHES["none"].timeout)  # type: ignore[arg-type]
    lists = lister(tree, habits)
    assert lists(LOOKS) == PROBES
    habits.looked_up(tree.root)
    assert [lists(LOOKS) for _ in range(3)] == [0, 0, 0]
