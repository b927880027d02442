"""One connection's side of the protocol, without a socket: bytes in, bytes out.

The server puts received bytes where `space()` says, calls `advance()` and sends what `outgoing()` hands out. Most
requests are answered inside `advance()`; one that may wait - for a disk, for a lock - becomes a `Work`, which the
server runs in a thread, and its tag stays in use until then.

Rules that are kept here, all from section 5 of the manual (intro, version, flush):

* nothing but Tversion is heard before a version is agreed; each Tversion ends all that was, and is answered when
  nothing of that can change anything any more;
* a reply goes out in the order in which requests were finished, and of a flushed request either before its Rflush or
  never: what changes something is waited for, so that the client learns what became of it, and the rest is dropped;
* a frame that is no frame (too short, longer than msize, no T-message, a tag that is in use) ends the connection, since
  nothing after it can be trusted; a frame whose body makes no sense costs itself an error.

Memory is bounded by the connection's own limits: a receive buffer that grows to the largest frame it has seen, at most
msize; what waits to be sent; and how many requests are under way.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import struct
from collections.abc import Callable
from typing import Any, Final

from fusemap.errors import errno_of
from fusemap.p9 import control, wire
from fusemap.p9.buffers import Buffers
from fusemap.p9.dialects import table_of
from fusemap.p9.export import MIN_MSIZE, Export, Peer
from fusemap.p9.fast import FAST
from fusemap.p9.holdings import Holdings, close_quietly
from fusemap.p9.later import Handler, Later, Work
from fusemap.p9.messages import (
    BY_NUMBER,
    NUMBERS,
    Rerror,
    Rflush,
    Rlerror,
    Rread,
    Rreaddir,
    Rversion,
    Tflush,
    Tversion,
)
from fusemap.p9.naming import remove_at_end
from fusemap.p9.wire import Dialect, Message, WireError
from fusemap.tree.statistics import now_ns

log = logging.getLogger(__name__)

SENT_AT_ONCE: Final = 1 << 22  # bytes of replies that may wait before no more requests are handled
REQUESTS_UNDER_WAY: Final = 256
BYTES_UNDER_WAY: Final = 1 << 24  # that those requests hold in memory
HANDLED_AT_ONCE: Final = 512  # requests, before others have their turn

_HEADER: Final = wire.HEADER
_WITH_DATA: Final = (Rread, Rreaddir)


class Progress(enum.Enum):
    """Why `advance` has returned."""

    HUNGRY = "needs more bytes"
    FULL = "something is to be sent, or others are to have a turn; call again then"
    BUSY = "too much is under way; call again when a work has finished"


class Session(Buffers, Holdings):
    """A connection. Used by one thread only."""

    def __init__(self, export: Export, peer: Peer) -> None:
        Buffers.__init__(self, export.msize)
        Holdings.__init__(self, export)
        self.model: Final = export.model
        self.peer: Final = peer
        self.dialect = Dialect.BASE
        self.versioned = False
        self._pending: dict[int, Work] = {}
        self._flushing: dict[int, Work] = {}  # tags of Tflush that wait, and for what
        self._ending: set[Work] = set()  # of before a Tversion, which waits for them
        self._under_way = 0
        self._under_way_bytes = 0
        self._work: list[Work] = []
        self._table: dict[int, tuple[Any, Handler]] = {}  # by message number: decoder and handler
        self._fast: dict[int, Any] = {}  # and the short ways
        self._codecs: dict[type, wire.Codec] = {}
        self._counts = export.statistics.requests
        self._took = export.statistics.took
        self._wrong: WireError | None = None
        self._closed = self._told = False
        self.plain = export.trace is None and export.plain  # the fast way is the same as the ordinary one
        export.statistics.connections += 1
        export.statistics.clients += 1

    # The server's side ----------------------------------------------------------------------------------------------

    def received(self, count: int) -> None:
        """`count` bytes were put into the space."""
        self._end += count
        self.export.statistics.bytes_in += count

    def answer_alone(self, count: int) -> bytes | None:
        """`received`, and the answer where that was one request with a short way (fast.py) and nothing else is to do.

        A client that waits for each answer costs a turn for each request, and most of a turn is looking what there is
        to do. None: the bytes are received and nothing is answered yet, `advance` must look.
        """
        self._end += count
        statistics = self.export.statistics
        statistics.bytes_in += count
        start, end = self._start, self._end
        if end - start < 7 or self._pending or self._flushing or self._out or self._work or self._wrong is not None:
            return None
        size, number, tag = _HEADER.unpack_from(self._buffer, start)
        way = self._fast.get(number)
        if way is None or size != end - start:
            return None
        began = now_ns()
        try:
            frame: bytes | None = way(self, self._buffer, start + 7, size, tag)
            if frame is None:
                return None
        except Exception as error:
            frame = wire.encode(self._failure(error, number), tag, self.dialect)
        self._start = self._end = 0
        self._counts[number] += 1
        self._took(number, now_ns() - began)
        statistics.bytes_out += len(frame)
        return frame

    def advance(self) -> Progress:
        """Handles the whole requests that were received. Raises WireError when the connection must be dropped."""
        self.take_back()
        if self._wrong is not None:
            raise self._wrong
        counts = self._counts
        left = HANDLED_AT_ONCE
        while left > 0:
            left -= 1 + self._answer_quickly(left)
            buffer = self._buffer
            if self._out_size > SENT_AT_ONCE:
                return Progress.FULL
            if self._under_way >= REQUESTS_UNDER_WAY or self._under_way_bytes > BYTES_UNDER_WAY:
                return Progress.BUSY
            start = self._start
            have = self._end - start
            if have < 7:
                return Progress.HUNGRY
            size, number, tag = _HEADER.unpack_from(buffer, start)
            if size < 7 or size > self.msize:
                return self._drop(WireError(f"a frame of {size} bytes, msize is {self.msize}"))
            if have < size:
                return Progress.HUNGRY
            self._start = end = start + size
            counts[number] += 1
            entry = self._table.get(number)
            if entry is None or tag in self._pending or tag in self._flushing:
                try:
                    heard = self._unusual(number, tag, start, end)
                except WireError as error:
                    return self._drop(error)
                if not heard:
                    self._start = start
                    counts[number] -= 1
                    return Progress.BUSY
                continue
            decode, handler = entry
            began = now_ns()
            try:
                message = decode(buffer, start + 7, end)
                if self.export.trace is not None:
                    self._trace("<", message, tag)
                reply = handler(self, message)
            except control.Asked:
                reply = self._controlled(message)
            except Exception as error:
                reply = self._failure(error, number)
            if type(reply) is Later:
                self._begin(tag, number, reply)
            else:
                self.send(reply, tag)
                self._took(number, now_ns() - began)
        return Progress.FULL

    def _answer_quickly(self, most: int) -> int:
        """Answers what comes next as long as there is a short way for it (fast.py); how many requests that were.

        The very loop of a pipelining client, and so the one place where a local variable is worth its line.
        """
        buffer, start, end, header = self._buffer, self._start, self._end, _HEADER.unpack_from
        fast, counts, out = self._fast, self._counts, self._out
        busy = self._pending or self._flushing  # tags; what is answered here adds none
        answered = added = 0
        room = SENT_AT_ONCE - self._out_size
        began = now_ns()
        while answered < most and added <= room and end - start >= 7:
            size, number, tag = header(buffer, start)
            way = fast.get(number)
            if way is None or size > end - start or (busy and (tag in self._pending or tag in self._flushing)):
                break
            try:
                frame = way(self, buffer, start + 7, size, tag)
                if frame is None:
                    break
            except Exception as error:
                frame = wire.encode(self._failure(error, number), tag, self.dialect)
            out.append(frame)
            added += len(frame)
            counts[number] += 1
            start += size
            answered += 1
            if answered == 1:  # its time stands for that of all
                self._took(number, now_ns() - began)
        self._start = start
        self._out_size += added
        return answered

    def outgoing(self) -> list[bytes | memoryview]:
        """Takes what is to be sent, in order; good until the next `advance`."""
        out, self._out, self._out_size = self._out, [], 0
        self.export.statistics.bytes_out += sum(map(len, out))
        return out

    def work(self) -> list[Work]:
        """Takes what is to be run in worker threads."""
        work, self._work = self._work, []
        return work

    def close(self) -> None:
        """The connection is gone: whatever it holds is let go, now or when the thread that uses it is back."""
        if self._closed:
            return
        self._closed = True
        self._abandon_all()
        self.export.statistics.clients -= 1

    # The handlers' side ---------------------------------------------------------------------------------------------

    def send(self, reply: Message, tag: int) -> None:
        """Puts a reply among what is to be sent."""
        row = type(reply)
        codec = self._codecs.get(row)
        if codec is None:
            codec = self._codecs[row] = wire.codec(row, self.dialect)
        if row in _WITH_DATA:
            data = reply[0]
            head = codec.head(reply, tag)
            self._out += (head, data)
            size = len(head) + len(data)
        else:
            try:
                frame = codec.encode(reply, tag)
            except (ValueError, struct.error) as error:  # a name or number that the dialect has no room for
                frame = b""
                log.debug("%s does not fit the wire: %s", row.__name__, error)
            size = len(frame)
            if not size or size >= self.msize:  # Linux 6.1 takes one of just msize for an error (p9_check_errors())
                reply = self.error(errno.EOVERFLOW)
                frame = wire.encode(reply, tag, self.dialect)
                size = len(frame)
            self._out.append(frame)
        self._out_size += size
        if self.export.trace is not None:
            self._trace(">", reply, tag)

    def error(self, number: int) -> Message:
        """The dialect's message for an errno."""
        self.export.statistics.errors[number] += 1
        if self.dialect is Dialect.LINUX:
            return Rlerror(number)
        return Rerror(os.strerror(number).encode(), number)

    # Inside ---------------------------------------------------------------------------------------------------------

    def _unusual(self, number: int, tag: int, start: int, end: int) -> bool:
        """Answers what is no handler's. False when it must be looked at again, after a work has finished."""
        row = BY_NUMBER.get(number)
        if row is Tversion:  # whatever its tag, since all others end with it
            self._abandon_all()
            if self._ending:
                return False
            self._version(wire.codec(Tversion, self.dialect).decode(self._buffer, start + 7, end), tag)
        elif tag in self._pending or tag in self._flushing:
            raise WireError(f"tag {tag} is in use")
        elif number & 1 or number < 8:
            raise WireError(f"message type {number} is not a request")
        elif not self.versioned:
            raise WireError("the first request must be Tversion")
        elif row is Tflush:
            try:
                message = wire.codec(Tflush, self.dialect).decode(self._buffer, start + 7, end)
            except WireError as error:
                self.send(self._failure(error, number), tag)
            else:
                self._flush(message, tag)
        else:
            self.send(self.error(errno.EOPNOTSUPP), tag)
        return True

    def _drop(self, error: WireError) -> Progress:
        """The connection is to be dropped, but not before what was begun is taken: its threads hold descriptors."""
        if not self._work and not self._out:
            raise error
        self._wrong = error
        return Progress.FULL

    def _controlled(self, message: Message) -> Message | Later:
        try:
            return control.answer(self, message)
        except Exception as error:
            return self._failure(error, NUMBERS[type(message)])

    def _version(self, message: Tversion, tag: int) -> None:
        if self.export.trace is not None:
            self._trace("<", message, tag)
        self.versioned = False
        self._table, self._fast = {}, {}
        self.msize = min(message.msize, self.export.msize)
        dialect = _dialect_of(message.version)
        if dialect is None or self.msize < MIN_MSIZE:
            self.msize = self.export.msize
            self.send(Rversion(min(message.msize, self.export.msize), b"unknown"), tag)
            return
        self.dialect = dialect
        self._codecs = {}
        self.versioned = True
        self._table = {
            NUMBERS[row]: (wire.codec(row, dialect).decode, handler) for row, handler in table_of(dialect).items()
        }
        self._fast = {number: FAST[BY_NUMBER[number]] for number in self._table if BY_NUMBER[number] in FAST}
        if not self.plain:
            self._fast.clear()
        told, self._told = self._told, True  # a client may do this all day
        level = logging.DEBUG if told else logging.INFO
        log.log(level, "%s speaks %s, msize %d", self.peer.name, dialect.value.decode(), self.msize)
        self.send(Rversion(self.msize, dialect.value), tag)

    def _flush(self, message: Tflush, tag: int) -> None:
        if self.export.trace is not None:
            self._trace("<", message, tag)
        work = self._pending.get(message.oldtag) or self._flushing.get(message.oldtag)
        if work is None:  # answered already, or never asked
            self.send(Rflush(), tag)
        elif not work.later.effects and not work.flushes:
            # Nothing to learn from it. Its result is dropped when it comes, and its tag is free.
            work.abandoned = True
            del self._pending[work.tag]
            work.cancel()
            self.send(Rflush(), tag)
        else:
            work.flushes.append(tag)
            self._flushing[tag] = work
            work.cancel()

    def _begin(self, tag: int, number: int, later: Later) -> None:
        work = Work(self, tag, number, later)
        self._pending[tag] = work
        self._under_way += 1
        self._under_way_bytes += later.weight
        self._work.append(work)

    def finished(self, work: Work, reply_of: Callable[[], Message]) -> None:
        self._under_way -= 1
        self._under_way_bytes -= work.later.weight
        self._ending.discard(work)
        file = work.later.file
        if file is not None:
            file.users -= 1
            if file.closing and not file.users:
                close_quietly(file.fd)
        try:
            reply = reply_of()  # also when nobody wants it: it may hand back what must be let go
        except Exception as error:
            interrupted = isinstance(error, InterruptedError) and work.flushes
            reply = None if work.abandoned or interrupted else self._failure(error, work.number)
        if work.abandoned:
            return
        self._took(work.number, now_ns() - work.began)
        del self._pending[work.tag]
        if reply is not None:
            self.send(reply, work.tag)
        for tag in work.flushes:
            del self._flushing[tag]
            self.send(Rflush(), tag)

    def _failure(self, error: Exception, number: int) -> Message:
        if isinstance(error, WireError):
            log.debug("%s: %s", self.peer.name, error)  # as often as the client likes
            return self.error(errno.EINVAL)
        return self.error(errno_of(error, BY_NUMBER[number].__name__))

    def _abandon_all(self) -> None:
        for work in self._pending.values():
            work.abandoned = True
            work.cancel()
        self._ending.update(work for work in self._pending.values() if work.later.effects)
        self._pending.clear()
        self._flushing.clear()
        self.control.clear()
        self.export.locks.release_session(self)
        for number in list(self.fids):
            fid = self.drop_fid(number)
            if fid.remove_at_clunk:
                remove_at_end(self, fid)
            self.end(fid)

    def _trace(self, direction: str, message: Message, tag: int) -> None:
        assert self.export.trace is not None
        self.export.trace(f"{self.peer.name} {direction} {wire.describe(message, tag)}")


def _dialect_of(version: bytes) -> Dialect | None:
    """The dialect for a client's version string; version(5): an unknown ending after the dot means the base."""
    for dialect in Dialect:
        if version == dialect.value:
            return dialect
    return Dialect.BASE if version.startswith(Dialect.BASE.value + b".") else None

