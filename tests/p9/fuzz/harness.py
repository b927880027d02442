"""Two clients of one export, and what must hold whatever they send.

* `advance()` raises nothing but WireError, and nothing is logged as a bug;
* every reply is a whole frame, shorter than msize, of the type that belongs to its request; every request is answered
  once, unless it was flushed or its version ended;
* nothing outside the exported directory changes or is shown;
* when the sessions are closed, no fid, place, lock, node or descriptor is left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

from fusemap.p9 import messages as m
from fusemap.p9 import metadata, naming, transfer
from fusemap.p9.export import Export, Peer
from fusemap.p9.later import Work
from fusemap.p9.mapped import MappedXattr
from fusemap.p9.model import Model, Passthrough
from fusemap.p9.session import Progress, Session
from fusemap.p9.wire import Dialect, UnknownType, WireError, decode, encode
from fusemap.qid import Mapper
from fusemap.tree import Tree, live

from ...support.trees import descriptors
from .grammar import TAGS, Bytes, Choices, frame, pick

MSIZE: Final = 8192
STEPS: Final = 120
MODELS: Final = (Model, Passthrough, MappedXattr)
DIALECTS: Final = (Dialect.LINUX, Dialect.UNIX, Dialect.BASE)
SECRET: Final = b"treasure"  # names and content outside of the export, which no request has
HELD: Final = (1 << 22) + 64 * MSIZE
"""Bytes that a session may hold in buffers."""


class Failure(AssertionError):
    """What must hold did not."""


class Bugs(logging.Handler):
    """Collects what is logged as an error: a handler's exception that is no OSError."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.records.append(f"{record.getMessage()}: {error!r}")


