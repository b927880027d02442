"""9P2000.L: the messages by which Linux's client does all that its system calls do.

Sources: diod's protocol.md, include/net/9p/9p.h and fs/9p in Linux. The numbers of open flags and of errno are Linux's
generic ones on every host.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK
from typing import TYPE_CHECKING, Final

from fusemap.host.calls import Stat
from fusemap.p9 import messages as m
from fusemap.p9 import metadata
from fusemap.p9.fids import Fid, File, Listing
from fusemap.p9.later import Handler, Later
from fusemap.p9.locks import Waiting
from fusemap.p9.naming import checked, device, directory, fail, may_change, new_name, place_of
from fusemap.p9.transfer import create_fid, open_fid, payload, qid_of_new, sync
from fusemap.p9.wire import Message
from fusemap.qid import QID, QTDIR, QTSYMLINK, qid_type, version
from fusemap.tree import Node

if TYPE_CHECKING:
    from fusemap.p9.session import Session

# Open flags of the wire (P9_DOTL_* in include/net/9p/9p.h) that mean something for a server. The others - CREAT, EXCL,
# NOCTTY, NONBLOCK, FASYNC, DIRECT, LARGEFILE, CLOEXEC - concern the client, or its page cache, alone.
_FLAGS: Final = (
    (0o1000, os.O_TRUNC),
    (0o2000, os.O_APPEND),
    (0o10000, os.O_DSYNC),
    (0o200000, os.O_DIRECTORY),
    (0o1000000, os.O_NOATIME),
    (0o4010000, os.O_SYNC),
)
_EXCL: Final = 0o200

_TYPES: Final = {S_IFDIR: QTDIR, S_IFLNK: QTSYMLINK}
_AT_REMOVEDIR: Final = 0x200
_MAX64: Final = (1 << 64) - 1
_SECOND: Final = 1_000_000_000
_ENTRY: Final = struct.Struct("<BIQQBH")
LISTED_AT_ONCE: Final = 1 << 15  # bytes; a longer listing is answered in several parts, so that others have their turn


def flags_of(wire: int) -> int:
    """Flags of the host's open(2) for those of the wire. Raises OSError, EINVAL."""
    access = wire & 0o3
    if access == 0o3:
        raise fail(errno.EINVAL)
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)[access]
    for bits, flag in _FLAGS:
        if wire & bits == bits:
            flags |= flag
    return flags


def statfs(session: Session, message: m.Tstatfs) -> Message:
    """The file system that the fid is on, as statfs(2), its type that of 9P. Raises OSError."""
    fid = session.fid(message.fid)
    found = os.fstatvfs(session.tree.fd(fid.node))
    kind = 0x01021997  # V9FS_MAGIC: df and others take the file system for what it is
    # f_blocks counts f_frsize units, which the message has no field for
    fsid = found.f_fsid & _MAX64
    return m.Rstatfs(
        kind,
        found.f_frsize or found.f_bsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        fsid,
        found.f_namemax,
    )


def lopen(session: Session, message: m.Tlopen) -> Message | Later:
    """Opens the fid, with the flags of the wire. Raises OSError."""
    fid = session.fid(message.fid)
    flags = flags_of(message.flags)
    try:
        return open_fid(session, fid, flags, m.Rlopen)
    except PermissionError:
        if not flags & os.O_NOATIME:  # only the owner may ask for that (open(2)); who else does reads all the same
            raise
        return open_fid(session, fid, flags & ~os.O_NOATIME, m.Rlopen)


def lcreate(session: Session, message: m.Tlcreate) -> Message:
    """Makes and opens a file in a directory; the fid is that file then. Raises OSError."""
    fid = session.fid(message.fid)
    flags = flags_of(message.flags) | (os.O_EXCL if message.flags & _EXCL else 0)
    return m.Rlcreate(create_fid(session, fid, message.name, flags, message.mode & 0o7777, message.gid), 0)


def symlink(session: Session, message: m.Tsymlink) -> Message:
    """Makes a symbolic link. Raises OSError."""
    parent, fid = _parent(session, message.dfid)
    if not message.target or b"\0" in message.target:
        raise fail(errno.ENOENT if not message.target else errno.EINVAL)
    made = session.model.symlink(fid.user, parent, new_name(message.name), message.target, message.gid)
    return m.Rsymlink(_told(session, parent, message.name, *made))


