"""Noticing at once that something was mounted or unmounted beneath the root.

The kernel keeps what it knows of a mount point's name as long as the cache mode says, a second or a day. Meanwhile it
would show the directory below a new mount, or that of one that is gone. So the mount table is watched, and for every
mount point that changes the kernel is told to look its name up again.

That takes a moment. A request that is quicker, for a directory that a new mount covers, is answered ESTALE, upon which
the kernel walks its path again and asks about every name on it (path_lookupat() in fs/namei.c).
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from typing import Final

import pyfuse3
import trio

from fusemap.host.mountinfo import contains, mount_table
from fusemap.tree import Node, Tree

log = logging.getLogger(__name__)


SUSPICIOUS_SECONDS: Final = 2.0


class MountWatch:
    """Watches the mounts beneath the root of `tree`; as a context manager of the event loop, also from a thread."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._table = open("/proc/self/mountinfo", "rb")  # noqa: SIM115  # closed by close()
        self._poll = select.poll()
        self._poll.register(self._table, select.POLLPRI | select.POLLERR)  # a change, proc_pid_mountinfo(5)
        self._suspicious_until = 0.0
        self.changes = 0
        self._stop_reader, self._stop_writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="mount-watch", daemon=True)

    def close(self) -> None:
        """Closes the mount table."""
        self._table.close()

    def look(self) -> int:
        """How often the mount table has changed so far."""
        if self._poll.poll(0):
            self.changes += 1
            self._suspicious_until = time.monotonic() + SUSPICIOUS_SECONDS
        return self.changes

    def check_uncovered(self, node: Node) -> None:
        """Raises OSError, ESTALE, if directory `node` was covered by a mount a moment ago."""
        self.look()
        if self._suspicious_until and node is not self._tree.root:
            if time.monotonic() > self._suspicious_until:
                self._suspicious_until = 0.0
            self._tree.check_uncovered(node)

    def __enter__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        os.close(self._stop_writer)
        self._thread.join()
        os.close(self._stop_reader)

    def _watch(self) -> None:
        with open("/proc/self/mountinfo", "rb") as table:
            poll = select.poll()
            poll.register(table, select.POLLPRI | select.POLLERR)
            poll.register(self._stop_reader, select.POLLIN)
            before = self._mounts()
            while True:
                if any(fd == self._stop_reader for fd, _ in poll.poll()):
                    return
                now = self._mounts()
                points = {point for _, point in before ^ now}
                before = now
                if points:
                    try:
                        self._token.run_sync_soon(self._changed, points)
                    except trio.RunFinishedError:
                        return

    def _mounts(self) -> set[tuple[int, bytes]]:
        source = self._tree.source
        return {(info.id, info.point) for info in mount_table() if contains(source, info.point)}

    def _changed(self, points: set[bytes]) -> None:
        for point in points:
            try:
                node = self._tree.find(os.path.dirname(point))
            except OSError:
                node = None
            if node is not None:
                number = pyfuse3.ROOT_INODE if node is self._tree.root else node.number
                pyfuse3.invalidate_entry_async(number, os.path.basename(point), ignore_enoent=True)
                log.debug("mounts changed at %s", os.fsdecode(point))