class Client:
    """One session with the bytes that go in and out of it."""

    def __init__(self, export: Export, name: str) -> None:
        self.session = Session(export, Peer(name))
        self.dialect = Dialect.BASE
        self.asked: dict[int, tuple[int, bytes]] = {}  # tag: message number, frame
        self.flushes: dict[int, int] = {}  # tag of a Tflush: what it flushes
        self.ready: list[Work] = []
        self.running: list[tuple[Work, threading.Thread, list[Any]]] = []
        self.over = False
        self._sent = bytearray()
        self._doomed = False  # what was sent ends the connection

    def send(self, raw: bytes, at_once: int) -> None:
        """Gives bytes to the session, `at_once` at a time, as a socket would."""
        self._note(raw)
        while raw and not self.over:
            space = self.session.space()
            if not len(space):
                raise Failure("there is no space to receive into")
            count = min(len(space), at_once, len(raw))
            space[:count] = raw[:count]
            del space
            raw = raw[count:]
            alone = self.session.answer_alone(count)
            if alone is None:
                self.advance()
            else:
                self._check(alone)

    def ask(self, message: Any, tag: int) -> None:
        """Sends one request whole."""
        self.send(encode(message, tag, self.dialect), MSIZE)

    def advance(self) -> None:
        """Lets the session go on until it needs bytes, finishing work where it must."""
        while not self.over:
            try:
                progress = self.session.advance()
            except WireError:
                self.take()
                self.over = True
                self.session.close()
                return
            self.take()
            if progress is Progress.HUNGRY:
                return
            if progress is Progress.BUSY:
                if not self.ready and not self.running:
                    raise Failure("busy without work")
                self.finish_all(cancel=True)

    def take(self) -> None:
        """What the session hands out now."""
        session = self.session
        self.ready += session.work()
        held = sum(map(len, (*session._spare, *session._lent, session._buffer)))
        if held > HELD:
            raise Failure(f"{held} bytes are held in buffers")
        for reply in _frames(b"".join(session.outgoing())):
            self._check(reply)

    def work(self, choices: Choices) -> None:
        """Does one of the works that are there."""
        if self.ready:
            work = self.ready.pop(choices.below(len(self.ready)))
            if work.number == m.NUMBERS[m.Tlock]:
                answer: list[Any] = []
                thread = threading.Thread(target=_run, args=(work, answer))
                thread.start()
                self.running.append((work, thread, answer))
            else:
                answer = []
                _run(work, answer)
                self._finish(work, answer[0])
        self.collect()

    def collect(self) -> None:
        """Finishes those works whose threads have come back."""
        for entry in [entry for entry in self.running if not entry[1].is_alive()]:
            self.running.remove(entry)
            self._finish(entry[0], entry[2][0])

    def finish_all(self, cancel: bool = False) -> None:
        """Does all work; what waits is cancelled first, or else is waited for."""
        for work in [*self.ready, *(entry[0] for entry in self.running)] if cancel else []:
            work.cancel()
        for work, thread, answer in self.running:
            thread.join()
            self._finish(work, answer[0])
        self.running.clear()
        while self.ready:
            answer = []
            work = self.ready.pop(0)
            if not cancel and work.number == m.NUMBERS[m.Tlock]:
                work.cancel()
            _run(work, answer)
            self._finish(work, answer[0])

    def close(self) -> None:
        """The connection ends; its work does too, later."""
        self.session.close()
        self.take()
        self.over = True
        self.finish_all(cancel=True)
        if self.session.outgoing() or self.session.work():
            raise Failure("a closed session has something to send or to do")

    def _finish(self, work: Work, result: Any) -> None:
        if isinstance(result, Exception):
            work.fail(result)
        else:
            work.finish(result)
        if not self.over:
            self.take()

    def _note(self, raw: bytes) -> None:
        """Keeps in mind what is asked by the whole frames that have been sent."""
        self._sent += raw
        while len(self._sent) >= 7 and not self._doomed:
            size, number, tag = struct.unpack_from("<IBH", self._sent)
            if size < 7 or size > self.session.msize:
                self._doomed = True
                return
            if len(self._sent) < size:
                return
            if number % 2 or number < 8:
                self._doomed = True
                return
            raw = bytes(self._sent[:size])
            del self._sent[:size]
            if number == m.NUMBERS[m.Tversion]:
                self.asked.clear()
                self.flushes.clear()
            elif number == m.NUMBERS[m.Tflush] and size == 9:
                self.flushes[tag] = struct.unpack_from("<H", raw, 7)[0]
            self.asked.setdefault(tag, (number, raw))

    def _check(self, reply: bytes) -> None:
        size, number, tag = struct.unpack_from("<IBH", reply)
        if self.over:
            raise Failure("a reply after the end")
        if number == m.NUMBERS[m.Rversion]:
            _, version = decode(reply, Dialect.BASE)
            self.dialect = Dialect(version.version) if version.version != b"unknown" else self.dialect
            if version.msize > MSIZE:
                raise Failure(f"msize grew to {version.msize}")
        if tag not in self.asked:
            raise Failure(f"a reply for tag {tag}, which asked nothing: {reply[:40].hex()}")
        asked, request = self.asked.pop(tag)
        wrong = m.NUMBERS[m.Rlerror if self.session.dialect is Dialect.LINUX else m.Rerror]
        if number not in (asked + 1, wrong):
            raise Failure(f"message {asked} is answered by {number}")
        if size >= self.session.msize:
            raise Failure(f"a reply of {size} bytes, msize is {self.session.msize}")
        try:
            _, message = decode(reply, self.session.dialect)
        except (WireError, UnknownType) as error:
            raise Failure(f"a reply that is none: {error}") from error
        if isinstance(message, m.Rlerror) and not 0 < message.ecode < 512:
            raise Failure(f"errno {message.ecode}")
        if number == asked + 1 and asked in m.BY_NUMBER and not isinstance(message, m.Rversion):
            _compare(decode(request, self.session.dialect)[1], message)
        if isinstance(message, m.Rflush):
            self.asked.pop(self.flushes.pop(tag, -1), None)
        if SECRET in reply:
            raise Failure("something outside is shown")


