"""A session that speaks no 9P, to test what moves its bytes: see `EchoSession`. Anybody's tests may use it.

A frame is size[4] kind[1] body, little-endian, size counting itself; the answer is a frame of the same kind.

    e  the body again                        v  the same; a version is agreed from then on
    b  body: count[4]; so many bytes         w  the body, once the gate of that name is open, by a thread
    r  as b, by a thread                     h  as w, and it cannot be cancelled
    f  a thread raises OSError, whose text is the answer
    x  a bug in advance()                    y  a bug in finish()
    !  WireError
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from fusemap.p9.export import Peer
from fusemap.p9.session import Progress
from fusemap.p9.wire import WireError

WORKS: Final = 64
SENT_AT_ONCE: Final = 1 << 22


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """A whole frame."""
    return (5 + len(body)).to_bytes(4, "little") + kind + body


class EchoExport:
    """What echo sessions share. `gates` hold work up; `sessions` are all that were made, `running` the works in run().

    It is its own tree and its own statistics.
    """

    def __init__(self) -> None:
        self.table = None
        self.gates: dict[bytes, threading.Event] = defaultdict(threading.Event)
        self.sessions: list[EchoSession] = []
        self.running = 0
        self.most_running = 0
        self.rests = 0
        self.mutex = threading.Lock()
        self.limiter: Callable[[bytes], str] = lambda name: "device"
        self.tree = self.statistics = self

    def rest(self) -> None:
        """A tree's."""
        self.rests += 1

    def as_json(self) -> dict[str, Any]:
        """Those of a Statistics."""
        return {"sessions": len(self.sessions)}

    def open(self, peer: Peer) -> EchoSession:
        """A session for a connection."""
        self.sessions.append(EchoSession(self, peer))
        return self.sessions[-1]


class EchoWork:
    """Waits for a gate, or until it is cancelled."""

    def __init__(self, session: EchoSession, kind: bytes, name: bytes) -> None:
        self.session, self.kind, self.name = session, kind, name
        self.limiter = session.export.limiter(name)
        self.cancelled = threading.Event()
        self.begun = threading.Event()
        self.settled = 0

    def run(self) -> bytes:
        export = self.session.export
        with export.mutex:
            export.running += 1
            export.most_running = max(export.most_running, export.running)
        self.begun.set()
        try:
            if self.kind == b"r":
                return bytes(int.from_bytes(self.name, "little"))
            if self.kind == b"f":
                raise OSError(5, self.name.decode())
            while not export.gates[self.name].wait(0.01):
                if self.kind != b"h" and self.cancelled.is_set():
                    raise InterruptedError("cancelled")
            return self.name
        finally:
            with export.mutex:
                export.running -= 1

    def finish(self, result: bytes) -> None:
        self._settle(result)
        if self.kind == b"y":
            raise ZeroDivisionError("a bug on purpose in finish()")

    def fail(self, error: Exception) -> None:
        self._settle(str(getattr(error, "strerror", None) or error).encode())

    def cancel(self) -> None:
        self.cancelled.set()

    def _settle(self, body: bytes) -> None:
        self.settled += 1
        self.session.pending -= 1
        if not self.session.closed:
            self.session.out.append(frame(self.kind, body))


class EchoSession:
    """Stands in for fusemap.p9.session.Session."""

    def __init__(self, export: EchoExport, peer: Peer) -> None:
        self.export, self.peer = export, peer
        self.versioned = False
        self.closed = 0
        self.works: list[EchoWork] = []
        self.pending = 0
        self.bytes_in = 0
        self.out: list[bytes | memoryview] = []
        self._new: list[EchoWork] = []
        self._buffer = bytearray(1 << 16)
        self._have = 0

    def missing(self) -> int:
        """It does not tell."""
        return 0

    def space(self) -> memoryview:
        if self._have == len(self._buffer):
            self._buffer += bytes(len(self._buffer))
        return memoryview(self._buffer)[self._have :]

    def received(self, count: int) -> None:
        self._have += count
        self.bytes_in += count

    def answer_alone(self, count: int) -> bytes | None:
        """It has no short ways."""
        self.received(count)
        return None

    def advance(self) -> Progress:
        for _ in range(1000):
            if self.pending >= WORKS:
                return Progress.BUSY
            if sum(map(len, self.out)) > SENT_AT_ONCE:
                return Progress.FULL
            size = int.from_bytes(self._buffer[:4], "little")
            if self._have < 5 or self._have < size:
                return Progress.HUNGRY
            kind, body = bytes(self._buffer[4:5]), bytes(self._buffer[5:size])
            rest = bytes(self._buffer[size : self._have])
            self._have = len(rest)
            self._buffer[: self._have] = rest
            self._handle(kind, body)
        return Progress.FULL

    def _handle(self, kind: bytes, body: bytes) -> None:
        if kind == b"x":
            raise ZeroDivisionError("a bug on purpose in advance()")
        if kind == b"!":
            raise WireError("that is no frame")
        self.versioned |= kind == b"v"
        if kind in b"whfyr":
            self.pending += 1
            self.works.append(EchoWork(self, kind, body))
            self._new.append(self.works[-1])
        elif kind == b"b":
            size = int.from_bytes(body, "little")
            self.out += [(5 + size).to_bytes(4, "little") + kind, memoryview(b"abcdefghij" * (size // 10 + 1))[:size]]
        else:
            self.out.append(frame(kind, body))

    def outgoing(self) -> list[bytes | memoryview]:
        out, self.out = self.out, []
        return out

    def work(self) -> list[EchoWork]:
        new, self._new = self._new, []
        return new

    def close(self) -> None:
        self.closed += 1
        for work in self.works:
            if not work.settled:
                work.cancel()
