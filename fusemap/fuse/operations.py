"""The FUSE requests, each answered by one call of the tree.

Metadata calls are made inline: a hop to another thread costs more than they do. What can wait on a disk for its data -
uncached reads, writes, fsync, freeing many blocks - goes to worker threads, a limited number for each device, so that a
slow disk is waited for by its own users only.

pyfuse3 ends the whole mount on any exception but FUSEError, so `answers` (boundary.py) stands around every handler and
nothing else translates errors.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Sequence
from stat import S_IFDIR
from typing import Final, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from fusemap.errors import errno_of
from fusemap.fuse.attributes import Cache, NameOnly, fill
from fusemap.fuse.boundary import NAMES, answers
from fusemap.fuse.files import OpenFile, Transfer
from fusemap.fuse.habits import Habits
from fusemap.fuse.hidden import NAME, NUMBERS, Asked, Handles, Hidden
from fusemap.fuse.loop import Gate
from fusemap.fuse.watch import MountWatch
from fusemap.host.calls import RENAME_NOREPLACE, RENAME_WHITEOUT, Stat
from fusemap.host.creds import Caller
from fusemap.qid import Mapper
from fusemap.table import Table
from fusemap.tree import Directory, Node, Tree, attributes, changes
from fusemap.tree.live import LONG_REMOVAL_BLOCKS, settled_ns
from fusemap.tree.places import path_below, path_of
from fusemap.tree.shown import Shown
from fusemap.tree.statistics import Statistics, now_ns
from fusemap.tree.telling import Telling
from fusemap.tree.virtual import VIRTUAL_PREFIX, virtual

THREADS_A_DEVICE: Final = 16
MUCH_WRITTEN: Final = 1 << 20
_OPEN_KEEPS: Final = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_NOATIME

class Operations(pyfuse3.Operations):
    """pyfuse3's operations on `tree`.

    `shown` numbers what stat shows where that is not the node's own number: the colliding modes, raw and qemu. `table`
    is that of the numbers, for telling what is in it.
    """

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, tree: Tree, cache: Cache, shown: Mapper | None = None, table: Table | None = None) -> None:
        super().__init__()
        self.tree: Final = tree
        self.table: Final = table
        self.gate: Final = Gate(tree.rest)
        self._transfer = Transfer(self.gate, tree.identity)
        self.watch: Final = MountWatch(tree)
        self._habits = Habits(tree, self.watch, cache.timeout)
        self._cache = cache
        self._shown = None if shown is None else Shown(shown)
        self._entry = EntryAttributes()
        self._files: dict[int, OpenFile] = Handles()
        self._directories: dict[int, Directory] = Handles()
        self.statistics: Final = Statistics(NAMES)
        self.telling: Final = Telling(tree, "fuse", self.statistics, self._shown, table)
        self.hidden: Final = Hidden(tree, self.telling, self.gate, self._shown)
        self._flush_matters = tree.filesystems.any_remote()
        self._flush_off = False
        self._stamps: dict[Node, int] = {}
        self._limiters: dict[str, trio.CapacityLimiter] = {}
        self._selinux = os.path.exists("/sys/fs/selinux/enforce")

    def close(self) -> None:
        """Closes what clients left open and the tree."""
        for file in self._files.values():
            os.close(file.fd)
        for directory in list(self._directories.values()):
            directory.close()
        self.watch.close()
        self.tree.close()

    # Names and nodes --------------------------------------------------------------------------------------------------

    @answers
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self._node(parent_inode)
        if name == b".":  # only asked by number, for a file handle of the mount: "is it still there?"
            st = self.tree.stat(parent)
            parent.lookups += 1
            return self._reply(parent, st)
        self.watch.check_uncovered(parent)
        if name == NAME and parent is self.tree.root and self.hidden.there:
            raise Asked
        node, st = self.tree.lookup(parent, name)
        if node.kind != S_IFDIR:
            self._habits.looked_up(parent)
        return self._reply(node, st)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        start = now_ns()
        for number, count in inode_list:
            try:
                await self._forget(number, count)
            except Exception as error:  # nobody waits for an answer to this, and nobody may end the mount by it
                errno_of(error, "forget")
        self.statistics.took("forget", now_ns() - start)

    @answers
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        node = self._node(inode)
        return self._attributes(node, self.tree.stat(node))

    @answers
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return changes.readlink(self.tree, self._node(inode))

    @answers
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return changes.access(self.tree, self._node(inode), mode, _caller(ctx))

    @answers
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        parent = self._parent(parent_inode, name)
        return self._reply(*changes.mkdir(self.tree, parent, name, mode, _caller(ctx)))

    @answers
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        parent = self._parent(parent_inode, name)
        return self._reply(*changes.mknod(self.tree, parent, name, mode, rdev, _caller(ctx)))

    @answers
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self._parent(parent_inode, name)
        return self._reply(*changes.symlink(self.tree, parent, name, target, _caller(ctx)))

    @answers
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        node, parent = self._node(inode), self._parent(new_parent_inode, new_name)
        return self._reply(*changes.link(self.tree, node, parent, new_name))

    @answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        parent = self._parent(parent_inode, name, errno.EPERM)
        await self._close_long(parent, changes.unlink(self.tree, parent, name))

    @answers
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        changes.rmdir(self.tree, self._parent(parent_inode, name, errno.EPERM), name)

    @answers
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        old = self._parent(parent_inode_old, name_old, errno.EPERM)
        new = self._parent(parent_inode_new, name_new, errno.EEXIST if flags & RENAME_NOREPLACE else errno.EPERM)
        by = _caller(ctx) if flags & RENAME_WHITEOUT else None  # which leaves a device node behind, and that is his
        await self._close_long(new, changes.rename(self.tree, old, name_old, new, name_new, flags, by))

    @answers
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        tree, node = self.tree, self._node(inode)
        times = fields.update_atime or fields.update_mtime
        owner = fields.update_uid or fields.update_gid
        if owner:
            uid = attr.st_uid if fields.update_uid else -1
            changes.chown(tree, node, uid, attr.st_gid if fields.update_gid else -1)
        elif not (times or fields.update_mode or fields.update_size):
            changes.chown_nothing(tree, node, _caller(ctx))
        if fields.update_mode:
            changes.chmod(tree, node, attr.st_mode)
        if fields.update_size:
            await self._truncate(node, fh, attr.st_size, _caller(ctx))
        if times:
            atime = attr.st_atime_ns if fields.update_atime else None
            changes.utimens(tree, node, atime, attr.st_mtime_ns if fields.update_mtime else None)
        return self._attributes(node, tree.stat(node))

    @answers
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found, answer = os.fstatvfs(self.tree.fd(self.tree.root)), StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(answer, "f_" + name, getattr(found, "f_" + name))
        return answer

    # Files ------------------------------------------------------------------------------------------------------------

    @answers
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        parent = self._parent(parent_inode, name)
        flags |= self._at_once(parent)
        fd, node, st = changes.create(self.tree, parent, name, flags, mode, _caller(ctx))
        return self._opened(node, fd, flags, _caller(ctx), st, fresh=True), self._reply(node, st)

    @answers
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        caller = _caller(ctx)
        if flags & os.O_TRUNC:
            await self._truncate(node, None, 0, caller)
        flags |= self._at_once(node)
        fd = self.tree.open(node, flags & _OPEN_KEEPS)
        return self._opened(node, fd, flags, caller, self.tree.calls.statx(fd, b""))

    @answers
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes any buffer, its annotation says bytes
        data = cast("bytes", await self._transfer.read(self._files[fh], off, size))
        self.statistics.bytes_read += len(data)
        return data

    @answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        done = await self._transfer.write(self._files[fh], off, buf)
        self.statistics.bytes_written += done
        return done

    @answers
    async def flush(self, fh: int) -> None:
        file = self._files[fh]
        if file.node.mount.remote:
            await self.gate.offload(file.limiter, _flush, file.fd)
        elif not self._flush_matters:
            # Local file systems have nothing to do or report at close; the kernel asks no more (fuse_flush()).
            self._flush_off = True
            raise FUSEError(errno.ENOSYS)

    @answers
    async def release(self, fh: int) -> None:
        file = self._files[fh]
        del self._files[fh]
        self.tree.closed(file.node, fh)
        if file.node.mount.remote or file.written > MUCH_WRITTEN:
            await self.gate.offload(file.limiter, os.close, fh)
        else:
            os.close(fh)

    @answers
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.gate.offload(self._files[fh].limiter, os.fdatasync if datasync else os.fsync, fh)

    # Directories ------------------------------------------------------------------------------------------------------

    @answers
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        node = self._node(inode)
        self.watch.check_uncovered(node)
        directory = Directory(self.tree, node)
        self._directories[directory.fd] = directory
        if self._shown is None:
            self._habits.listing(directory, ctx.pid)
        return directory.fd

    @answers
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory, entry, generation_of = self._directories[fh], self._entry, _generation
        timeout, shown, reply = self._cache.timeout, self._shown, pyfuse3.readdir_reply
        forget = self.tree.forget
        name_only = NameOnly()
        at = start_id
        try:
            for record, node, number, st in directory.read(start_id):
                _, cookie, kind, name = record
                if st is None:
                    name_only.extend((0, number))
                    entry.st_ino = name_only  # type: ignore[assignment]
                    entry.st_mode = kind << 12
                else:
                    fill(entry, st, number, generation_of(node), timeout)
                    if shown is not None:
                        shown_number = self._shown_entry(directory.node, name, st, node, number)
                        name_only.extend((0, shown_number))
                        entry.st_ino = name_only  # type: ignore[assignment]
                        if node is not None:
                            forget(node, 0)
                            node = None
                if not reply(token, name, entry, cookie):
                    if node is not None:
                        forget(node, 0)
                    directory.reject(record, at)
                    return
                if node is not None:
                    node.lookups += 1
                at = cookie
        except Exception:
            if at == start_id:
                raise
            # What was taken so far is sent; asked to go on, the same entry fails again, and then it is an error.

    @answers
    async def releasedir(self, fh: int) -> None:
        directory = self._directories[fh]
        del self._directories[fh]
        self._habits.listed(directory)
        directory.close()

    @answers
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        limiter = self._limiter(self._directories[fh].node)
        await self.gate.offload(limiter, os.fdatasync if datasync else os.fsync, fh)

    # Extended attributes ----------------------------------------------------------------------------------------------

    @answers
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        node = self._node(inode)
        if name.startswith(VIRTUAL_PREFIX):
            st = self.tree.stat(node)
            return virtual(self.tree, node, name, st, self._shown, names=ctx.uid in (0, self.tree.identity.uid))
        if name == b"security.selinux" and not self._selinux:
            return _label(self.tree, node)
        return attributes.get(self.tree, node, name)

    @answers
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        _refuse_virtual(name)
        attributes.put(self.tree, self._node(inode), name, value, _caller(ctx))

    @answers
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        _refuse_virtual(name)
        attributes.remove(self.tree, self._node(inode), name)

    @answers
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return attributes.names(self.tree, self._node(inode), _caller(ctx))

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _forget(self, number: int, count: int) -> None:
        with contextlib.suppress(OSError):  # unknown: told of by a reply that the kernel did not take
            node = self._node(number)
            for former in self.tree.inherit(node):
                self._stamps.pop(former, None)
            long = self.tree.forget(node, count)
            if node.lookups <= 0:
                self._stamps.pop(node, None)
            await self._close_long(node, long)

    def _node(self, number: int) -> Node:
        try:
            return self.tree.root if number == pyfuse3.ROOT_INODE else self.tree.node(number)
        except OSError:
            if number in NUMBERS:
                raise Asked from None
            raise

    def _parent(self, number: int, name: bytes, ours: int = errno.EEXIST) -> Node:
        """The directory in which `name` is to be made, or taken away; OSError with `ours` for the hidden one's name."""
        parent = self._node(number)
        if name == NAME and parent is self.tree.root and self.hidden.there:
            raise OSError(ours, os.strerror(ours))
        return parent

    def _reply(self, node: Node, st: Stat) -> EntryAttributes:
        """A reply that tells the kernel of a node, whose look-up count was raised for it."""
        if node is self.tree.root:  # its node id is 1, so that only getattr can say its number
            entry = fill(self._entry, st, pyfuse3.ROOT_INODE, 0, self._cache.timeout)
            entry.attr_timeout = 0
            return entry
        entry = fill(self._entry, st, node.number, node.generation, self._cache.timeout)
        if self._shown is not None:
            entry.attr_timeout = 0
        return entry

    def _attributes(self, node: Node, st: Stat) -> EntryAttributes:
        if self._shown is None:
            return fill(self._entry, st, node.number, node.generation, self._cache.timeout)
        path = functools.partial(path_of, self.tree, node)  # no lambda: it would make every call of this one dearer
        number = self._shown.show(node.device.key, st.ino, node.kind == S_IFDIR, path)
        return fill(self._entry, st, number, node.generation, 0)

    def _shown_number(self, st: Stat, node: Node | None, number: int) -> int:
        if self._shown is None or node is None:
            return number
        return self._shown.number(node.device.key, st.ino)

    def _shown_entry(self, directory: Node, name: bytes, st: Stat, node: Node | None, number: int) -> int:
        if name == b".":
            node = directory
        elif name == b"..":
            try:
                above, st = self.tree.lookup(directory, b"..")
            except OSError:
                return number
            number = self._shown_number(st, above, number)
            self.tree.forget(above)
            return number
        elif self._shown is not None and node is not None:
            path = functools.partial(path_below, self.tree, directory, name)
            return self._shown.show(node.device.key, st.ino, node.kind == S_IFDIR, path)
        return self._shown_number(st, node, number)

    def _at_once(self, node: Node) -> int:
        """A remote file system that was mounted after flush was switched off: its writes must not wait for close."""
        return os.O_DSYNC if self._flush_off and node.mount.remote else 0

    def _limiter(self, node: Node) -> trio.CapacityLimiter:
        key = node.device.key
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = trio.CapacityLimiter(THREADS_A_DEVICE)
        return limiter

    def _opened(self, node: Node, fd: int, flags: int, caller: Caller, st: Stat, fresh: bool = False) -> FileInfo:
        self.tree.opened(node, fd)
        self._files[fd] = OpenFile(node, fd, flags, self.tree.identity.account(caller, st.mode), self._limiter(node))
        if self._cache.direct:
            return FileInfo(fh=fd, direct_io=True, keep_cache=False)
        if self._cache.keep:
            return FileInfo(fh=fd, keep_cache=True)
        # What the kernel keeps of the content is good for as long as the stamp is the one under which it began to keep
        # it. A file changed a moment ago may change again under the same time stamp (clocks tick in milliseconds), so
        # its stamp proves nothing; neither does one that another machine's clock made.
        # And if it changed since the kernel may have asked for its attributes, the kernel would read up to an old size.
        stamp = hash(st.content_stamp)
        before = self._stamps.get(node)
        ctime = st.ctime_s * 1_000_000_000 + st.ctime_ns
        age, settles = time.time_ns() - ctime, settled_ns(ctime)
        settled = age > settles and not node.mount.remote
        self._stamps[node] = stamp if settled else 0
        asked_before = age > settles + self._cache.timeout * 1e9 and not node.mount.remote
        if not fresh and (not asked_before or (before is not None and before != stamp)):
            _forget_attributes(node.number)
        return FileInfo(fh=fd, keep_cache=before == stamp)

    async def _close_long(self, node: Node, fd: int | None) -> None:
        if fd is not None:
            await self.gate.offload(self._limiter(node), os.close, fd)

    async def _truncate(self, node: Node, fh: int | None, size: int, caller: Caller) -> None:
        """Truncates on the caller's account: the host takes set-id bits away as it does for him."""
        st = self.tree.stat(node)
        account = self.tree.identity.account(caller, st.mode)
        fd = self.tree.open(node, os.O_WRONLY) if fh is None else fh
        try:
            if st.blocks > LONG_REMOVAL_BLOCKS or node.mount.remote:
                await self.gate.offload(self._limiter(node), self._transfer.truncate, account, fd, size)
            else:
                self._transfer.truncate(account, fd, size)
        finally:
            if fh is None:
                os.close(fd)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _generation(node: Node | None) -> int:
    return 0 if node is None else node.generation


def _refuse_virtual(name: bytes) -> None:
    if name.startswith(VIRTUAL_PREFIX):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _flush(fd: int) -> None:
    """What close(2) of one of several descriptors does: lets the file system report a write error."""
    try:
        copy = os.dup(fd)
    except OSError:  # out of descriptors: the error, if any, is told by the next fsync
        return
    os.close(copy)


def _label(tree: Tree, node: Node) -> bytes:
    """A stored SELinux label, on a host without SELinux.

    Where there is none, "not supported" is the answer and not "no such attribute": ls -l then asks once for the whole
    mount instead of once for each file, and the round trip is half of what it costs.
    """
    try:
        return attributes.get(tree, node, b"security.selinux")
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise FUSEError(errno.EOPNOTSUPP) from None
        raise


def _forget_attributes(number: int) -> None:
    with contextlib.suppress(OSError):  # the kernel does not know the inode any more
        pyfuse3.invalidate_inode(number, attr_only=True)


