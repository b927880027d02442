"""Moves data between open files and the kernel's requests: at once where that needs no disk, else in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fusemap.host.creds import Account, Identity
from fusemap.tree import Node, data

if TYPE_CHECKING:
    from fusemap.fuse.loop import Gate

MAX_TRANSFER: Final = 1 << 20


class OpenFile(data.OpenFile):
    """A client's open file; `limiter` counts the worker threads of its device."""

    __slots__ = ("limiter",)

    def __init__(self, node: Node, fd: int, flags: int, account: Account, limiter: trio.CapacityLimiter) -> None:
        super().__init__(node, fd, flags, account)
        self.limiter = limiter


class Transfer:
    """Reads and writes of a session."""

    def __init__(self, gate: Gate, identity: Identity) -> None:
        self._gate = gate
        self._identity = identity
        self._view = memoryview(bytearray(MAX_TRANSFER))

    async def read(self, file: OpenFile, offset: int, size: int) -> bytes | memoryview:
        """`size` bytes at `offset`, less at the end of the file. Raises OSError.

        The answer may lie in a buffer that the next inline read uses again; pyfuse3 has sent it by then.
        """
        done, start = 0, b""
        if size <= MAX_TRANSFER:
            view = self._view[:size]
            done, whole = data.read_now(file, offset, view)
            if whole:
                return view[:done]
            start = bytes(view[:done])
        answer: bytes = await self._gate.offload(file.limiter, data.read_fully, file.fd, start, offset, size)
        return answer

    async def write(self, file: OpenFile, offset: int, content: bytes) -> int:
        """Writes all of `content`; the number of bytes written. Raises OSError."""
        identity = self._identity
        done, whole = data.write_now(identity, file, offset, content)
        if not whole:
            done = await self._gate.offload(file.limiter, data.write_fully, identity, file, content, done, offset)
        return done

    def truncate(self, account: Account, fd: int, size: int) -> None:
        """ftruncate(2) on `account`. Raises OSError."""
        data.truncate(self._identity, account, fd, size)
