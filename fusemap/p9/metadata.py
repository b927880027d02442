"""9P2000.L's attributes: getattr, setattr, and extended ones.

Sources: as linux.py; for the numbers of the device in Rgetattr include/linux/kdev_t.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from stat import S_IFDIR, S_IFREG
from typing import TYPE_CHECKING, Final

from xxhash import xxh64_intdigest

from fusemap.host.calls import NOW
from fusemap.p9 import messages as m
from fusemap.p9.fids import Attribute, Fid, File
from fusemap.p9.later import Handler, Later
from fusemap.p9.naming import fail, may_change
from fusemap.p9.transfer import cut, resize
from fusemap.p9.wire import Message
from fusemap.tree.data import truncate
from fusemap.tree.live import LONG_REMOVAL_BLOCKS

if TYPE_CHECKING:
    from fusemap.p9.session import Session

BASIC: Final = 0x7FF  # P9_STATS_BASIC, and what is beyond it
BTIME, GEN, DATA_VERSION = 0x800, 0x1000, 0x2000
STATX_BTIME: Final = 0x800
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _CTIME, _ATIME_SET, _MTIME_SET = (1 << bit for bit in range(9))
_NO_ID: Final = 0xFFFFFFFF
_MAX64: Final = (1 << 64) - 1
_SECOND: Final = 1_000_000_000
_STAMP: Final = struct.Struct("<QQQ")
_MAX_ATTRIBUTE: Final = 1 << 16  # XATTR_SIZE_MAX


def getattr(session: Session, message: m.Tgetattr) -> Message:
    """What the client is told of a file: all that was asked for and is known. Raises OSError."""
    node = session.fid(message.fid).node
    st = session.model.stat(node)
    mtime, ctime = st.mtime_s * _SECOND + st.mtime_ns, st.ctime_s * _SECOND + st.ctime_ns
    valid = BASIC | GEN | DATA_VERSION
    if st.mask & STATX_BTIME:
        valid |= BTIME
    major, minor = st.rdev_major, st.rdev_minor
    return m.Rgetattr(
        valid & message.request_mask,
        session.export.qid(node, st),
        st.mode,
        st.uid,
        st.gid,
        st.nlink,
        minor & 0xFF | major << 8 | (minor & ~0xFF) << 12,  # new_encode_dev() in include/linux/kdev_t.h
        st.size,
        st.blksize,
        st.blocks,
        st.atime_s & _MAX64,
        st.atime_ns,
        st.mtime_s & _MAX64,
        st.mtime_ns,
        st.ctime_s & _MAX64,
        st.ctime_ns,
        st.btime_s & _MAX64,
        st.btime_ns,
        node.generation,
        xxh64_intdigest(_STAMP.pack(mtime & _MAX64, ctime & _MAX64, st.size))
        if message.request_mask & DATA_VERSION
        else 0,
    )


def setattr(session: Session, message: m.Tsetattr) -> Message | Later:
    """Sets those of owner, mode, size and times that are marked valid, in that order. Raises OSError."""
    may_change(session)
    fid, valid = session.fid(message.fid), message.valid
    model, node, user = session.model, fid.node, fid.user
    atime = _time(valid, _ATIME, _ATIME_SET, message.atime_s, message.atime_ns)
    mtime = _time(valid, _MTIME, _MTIME_SET, message.mtime_s, message.mtime_ns)
    uid = message.uid if valid & _UID and message.uid != _NO_ID else -1
    gid = message.gid if valid & _GID and message.gid != _NO_ID else -1
    if valid & (_UID | _GID) or valid & 0x1FF == _CTIME:
        model.chown(user, node, uid, gid)
    if valid & _MODE:
        model.chmod(user, node, message.mode & 0o7777)
    reply = m.Rsetattr()

    def times() -> Message:
        if atime is not None or mtime is not None:
            model.utimens(user, node, atime, mtime)
        return reply

    if valid & _SIZE:
        later = truncate_fid(session, fid, message.size)
        if later is not None:
            later.then = lambda _: times()
            return later
    return times()


def xattrwalk(session: Session, message: m.Txattrwalk) -> Message:
    """A fid from which an attribute's value, or the list of names, is read. Raises OSError."""
    fid, model = session.fid(message.fid), session.model
    if message.newfid == m.NOFID or message.newfid in session.fids:
        raise fail(errno.EINVAL)
    if message.name:
        data = model.get_attribute(fid.user, fid.node, _attribute(message.name))
    else:
        data = b"".join(name + b"\0" for name in model.attribute_names(fid.user, fid.node))
    fid.node.lookups += 1
    new = Fid(fid.node, fid.root, fid.user, None)
    session.new_fid(message.newfid, new)
    try:
        session.hold_attribute(new, Attribute(data))
    except BaseException:
        session.end(session.drop_fid(message.newfid))
        raise
    return m.Rxattrwalk(len(data))


def xattrcreate(session: Session, message: m.Txattrcreate) -> Message:
    """The fid takes the value of an attribute, which is set when it is clunked. Raises OSError."""
    may_change(session)
    fid = session.fid(message.fid)
    if fid.io is not None:
        raise fail(errno.EBADF)
    if message.attr_size > _MAX_ATTRIBUTE:
        raise fail(errno.E2BIG)
    if message.flags & ~(os.XATTR_CREATE | os.XATTR_REPLACE):
        raise fail(errno.EINVAL)
    session.hold_attribute(fid, Attribute(b"", _attribute(message.name), message.attr_size, message.flags))
    return m.Rxattrcreate()


def _attribute(name: bytes) -> bytes:
    if not name or b"\0" in name:
        raise fail(errno.EINVAL)
    return name


def _time(valid: int, touched: int, given: int, seconds: int, nanoseconds: int) -> int | None:
    """None, NOW, or nanoseconds since 1970, from seconds that are signed whatever the wire says."""
    if not valid & touched:
        return None
    if not valid & given:
        return NOW
    if nanoseconds >= _SECOND:
        raise fail(errno.EINVAL)
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * _SECOND + nanoseconds


def truncate_fid(session: Session, fid: Fid, size: int) -> Later | None:
    """Sets the length: None when it is done, or what there is to wait for. Raises OSError."""
    if size > _MAX64 >> 1:
        raise fail(errno.EFBIG)
    tree, model, node = session.tree, session.model, fid.node
    st = tree.stat(node)
    if node.kind == S_IFDIR:
        raise fail(errno.EISDIR)
    if model.shown(node, st).mode & 0o170000 != S_IFREG:
        raise fail(errno.EINVAL)
    file = fid.io if isinstance(fid.io, File) and fid.io.writable else None
    if file is not None:
        if st.blocks > LONG_REMOVAL_BLOCKS or node.mount.remote:
            return cut(session, fid, file, size)
        resize(session, fid, file.fd, file.account, size)
        return None
    account = model.account(fid.user, st)
    fd = model.open(fid.user, node, os.O_WRONLY)

    def run() -> None:
        try:
            truncate(tree.identity, account, fd, size)
        finally:
            os.close(fd)

    try:
        model.wrote(fid.user, node)
    except BaseException:
        os.close(fd)
        raise
    if st.blocks > LONG_REMOVAL_BLOCKS or node.mount.remote:
        return Later(node.device.key, run, lambda _: None)
    run()
    return None


HANDLERS: Final[Mapping[type, Handler]] = {
    m.Tgetattr: getattr,
    m.Tsetattr: setattr,
    m.Txattrwalk: xattrwalk,
    m.Txattrcreate: xattrcreate,
}
