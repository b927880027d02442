"""9P2000 and 9P2000.u: open, create, stat, wstat.

Sources: open(5), stat(5); for .u the "9P2000.u Unix Extension" and Linux's fs/9p/vfs_inode.c, its only large user.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFSOCK
from typing import TYPE_CHECKING, Final

from fusemap.host.calls import RENAME_NOREPLACE, Stat
from fusemap.p9 import messages as m
from fusemap.p9 import records
from fusemap.p9.fids import Fid, File, Listing
from fusemap.p9.holdings import close_quietly
from fusemap.p9.later import Handler, Later
from fusemap.p9.linux import rename_fid
from fusemap.p9.messages import NONUNAME, StatRecord
from fusemap.p9.metadata import truncate_fid
from fusemap.p9.model import group_number
from fusemap.p9.naming import decimal, device, directory, fail, may_change, new_name, place_of
from fusemap.p9.records import DMDEVICE, DMDIR, DMLINK, DMNAMEDPIPE, DMSOCKET, DMSYMLINK, SPECIAL
from fusemap.p9.transfer import become, create_fid, open_fid, qid_of_new, sync
from fusemap.p9.wire import Dialect, Message
from fusemap.qid import QID
from fusemap.tree import Node

if TYPE_CHECKING:
    from fusemap.p9.session import Session

_ACCESS: Final = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY)  # read, write, both, execute
_OTRUNC, _ORCLOSE, _OAPPEND = 0x10, 0x40, 0x80
_NOT_OURS: Final = 0x7C000000  # append-only, exclusive use, mount, auth, temporary: nothing that a host file has
_UNIX_KINDS: Final = DMSYMLINK | DMLINK | DMDEVICE | DMNAMEDPIPE | DMSOCKET
_SAME8, _SAME16, _SAME32, _SAME64 = 0xFF, 0xFFFF, 0xFFFFFFFF, (1 << 64) - 1  # "don't touch", each at its width
_SECOND: Final = 1_000_000_000


def open_(session: Session, message: m.Topen) -> Message | Later:
    """Opens the fid (open(5)). Raises OSError."""
    fid = session.fid(message.fid)
    flags = _flags(session, message.mode)
    if message.mode & _ORCLOSE:
        may_change(session)
        if fid.node.kind == S_IFDIR:
            raise fail(errno.EISDIR)
        place_of(session, fid)

    def reply(qid: QID, iounit: int) -> Message:
        fid.remove_at_clunk = bool(message.mode & _ORCLOSE)
        return m.Ropen(qid, iounit)

    return open_fid(session, fid, flags, reply)


def create(session: Session, message: m.Tcreate) -> Message:
    """Makes a file of the kind that perm and extension say; the fid is that file then (open(5)). Raises OSError."""
    may_change(session)
    fid, perm = session.fid(message.fid), message.perm
    parent = directory(fid)
    if fid.io is not None:
        raise fail(errno.EBADF)
    if perm & _NOT_OURS & ~_UNIX_KINDS:
        raise fail(errno.EOPNOTSUPP)
    name, flags = new_name(message.name), _flags(session, message.mode)
    kind = perm & _UNIX_KINDS
    if kind and session.dialect is not Dialect.UNIX:
        raise fail(errno.EOPNOTSUPP)
    if perm & DMDIR:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise fail(errno.EISDIR)
        made = session.model.mkdir(fid.user, parent, name, _mode(session, perm, parent, 0o777), NONUNAME)
        qid = _become_new(session, fid, name, *made, opened=True)
    elif kind:
        made = _special(session, fid, parent, name, kind, message)
        qid = _become_new(session, fid, name, *made, opened=False)
    else:
        mode = _mode(session, perm, parent, 0o666)
        qid = create_fid(session, fid, name, flags & ~os.O_TRUNC | os.O_EXCL, mode, NONUNAME)
    fid.remove_at_clunk = bool(message.mode & _ORCLOSE)
    return m.Rcreate(qid, 0)


def _become_new(session: Session, fid: Fid, name: bytes, node: Node, st: Stat, *, opened: bool) -> QID:
    """The fid is from now on what was just made; `opened` where that is a directory, which its mode does not hinder."""
    listing = None
    try:
        qid = qid_of_new(session, fid.node, name, node, st)
        if opened:
            listing = Listing(session.tree, node)
    except BaseException:
        session.forget(node)
        raise
    become(session, fid, node, name)
    fid.io = listing
    return qid


def stat(session: Session, message: m.Tstat) -> Message:
    """The file's stat record (stat(5)). Raises OSError."""
    fid = session.fid(message.fid)
    return m.Rstat(_record(session, fid, session.model.stat(fid.node)))