def mknod(session: Session, message: m.Tmknod) -> Message:
    """Makes a regular file, fifo, socket or device node. Raises OSError."""
    parent, fid = _parent(session, message.dfid)
    kind = message.mode & 0o170000
    if kind not in (0, S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK):
        raise fail(errno.EINVAL)
    mode = message.mode & 0o7777 | (kind or S_IFREG)
    rdev = device(message.major, message.minor) if kind in (S_IFCHR, S_IFBLK) else 0
    made = session.model.mknod(fid.user, parent, new_name(message.name), mode, rdev, message.gid)
    return m.Rmknod(_told(session, parent, message.name, *made))


def mkdir(session: Session, message: m.Tmkdir) -> Message:
    """Makes a directory. Raises OSError."""
    parent, fid = _parent(session, message.dfid)
    made = session.model.mkdir(fid.user, parent, new_name(message.name), message.mode & 0o7777, message.gid)
    return m.Rmkdir(_told(session, parent, message.name, *made))


def _told(session: Session, parent: Node, name: bytes, node: Node, st: Stat) -> QID:
    """The QID of what was just made and is not held by a fid."""
    try:
        return qid_of_new(session, parent, name, node, st)
    finally:
        session.forget(node)


def link(session: Session, message: m.Tlink) -> Message:
    """Gives the file of a fid one more name. Raises OSError."""
    parent, fid = _parent(session, message.dfid)
    node = session.fid(message.fid).node
    if node.kind == S_IFDIR:
        raise fail(errno.EPERM)
    session.model.link(fid.user, node, parent, new_name(message.name))
    return m.Rlink()


def rename(session: Session, message: m.Trename) -> Message | Later:
    """Moves the file that the fid is to a directory and name. Raises OSError."""
    may_change(session)
    fid, dfid = session.fid(message.fid), session.fid(message.dfid)
    new = new_name(message.name)
    place = place_of(session, fid)
    return _closing(fid, rename_fid(session, fid, place.parent, place.name, directory(dfid), new), m.Rrename())


def renameat(session: Session, message: m.Trenameat) -> Message | Later:
    """Moves what is at a directory and name to another. Raises OSError."""
    may_change(session)
    old, new = session.fid(message.olddfid), session.fid(message.newdfid)
    names = _removable(message.oldname), _removable(message.newname)
    long = rename_fid(session, old, directory(old), names[0], directory(new), names[1])
    return _closing(old, long, m.Rrenameat())


def rename_fid(
    session: Session, fid: Fid, old_parent: Node, old: bytes, new_parent: Node, new: bytes, flags: int = 0
) -> int | None:
    """Renames on the rights of a fid's user; a descriptor whose closing takes time, or None. Raises OSError."""
    long = session.model.rename(fid.user, old_parent, old, new_parent, new, flags)
    places = session.export.places
    known = places.known(old_parent, old) or places.known(new_parent, new)
    if known and not _is_there(session, old_parent, old):  # of two names of one file, both stay (rename(2))
        parent = places.renamed(old_parent, old, new_parent, new)
        if parent is not None:
            session.forget(parent)
    return long


def _is_there(session: Session, parent: Node, name: bytes) -> bool:
    try:
        session.tree.calls.statx(session.tree.fd(parent), name)
    except OSError:
        return False
    return True


def unlinkat(session: Session, message: m.Tunlinkat) -> Message | Later:
    """Removes a name: a directory with AT_REMOVEDIR, anything else without. Raises OSError."""
    parent, fid = _parent(session, message.dfid)
    name = _removable(message.name)
    if message.flags & ~_AT_REMOVEDIR:
        raise fail(errno.EINVAL)
    long = session.model.remove(fid.user, parent, name, bool(message.flags & _AT_REMOVEDIR))
    session.export.places.removed(parent, name)
    return _closing(fid, long, m.Runlinkat())


def readlink(session: Session, message: m.Treadlink) -> Message:
    """The target of a symbolic link. Raises OSError, EINVAL for anything else."""
    fid = session.fid(message.fid)
    if not qid_type(session.model.stat(fid.node).mode) & 0x02:
        raise fail(errno.EINVAL)
    return m.Rreadlink(session.model.readlink(fid.user, fid.node))


