"""The control names: a small directory of its own, attached by the name "ctl".

stats.json    what was asked and answered, see `Statistics`
devices.json  the devices that were met: identity, st_dev, where each is mounted
null, zero    as the host's devices: to measure a connection without a file system behind it (diodload does)

A file's content is made when it is opened. Its QIDs have version 0, by which Linux keeps nothing of it, and paths that
mean something only here: to a client it is a file system of its own.

Fids of these files are kept apart from the others. A handler that asks for one by `Session.fid` raises `Asked`, and the
request comes here instead; so the busy path does not know of any of this.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from stat import S_IFDIR, S_IFREG
from typing import TYPE_CHECKING, Final

from fusemap.host.calls import Stat
from fusemap.p9 import messages as m
from fusemap.p9.records import record
from fusemap.p9.wire import Dialect, Message, encode_record
from fusemap.qid import QID, QTDIR, QTFILE

if TYPE_CHECKING:
    from fusemap.p9.export import Export
    from fusemap.p9.session import Session

ANAME: Final = b"ctl"
_NULL, _ZERO = b"null", b"zero"
_ROOT: Final = QID(QTDIR, 0, 2)
_FIDS: Final = 64
_DT_DIR, _DT_REG = 4, 8
_GETATTR_BASIC: Final = 0x7FF


class Asked(OSError):
    """A request is about a control fid."""

    def __init__(self) -> None:
        super().__init__(errno.EBADF, os.strerror(errno.EBADF))


class ControlFid:
    """The root (name is empty) or a file; `content` once it is open."""

    __slots__ = ("content", "name", "writable")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.content: bytes | None = None
        self.writable = False


def _stats(export: Export) -> object:
    return {**export.statistics.as_json(), "known_inodes": len(export.tree)}


def _devices(export: Export) -> object:
    filesystems = export.tree.filesystems
    points: dict[str, list[str]] = {}
    for mount in filesystems.mounts():
        if mount.info is not None:
            points.setdefault(mount.info.device, []).append(os.fsdecode(mount.info.point))
    return [
        {
            "identity": device.key,
            "st_dev": f"{device.major}:{device.minor}",
            "mounted": sorted(points.get(device.superblock, [])),
        }
        for device in filesystems.devices()
    ]


_FILES: Final[dict[bytes, Callable[[Export], object] | None]] = {
    b"stats.json": _stats,
    b"devices.json": _devices,
    _NULL: None,
    _ZERO: None,
}
_QIDS: Final = {name: QID(QTFILE, 0, 3 + index) for index, name in enumerate(_FILES)}


def attach(session: Session, message: m.Tattach) -> Message:
    """Gives the client the control directory. Raises OSError, EINVAL where the fid is in use."""
    _new(session, message.fid, ControlFid(b""))
    return m.Rattach(_ROOT)


def answer(session: Session, message: Message) -> Message:
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


def _qid(fid: ControlFid) -> QID:
    return _QIDS[fid.name] if fid.name else _ROOT


def _text(session: Session, name: bytes) -> bytes:
    content = _FILES[name]
    return b"" if content is None else json.dumps(content(session.export), indent=1, sort_keys=True).encode() + b"\n"


def _walk(session: Session, fid: ControlFid, message: m.Twalk) -> Message:
    at, qids = fid.name, []
    for name in message.wname:
        if name in (b".", b"..") or (not at and name in _FILES):
            at = b"" if name == b".." else at if name == b"." else name
            qids.append(_qid(ControlFid(at)))
        elif not qids:
            raise OSError(errno.ENOENT if not at else errno.ENOTDIR, "not a control name")
        else:
            return m.Rwalk(tuple(qids))
    if message.newfid == message.fid:
        del session.control[message.fid]
    _new(session, message.newfid, ControlFid(at))
    return m.Rwalk(tuple(qids))


def _getattr(session: Session, fid: ControlFid, message: m.Tgetattr) -> Message:
    st = _stat(session, fid)
    times = (st.mtime_s, 0) * 3 + (0, 0)
    fixed = (st.mode, 0, 0, st.nlink, 0, st.size, 4096, 0)
    return m.Rgetattr(message.request_mask & _GETATTR_BASIC, _qid(fid), *fixed, *times, 0, 0)


def _stat(session: Session, fid: ControlFid) -> Stat:
    now = int(time.time())
    content = b"" if not fid.name else fid.content if fid.content is not None else _text(session, fid.name)
    return Stat(*[0] * len(Stat._fields))._replace(
        mode=S_IFREG | (0o666 if fid.name == _NULL else 0o444) if fid.name else S_IFDIR | 0o555,
        nlink=1 if fid.name else 2,
        size=len(content),
        atime_s=now,
        mtime_s=now,
        ctime_s=now,
    )


def _record(session: Session, fid: ControlFid) -> m.StatRecord:
    return record(session, fid.name or b"/", _qid(fid), _stat(session, fid), lambda: b"")


def _plain_stat(session: Session, fid: ControlFid, message: m.Tstat) -> Message:
    return m.Rstat(_record(session, fid))


def _statfs(session: Session, fid: ControlFid, message: m.Tstatfs) -> Message:
    return m.Rstatfs(0x01021997, 4096, 0, 0, 0, 0, 0, 0, 255)


def _open(session: Session, fid: ControlFid, flags: int) -> QID:
    fid.writable = flags & 3 in (1, 2)
    if fid.writable and fid.name != _NULL:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    fid.content = _text(session, fid.name) if fid.name else b""
    return _qid(fid)


def _lopen(session: Session, fid: ControlFid, message: m.Tlopen) -> Message:
    return m.Rlopen(_open(session, fid, message.flags), 0)


def _plain_open(session: Session, fid: ControlFid, message: m.Topen) -> Message:
    return m.Ropen(_open(session, fid, message.mode), 0)


def _read(session: Session, fid: ControlFid, message: m.Tread) -> Message:
    if fid.content is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    size = min(message.count, session.msize - 24)
    if not fid.name:
        if session.dialect is Dialect.LINUX:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        records = [encode_record(_record(session, ControlFid(name)), session.dialect) for name in _FILES]
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


_HANDLERS: Final[dict[type, Callable[..., Message]]] = {
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
