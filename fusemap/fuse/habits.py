"""Does this process look at the files it lists, or only at their names?

pyfuse3 answers every listing with attributes (READDIRPLUS), which saves `ls -l` or `du` a round trip for each file. But
`find -name`, a shell's glob or `ls` never look at them, and getting them is most of a listing's cost. The kernel can
learn which it is (READDIRPLUS_AUTO), but pyfuse3 turns that off, so it is learned here, by the same sign: whether files
that were given by name only are looked up.

A process's first listing gives its first few files by name only. If a file of that directory is then looked up, the
process gets everything from then on; if it lists on without, it gets names only - until somebody looks up a file in a
directory that was listed so. A wrong guess costs the round trips that other file systems always pay.

One process may do both: Samba lists a directory for each new name, in search of another spelling, and lists it for its
clients, who see attributes. So a directory that was given with everything a moment ago is given by name only: the
kernel still has the rest.

Names alone are given only where the record's inode number is certain to be the file's: on file systems known for it and
in directories that no mount covers a part of.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import OrderedDict
from enum import Enum
from typing import Final

from fusemap.fuse.watch import MountWatch
from fusemap.host.mountinfo import contains, mount_table
from fusemap.tree import Directory, Node, Tree
from fusemap.tree.directory import ALL

log = logging.getLogger(__name__)

PROBES: Final = 2
FRESH_SECONDS: Final = 0.5
_REMEMBERED: Final = 256
_HONEST: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs"})


class _Habit(Enum):
    NAMES = 1
    LOOKS = 2


class Habits:
    """What is known of the processes that list directories of `tree`; the kernel keeps attributes `timeout` seconds."""

    def __init__(self, tree: Tree, watch: MountWatch, timeout: float) -> None:
        self._tree = tree
        self._watch = watch
        self._fresh_seconds = min(FRESH_SECONDS, timeout / 2)
        self._complete: OrderedDict[Node, float] = OrderedDict()
        self._habits: OrderedDict[int, _Habit] = OrderedDict()
        self._listed: OrderedDict[Node, int] = OrderedDict()
        self._covered: set[tuple[int, int, int]] | None = None
        self._changes = -1

    def listing(self, directory: Directory, pid: int) -> None:
        """Process `pid` starts to list `directory`: decides how many entries it gets by name only."""
        directory.begun = time.monotonic()
        habit = self._habits.get(pid)
        if not self._honest(directory.node):
            return
        if habit is _Habit.LOOKS:
            if directory.begun - self._complete.get(directory.node, -math.inf) < self._fresh_seconds:
                directory.names_left = ALL
            return
        self._listed[directory.node] = pid
        directory.names_left = ALL if habit else PROBES
        if len(self._listed) > _REMEMBERED:
            self._listed.popitem(last=False)

    def listed(self, directory: Directory) -> None:
        """`directory` was listed to its end or closed."""
        if directory.ended and not directory.names_given:
            self._complete[directory.node] = directory.begun
            self._complete.move_to_end(directory.node)
            if len(self._complete) > _REMEMBERED:
                self._complete.popitem(last=False)
        pid = self._listed.get(directory.node)
        if pid is not None and directory.names_given and pid not in self._habits:
            self._know(pid, _Habit.NAMES)

    def looked_up(self, parent: Node) -> None:
        """A file of `parent`, not a directory, was looked up."""
        pid = self._listed.pop(parent, None)
        if pid is not None:
            self._know(pid, _Habit.LOOKS)

    def _know(self, pid: int, habit: _Habit) -> None:
        self._habits[pid] = habit
        self._habits.move_to_end(pid)
        if len(self._habits) > _REMEMBERED:
            self._habits.popitem(last=False)

    def _honest(self, node: Node) -> bool:
        if node.mount.kind not in _HONEST or not node.mount.handles:
            return False
        changes = self._watch.look()
        if changes != self._changes:
            self._changes = changes
            self._read_mounts()
        device = node.device
        return self._covered is not None and (device.major, device.minor, node.inode) not in self._covered

    def _read_mounts(self) -> None:
        """Which directories under the tree's root hold a mount point; None when one of them cannot be told."""
        covered = set()
        try:
            for info in mount_table():
                if contains(self._tree.source, info.point) and info.point != self._tree.source:
                    st = os.stat(os.path.dirname(info.point))
                    covered.add((os.major(st.st_dev), os.minor(st.st_dev), st.st_ino))
        except OSError:
            self._covered = None
        else:
            self._covered = covered