def _compare(request: Any, reply: Any) -> None:
    """Whether a reply is within what was asked for."""
    good = True
    if isinstance(reply, m.Rread | m.Rreaddir):
        good = len(reply.data) <= request.count
    elif isinstance(reply, m.Rwrite):
        good = reply.count <= len(request.data)
    elif isinstance(reply, m.Rwalk):
        good = len(reply.wqid) <= len(request.wname) and (not request.wname or bool(reply.wqid))
    elif isinstance(reply, m.Rgetattr):
        good = not reply.valid & ~request.request_mask
    elif isinstance(reply, m.Rlock):
        good = reply.status in (0, 1, 2)
    elif isinstance(reply, m.Rgetlock):
        good = reply.type in (0, 1, 2) and reply.start + max(reply.length, 1) <= 1 << 63
    if isinstance(reply, m.Rreaddir):
        _entries(bytes(reply.data))
    if not good:
        raise Failure(f"{request} is answered by {reply}")


def _entries(data: bytes) -> None:
    """Entries of a directory in 9P2000.L: qid[13] offset[8] type[1] name[s], each whole."""
    cookies = []
    while data:
        length = int.from_bytes(data[22:24], "little")
        name = data[24 : 24 + length]
        if len(data) < 24 + length or not name or b"/" in name or b"\0" in name:
            raise Failure(f"an entry that is none: {data[:60].hex()}")
        cookies.append(int.from_bytes(data[13:21], "little"))
        data = data[24 + length :]
    if len(set(cookies)) != len(cookies) or any(not 0 < cookie < 1 << 63 for cookie in cookies):
        raise Failure(f"cookies: {cookies}")


def _frames(raw: bytes) -> Iterator[bytes]:
    while raw:
        size = int.from_bytes(raw[:4], "little")
        if not 7 <= size <= len(raw):
            raise Failure(f"a reply says it has {size} bytes; {len(raw)} are there")
        yield raw[:size]
        raw = raw[size:]


def _run(work: Work, answer: list[Any]) -> None:
    try:
        answer.append(work.run())
    except Exception as error:
        answer.append(error)


def build(top: Path) -> Path:
    """A small tree below `top`, with something beside it that must stay hidden."""
    source = top / "export"
    (source / "dir" / "sub" / "deep").mkdir(parents=True)
    (source / "file").write_bytes(b"content of a file")
    (source / "large").write_bytes(b"0123456789abcdef" * 700)
    (source / "dir" / "file").write_bytes(b"another")
    os.symlink("../file", source / "dir" / "link")
    os.symlink("../outside", source / "link")
    os.mkfifo(source / "fifo")
    (top / "outside").mkdir()
    (top / os.fsdecode(SECRET)).touch()
    (top / "outside" / os.fsdecode(SECRET)).write_bytes(SECRET)
    return source


def outside(top: Path) -> list[Any]:
    """What is beside the export."""
    found: list[Any] = []
    for path in (top / "outside", top / "outside" / os.fsdecode(SECRET)):
        st = path.lstat()
        found.append((st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_nlink))
    return [sorted(os.listdir(top)), os.listdir(top / "outside"), found]


def play(choices: Choices, scratch: str | None = None) -> None:
    """A whole game: two clients, their requests, the end. Raises Failure."""
    bugs, root = Bugs(), logging.getLogger("fusemap")
    root.addHandler(bugs)
    try:
        with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=False) as directory:
            top = Path(directory)
            source = build(top)
            before, open_before = outside(top), descriptors()
            _play(choices, source, bugs)
            if outside(top) != before:
                raise Failure(f"something outside has changed: {before} -> {outside(top)}")
            if descriptors() != open_before:
                raise Failure(f"descriptors are left: {descriptors() - open_before}")
    finally:
        root.removeHandler(bugs)


