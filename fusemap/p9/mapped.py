"""The security model mapped-xattr: owner, mode and device numbers as the client sets them live in attributes.

On the host every file belongs to the server and only it may read them; special files and symbolic links are regular
files, a link's target being its content. So a server that is not root can hold a whole system's tree, and nothing that
a client makes is set-user-id or a device on the host. The attributes, their names and little-endian numbers are QEMU's
(local_set_xattr() in hw/9pfs/9p-local.c), so a tree can move between the two.

A client does not see them; its own POSIX ACLs are kept beside them, and the host does not act on those.
"""

from __future__ import annotations

import errno
import os
import struct
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_ISGID, S_ISUID
from typing import Final

from fusemap.host.calls import Stat
from fusemap.host.creds import Account, Caller, Standing
from fusemap.p9.messages import NONUNAME
from fusemap.p9.model import NOBODY, Model, User
from fusemap.tree import Directory, Node, changes
from fusemap.tree.reach import KIND
from fusemap.tree.virtual import VIRTUAL_PREFIX

_PREFIX: Final = b"user.virtfs."
_UID, _GID, _MODE, _RDEV = (_PREFIX + word for word in (b"uid", b"gid", b"mode", b"rdev"))
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_MAPPED: Final = {name: _PREFIX + name for name in _ACLS}
_UNMAPPED: Final = {mapped: name for name, mapped in _MAPPED.items()}
_ABSENT: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)  # or not for this server to know
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_LONGEST_TARGET: Final = 4096  # PATH_MAX
_EXECUTED_BY_GROUP: Final = 0o010


