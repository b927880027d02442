"""The bytes of a connection that are being received and sent: buffers, and how many of them there may be.

The receive buffer grows to the largest frame it has seen, at most msize. Data of a request that is used later keeps the
buffer it lies in, and another one takes its place; data that was read is sent from where it was read into. Neither is
copied, and the buffers are used again, since to be given a fresh one of a mebibyte costs more than to fill it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_BUFFER: Final = 1 << 16
BUFFERS_KEPT: Final = 4
COPIED: Final = 1 << 14  # bytes; less than that is copied after all, since a buffer is more than it is worth


class Buffers:
    """A connection's buffers; `msize` is the largest frame for now."""

    def __init__(self, msize: int) -> None:
        self.msize = msize
        self._buffer = bytearray(min(FIRST_BUFFER, msize))
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # what was received and is not handled yet
        self._spare: list[bytearray] = []
        self._lent: list[bytearray] = []  # with data that is to be sent
        self._out: list[bytes | memoryview] = []
        self._out_size = 0  # bytes in memory that wait to be sent

    def space(self) -> memoryview:
        """Where the next received bytes go; never empty."""
        if not self._end:
            return self._view
        if self._start:
            rest = self._end - self._start
            if self._start == self._end or self._end == len(self._buffer) or self._needed() > len(self._buffer):
                self._buffer[:rest] = self._buffer[self._start : self._end]
                self._start, self._end = 0, rest
        needed = self._needed()
        if needed > len(self._buffer):
            grown = bytearray(needed)
            grown[: self._end] = self._view[: self._end]
            self._buffer = grown
            self._view = memoryview(grown)
        return self._view[self._end :]

    def missing(self) -> int:
        """How many bytes of the frame that is being received are still to come; 0 where that is not known."""
        return max(self._needed() - self._end, 0) if self._end - self._start >= 4 else 0

    def take_back(self) -> None:
        """What was handed out to be sent is sent."""
        self._spare += self._lent
        del self._spare[BUFFERS_KEPT:]
        self._lent.clear()

    def buffer(self, size: int) -> bytearray:
        """Space for `size` bytes or more, for `filled`."""
        buffer = self._spare.pop() if self._spare else bytearray(0)
        return buffer if len(buffer) >= size else bytearray(size)

    def filled(self, buffer: bytearray, size: int) -> bytes | memoryview:
        """What lies in a buffer, as data to be sent. A small part is copied, since that keeps only its own memory."""
        if size <= COPIED:
            self._spare.append(buffer)
            return bytes(memoryview(buffer)[:size])
        self._lent.append(buffer)
        self._out_size += len(buffer) - size
        return memoryview(buffer)[:size]

    def keep(self, data: memoryview) -> tuple[bytes | memoryview, Callable[[], None]]:
        """Data of the request that is being handled, to be used later, and what to call when it is not used any more.

        Much of it is not copied: the receive buffer itself is kept and another one takes its place.
        """
        if len(data) <= COPIED:
            return bytes(data), lambda: None
        old, rest = self._buffer, self._end - self._start
        new = self.buffer(len(old))
        new[:rest] = old[self._start : self._end]
        self._buffer, self._view = new, memoryview(new)
        self._start, self._end = 0, rest
        return data, lambda: self._spare.append(old)

    def _needed(self) -> int:
        """How large the buffer must be for the frame that is being received."""
        if self._end - self._start < 4:
            return self._start + 7
        size = int.from_bytes(self._buffer[self._start : self._start + 4], "little")
        return self._start + max(min(size, self.msize), 7)
