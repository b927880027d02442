"""Opening, reading and writing: what all dialects do alike."""

from __future__ import annotations

import errno
import os
from stat import S_IFDIR, S_IFREG
from typing import TYPE_CHECKING, Final

from fusemap.host.calls import Stat
from fusemap.host.creds import Account
from fusemap.p9.fids import Attribute, Fid, File, Listing
from fusemap.p9.later import Later
from fusemap.p9.messages import Rread, Rwrite, Tread, Twrite
from fusemap.p9.naming import directory, fail, may_change, new_name
from fusemap.p9.records import read_directory
from fusemap.p9.wire import Dialect, Message
from fusemap.tree import Node
from fusemap.tree.data import read_fully, read_now, truncate, write_fully, write_now
from fusemap.tree.live import LONG_REMOVAL_BLOCKS

if TYPE_CHECKING:
    from fusemap.p9.session import Session

IO_HEADER: Final = 24  # what stands before the data of a write, rounded up: P9_IOHDRSZ in Linux, IOHDRSZ in Plan 9
_MAX_OFFSET: Final = (1 << 63) - 1


def payload(session: Session, count: int) -> int:
    """How many bytes a reply may carry where the client asks for `count`."""
    return min(count, session.msize - IO_HEADER)


def open_fid(session: Session, fid: Fid, flags: int) -> Stat | Later:
    """Opens the file or directory that the fid is, with flags of open(2): what the client is told of it.

    A `Later` when truncating takes time; it ends with None. Raises OSError.
    """
    if fid.io is not None:
        raise fail(errno.EBADF)
    tree, model, node = session.tree, session.model, fid.node
    writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
    if writing:
        may_change(session)
    if node.kind == S_IFDIR:
        if writing:
            raise fail(errno.EISDIR)
        fid.io = Listing(tree, node, model.open(fid.user, node, os.O_RDONLY | os.O_DIRECTORY))
        return model.stat(node)
    if flags & os.O_DIRECTORY:
        raise fail(errno.ENOTDIR)
    st = tree.stat(node)
    if model.shown(node, st).mode & 0o170000 != S_IFREG:  # never a device or fifo: its opening reaches out of the tree
        raise fail(errno.ELOOP if node.kind != S_IFREG else errno.ENXIO)
    account = model.account(fid.user, st)
    slow = flags & os.O_TRUNC and (st.blocks > LONG_REMOVAL_BLOCKS or node.mount.remote)
    fd = model.open(fid.user, node, flags & ~os.O_TRUNC)
    if slow:
        return cut(session, fid, opened(session, fid, fd, flags, account), 0)
    try:
        if flags & os.O_TRUNC:
            resize(session, fid, fd, account, 0)
        st = tree.calls.statx(fd, b"")
    except BaseException:
        os.close(fd)
        raise
    opened(session, fid, fd, flags, account)
    return model.shown(node, st)


def create_fid(session: Session, fid: Fid, name: bytes, flags: int, mode: int, gid: int) -> Stat:
    """Makes and opens a file in the directory that the fid is; then the fid is that file. Raises OSError."""
    may_change(session)
    parent = directory(fid)
    if fid.io is not None:
        raise fail(errno.EBADF)
    fd, node, st = session.model.create(fid.user, parent, new_name(name), flags, mode, gid)
    become(session, fid, node, name)
    opened(session, fid, fd, flags, session.model.account(fid.user, st))
    return session.model.shown(node, st)


def become(session: Session, fid: Fid, node: Node, name: bytes) -> None:
    """The fid of a directory is from now on that of `node`, just made there as `name`, with a look-up for it."""
    parent, places = fid.node, session.export.places
    old = fid.place
    fid.place = places.take(parent, name)
    if old is not None:
        above = places.give_back(old)
        if above is not None:
            session.forget(above)
    fid.node = node
    session.forget(parent)


