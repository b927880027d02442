"""The control names: a small directory of its own, attached by the name "ctl".

stats.json, devices.json, collisions.json, table.json    what the tree tells of itself (fusemap.tree.telling)
null, zero    as the host's devices: to measure a connection without a file system behind it (diodload does)

A file's content is made when it is opened. Its QIDs have version 0, by which Linux keeps nothing of it, and paths that
mean something only here: to a client it is a file system of its own.

Fids of these files are kept apart from the others. A handler that asks for one by `Session.fid` raises `Asked`, and the
request comes here instead; so the busy path does not know of any of this.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from stat import S_IFDIR, S_IFREG
from typing import TYPE_CHECKING, Any, Final

from fusemap.host.calls import Stat
from fusemap.p9 import messages as m
from fusemap.p9.later import Later
from fusemap.p9.records import record
from fusemap.p9.wire import Dialect, Message, encode_record
from fusemap.qid import QID, QTDIR, QTFILE
from fusemap.tree.telling import FILES, SHORT

if TYPE_CHECKING:
    from fusemap.p9.model import User
    from fusemap.p9.session import Session

ANAME: Final = b"ctl"
_NULL, _ZERO = b"null", b"zero"
_ROOT: Final = QID(QTDIR, 0, 2)
_FIDS: Final = 64
_DT_DIR, _DT_REG = 4, 8
_GETATTR_BASIC: Final = 0x7FF
_LIMITER: Final = "ctl"  # in place of a device: they wait for each other only


class Asked(OSError):
    """A request is about a control fid."""

    def __init__(self) -> None:
        super().__init__(errno.EBADF, os.strerror(errno.EBADF))


class ControlFid:
    """The root (name is empty) or a file; `content` once it is open. `trusted`: may its user see names of files?"""

    __slots__ = ("content", "name", "trusted", "writable")

    def __init__(self, name: bytes, trusted: bool) -> None:
        self.name = name
        self.trusted = trusted
        self.content: bytes | None = None
        self.writable = False


_TOLD: Final = {name.encode(): name for name in FILES}
_SHORT: Final = {short.encode(): name.encode() for short, name in SHORT.items()}
_FILES: Final = (*_TOLD, _NULL, _ZERO)
_QIDS: Final = {name: QID(QTFILE, 0, 3 + index) for index, name in enumerate(_FILES)}


def attach(session: Session, message: m.Tattach, user: User) -> Message:
    """Gives the client the control directory. Raises OSError, EINVAL where the fid is in use."""
    _new(session, message.fid, ControlFid(b"", trusted=user.uid in (0, session.tree.identity.uid)))
    return m.Rattach(_ROOT)


def answer(session: Session, message: Message) -> Message | Later:
    """The reply to a request about a control fid. Raises OSError."""
    handler = _HANDLERS.get(type(message))
    if handler is None:
        if isinstance(message, m.Tremove):
            del session.control[message.fid]
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return handler(session, session.control[message[0]], message)


def _new(session: Session, number: int, fid: ControlFid) -> None:
    if number == m.NOFID or number in session.fids or number in session.control:
        raise OSError(errno.EINVAL, "fid in use")
    if len(session.control) >= _FIDS:
        raise OSError(errno.EMFILE, "too many fids")
    session.control[number] = fid


def _qid_of(name: bytes) -> QID:
    return _QIDS[name] if name else _ROOT


def _text(session: Session, fid: ControlFid, gathered: Any) -> bytes:
    return session.export.telling.text(_TOLD[fid.name], gathered, fid.trusted)


def _walk(session: Session, fid: ControlFid, message: m.Twalk) -> Message:
    at, qids = fid.name, []
    for given in message.wname:
        name = _SHORT.get(given, given)
        if name in (b".", b"..") or (not at and name in _FILES):
            at = b"" if name == b".." else at if name == b"." else name
            qids.append(_qid_of(at))
        elif not qids:
            raise OSError(errno.ENOENT if not at else errno.ENOTDIR, "not a control name")
        else:
            return m.Rwalk(tuple(qids))
    if message.newfid == message.fid:
        del session.control[message.fid]
    _new(session, message.newfid, ControlFid(at, fid.trusted))
    return m.Rwalk(tuple(qids))


def _getattr(session: Session, fid: ControlFid, message: m.Tgetattr) -> Message:
    st = _stat(session, fid)
    times = (st.mtime_s, 0) * 3 + (0, 0)
    fixed = (st.mode, 0, 0, st.nlink, 0, st.size, 4096, 0)
    return m.Rgetattr(message.request_mask & _GETATTR_BASIC, _qid_of(fid.name), *fixed, *times, 0, 0)


def _stat(session: Session, fid: ControlFid) -> Stat:
    now = int(time.time())
    telling, content = session.export.telling, fid.content or b""
    if fid.content is None and fid.name in _TOLD and telling.quick(_TOLD[fid.name]):
        content = _text(session, fid, telling.gather(_TOLD[fid.name]))
    return Stat(*[0] * len(Stat._fields))._replace(
        mode=S_IFREG | (0o666 if fid.name == _NULL else 0o444) if fid.name else S_IFDIR | 0o555,
        nlink=1 if fid.name else 2,
        size=len(content),
        atime_s=now,
        mtime_s=now,
        ctime_s=now,
    )


def _record(session: Session, fid: ControlFid) -> m.StatRecord:
    return record(session, fid.name or b"/", _qid_of(fid.name), _stat(session, fid), lambda: b"")


def _plain_stat(session: Session, fid: ControlFid, message: m.Tstat) -> Message:
    return m.Rstat(_record(session, fid))


def _statfs(session: Session, fid: ControlFid, message: m.Tstatfs) -> Message:
    return m.Rstatfs(0x01021997, 4096, 0, 0, 0, 0, 0, 0, 255)


def _open(session: Session, fid: ControlFid, flags: int, reply: Callable[[QID, int], Message]) -> Message | Later:
    fid.writable = flags & 3 in (1, 2)
    if fid.writable and fid.name != _NULL:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    telling, name = session.export.telling, _TOLD.get(fid.name)

    def opened(gathered: Any) -> Message:
        fid.content = b"" if name is None else _text(session, fid, gathered)
        return reply(_qid_of(fid.name), 0)

    if name is None or telling.quick(name):
        return opened(None if name is None else telling.gather(name))
    return Later(_LIMITER, partial(telling.gather, name), opened, effects=False)


def _lopen(session: Session, fid: ControlFid, message: m.Tlopen) -> Message | Later:
    return _open(session, fid, message.flags, m.Rlopen)


def _plain_open(session: Session, fid: ControlFid, message: m.Topen) -> Message | Later:
    return _open(session, fid, message.mode, m.Ropen)


def _read(session: Session, fid: ControlFid, message: m.Tread) -> Message:
    if fid.content is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    size = min(message.count, session.msize - 24)
    if not fid.name:
        if session.dialect is Dialect.LINUX:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        below = [ControlFid(name, fid.trusted) for name in _FILES]
        records = [encode_record(_record(session, file), session.dialect) for file in below]
        return m.Rread(_whole(records, message.offset, size))
    if fid.name == _ZERO:
        return m.Rread(bytes(size))
    return m.Rread(fid.content[message.offset : message.offset + size])


def _write(session: Session, fid: ControlFid, message: m.Twrite) -> Message:
    if fid.content is None or not fid.writable:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return m.Rwrite(len(message.data))


def _readdir(session: Session, fid: ControlFid, message: m.Treaddir) -> Message:
    if fid.content is None or fid.name:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    entries = [(_ROOT, _DT_DIR, b"."), (_ROOT, _DT_DIR, b"..")] + [(_QIDS[n], _DT_REG, n) for n in _FILES]
    data, left = b"", min(message.count, session.msize - 24)
    for index, (qid, kind, name) in enumerate(entries, 1):
        if index > message.offset:
            entry = qid.pack() + index.to_bytes(8, "little") + bytes([kind]) + len(name).to_bytes(2, "little") + name
            if len(data) + len(entry) > left:
                if not data:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                break
            data += entry
    return m.Rreaddir(data)


def _whole(records: list[bytes], offset: int, size: int) -> bytes:
    """Those of the records that begin at or after `offset`, as many as fit."""
    at, out = 0, b""
    for data in records:
        if at >= offset:
            if len(out) + len(data) > size:
                break
            out += data
        at += len(data)
    return out


def _xattrwalk(session: Session, fid: ControlFid, message: m.Txattrwalk) -> Message:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _clunk(session: Session, fid: ControlFid, message: m.Tclunk) -> Message:
    del session.control[message.fid]
    return m.Rclunk()


_HANDLERS: Final[dict[type, Callable[..., Message | Later]]] = {
    m.Twalk: _walk,
    m.Tgetattr: _getattr,
    m.Tstat: _plain_stat,
    m.Tstatfs: _statfs,
    m.Tlopen: _lopen,
    m.Topen: _plain_open,
    m.Tread: _read,
    m.Twrite: _write,
    m.Treaddir: _readdir,
    m.Txattrwalk: _xattrwalk,
    m.Tclunk: _clunk,
}