class MappedXattr(Model):
    """The model `mapped-xattr`."""

    name = "mapped-xattr"
    maps = True

    # What a client sees ---------------------------------------------------------------------------------------------

    def account(self, user: User, st: Stat) -> Account:
        """Nobody's, so that the host takes its own set-id bits away, which no client is told of."""
        return self._identity.account(Caller(NOBODY, NOBODY, standing=Standing([], 0)), st.mode)

    def shown(self, node: Node, st: Stat) -> Stat:
        return _mapped(self.tree.proc(node), st)

    def shown_entry(self, directory: Directory, name: bytes, st: Stat) -> Stat:
        node = directory.node
        if name == b".." and (st.ino, st.mnt_id) == (node.inode, node.mount.id):
            name = b"."  # of what was attached: the directory above it is not looked at
        return _mapped(b"/proc/self/fd/%d/%s" % (directory.fd, name), st, follow=False)

    def readlink(self, user: User, node: Node) -> bytes:
        if node.kind == S_IFLNK:
            return super().readlink(user, node)
        return _content(self.tree.open(node, os.O_RDONLY))

    def readlink_at(self, directory: Directory, name: bytes) -> bytes:
        try:
            return super().readlink_at(directory, name)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return _content(os.open(name, flags, dir_fd=directory.fd))

    # Making ---------------------------------------------------------------------------------------------------------

    def mkdir(self, user: User, parent: Node, name: bytes, mode: int, gid: int) -> tuple[Node, Stat]:
        made = changes.mkdir(self.tree, parent, name, _DIRECTORY_MODE, self._server())
        return self._own(user, parent, name, made, S_IFDIR | mode, gid)

    def mknod(self, user: User, parent: Node, name: bytes, mode: int, rdev: int, gid: int) -> tuple[Node, Stat]:
        made = changes.mknod(self.tree, parent, name, S_IFREG | _FILE_MODE, 0, self._server())
        return self._own(user, parent, name, made, mode, gid, rdev)

    def symlink(self, user: User, parent: Node, name: bytes, target: bytes, gid: int) -> tuple[Node, Stat]:
        if len(target) >= _LONGEST_TARGET:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        fd, node, st = changes.create(
            self.tree, parent, name, os.O_WRONLY | os.O_EXCL, _FILE_MODE, self._server()
        )
        try:
            os.write(fd, target)
        except BaseException:
            self._undo(parent, name, node)
            raise
        finally:
            os.close(fd)
        return self._own(user, parent, name, (node, st), S_IFLNK | 0o777, gid)

    def create(
        self, user: User, parent: Node, name: bytes, flags: int, mode: int, gid: int
    ) -> tuple[int, Node, Stat]:
        try:
            fd, node, st = changes.create(self.tree, parent, name, flags | os.O_EXCL, _FILE_MODE, self._server())
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            fd, node, st = changes.create(self.tree, parent, name, flags & ~os.O_TRUNC, _FILE_MODE, self._server())
            try:
                if self.shown(node, st).mode & 0o170000 != S_IFREG:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if flags & os.O_TRUNC:
                    self.wrote(user, node)
                    os.truncate(self.tree.proc(node), 0)  # `fd` may be open for reading only
                return fd, node, self.tree.calls.statx(fd, b"")
            except BaseException:
                os.close(fd)
                self.tree.forget(node)
                raise
        try:
            self._own(user, parent, name, (node, st), S_IFREG | mode, gid)
        except BaseException:
            os.close(fd)
            raise
        try:
            return fd, node, self.tree.calls.statx(fd, b"")
        except BaseException:
            os.close(fd)
            self.tree.forget(node)
            raise

    # Attributes -----------------------------------------------------------------------------------------------------

    def chmod(self, user: User, node: Node, mode: int) -> None:
        kind = self.stat(node).mode & 0o170000
        if kind == S_IFLNK:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.setxattr(self.tree.proc(node), _MODE, _U32.pack(kind | mode & 0o7777))

    def chown(self, user: User, node: Node, uid: int, gid: int) -> None:
        path = self.tree.proc(node)
        if uid != -1:
            os.setxattr(path, _UID, _U32.pack(uid))
        if gid != -1:
            os.setxattr(path, _GID, _U32.pack(gid))
        if uid == gid == -1:
            os.chown(path, -1, -1)

    def wrote(self, user: User, node: Node) -> None:
        """Set-id bits go when another than root writes (setattr_should_drop_suidgid() in Linux's fs/attr.c)."""
        if user.uid == 0:
            return
        path = self.tree.proc(node)
        mode = _number(path, _MODE, _U32, 0)
        group = mode & S_ISGID and (mode & _EXECUTED_BY_GROUP or not self._member(user, path))
        drop = mode & S_ISUID | (mode & S_ISGID if group else 0)
        if drop:
            os.setxattr(path, _MODE, _U32.pack(mode & ~drop))

    def get_attribute(self, user: User, node: Node, name: bytes) -> bytes:
        if name.startswith(VIRTUAL_PREFIX):
            return super().get_attribute(user, node, name)
        if name.startswith(_PREFIX):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return os.getxattr(self.tree.proc(node), _host_name(name))

    def set_attribute(self, user: User, node: Node, name: bytes, value: bytes, flags: int) -> None:
        _refuse_ours(name)
        os.setxattr(self.tree.proc(node), _host_name(name), value, flags)

    def remove_attribute(self, user: User, node: Node, name: bytes) -> None:
        _refuse_ours(name)
        os.removexattr(self.tree.proc(node), _host_name(name))

    def attribute_names(self, user: User, node: Node) -> list[bytes]:
        names = [os.fsencode(name) for name in os.listxattr(self.tree.proc(node))]
        shown = [_UNMAPPED.get(name, name) for name in names]
        hidden = (_PREFIX, VIRTUAL_PREFIX)
        return [name for name in shown if name in _ACLS or (name.startswith(b"user.") and not name.startswith(hidden))]

    # Inside ---------------------------------------------------------------------------------------------------------

    def _server(self) -> Caller:
        return Caller(self._identity.uid, self._identity.gid)

    def _member(self, user: User, path: bytes) -> bool:
        return _number(path, _GID, _U32, NONUNAME) in (user.gid, *user.groups)

    def _own(
        self, user: User, parent: Node, name: bytes, made: tuple[Node, Stat], mode: int, gid: int, rdev: int = 0
    ) -> tuple[Node, Stat]:
        """Gives what was just made to a user; where that fails it is not left behind."""
        node = made[0]
        try:
            path = self.tree.proc(node)
            os.setxattr(path, _UID, _U32.pack(user.uid))
            os.setxattr(path, _GID, _U32.pack(user.gid if gid == NONUNAME else gid))
            os.setxattr(path, _MODE, _U32.pack(mode))
            if rdev:
                os.setxattr(path, _RDEV, _U64.pack(rdev))
            return node, self.stat(node)
        except BaseException:
            self._undo(parent, name, node)
            raise

    def _undo(self, parent: Node, name: bytes, node: Node) -> None:
        try:
            self.remove(User(0, 0, ()), parent, name, node.kind == S_IFDIR)
        finally:
            self.tree.forget(node)


def _mapped(path: bytes, st: Stat, follow: bool = True) -> Stat:
    rdev = _number(path, _RDEV, _U64, os.makedev(st.rdev_major, st.rdev_minor), follow)
    mode, kind = _number(path, _MODE, _U32, st.mode, follow), st.mode & KIND
    if kind != S_IFREG or mode & KIND in (0, S_IFDIR):  # only regular files stand for something else
        mode = kind | mode & 0o7777
    return st._replace(
        mode=mode,
        uid=_number(path, _UID, _U32, st.uid, follow),
        gid=_number(path, _GID, _U32, st.gid, follow),
        rdev_major=os.major(rdev),
        rdev_minor=os.minor(rdev),
    )


def _number(path: bytes, name: bytes, form: struct.Struct, otherwise: int, follow: bool = True) -> int:
    try:
        value = os.getxattr(path, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _ABSENT:
            return otherwise
        raise
    return int(form.unpack(value)[0]) if len(value) == form.size else otherwise


def _content(fd: int) -> bytes:
    try:
        return os.read(fd, _LONGEST_TARGET)
    finally:
        os.close(fd)


def _host_name(name: bytes) -> bytes:
    if name in _MAPPED:
        return _MAPPED[name]
    if not name.startswith(b"user."):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return name


def _refuse_ours(name: bytes) -> None:
    if name.startswith((_PREFIX, VIRTUAL_PREFIX)):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
