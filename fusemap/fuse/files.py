"""Open files and their data.

A read that the page cache can answer is answered inline (preadv2(2) with RWF_NOWAIT), so is a write that the file
system promises not to wait for; the rest goes to a worker thread. File systems in memory have no disk to wait for.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import trio

from fusemap.host.creds import Account, Identity
from fusemap.tree import Node

if TYPE_CHECKING:
    from fusemap.fuse.loop import Gate

MAX_TRANSFER: Final = 1 << 20
PAGE_REST: Final = os.sysconf("SC_PAGESIZE") - 1
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_WOULD_WAIT: Final = (errno.EAGAIN, errno.EOPNOTSUPP)


class OpenFile:
    """A client's open file."""

    __slots__ = ("account", "fd", "limiter", "node", "read_inline", "write_inline", "written")

    def __init__(self, node: Node, fd: int, flags: int, account: Account, limiter: trio.CapacityLimiter) -> None:
        self.node = node
        self.account = account  # who opened it
        self.fd = fd
        self.limiter = limiter
        memory = node.mount.kind in _MEMORY
        synchronous = bool(flags & (os.O_SYNC | os.O_DSYNC))
        # RWF_NOWAIT, plain calls (0), or never inline (None)
        self.read_inline: int | None = 0 if memory else None if node.mount.remote else os.RWF_NOWAIT
        self.write_inline: int | None = 0 if memory else None if synchronous or node.mount.remote else os.RWF_NOWAIT
        self.written = 0


class Transfer:
    """Moves data between open files and requests."""

    def __init__(self, gate: Gate, identity: Identity) -> None:
        self._gate = gate
        self._identity = identity
        self._buffer = bytearray(MAX_TRANSFER)
        self._view = memoryview(self._buffer)

    async def read(self, file: OpenFile, offset: int, size: int) -> bytes | memoryview:
        """`size` bytes at `offset`, less at the end of the file. Raises OSError.

        The answer may lie in a buffer that the next inline read uses again; pyfuse3 has sent it by then.
        """
        inline = file.read_inline
        done = 0
        if inline is not None and size <= MAX_TRANSFER:
            view = self._view[:size]
            try:
                while done < size:
                    got = os.preadv(file.fd, [view[done:]], offset + done, inline)
                    done += got
                    if not got or (offset + done) & PAGE_REST:  # within a page there is nothing to wait for but the end
                        break
                return view[:done]
            except OSError as error:
                if error.errno not in _WOULD_WAIT:
                    raise
                if error.errno == errno.EOPNOTSUPP:
                    file.read_inline = None
        start = bytes(self._view[:done])
        return await self._gate.offload(file.limiter, _read_fully, file.fd, start, offset, size)  # type: ignore[no-any-return]

    async def write(self, file: OpenFile, offset: int, data: bytes) -> int:
        """Writes all of `data`; the number of bytes written. Raises OSError."""
        inline = file.write_inline
        done, size = 0, len(data)
        file.written += size
        if inline is not None:
            try:
                with self._identity.writing(file.account):
                    while done < size:
                        done += os.pwritev(file.fd, [memoryview(data)[done:] if done else data], offset + done, inline)
                return size
            except OSError as error:
                if error.errno not in _WOULD_WAIT:
                    return _part(done, error)
                if error.errno == errno.EOPNOTSUPP:
                    file.write_inline = None
        return await self._gate.offload(file.limiter, self._write_fully, file, data, done, offset)  # type: ignore[no-any-return]

    def truncate(self, account: Account, fd: int, size: int) -> None:
        """ftruncate(2) on `account`. Raises OSError."""
        with self._identity.writing(account):
            os.ftruncate(fd, size)

    def _write_fully(self, file: OpenFile, data: bytes, done: int, offset: int) -> int:
        with self._identity.writing(file.account):
            while done < len(data):
                try:
                    done += os.pwrite(file.fd, memoryview(data)[done:] if done else data, offset + done)
                except OSError as error:
                    return _part(done, error)
        return done


def _read_fully(fd: int, start: bytes, offset: int, size: int) -> bytes:
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


def _part(done: int, error: OSError) -> int:
    """A write that failed half-way tells how much it wrote; the next one gets the error (write(2))."""
    if done:
        return done
    raise error
