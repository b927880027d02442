"""Sessions without sockets: a request goes in as bytes, its work is run on the spot, the answer comes out as bytes.

What a client may do and see has nothing to do with how its bytes travel, so these tests need no server and no thread;
and a child that has given up root can be a whole server by itself.

Whatever an `exported` export has opened must be closed when it ends, and nothing may have been logged as a bug.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.export import Export, Peer
from fusemap.p9.mapped import MappedXattr
from fusemap.p9.model import Model, Passthrough
from fusemap.p9.session import Session
from fusemap.p9.wire import Cursor, Dialect, codec, decode, encode
from fusemap.qid import QID, Mapper
from fusemap.tree import Tree

from ..support.trees import descriptors

MODELS: Final[dict[str, type[Model]]] = {model.name: model for model in (Model, Passthrough, MappedXattr)}
DIALECTS: Final = tuple(Dialect)
MSIZE: Final = 1 << 17

# Numbers of the wire: open flags are Linux's generic ones, the rest is from include/net/9p/9p.h
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC = 0, 1, 2, 0o100, 0o200, 0o1000
O_DIRECTORY: Final = 0o200000
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME, SET_CTIME, SET_ATIME_SET, SET_MTIME_SET = (
    1 << bit for bit in range(9)
)
AT_REMOVEDIR: Final = 0x200
_NUMBERS: Final = {os.strerror(number).encode(): number for number in errno.errorcode}


class Entry(NamedTuple):
    """One entry that Treaddir gave; `kind` is a DT_ constant."""

    qid: QID
    kind: int


class Inside:
    """A client of an export. `root` is the fid that it has attached, `fids` how many numbers it has used."""

    def __init__(
        self,
        export: Export,
        uid: int = 0,
        dialect: Dialect = Dialect.LINUX,
        *,
        aname: bytes = b"",
        uname: bytes = b"",
        peer: int | None = None,
        msize: int = MSIZE,
        attach: bool = True,
    ) -> None:
        self.session = Session(export, Peer("a test", peer))
        self.dialect = Dialect.BASE
        self.fids = 0
        agreed = self.ask(m.Tversion(msize, dialect.value), m.NOTAG)
        assert agreed.version == dialect.value
        self.dialect = dialect
        if attach:
            self.root = self.attach(uid, aname, uname)

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.session.close()
        self.session.tree.rest()

    # Messages

    def say(self, message: Any, tag: int = 1) -> Any:
        """The answer to a message, whatever it is; the server comes to rest after it, as it does when it is idle."""
        frame = encode(message, tag, self.dialect)
        space = self.session.space()
        while len(space) < len(frame):  # the buffer grows when the size is known
            count = min(len(space), len(frame))
            space[:count] = frame[:count]
            self.session.received(count)
            self.session.advance()
            frame = frame[count:]
            space = self.session.space()
        space[: len(frame)] = frame
        self.session.received(len(frame))
        self.session.advance()
        for work in self.session.work():
            try:
                result = work.run()
            except Exception as error:
                work.fail(error)
            else:
                work.finish(result)
        answer = b"".join(bytes(part) for part in self.session.outgoing())
        self.session.tree.rest()
        answered, reply = decode(answer, self.dialect)
        assert answered == tag
        return reply

    def ask(self, message: Any, tag: int = 1) -> Any:
        """The answer to a message. Raises OSError for an error."""
        reply = self.say(message, tag)
        number = 0
        if isinstance(reply, m.Rlerror):
            assert self.dialect is Dialect.LINUX
            number = reply.ecode
            assert 0 < number < 4096
        elif isinstance(reply, m.Rerror):
            assert self.dialect is not Dialect.LINUX
            number = _NUMBERS.get(reply.ename, errno.EPROTO)
            assert self.dialect is Dialect.BASE or reply.errno == number
        if number:
            raise OSError(number, os.strerror(number), repr(message))
        assert m.NUMBERS[type(reply)] == m.NUMBERS[type(message)] + 1
        return reply

    def new(self) -> int:
        """A fid number that was not used yet."""
        self.fids += 1
        return self.fids

    # What tests do again and again; all raise OSError

    def attach(self, uid: int = 0, aname: bytes = b"", uname: bytes = b"") -> int:
        """A fid of the export's root, or of what `aname` says, for a user."""
        fid = self.new()
        if self.dialect is Dialect.BASE:
            self.ask(m.Tattach(fid, m.NOFID, uname or b"%d" % uid, aname))
        else:
            self.ask(m.Tattach(fid, m.NOFID, uname, aname, m.NONUNAME if uname else uid))
        return fid

    def walk(self, path: str | bytes = "", start: int | None = None) -> int:
        """A new fid, down from a fid, by default the attached one."""
        names = tuple(name for name in os.fsencode(path).split(b"/") if name)
        return self.walk_names(names, start)

    def walk_names(self, names: tuple[bytes, ...], start: int | None = None) -> int:
        """As `walk`, with names as they are."""
        fid, start = self.new(), self.root if start is None else start
        reply = self.ask(m.Twalk(start, fid, names))
        done = len(reply.wqid)
        if done < len(names):  # a walk that ends half-way does not say why
            near = self.new()
            self.ask(m.Twalk(start, near, names[:done]))
            try:
                self.ask(m.Twalk(near, fid, (names[done],)))
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            finally:
                self.clunk(near)
        return fid

    def clunk(self, fid: int) -> None:
        """The fid is given back."""
        self.ask(m.Tclunk(fid))

    def at(self, path: str | bytes, act: Callable[[int], Any]) -> Any:
        """What `act` does with a fid of a path, which is given back afterwards."""
        fid = self.walk(path)
        try:
            return act(fid)
        finally:
            if fid in self.session.fids:
                self.clunk(fid)

    def open(self, path: str | bytes, flags: int = O_RDONLY) -> int:
        """A new fid, opened."""
        fid = self.walk(path)
        try:
            self.open_fid(fid, flags)
        except OSError:
            self.clunk(fid)
            raise
        return fid

    def open_fid(self, fid: int, flags: int = O_RDONLY) -> None:
        """Tlopen, or Topen for the same flags."""
        if self.dialect is Dialect.LINUX:
            self.ask(m.Tlopen(fid, flags))
        else:
            self.ask(m.Topen(fid, flags & 3 | (0x10 if flags & O_TRUNC else 0)))

    def create(self, path: str, flags: int = O_RDWR | O_EXCL, mode: int = 0o644, gid: int = m.NONUNAME) -> int:
        """A new fid, of a file that is made and opened."""
        above, _, name = path.rpartition("/")
        fid = self.walk(above)
        try:
            if self.dialect is Dialect.LINUX:
                self.ask(m.Tlcreate(fid, os.fsencode(name), flags | O_CREAT, mode, gid))
            else:
                self.ask(m.Tcreate(fid, os.fsencode(name), mode, flags & 3))
        except OSError:
            self.clunk(fid)
            raise
        return fid

    def make(self, path: str, content: bytes = b"", mode: int = 0o644, gid: int = m.NONUNAME) -> None:
        """A new file with a content."""
        fid = self.create(path, mode=mode, gid=gid)
        if content:
            assert self.write(fid, content) == len(content)
        self.clunk(fid)

    def read(self, fid: int, offset: int = 0, count: int = 4096) -> bytes:
        """Data of an open fid."""
        return bytes(self.ask(m.Tread(fid, offset, count)).data)

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        """How many bytes were written."""
        return int(self.ask(m.Twrite(fid, offset, data)).count)

    def content(self, path: str | bytes) -> bytes:
        """The first bytes of a file."""
        fid = self.open(path)
        try:
            return self.read(fid)
        finally:
            self.clunk(fid)

    def getattr(self, path: str | bytes = "") -> m.Rgetattr:
        """All that is told of a file."""
        return self.at(path, lambda fid: self.ask(m.Tgetattr(fid, 0x3FFF)))  # type: ignore[no-any-return]

    def stat(self, path: str | bytes = "") -> m.StatRecord:
        """As `getattr`, in the other dialects."""
        return self.at(path, lambda fid: self.ask(m.Tstat(fid)).stat)  # type: ignore[no-any-return]

    def mode(self, path: str | bytes) -> int:
        """The mode, with its type."""
        return self.getattr(path).mode

    def setattr(self, path: str | bytes, valid: int, **values: int) -> None:
        """Tsetattr with these values."""
        self.at(path, lambda fid: self.ask(setattr_message(fid, valid, **values)))

    def entries(self, path: str | bytes = "") -> dict[bytes, Entry]:
        """What Treaddir says of each name of a directory."""
        fid, offset = self.open(path, O_DIRECTORY), 0
        found: dict[bytes, Entry] = {}
        while True:
            data = bytes(self.ask(m.Treaddir(fid, offset, 8192)).data)
            if not data:
                self.clunk(fid)
                return found
            cursor = Cursor(data, 0, len(data))
            while cursor.at < len(data):
                kind = data[cursor.take(1)]
                qid = QID(kind, cursor.u32(), cursor.u32() | cursor.u32() << 32)
                offset = cursor.u32() | cursor.u32() << 32
                found_kind = data[cursor.take(1)]
                found[cursor.string()] = Entry(qid, found_kind)

    def records(self, path: str | bytes = "") -> dict[bytes, m.StatRecord]:
        """As `entries`, in the other dialects."""
        fid, offset = self.open(path), 0
        found: dict[bytes, m.StatRecord] = {}
        while True:
            data = self.read(fid, offset, 8192)
            if not data:
                self.clunk(fid)
                return found
            offset += len(data)
            cursor = Cursor(data, 0, len(data))
            while cursor.at < len(data):
                size = cursor.u16()
                at = cursor.take(size)
                record = m.StatRecord(*codec(m.StatRecord, self.dialect).read(Cursor(data, at, at + size)))
                found[record.name] = record

    def xattr(self, path: str | bytes, name: bytes) -> bytes:
        """The value of an extended attribute; with no name, their names, each with a NUL after it."""

        def get(fid: int) -> bytes:
            new = self.new()
            size = self.ask(m.Txattrwalk(fid, new, name)).size
            data = self.read(new, 0, 1 << 17) if size else b""
            self.clunk(new)
            assert len(data) == size
            return data

        return self.at(path, get)  # type: ignore[no-any-return]

    def xattrs(self, path: str | bytes = "") -> set[bytes]:
        """The names of a file's extended attributes."""
        return set(self.xattr(path, b"").split(b"\0")[:-1])

    def set_xattr(self, path: str | bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        """Sets an extended attribute; one of no bytes removes it."""
        fid = self.walk(path)
        try:
            self.ask(m.Txattrcreate(fid, name, len(value), flags))
            if value:
                assert self.write(fid, value) == len(value)
        except OSError:
            self.clunk(fid)
            raise
        self.clunk(fid)

    def remove(self, path: str | bytes) -> None:
        """Tremove."""
        self.ask(m.Tremove(self.walk(path)))

    def readlink(self, path: str | bytes) -> bytes:
        """The target of a symbolic link."""
        return self.at(path, lambda fid: self.ask(m.Treadlink(fid)).target)  # type: ignore[no-any-return]


def setattr_message(fid: int, valid: int, **values: int) -> m.Tsetattr:
    """Tsetattr; what is not given is 0."""
    return m.Tsetattr(*[0] * 10)._replace(fid=fid, valid=valid, **values)


_MOST: Final = 0xFFFFFFFF
NOTHING_CHANGED: Final = m.StatRecord(  # for Twstat: stat(5)
    0xFFFF, _MOST, QID(0xFF, _MOST, (1 << 64) - 1), _MOST, _MOST, _MOST, (1 << 64) - 1, b"", b"", b"", b""
)


@contextmanager
def exported(
    source: Path, model: str = "none", *, mapper: Mapper | None = None, **options: Any
) -> Iterator[Export]:
    """An export of `source`; afterwards every descriptor that it took must be closed."""
    before = descriptors()
    bugs = Bugs()
    logger = logging.getLogger("fusemap")
    logger.addHandler(bugs)
    tree = Tree(source, mapper or Mapper("suffix"))
    try:
        export = Export(tree, MODELS[model](tree), **options)
        try:
            yield export
        finally:
            tree.close()
    finally:
        logger.removeHandler(bugs)
    assert not bugs.found, bugs.found
    assert export.statistics.clients == 0, "a test must close its sessions"
    assert export.statistics.fids == 0
    assert len(tree) == 1, "nodes are left that no client knows"
    assert descriptors() == before, "descriptors are left open"


class Bugs(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}")


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """What is done in this context must fail with one of these errors."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, caught.value