def readdir(session: Session, message: m.Treaddir) -> Message:
    """Entries after an offset, as many as fit, each with the QID that a walk would give. Raises OSError."""
    fid = session.fid(message.fid)
    listing = fid.io
    if not isinstance(listing, Listing):
        raise fail(errno.EBADF)
    if message.offset > _MAX64 >> 1:
        raise fail(errno.EINVAL)
    export, node, shown_entry = session.export, listing.node, session.model.shown_entry
    qid_of, entry_number, pack = export.qid_of, export.entry_number, _ENTRY.pack
    left = payload(session, message.count)
    too_small = left
    left = min(left, LISTED_AT_ONCE)
    parts: list[bytes] = []
    at = message.offset
    try:
        for record, number, st in listing.stats(at, fid.root):
            _, cookie, kind, name = record
            size = 24 + len(name)
            if size > left:
                listing.reject(record, at)
                if not parts and size > too_small:
                    raise fail(errno.EINVAL)
                break
            if st is not None and session.plain:
                mode = st.mode
                mtime, ctime = st.mtime_s * _SECOND + st.mtime_ns, st.ctime_s * _SECOND + st.ctime_ns
                kind_of = (_TYPES.get(mode & 0o170000, 0), version(mtime, ctime, st.size), number)
                kind = (mode & 0o170000) >> 12
            elif st is None:  # not to be looked at: the type is the record's, and there is no version
                kind_of = (0x80 if kind == 4 else 0x02 if kind == 10 else 0, 0, number)
            else:
                try:
                    seen = shown_entry(listing, name, st)
                except FileNotFoundError:  # removed since it was looked at
                    at = cookie
                    continue
                kind_of = qid_of(entry_number(node, name, number, st), seen)
                kind = (seen.mode & 0o170000) >> 12
            parts.append(pack(*kind_of, cookie, kind, len(name)) + name)
            left -= size
            at = cookie
    except OSError:
        if not parts:
            raise
        # What was read so far is sent; asked to go on, the same entry fails again, and then it is an error.
    return m.Rreaddir(b"".join(parts))


def fsync(session: Session, message: m.Tfsync) -> Message | Later:
    """Brings an open file's data to the disk. Raises OSError."""
    return sync(session, session.fid(message.fid), bool(message.datasync), m.Rfsync())


def lock(session: Session, message: m.Tlock) -> Message | Later:
    """Takes or gives back a byte-range lock; waits for it where the client asks so. Raises OSError."""
    fid, file = _lockable(session, message.fid)
    answer = session.export.locks.acquire(
        session,
        fid,
        fid.node,
        lambda: _lock_descriptor(session, fid, file),
        message,
        readable=file.readable,
        writable=file.writable,
    )
    fid.locked = True
    if isinstance(answer, Waiting):
        return Later("", answer.run, m.Rlock, cancel=answer.cancel, file=file)
    return m.Rlock(answer)


def getlock(session: Session, message: m.Tgetlock) -> Message:
    """Which lock is in the way of one, if any. Raises OSError."""
    fid, file = _lockable(session, message.fid)
    return session.export.locks.test(session, fid, fid.node, lambda: _lock_descriptor(session, fid, file), message)


def _parent(session: Session, number: int) -> tuple[Node, Fid]:
    may_change(session)
    fid = session.fid(number)
    return directory(fid), fid


def _removable(name: bytes) -> bytes:
    """A name that can be removed or renamed. Raises OSError, as rmdir(2) and rename(2) do for the dots."""
    if name in (b".", b".."):
        raise fail(errno.EINVAL if name == b"." else errno.ENOTEMPTY)
    return checked(name)


def _closing(fid: Fid, fd: int | None, reply: Message) -> Message | Later:
    if fd is None:
        return reply
    return Later(fid.node.device.key, lambda: os.close(fd), lambda _: reply)


def _lockable(session: Session, number: int) -> tuple[Fid, File]:
    fid = session.fid(number)
    if not isinstance(fid.io, File):
        raise fail(errno.EBADF)
    return fid, fid.io


def _lock_descriptor(session: Session, fid: Fid, file: File) -> int:
    """A descriptor of its own for an owner's locks, for reading and writing where the fid may write.

    Else for reading alone: a program that anybody has open for writing cannot be run (ETXTBSY in execve(2)).
    """
    tree = session.tree
    if not file.writable:
        return tree.open(fid.node, os.O_RDONLY)
    try:
        return tree.open(fid.node, os.O_RDWR)
    except OSError:
        return tree.open(fid.node, os.O_WRONLY)


HANDLERS: Final[Mapping[type, Handler]] = {
    **metadata.HANDLERS,
    m.Tstatfs: statfs,
    m.Tlopen: lopen,
    m.Tlcreate: lcreate,
    m.Tsymlink: symlink,
    m.Tmknod: mknod,
    m.Trename: rename,
    m.Treadlink: readlink,
    m.Treaddir: readdir,
    m.Tfsync: fsync,
    m.Tlock: lock,
    m.Tgetlock: getlock,
    m.Tlink: link,
    m.Tmkdir: mkdir,
    m.Trenameat: renameat,
    m.Tunlinkat: unlinkat,
}
