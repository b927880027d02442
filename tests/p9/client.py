"""A small client of 9P for tests: one socket, one thread, and no opinion about what a server should answer.

It uses the product's table of messages and codec, which tests of their own check against written bytes, and nothing
else of the product. What it adds is what every test wants: an answer is waited for by its tag, for a limited time; an
answer of the wrong kind, for a tag that nobody used, or longer than the agreed msize, is an error wherever it shows up.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Final

from fusemap.p9.messages import (
    MAX_WALK,
    NOFID,
    NOTAG,
    NUMBERS,
    Rerror,
    Rlerror,
    Rversion,
    Rwalk,
    Tattach,
    Tclunk,
    Tgetattr,
    Tlopen,
    Topen,
    Tread,
    Treaddir,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
)
from fusemap.p9.wire import Dialect, WireError, decode, encode
from fusemap.qid import QID

from .answers import Disconnected, Entry, ServerError, Wrong, connect, entries, errno_name, result, shown

SECONDS = 20.0  # how long an answer may take; a run against a server that leaves some unanswered may set less
BASIC: Final = 0x7FF
ALL: Final = 0x3FFF


class Client:
    """One connection. `root` is the fid of the first attach, `msize` and `dialect` are what was agreed."""

    def __init__(
        self, address: str, dialect: Dialect = Dialect.LINUX, msize: int = 65536, *, version: bool = True
    ) -> None:
        self.socket = connect(address)
        self.dialect = dialect
        self.msize = 0
        self.root = NOFID
        self.arrived: list[tuple[int, Any]] = []  # every answer in the order of arrival
        self._waiting: dict[int, list[Any]] = {}
        self._used: dict[int, int] = {}  # how often each tag waits for an answer
        self._input = bytearray()
        self._fid = self._tag = 0
        self._lenient = False  # an error answer may be of any dialect
        if version:
            try:
                self.start(dialect, msize)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection without a word."""
        self.socket.close()

    # Frames

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes as they are. Raises Disconnected."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise Disconnected(str(error)) from None

    def send(self, message: Any, tag: int | None = None) -> int:
        """Sends a message without waiting; its tag."""
        tag = self.next_tag() if tag is None else tag
        self._used[tag] = self._used.get(tag, 0) + 1
        self.send_bytes(encode(message, tag, self.dialect))
        return tag

    def send_all(self, messages: list[Any]) -> list[int]:
        """Sends many messages at once; their tags."""
        tags = [self.next_tag() for _ in messages]
        self._used.update(dict.fromkeys(tags, 1))
        self.send_bytes(b"".join(encode(m, t, self.dialect) for m, t in zip(messages, tags, strict=True)))
        return tags

    def next_tag(self) -> int:
        """A tag that is not in use."""
        while True:
            self._tag = (self._tag + 1) % NOTAG
            if not self._used.get(self._tag) and not self._waiting.get(self._tag):
                return self._tag

    def receive(self, seconds: float | None = None) -> tuple[int, Any]:
        """The next answer with its tag. Raises TimeoutError, Disconnected, Wrong, WireError."""
        frame = self.receive_frame(seconds)
        dialect = Dialect.UNIX if self._lenient and frame[4] == NUMBERS[Rerror] else self.dialect
        try:
            tag, message = decode(frame, dialect)
        except WireError:
            if not self._lenient:
                raise
            tag, message = decode(frame, Dialect.BASE)
        message = type(message)(*(bytes(v) if isinstance(v, memoryview) else v for v in message))
        if isinstance(message, Rversion):
            self._used.clear()
        elif not self._used.get(tag) and not (self._lenient and tag == NOTAG):
            raise Wrong(f"an answer for tag {tag}, which waits for none: {shown(message)}")
        elif not self._lenient and isinstance(message, Rlerror if self.dialect is not Dialect.LINUX else Rerror):
            raise Wrong(f"{type(message).__name__} is not a message of {self.dialect.value.decode()}")
        else:
            self._used[tag] = self._used.get(tag, 1) - 1
        self.arrived.append((tag, message))
        return tag, message

    def receive_frame(self, seconds: float | None = None) -> bytes:
        """The next whole frame as bytes."""
        self._fill(4, seconds)
        (size,) = struct.unpack_from("<I", self._input)
        if size < 7 or (self.msize and size > self.msize):
            raise Wrong(f"a frame of {size} bytes, agreed are {self.msize}")
        self._fill(size, seconds)
        frame = bytes(self._input[:size])
        del self._input[:size]
        return frame

    def _fill(self, size: int, seconds: float | None) -> None:
        seconds = SECONDS if seconds is None else seconds
        self.socket.settimeout(seconds)
        while len(self._input) < size:
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                raise TimeoutError(f"no answer in {seconds} s") from None
            except OSError as error:
                raise Disconnected(str(error)) from None
            if not data:
                raise Disconnected("the server ended the connection")
            self._input += data

    def wait(self, tag: int, seconds: float | None = None) -> Any:
        """The answer for a tag, an error answer included; those for other tags are kept for whoever waits for them."""
        while not self._waiting.get(tag):
            arrived, message = self.receive(seconds)
            self._waiting.setdefault(arrived, []).append(message)
        return self._waiting[tag].pop(0)

    def disconnected(self, seconds: float | None = None) -> bool:
        """Waits until the server answers something (False) or ends the connection (True)."""
        try:
            self.receive(seconds)
        except Disconnected:
            return True
        return False

    # Messages

    def ask(self, message: Any) -> Any:
        """The answer, an error answer included."""
        answer = self.wait(self.send(message))
        if not isinstance(answer, (Rerror, Rlerror)) and NUMBERS[type(answer)] != NUMBERS[type(message)] + 1:
            raise Wrong(f"{shown(answer)} answers {shown(message)}")
        return answer

    def call(self, message: Any) -> Any:
        """The answer. Raises ServerError when it is an error."""
        return result(self.ask(message), message)

    def fails(self, message: Any, *errnos: int) -> int:
        """Demands an error, one of `errnos` if any are named and the dialect has numbers; the errno."""
        answer = self.ask(message)
        if not isinstance(answer, (Rerror, Rlerror)):
            raise Wrong(f"an error is due for {shown(message)}, not {shown(answer)}")
        number: int = answer.ecode if isinstance(answer, Rlerror) else answer.errno
        if self.dialect is not Dialect.BASE:
            if not 0 < number < 512:
                raise Wrong(f"{number} is no errno that a client can use")
            if errnos and number not in errnos:
                due = " or ".join(map(errno_name, errnos))
                raise Wrong(f"{errno_name(number)} instead of {due} for {shown(message)}")
        return number

    def refuses(self, message: Any) -> None:
        """Demands an error, of whatever dialect, or the end of the connection."""
        try:
            tag = self.send(message)
            self._lenient = True
            answer = self.wait(tag)
        except Disconnected:
            return
        finally:
            self._lenient = False
        if not isinstance(answer, (Rerror, Rlerror)):
            raise Wrong(f"an error is due for {shown(message)}, not {shown(answer)}")

    def refuses_frame(self, number: int, body: bytes, size: int | None = None) -> None:
        """Sends a frame of any type, body and size; demands an error or the end of the connection."""
        tag = self.next_tag()
        self._used[tag] = 1
        try:
            self.send_bytes(struct.pack("<IBH", 7 + len(body) if size is None else size, number, tag) + body)
            self._lenient = True
            _, answer = self.receive()
        except Disconnected:
            return
        finally:
            self._lenient = False
        if not isinstance(answer, (Rerror, Rlerror)):
            raise Wrong(f"an error is due, not {shown(answer)}")

    def negotiate(self, version: bytes, msize: int = 65536) -> Any:
        """Sends Tversion; the Rversion, whatever it says."""
        tag = self.send(Tversion(msize, version), NOTAG)
        self._lenient = True
        answer = self.wait(tag)
        self._lenient = False
        if not isinstance(answer, Rversion):
            raise ServerError(getattr(answer, "ecode", 0), str(answer))
        self.msize = min(msize, answer.msize)
        return answer

    def start(self, dialect: Dialect = Dialect.LINUX, msize: int = 65536) -> None:
        """Agrees on a dialect. Raises ServerError when the server offers another one."""
        self.dialect = dialect
        answer = self.negotiate(dialect.value, msize)
        if answer.version != dialect.value:
            raise ServerError(0, f"the server answers {answer.version!r} to {dialect.value!r}")

    def new_fid(self) -> int:
        """A fid that was not used before."""
        self._fid += 1
        return self._fid

    def attach(self, aname: bytes = b"", uname: bytes = b"root", n_uname: int = 0) -> int:
        """A fid for the tree `aname`, which becomes `root` if it is the first."""
        fid = self.new_fid()
        self.call(Tattach(fid, NOFID, uname, aname, n_uname))
        if self.root == NOFID:
            self.root = fid
        return fid

    def walk(self, fid: int, *names: str | bytes) -> int:
        """A new fid for the file that `names` lead to; ServerError, ENOENT if they lead to none."""
        wire = [os.fsencode(name) for name in names]
        new = self.new_fid()
        start = fid
        while True:
            part, wire = wire[:MAX_WALK], wire[MAX_WALK:]
            answer: Rwalk = self.call(Twalk(start, new, tuple(part)))
            if len(answer.wqid) != len(part):
                raise ServerError(2, f"{names} leads {len(answer.wqid)} steps far")
            if not wire:
                return new
            start = new

    def clunk(self, fid: int) -> None:
        """Gives a fid back."""
        self.call(Tclunk(fid))

    def getattr(self, fid: int, mask: int = ALL) -> Any:
        """Rgetattr."""
        return self.call(Tgetattr(fid, mask))

    def qid(self, fid: int) -> QID:
        """The QID that getattr, or stat, tells."""
        if self.dialect is Dialect.LINUX:
            return self.getattr(fid, BASIC).qid  # type: ignore[no-any-return]
        return self.call(Tstat(fid)).stat.qid  # type: ignore[no-any-return]

    def open(self, fid: int, *names: str | bytes, flags: int = 0) -> int:
        """A new fid, opened; `flags` as Tlopen has them, or the mode of Topen."""
        new = self.walk(fid, *names)
        self.call(Tlopen(new, flags) if self.dialect is Dialect.LINUX else Topen(new, flags))
        return new

    def read(self, fid: int, offset: int = 0, count: int = 8192) -> bytes:
        """One Tread."""
        return self.call(Tread(fid, offset, count)).data  # type: ignore[no-any-return]

    def read_all(self, fid: int, count: int | None = None) -> bytes:
        """A whole file, in pieces of `count` bytes, as large as they can be if None."""
        parts: list[bytes] = []
        offset = 0
        while True:
            part = self.read(fid, offset, self.msize - 24 if count is None else count)
            if not part:
                return b"".join(parts)
            parts.append(part)
            offset += len(part)

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        """One Twrite; how much was written."""
        return self.call(Twrite(fid, offset, data)).count  # type: ignore[no-any-return]

    def write_all(self, fid: int, data: bytes, offset: int = 0) -> None:
        """Everything, in as many Twrites as it takes."""
        at = 0
        while at < len(data):
            done = self.write(fid, data[at : at + self.msize - 24], offset + at)
            if not 0 < done <= self.msize - 24:
                raise Wrong(f"Rwrite says {done}")
            at += done

    def readdir(self, fid: int, offset: int = 0, count: int = 8192) -> list[Entry]:
        """The entries of one Treaddir."""
        data = self.call(Treaddir(fid, offset, count)).data
        if len(data) > count:
            raise Wrong(f"{len(data)} bytes of a directory, asked were {count}")
        return list(entries(data))

    def list(self, fid: int, count: int = 8192) -> list[Entry]:
        """All entries of an opened directory."""
        found: list[Entry] = []
        while True:
            part = self.readdir(fid, found[-1].offset if found else 0, count)
            if not part:
                return found
            found += part
