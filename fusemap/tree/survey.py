"""What would collide: the known files whose inode numbers on the host are the same.

Nothing is counted while clients work. Whoever asks makes a pass over all known nodes, in slices with pauses between
them, so that it can run in a thread beside a busy event loop: a slice keeps that waiting for about a millisecond, the
list of all nodes that comes first for some ten with a million files. A pass over a million takes about a second, most
of it pauses, and three where half of them collide; so that somebody who asks every second costs the server no more than
a tenth of its time, the last answer is given again until ten times as long has passed as it took. Small trees are
looked through every time.

Keeping an index instead would cost every look-up and every forget, or, kept only while somebody asks, memory for every
known file and a way to learn what was forgotten; the pass needs some for its own length, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from operator import attrgetter
from stat import S_IFDIR
from typing import Final, NamedTuple, TypeVar

from fusemap.tree.live import Tree
from fusemap.tree.node import Node

T = TypeVar("T")

HARMS: Final = ("loop", "error", "mixed")
"""As in fusemap.census: of several directories, of one and files, of files."""

SMALL: Final = 2000
"""Known files that are looked through in no time."""

LISTED: Final = 100
"""Collisions that are kept, of all that are counted: the most harmful ones."""

_SLICE: Final = 2000
_PAUSE: Final = 0.001
_REST: Final = 9  # times as long as the last pass took


class Member(NamedTuple):
    """A file of a collision: its node's number, device key and inode."""

    number: int
    device: str
    inode: int
    directory: bool


class Group(NamedTuple):
    """Files with one inode number on the host."""

    inode: int
    harm: str
    members: list[Member]


class Found(NamedTuple):
    """What a pass found. `numbers` counts groups by harm; `groups` are the most harmful, LISTED at most."""

    known: int
    numbers: dict[str, int]
    files: int
    groups: list[Group]


class Survey:
    """Looks through the nodes of `tree`. `distinct` says of a group whether clients are shown different numbers."""

    def __init__(self, tree: Tree, distinct: Callable[[list[Member]], bool] = lambda members: True) -> None:
        self._tree = tree
        self._distinct = distinct
        self._lock = threading.Lock()
        self._last: tuple[Found, float] | None = None  # and until when it is good

    @property
    def small(self) -> bool:
        """Whether so few files are known that looking them through takes no noticeable time."""
        return len(self._tree) <= SMALL

    @property
    def quick(self) -> bool:
        """Whether an answer takes no noticeable time, so that no thread is needed."""
        return self.small or self._fresh() is not None

    def take(self) -> Found:
        """What is so now, or was at the last pass where that is not long ago. May be called from any thread."""
        if self.small:
            return _pass(self._tree.nodes(), self._distinct)
        found = self._fresh()
        if found is not None:
            return found
        with self._lock:
            found = self._fresh()  # of who held the lock
            if found is None:
                began = time.monotonic()
                found = _pass(self._tree.nodes(), self._distinct)
                now = time.monotonic()
                self._last = found, now + _REST * (now - began)
            return found

    def _fresh(self) -> Found | None:
        """The last pass, unless it is time for another."""
        last = self._last
        return last[0] if last is not None and time.monotonic() < last[1] else None


def per_device(nodes: list[Node]) -> Counter[str]:
    """How many of the nodes are on each device, by its key. In slices, for a thread."""
    counts: Counter[str] = Counter()
    for some in _slices(nodes):
        counts.update(node.device.key for node in some)
    return counts


def harm_of(directories: int) -> str:
    """The harm of a collision among whose files there are so many directories."""
    return HARMS[0] if directories > 1 else HARMS[1] if directories else HARMS[2]


def _pass(nodes: list[Node], distinct: Callable[[list[Member]], bool]) -> Found:
    counts: Counter[int] = Counter()
    inode_of = attrgetter("inode")
    for some in _slices(nodes):
        counts.update(map(inode_of, some))
    numbers = dict.fromkeys(HARMS, 0)
    if len(counts) == len(nodes):
        return Found(len(nodes), numbers, 0, [])
    twice: dict[int, list[Node]] = {}
    for inodes in _slices_of(iter(counts)):
        twice.update((inode, []) for inode in inodes if counts[inode] > 1)
    del counts
    for some in _slices(nodes):
        for node in some:
            same = twice.get(node.inode)
            if same is not None:
                same.append(node)
    files, listed = 0, {harm: list[Group]() for harm in HARMS}
    for groups in _slices_of(iter(twice.items())):
        for inode, same in groups:
            members = _members(same)
            if len(members) > 1 and distinct(members):
                harm = harm_of(sum(member.directory for member in members))
                numbers[harm] += 1
                files += len(members)
                if len(listed[harm]) < LISTED:
                    listed[harm].append(Group(inode, harm, members))
    worst = [group for harm in HARMS for group in listed[harm]]
    return Found(len(nodes), numbers, files, worst[:LISTED])


def _members(nodes: list[Node]) -> list[Member]:
    """One of the nodes for each device: bind mounts show a file twice, and a reused inode was another's before."""
    found: dict[str, Member] = {}
    for node in nodes:
        key = node.device.key
        found[key] = Member(node.number, key, node.inode, node.kind == S_IFDIR)
    return list(found.values())


def _slices(nodes: list[Node]) -> Iterator[list[Node]]:
    for start in range(0, len(nodes), _SLICE):
        if start:
            time.sleep(_PAUSE)
        yield nodes[start : start + _SLICE]


def _slices_of(items: Iterator[T]) -> Iterator[list[T]]:
    some = list(islice(items, _SLICE))
    while some:
        yield some
        some = list(islice(items, _SLICE))
        if some:
            time.sleep(_PAUSE)
