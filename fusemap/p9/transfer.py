"""Opening, reading and writing: what all dialects do alike."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import TYPE_CHECKING, Final

from fusemap.errors import MappingExhausted
from fusemap.host.calls import Stat
from fusemap.host.creds import Account
from fusemap.p9.fids import Attribute, Fid, File, Listing
from fusemap.p9.later import Later
from fusemap.p9.messages import Rread, Rwrite, Tread, Twrite
from fusemap.p9.naming import directory, fail, may_change, new_name
from fusemap.p9.records import read_directory
from fusemap.p9.wire import Dialect, Message
from fusemap.qid import QID
from fusemap.tree import Node, changes
from fusemap.tree.data import read_fully, read_now, truncate, write_fully, write_now
from fusemap.tree.live import LONG_REMOVAL_BLOCKS

if TYPE_CHECKING:
    from fusemap.p9.session import Session

IO_HEADER: Final = 24  # what stands before the data of a write, rounded up: P9_IOHDRSZ in Linux, IOHDRSZ in Plan 9
_MAX_OFFSET: Final = (1 << 63) - 1


def payload(session: Session, count: int) -> int:
    """How many bytes a reply may carry where the client asks for `count`."""
    return min(count, session.msize - IO_HEADER)


def open_fid(session: Session, fid: Fid, flags: int, reply: Callable[[QID, int], Message]) -> Message | Later:
    """Opens the file or directory that the fid is, with flags of open(2). `reply` makes the answer of QID and iounit.

    A `Later` when truncating takes time. Raises OSError; then the fid is not open.
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
        answer = reply(session.export.qid(node, model.stat(node)), 0)
        fid.io = Listing(tree, node, model.open(fid.user, node, os.O_RDONLY | os.O_DIRECTORY))
        return answer
    if flags & os.O_DIRECTORY:
        raise fail(errno.ENOTDIR)
    st = tree.stat(node)
    kind = model.shown(node, st).mode & 0o170000
    if kind != S_IFREG:  # never a device or fifo: its opening reaches out of the tree
        raise fail(errno.ELOOP if kind == S_IFLNK else errno.ENXIO)
    account = model.account(fid.user, st)
    slow = flags & os.O_TRUNC and (st.blocks > LONG_REMOVAL_BLOCKS or node.mount.remote)
    rights = flags & ~os.O_TRUNC
    if flags & os.O_TRUNC and flags & os.O_ACCMODE == os.O_RDONLY:  # truncates in Linux, with write permission
        rights = rights & ~os.O_ACCMODE | os.O_RDWR
    fd = model.open(fid.user, node, rights)
    try:
        if slow:
            model.wrote(fid.user, node)
            return _cut_first(session, fid, opened(session, fid, fd, flags, account), reply)
        if flags & os.O_TRUNC:
            resize(session, fid, fd, account, 0)
        st = tree.calls.statx(fd, b"")
        answer = reply(session.export.qid(node, model.shown(node, st)), 0)
    except BaseException:
        os.close(fd)
        raise
    opened(session, fid, fd, flags, account)
    return answer


def _cut_first(session: Session, fid: Fid, file: File, reply: Callable[[QID, int], Message]) -> Later:
    """Truncates the fid's file, just opened, in a thread; where that fails it is not open."""
    identity = session.tree.identity

    def run() -> OSError | None:
        try:
            truncate(identity, file.account, file.fd, 0)
        except OSError as error:
            return error
        return None

    def then(failed: OSError | None) -> Message:
        try:
            if failed is not None:
                raise failed
            return reply(session.export.qid(file.node, session.model.stat(file.node)), 0)
        except BaseException:
            if fid.io is file:
                fd = session.shut(fid)
                if fd is not None:
                    os.close(fd)
            raise

    return Later(file.node.device.key, run, then, file=file)


def create_fid(session: Session, fid: Fid, name: bytes, flags: int, mode: int, gid: int) -> QID:
    """Makes and opens a file in the directory that the fid is; then the fid is that file. Raises OSError."""
    model = session.model
    may_change(session)
    parent = directory(fid)
    if fid.io is not None:
        raise fail(errno.EBADF)
    name, made = new_name(name), True
    try:
        fd, node, st = model.create(fid.user, parent, name, flags | os.O_EXCL, mode, gid)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        made = False
        fd, node, st = model.create(fid.user, parent, name, flags, mode, gid)
    try:
        shown = model.shown(node, st)
        qid = qid_of_new(session, parent, name, node, shown) if made else session.export.qid(node, shown)
        account = model.account(fid.user, st)
    except BaseException:
        os.close(fd)
        session.forget(node)
        raise
    become(session, fid, node, name)
    opened(session, fid, fd, flags, account)
    return qid


def qid_of_new(session: Session, parent: Node, name: bytes, node: Node, st: Stat) -> QID:
    """The QID of what was just made. Raises OSError, ENFILE, where there is none; then it was not made."""
    try:
        return session.export.qid(node, st)
    except MappingExhausted:
        with contextlib.suppress(OSError):
            if node.kind == S_IFDIR:
                changes.rmdir(session.tree, parent, name)
            else:
                changes.unlink(session.tree, parent, name)
        raise


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
        return _was_read(session, data)
    start, fd = bytes(data), file.fd

    def run() -> bytes:
        return read_fully(fd, start, offset, size)

    return Later(
        file.node.device.key, run, lambda data: _was_read(session, data), effects=False, file=file, weight=size
    )


def _was_read(session: Session, data: bytes | memoryview) -> Message:
    session.export.statistics.bytes_read += len(data)
    return Rread(data)


def _was_written(session: Session, count: int) -> Message:
    session.export.statistics.bytes_written += count
    return Rwrite(count)


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
        return _was_written(session, done)
    kept, not_any_more = session.keep(memoryview(content))

    def then(count: int) -> Message:
        not_any_more()
        return _was_written(session, count)

    def run() -> int:
        return write_fully(identity, file, kept, done, offset)

    return Later(file.node.device.key, run, then, file=file, weight=len(kept))


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
