"""A small client of 9P2000.L: what a program needs that asks a server for files' QIDs, or for a short file.

One socket, one thread, blocking. Questions that do not depend on each other go out together, up to a window, and their
answers are put in order again by their tags: on a loopback most of a question's time is spent in waking the other side.

A server is a stranger. What it sends is believed no further than the codec does, an answer that is no answer to the
question ends the conversation, and so does a silence. Then, and where there is nobody to talk to, it is `Refused`, in a
sentence with the address in it; an error that the server answers is an `OSError` with the server's errno.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final, NamedTuple, TypeAlias

from fusemap.errors import Refused
from fusemap.p9.messages import (
    MAX_WALK,
    NOFID,
    NOTAG,
    NUMBERS,
    Rlerror,
    Tattach,
    Tclunk,
    Tlopen,
    Tread,
    Treaddir,
    Tversion,
    Twalk,
)
from fusemap.p9.wire import HEADER, Dialect, WireError, decode, encode
from fusemap.qid import QID

SECONDS: Final = 60.0
"""How long an answer may take."""
FORMS: Final = "tcp:HOST:PORT, unix:PATH or vsock:CID:PORT"
_WINDOW: Final = 64
_MSIZE: Final = 1 << 18
_LEAST_MSIZE: Final = 4096
_READ_OVERHEAD: Final = 24  # P9_IOHDRSZ, include/net/9p/9p.h
_ENTRY: Final = struct.Struct("<BIQQBH")  # qid[13] offset[8] type[1] and the length of name[s]
_O_DIRECTORY: Final = 0o200000  # P9_DOTL_DIRECTORY; the flags of Tlopen are those of x86, whatever the machine

Message: TypeAlias = Any
"""One of the named tuples of messages.py."""


class Entry(NamedTuple):
    """One entry of a directory: its name and the QID that the listing gives."""

    name: bytes
    qid: QID


class Client:
    """A connection to a 9P server, attached to one tree; `root` is the fid of its root, `root_qid` the root's QID.

    `address` is one of `FORMS`, `aname` the attach name, `uid` the user that requests are made as. Raises Refused.
    """

    def __init__(self, address: str, aname: str = "", uid: int | None = None) -> None:
        self.address: Final = address
        self._input = bytearray()
        self._msize = _MSIZE
        self._fids = count(1)
        self._free: list[int] = []
        self._socket = _connect(address)
        try:
            self._start()
            self.root, self.root_qid = self._attach(aname, os.geteuid() if uid is None else uid)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection; the server forgets every fid."""
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Questions

    def walk(self, fid: int, names: Sequence[bytes]) -> tuple[int, QID | None]:
        """A new fid for the file that `names` lead to from `fid`, and its QID (None when there are no names).

        Raises OSError: ENOENT where a name on the way is missing.
        """
        new = self._new_fid()
        start, at, qid = fid, 0, None
        while True:
            part = tuple(names[at : at + MAX_WALK])
            try:
                answer = self.ask(Twalk(start, new, part))
                if len(answer.wqid) != len(part):
                    raise FileNotFoundError(2, os.strerror(2), os.fsdecode(part[len(answer.wqid)]))
            except OSError:
                if start == new:
                    self.clunk([new])
                else:
                    self._free.append(new)
                raise
            qid = answer.wqid[-1] if answer.wqid else qid
            start, at = new, at + MAX_WALK
            if at >= len(names):
                return new, qid

    def qids(self, fid: int, names: Sequence[bytes]) -> list[QID | OSError]:
        """The QID of each of these names in directory `fid`, or the error with which the server answered."""
        found: list[QID | OSError] = []
        for at in range(0, len(names), _WINDOW):  # so many fids at a time
            part = names[at : at + _WINDOW]
            fids = [self._new_fid() for _ in part]
            answers = self.ask_all([Twalk(fid, new, (name,)) for new, name in zip(fids, part, strict=True)])
            walked = []
            for new, answer in zip(fids, answers, strict=True):
                if isinstance(answer, OSError):
                    found.append(answer)
                    self._free.append(new)
                else:
                    found.append(answer.wqid[0])
                    walked.append(new)
            self.clunk(walked)
        return found

    def entries(self, fid: int) -> Iterator[Entry]:
        """The entries of directory `fid`, which stays unopened; "." and ".." are left out. Raises OSError."""
        opened, _ = self.walk(fid, ())
        try:
            self.ask(Tlopen(opened, os.O_RDONLY | _O_DIRECTORY))
            offset = 0
            while True:
                data = bytes(self.ask(Treaddir(opened, offset, self._msize - _READ_OVERHEAD)).data)
                if not data:
                    return
                for entry, offset in self._unpacked(data):  # noqa: B007  # the last one's is where to go on
                    if entry.name not in (b".", b".."):
                        yield entry
        finally:
            self.clunk([opened])

    def read(self, names: Sequence[bytes]) -> bytes:
        """The whole of the file that `names` lead to from the root. Raises OSError."""
        fid, _ = self.walk(self.root, names)
        try:
            self.ask(Tlopen(fid, os.O_RDONLY))
            parts: list[bytes] = []
            offset = 0
            while True:
                parts.append(bytes(self.ask(Tread(fid, offset, self._msize - _READ_OVERHEAD)).data))
                if not parts[-1]:
                    return b"".join(parts)
                offset += len(parts[-1])
        finally:
            self.clunk([fid])

    def clunk(self, fids: Sequence[int]) -> None:
        """Gives fids back."""
        self.ask_all([Tclunk(fid) for fid in fids])  # a fid is free after Tclunk whatever is answered, clunk(5)
        self._free += fids

    # Messages

    def ask(self, message: Message) -> Message:
        """The answer to one message. Raises OSError when it is an error, Refused when none comes."""
        (answer,) = self.ask_all([message])
        if isinstance(answer, OSError):
            raise answer
        return answer

    def ask_all(self, messages: Sequence[Message]) -> list[Message | OSError]:
        """The answers to messages of which none depends on another, in their order; errors as OSErrors.

        Raises Refused when the server is gone, silent, or talks nonsense.
        """
        answers: list[Message | OSError] = []
        for at in range(0, len(messages), _WINDOW):
            part = messages[at : at + _WINDOW]
            self._send(b"".join(encode(message, tag, Dialect.LINUX) for tag, message in enumerate(part)))
            waiting = dict(enumerate(part))
            arrived: dict[int, Message | OSError] = {}
            while waiting:
                tag, answer = self._receive()
                asked = waiting.pop(tag, None)
                arrived[tag] = self._checked(asked, answer)
            answers += (arrived[tag] for tag in range(len(part)))
        return answers

    def _checked(self, asked: Message | None, answer: Message) -> Message | OSError:
        if asked is not None and isinstance(answer, Rlerror):
            return OSError(answer.ecode, os.strerror(answer.ecode))
        if asked is None or NUMBERS[type(answer)] != NUMBERS[type(asked)] + 1:
            raise self._nonsense(f"{type(answer).__name__} answers nothing that was asked")
        if isinstance(asked, Twalk) and (len(answer.wqid) > len(asked.wname) or (not answer.wqid and asked.wname)):
            raise self._nonsense("Rwalk has another number of QIDs than the protocol allows")
        return answer

    def _start(self) -> None:
        self._send(encode(Tversion(_MSIZE, Dialect.LINUX.value), NOTAG, Dialect.LINUX))
        tag, answer = self._receive()
        if tag != NOTAG or NUMBERS[type(answer)] != NUMBERS[Tversion] + 1:
            raise self._nonsense("there is no answer to Tversion")
        if answer.version != Dialect.LINUX.value or answer.msize < _LEAST_MSIZE:
            spoken = answer.version.decode("utf-8", "backslashreplace")
            raise Refused(f"{self.address} speaks {spoken} with messages of {answer.msize} bytes, not 9P2000.L")
        self._msize = min(_MSIZE, answer.msize)

    def _attach(self, aname: str, uid: int) -> tuple[int, QID]:
        fid = self._new_fid()
        try:
            answer = self.ask(Tattach(fid, NOFID, b"", os.fsencode(aname), uid))
        except OSError as error:
            raise Refused(
                f"{self.address} does not attach {aname or 'its root'} for user {uid}: {error.strerror}"
            ) from error
        return fid, answer.qid

    def _new_fid(self) -> int:
        return self._free.pop() if self._free else next(self._fids)

    def _unpacked(self, data: bytes) -> Iterator[tuple[Entry, int]]:
        at = 0
        while at < len(data):
            if len(data) - at < _ENTRY.size:
                raise self._nonsense("a directory's entry is cut off")
            *qid, offset, _, length = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size + length
            if at > len(data):
                raise self._nonsense("a directory's name is cut off")
            yield Entry(data[at - length : at], QID(*qid)), offset

    # Bytes

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def _receive(self) -> tuple[int, Message]:
        (size,) = struct.unpack("<I", self._peek(4))
        if not HEADER.size <= size <= self._msize:
            raise self._nonsense(f"a message of {size} bytes")
        frame = self._peek(size)
        del self._input[:size]
        try:
            return decode(frame, Dialect.LINUX)
        except WireError as error:
            raise self._nonsense(str(error)) from error

    def _peek(self, size: int) -> bytes:
        while len(self._input) < size:
            try:
                data = self._socket.recv(1 << 18)
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                raise self._lost(ConnectionResetError())
            self._input += data
        return bytes(self._input[:size])

    def _lost(self, error: OSError) -> Refused:
        if isinstance(error, TimeoutError):
            return Refused(f"{self.address} has not answered for {SECONDS:.0f} seconds: see whether the server works")
        if isinstance(error, ConnectionError):
            return Refused(f"{self.address} has ended the connection: see what the server has logged")
        return Refused(f"{self.address}: {error.strerror or error}; see whether the server still runs")

    def _nonsense(self, what: str) -> Refused:
        return Refused(f"{self.address} does not speak 9P as it should: {what}; is it a 9P server?")


def _connect(address: str) -> socket.socket:
    kind, _, rest = address.partition(":")
    try:
        if kind == "unix" and rest:
            return _connected(socket.AF_UNIX, rest)
        if kind == "vsock" and (parts := re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", rest)):
            return _connected(socket.AF_VSOCK, (int(parts[1]), int(parts[2])))
        if kind == "tcp" and (parts := re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", rest)):
            plug = socket.create_connection((parts[1] or parts[2], int(parts[3])), SECONDS)
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plug
    except (OSError, OverflowError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise Refused(f"cannot connect to {address}: {reason or error}; is fusemap serve running there?") from error
    raise Refused(f"{address} is no address of a 9P server: write {FORMS}, for example tcp:127.0.0.1:5640")


def _connected(family: int, name: object) -> socket.socket:
    plug = socket.socket(family)
    try:
        plug.settimeout(SECONDS)
        plug.connect(name)  # type: ignore[arg-type]  # typeshed wants the family's own kind of address
    except BaseException:
        plug.close()
        raise
    return plug