def wstat(session: Session, message: m.Twstat) -> Message | Later:
    """All changes or none (stat(5)).

    What is wrong is refused before anything is done; what may still be refused and can be taken back comes first.
    """
    fid, new = session.fid(message.fid), message.stat
    model, user, node = session.model, fid.user, fid.node
    if _nothing(new):
        return _sync(session, fid)
    st = model.stat(node)
    old = _record(session, fid, st)
    _refuse_others(session, new, old)
    may_change(session)
    uid, gid = _owner(session, new, old)
    name = b"" if new.name == old.name else new.name
    atime = None if new.atime == _SAME32 else new.atime * _SECOND
    mtime = None if new.mtime == _SAME32 else new.mtime * _SECOND

    def rest(_: object = None) -> Message:
        if atime is not None or mtime is not None:
            model.utimens(user, node, atime, mtime)
        return m.Rwstat()

    take_back = _rename(session, fid, new_name(name)) if name else None
    try:
        if uid != -1 or gid != -1:
            model.chown(user, node, uid, gid)
        if new.mode != _SAME32:  # after chown(2), which takes set-id bits away
            model.chmod(user, node, _mode_bits(session, new.mode, st))
        if new.length != _SAME64 and node.kind != S_IFDIR:
            later = truncate_fid(session, fid, new.length)
            if later is not None:
                later.then = rest
                return later
        return rest()
    except BaseException:
        if take_back is not None:
            with contextlib.suppress(OSError):
                take_back()
        raise


def _rename(session: Session, fid: Fid, new: bytes) -> Callable[[], object]:
    """Renames a file within its directory; what takes that back. Raises OSError."""
    place = place_of(session, fid)
    parent, old = place.parent, place.name
    # stat(5) forbids to replace a file; Linux, in .u, does rename(2) by it, which replaces
    flags = 0 if session.dialect is Dialect.UNIX else RENAME_NOREPLACE
    long = rename_fid(session, fid, parent, old, parent, new, flags)
    if long is not None:
        close_quietly(long)
    return lambda: rename_fid(session, fid, parent, new, parent, old, RENAME_NOREPLACE)


def _flags(session: Session, mode: int) -> int:
    flags = _ACCESS[mode & 3]
    if mode & _OTRUNC:
        flags |= os.O_TRUNC
    if mode & _OAPPEND:
        if session.dialect is not Dialect.UNIX:
            raise fail(errno.EINVAL)
        flags |= os.O_APPEND
    return flags


def _record(session: Session, fid: Fid, st: Stat) -> StatRecord:
    qid = session.export.qid(fid.node, st)
    return records.record(
        session, records.name_of(session, fid), qid, st, lambda: session.model.readlink(fid.user, fid.node)
    )


def _mode(session: Session, perm: int, parent: Node, most: int) -> int:
    """The mode of what is made: in 9P2000 no wider than the directory's (open(5)), in .u as the client says."""
    mode = perm & 0o777
    if session.dialect is Dialect.UNIX:
        return mode | sum(host for host, bit in SPECIAL if perm & bit)
    return mode & (~most | session.model.stat(parent).mode & most)


def _mode_bits(session: Session, mode: int, st: Stat) -> int:
    if session.dialect is Dialect.UNIX:
        return mode & 0o777 | sum(host for host, bit in SPECIAL if mode & bit)
    return mode & 0o777 | st.mode & 0o7000