def opened(session: Session, fid: Fid, fd: int, flags: int, account: Account) -> File:
    """The fid's file is open as `fd` from now on."""
    session.tree.opened(fid.node, fd)
    fid.io = File(fid.node, fd, flags, account)
    return fid.io


def cut(session: Session, fid: Fid, file: File, size: int) -> Later:
    """Sets the length of an open file, which frees so much that it is done in a thread."""
    identity = session.tree.identity

    def run() -> None:
        truncate(identity, file.account, file.fd, size)

    session.model.wrote(fid.user, fid.node)
    return Later(fid.node.device.key, run, lambda _: None, file=file)


def resize(session: Session, fid: Fid, fd: int, account: Account, size: int) -> None:
    """Sets the length of a file that is open for writing as `fd`. Raises OSError."""
    truncate(session.tree.identity, account, fd, size)
    session.model.wrote(fid.user, fid.node)


def read(session: Session, message: Tread) -> Message | Later:
    """Data of an open file, of an attribute, or, in 9P2000 and .u, of a directory."""
    fid = session.fid(message.fid)
    file, offset = fid.io, message.offset
    size = payload(session, message.count)
    if not isinstance(file, File):
        return _read_other(session, fid, offset, size)
    if not file.readable:
        raise fail(errno.EBADF)
    if offset > _MAX_OFFSET:
        raise fail(errno.EINVAL)
    buffer = session.buffer(size)
    done, whole = read_now(file, offset, memoryview(buffer)[:size])
    data = session.filled(buffer, done)
    if whole:
        return Rread(data)
    start, fd = bytes(data), file.fd
    return Later(file.node.device.key, lambda: read_fully(fd, start, offset, size), Rread, effects=False, file=file)


def _read_other(session: Session, fid: Fid, offset: int, size: int) -> Message:
    if isinstance(fid.io, Attribute) and not fid.io.name:
        return Rread(bytes(fid.io.data[offset : offset + size]))
    if isinstance(fid.io, Listing):
        if session.dialect is Dialect.LINUX:
            raise fail(errno.EISDIR)
        return Rread(read_directory(session, fid, fid.io, offset, size))
    raise fail(errno.EBADF)


def write(session: Session, message: Twrite) -> Message | Later:
    """Data for an open file, or the value of an attribute that is set at clunk."""
    fid = session.fid(message.fid)
    file, offset, content = fid.io, message.offset, message.data
    if isinstance(file, Attribute) and file.name:
        if offset + len(content) > file.size:
            raise fail(errno.ENOSPC)
        if offset > file.written:
            raise fail(errno.EINVAL)
        file.data[offset : offset + len(content)] = content
        file.written = max(file.written, offset + len(content))
        return Rwrite(len(content))
    if not isinstance(file, File) or not file.writable:
        raise fail(errno.EBADF)
    if offset > _MAX_OFFSET - len(content):
        raise fail(errno.EFBIG)
    identity = session.tree.identity
    session.model.wrote(fid.user, fid.node)
    done, whole = write_now(identity, file, offset, content)
    if whole:
        return Rwrite(done)
    kept = bytes(content)
    return Later(
        file.node.device.key,
        lambda: write_fully(identity, file, kept, done, offset),
        Rwrite,
        file=file,
    )


def sync(session: Session, fid: Fid, data_only: bool, reply: Message) -> Later:
    """fsync(2) or fdatasync(2) of an open file or directory. Raises OSError, EBADF where it is not open."""
    io = fid.io
    if not isinstance(io, (File, Listing)):
        raise fail(errno.EBADF)
    fd = io.fd
    do = os.fdatasync if data_only else os.fsync
    file = io if isinstance(io, File) else None
    if file is None:
        fd = os.dup(fd)

    def run() -> None:
        try:
            do(fd)
        finally:
            if file is None:
                os.close(fd)

    return Later(fid.node.device.key, run, lambda _: reply, file=file)
