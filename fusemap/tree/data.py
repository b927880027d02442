"""Open files and their data, for both front ends.

A read that the page cache can answer is answered at once (preadv2(2) with RWF_NOWAIT), so is a write that the file
system promises not to wait for; the rest is for a worker thread. File systems in memory have no disk to wait for.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from fusemap.host.creds import Account, Identity
from fusemap.tree.node import Node

PAGE_REST: Final = os.sysconf("SC_PAGESIZE") - 1
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_WOULD_WAIT: Final = (errno.EAGAIN, errno.EOPNOTSUPP)


class OpenFile:
    """A client's open file, on the account of who opened it; `flags` are those of open(2)."""

    __slots__ = ("account", "fd", "node", "read_inline", "write_inline", "written")

    def __init__(self, node: Node, fd: int, flags: int, account: Account) -> None:
        self.node = node
        self.account = account
        self.fd = fd
        memory = node.mount.kind in _MEMORY
        synchronous = bool(flags & (os.O_SYNC | os.O_DSYNC))
        # RWF_NOWAIT, plain calls (0), or never inline (None)
        self.read_inline: int | None = 0 if memory else None if node.mount.remote else os.RWF_NOWAIT
        self.write_inline: int | None = 0 if memory else None if synchronous or node.mount.remote else os.RWF_NOWAIT
        self.written = 0


def read_now(file: OpenFile, offset: int, view: memoryview) -> tuple[int, bool]:
    """Reads into `view` what needs no disk: how many bytes, and whether that is all there is. Raises OSError."""
    inline, size = file.read_inline, len(view)
    if inline is None:
        return 0, False
    done = 0
    try:
        while done < size:
            got = os.preadv(file.fd, [view[done:] if done else view], offset + done, inline)
            done += got
            if not got or (offset + done) & PAGE_REST:  # within a page there is nothing to wait for but the end
                break
        return done, True
    except OSError as error:
        if error.errno not in _WOULD_WAIT:
            raise
        if error.errno == errno.EOPNOTSUPP:
            file.read_inline = None
    return done, False


def read_fully(fd: int, start: bytes, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`, less at the end of the file; `start` is what was read already. Raises OSError."""
    if not start:
        data = os.pread(fd, size, offset)
        if len(data) in (0, size):
            return data
        start = data
    while len(start) < size:  # a short read in the middle of a file would be taken for its end
        data = os.pread(fd, size - len(start), offset + len(start))
        if not data:
            break
        start += data
    return start


def write_now(identity: Identity, file: OpenFile, offset: int, data: bytes | memoryview) -> tuple[int, bool]:
    """Writes what need not wait: how many bytes, and whether that is the answer. Raises OSError."""
    inline, done, size = file.write_inline, 0, len(data)
    file.written += size
    if inline is None:
        return 0, False
    try:
        with identity.writing(file.account):
            while done < size:
                done += os.pwritev(file.fd, [memoryview(data)[done:] if done else data], offset + done, inline)
        return size, True
    except OSError as error:
        if error.errno not in _WOULD_WAIT:
            return _part(done, error), True
        if error.errno == errno.EOPNOTSUPP:
            file.write_inline = None
    return done, False


def write_fully(identity: Identity, file: OpenFile, data: bytes | memoryview, done: int, offset: int) -> int:
    """Writes `data`, of which `done` bytes are written: how many then are. Raises OSError."""
    with identity.writing(file.account):
        while done < len(data):
            try:
                done += os.pwrite(file.fd, memoryview(data)[done:] if done else data, offset + done)
            except OSError as error:
                return _part(done, error)
    return done


def truncate(identity: Identity, account: Account, fd: int, size: int) -> None:
    """ftruncate(2) on `account`. Raises OSError."""
    with identity.writing(account):
        os.ftruncate(fd, size)


def _part(done: int, error: OSError) -> int:
    """A write that failed half-way tells how much it wrote; the next one gets the error (write(2))."""
    if done:
        return done
    raise error