def _special(
    session: Session, fid: Fid, parent: Node, name: bytes, kind: int, message: m.Tcreate
) -> tuple[Node, Stat]:
    """Makes what `extension` tells more of: a link's target, a fid to link to, a device's numbers."""
    model, user, extension = session.model, fid.user, message.extension
    if kind == DMSYMLINK:
        if not extension or b"\0" in extension:
            raise fail(errno.EINVAL)
        return model.symlink(user, parent, name, extension, NONUNAME)
    if kind == DMLINK:
        node = session.fid(decimal(extension.strip(b" \n\0"))).node
        if node.kind == S_IFDIR:
            raise fail(errno.EPERM)
        model.link(user, node, parent, name)
        st = model.stat(node)
        node.lookups += 1
        return node, st
    types = {DMNAMEDPIPE: S_IFIFO, DMSOCKET: S_IFSOCK, DMDEVICE: 0}
    if kind not in types:
        raise fail(errno.EINVAL)
    rdev = 0
    if kind == DMDEVICE:
        words = extension.split()
        if len(words) != 3 or words[0] not in (b"b", b"c"):
            raise fail(errno.EINVAL)
        types[DMDEVICE] = S_IFBLK if words[0] == b"b" else S_IFCHR
        rdev = device(decimal(words[1]), decimal(words[2]))
    mode = _mode(session, message.perm, parent, 0o666)
    return model.mknod(user, parent, name, types[kind] | mode, rdev, NONUNAME)


def _refuse_others(session: Session, new: StatRecord, old: StatRecord) -> None:
    """Raises OSError, EPERM, for a change of what no client may change."""
    fixed = (
        (new.type, old.type, _SAME16),
        (new.dev, old.dev, _SAME32),
        (new.qid.type, old.qid.type, _SAME8),
        (new.qid.version, old.qid.version, _SAME32),
        (new.qid.path, old.qid.path, _SAME64),
    )
    # Linux puts the name that it attached by into muid of a .u rename (fs/9p/vfs_inode.c, v9fs_vfs_rename)
    muid = (new.muid, old.muid, b"") if session.dialect is Dialect.BASE else (b"", b"", b"")
    if any(value not in (was, same) for value, was, same in (*fixed, muid)):
        raise fail(errno.EPERM)
    if new.mode != _SAME32:
        bits = DMDIR | (_UNIX_KINDS if session.dialect is Dialect.UNIX else 0)
        if (new.mode ^ old.mode) & bits or new.mode & _NOT_OURS & ~_UNIX_KINDS:
            raise fail(errno.EPERM)
    if new.length not in (_SAME64, old.length) and old.mode & DMDIR:
        raise fail(errno.EISDIR)


def _nothing(new: StatRecord) -> bool:
    numbers = (new.mode, new.atime, new.mtime, new.dev, new.qid.version, new.n_uid, new.n_gid, new.n_muid)
    wide = new.length == new.qid.path == _SAME64 and new.type == _SAME16 and new.qid.type == _SAME8
    return wide and set(numbers) == {_SAME32} and not (new.name or new.uid or new.gid or new.muid)


def _sync(session: Session, fid: Fid) -> Message | Later:
    """To change nothing means fsync(2) (stat(5)); Linux's client asks for it so. What is not open is clean."""
    return sync(session, fid, False, m.Rwstat()) if isinstance(fid.io, (File, Listing)) else m.Rwstat()


def _owner(session: Session, new: StatRecord, old: StatRecord) -> tuple[int, int]:
    """User and group to be set, -1 for as it is. A name goes before a number."""
    uid = gid = -1
    if new.gid and new.gid != old.gid:
        gid = group_number(new.gid)
    elif new.n_gid not in (NONUNAME, old.n_gid) and not new.gid:
        gid = new.n_gid
    if session.dialect is Dialect.UNIX:
        if new.n_uid not in (NONUNAME, old.n_uid):
            uid = new.n_uid
    elif new.uid not in (b"", old.uid):
        raise fail(errno.EPERM)
    return uid, gid


HANDLERS: Final[Mapping[type, Handler]] = {
    m.Topen: open_,
    m.Tcreate: create,
    m.Tstat: stat,
    m.Twstat: wstat,
}