@contextlib.contextmanager
def slow_disk() -> Iterator[None]:
    """Whatever may have to wait for a disk does: it becomes work."""
    with contextlib.ExitStack() as stack:
        for room in (metadata, transfer, live):
            stack.enter_context(mock.patch.object(room, "LONG_REMOVAL_BLOCKS", -1))
        stack.enter_context(mock.patch.object(naming, "MUCH_WRITTEN", -1))
        stack.enter_context(mock.patch.object(transfer, "read_now", return_value=(0, False)))
        stack.enter_context(mock.patch.object(transfer, "write_now", return_value=(0, False)))
        yield


def _play(choices: Choices, source: Path, bugs: Bugs) -> None:
    with slow_disk() if choices.below(4) == 3 else contextlib.nullcontext():
        _play_at(choices, source, bugs)


def _play_at(choices: Choices, source: Path, bugs: Bugs) -> None:
    tree = Tree(source, Mapper())
    try:
        model = pick(choices, MODELS)(tree)
        trace = (lambda line: None) if choices.below(2) else None
        export = Export(tree, model, read_only=choices.below(16) == 15, msize=MSIZE, trace=trace)
        clients = [Client(export, "one"), Client(export, "two")]
        try:
            _talk(choices, clients)
            for client in clients:
                if not client.over:
                    client.finish_all(cancel=True)
                    client.advance()
                if client._doomed and not client.over:
                    raise Failure("a connection goes on after what is no request")
                if not client.over and not client._sent and client.asked:
                    raise Failure(f"never answered: {client.asked}")
        finally:
            for client in clients:
                with contextlib.suppress(Exception) if bugs.records else contextlib.nullcontext():
                    client.close()
        if bugs.records:
            raise Failure(f"logged as a bug: {bugs.records}")
        _check_nothing_left(export)
    finally:
        tree.close()


def _talk(choices: Choices, clients: list[Client]) -> None:
    for client in clients:
        dialect = pick(choices, DIALECTS)
        uid = pick(choices, (0, 61001))
        client.ask(m.Tversion(pick(choices, (MSIZE, MSIZE, 512)), dialect.value), m.NOTAG)
        client.ask(m.Tattach(0, m.NOFID, b"", b"", uid), 0)
        if choices.below(8) == 7:
            client.ask(m.Tattach(9, m.NOFID, b"", b"ctl", uid), 0)
        if choices.below(2):
            client.ask(m.Twalk(0, 8, (b"file",)), 0)
            client.ask(m.Tlopen(8, 2) if dialect is Dialect.LINUX else m.Topen(8, 2), 0)
    for _ in range(STEPS):
        if not choices.more():
            return
        client = clients[choices.below(8) == 0]
        if client.over:
            continue
        client.collect()
        what = choices.below(12)
        if what == 0:
            client.work(choices)
            continue
        free = [tag for tag in TAGS if tag not in client.asked]
        tag = pick(choices, free) if free and choices.below(64) else pick(choices, TAGS)
        if not client.session.fids and choices.below(8):
            client.ask(m.Tattach(0, m.NOFID, b"", b"", 0), tag)
            continue
        fids = client.session.fids
        opened = [number for number, fid in fids.items() if fid.io is not None]
        raw = frame(choices, client.dialect, tag, [*fids, *client.session.control], opened)
        client.send(raw, pick(choices, (MSIZE, MSIZE, MSIZE, 1 + len(raw) // 20, 7 + len(raw) // 20, 100)))
        if what > 7:
            client.work(choices)


def _check_nothing_left(export: Export) -> None:
    tree, locks = export.tree, export.locks
    left = {
        "places": len(export.places._places),
        "owners of locks": len(locks._owners),
        "waiting locks": locks._waiting,
        "fids": export.statistics.fids,
        "clients": export.statistics.clients,
        "nodes": len(tree) - 1,
        "look-ups of the root": tree.root.lookups - 1,
    }
    if any(left.values()):
        raise Failure(f"left after the end: {left}; nodes {[(n, x.lookups) for n, x in tree._nodes.items()]}")


def play_bytes(data: bytes, scratch: str | None = None) -> None:
    """A game whose choices are bytes."""
    play(Bytes(data), scratch)
