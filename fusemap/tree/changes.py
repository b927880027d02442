"""Everything that makes, names, removes or alters a file, as functions on a tree.

What comes into being is made by the caller's own identity, so that the host's rules give it owner, group, mode and ACL.
The rest is done as the server where whoever serves the caller has checked that he may (the kernel's default_permissions
for a mount), with the attributes and ACLs that the tree gave it; where nobody has, `by` names him, and the host checks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from fusemap.errors import MappingExhausted
from fusemap.host.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, Stat
from fusemap.host.creds import Caller
from fusemap.tree.live import Tree
from fusemap.tree.node import Node

_OPEN_KEEPS = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_TRUNC | os.O_NOATIME


def mkdir(tree: Tree, parent: Node, name: bytes, mode: int, caller: Caller) -> tuple[Node, Stat]:
    """mkdir(2) as `caller`; the new directory's look-up count is 1. Raises OSError."""
    fd = tree.fd(parent)
    with tree.identity.of(caller):
        os.mkdir(name, mode & 0o7777, dir_fd=fd)
    return _made(tree, parent, name, lambda: os.rmdir(name, dir_fd=tree.fd(parent)))


def mknod(tree: Tree, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> tuple[Node, Stat]:
    """mknod(2) as `caller`: a regular file, fifo, socket or device node. Raises OSError."""
    fd = tree.fd(parent)
    with tree.identity.of(caller):
        os.mknod(name, mode, rdev, dir_fd=fd)
    return _made(tree, parent, name, lambda: os.unlink(name, dir_fd=tree.fd(parent)))


def symlink(tree: Tree, parent: Node, name: bytes, target: bytes, caller: Caller) -> tuple[Node, Stat]:
    """symlink(2) as `caller`. Raises OSError."""
    fd = tree.fd(parent)
    with tree.identity.of(caller):
        os.symlink(target, name, dir_fd=fd)
    return _made(tree, parent, name, lambda: os.unlink(name, dir_fd=tree.fd(parent)))


def create(tree: Tree, parent: Node, name: bytes, flags: int, mode: int, caller: Caller) -> tuple[int, Node, Stat]:
    """open(2) with O_CREAT as `caller`: the open descriptor, the node and its stat.

    Whatever stands at `name` already is opened only if it is a regular file, and by the caller's own rights, since
    nobody has checked them. Raises OSError, EEXIST with O_EXCL.
    """
    directory = tree.fd(parent)
    keep = flags & _OPEN_KEEPS | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        with tree.identity.of(caller):
            fd = os.open(name, keep | os.O_CREAT | os.O_EXCL, mode & 0o7777, dir_fd=directory)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        node, _ = tree.lookup(parent, name)
        fd = -1
        try:
            if node.kind == stat.S_IFDIR:  # which O_CREAT never opens
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            tree.fd(node)  # found by the server's right to open handles, opened by the caller's rights
            with tree.identity.of(caller):
                fd = tree.open(node, keep & ~os.O_NOFOLLOW)
            return fd, node, tree.calls.statx(fd, b"")
        except BaseException:
            if fd >= 0:
                os.close(fd)
            tree.forget(node)
            raise
    try:
        node, st = tree.adopt(parent, name, fd)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, MappingExhausted):
            os.unlink(name, dir_fd=directory)
        raise
    return fd, node, st


def link(tree: Tree, node: Node, parent: Node, name: bytes, by: Caller | None = None) -> tuple[Node, Stat]:
    """link(2): one more name for `node`, whose look-up count is raised by one. Raises OSError."""
    directory = tree.fd(parent)
    source = b"/proc/self/fd/%d" % tree.fd_on(node, parent.mount)
    with acting(tree, by):
        os.link(source, name, dst_dir_fd=directory, follow_symlinks=True)
    found, st = tree.lookup(parent, name)
    return found, st


def unlink(tree: Tree, parent: Node, name: bytes, by: Caller | None = None) -> int | None:
    """unlink(2). Raises OSError.

    Freeing the blocks of a large file can take the host seconds; then the answer is a descriptor whose closing does
    that, to be closed where nobody waits, otherwise None.
    """
    return _remove(tree, parent, name, os.unlink, by)


def rmdir(tree: Tree, parent: Node, name: bytes, by: Caller | None = None) -> None:
    """rmdir(2). Raises OSError."""
    fd = _remove(tree, parent, name, os.rmdir, by)
    if fd is not None:  # a directory that once had very many entries; freeing that is no long matter
        os.close(fd)


def rename(
    tree: Tree, old_parent: Node, old: bytes, new_parent: Node, new: bytes, flags: int, caller: Caller | None
) -> int | None:
    """renameat2(2) with any of its flags; the answer is like that of `unlink`, for a file that was replaced.

    Only with RENAME_WHITEOUT, and where nobody has checked that he may, there need be a `caller`. Raises OSError, EXDEV
    between two file systems.
    """
    old_fd = tree.fd(old_parent)
    new_fd = tree.fd(new_parent)
    replaced = None
    if not flags & (RENAME_EXCHANGE | RENAME_NOREPLACE):
        with contextlib.suppress(OSError):
            replaced = tree.removing(new_fd, new)
    try:
        with acting(tree, caller):
            tree.calls.rename(old_fd, old, new_fd, new, flags)
    except BaseException:
        if replaced is not None:
            os.close(replaced[1])
        raise
    tree.renamed(old_parent, old, new_parent, new, exchanged=bool(flags & RENAME_EXCHANGE))
    if replaced is None:
        return None
    try:
        if tree.calls.statx(replaced[1], b"").nlink != replaced[0].nlink:
            return tree.removed(new_parent, *replaced)
    except BaseException:
        os.close(replaced[1])
        raise
    os.close(replaced[1])  # both were names of one file, which stay
    return None


def acting(tree: Tree, by: Caller | None) -> contextlib.AbstractContextManager[None]:
    """A context in which this thread has the rights of `by`, or goes on as the server."""
    return contextlib.nullcontext() if by is None else tree.identity.of(by)


def _remove(tree: Tree, parent: Node, name: bytes, remove: Callable[..., None], by: Caller | None) -> int | None:
    directory = tree.fd(parent)
    st, fd = tree.removing(directory, name)
    try:
        with acting(tree, by):
            remove(name, dir_fd=directory)
        return tree.removed(parent, st, fd)
    except BaseException:
        os.close(fd)
        raise


def readlink(tree: Tree, node: Node) -> bytes:
    """The target of symbolic link `node`. Raises OSError."""
    return os.readlink(b"", dir_fd=tree.fd(node))


def chmod(tree: Tree, node: Node, mode: int, by: Caller | None = None) -> None:
    """chmod(2). Raises OSError; EOPNOTSUPP for a symbolic link."""
    if node.kind == stat.S_IFLNK:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    path = tree.proc(node)
    with acting(tree, by):
        os.chmod(path, mode & 0o7777)


def chown(tree: Tree, node: Node, uid: int, gid: int, by: Caller | None = None) -> None:
    """lchown(2); -1 leaves a value as it is. Raises OSError."""
    path = tree.proc(node)
    with acting(tree, by):
        os.chown(path, uid, gid)


def chown_nothing(tree: Tree, node: Node, caller: Caller) -> None:
    """chown(-1, -1) as `caller`: sets ctime, and set-id bits go where the host says so. Raises OSError.

    A FUSE kernel sends the same request for that and before a write that takes set-group-id away; where the host would
    refuse the first, it allows the second, so a refusal is not passed on.
    """
    with contextlib.suppress(PermissionError), tree.identity.of(caller):
        os.chown(tree.proc(node), -1, -1)


def utimens(
    tree: Tree, node: Node, atime_ns: int | None, mtime_ns: int | None, by: Caller | None = None
) -> None:
    """utimensat(2) in nanoseconds since 1970, or NOW; None leaves a time as it is. Raises OSError."""
    path = tree.proc(node)
    with acting(tree, by):
        tree.calls.utimens(path, atime_ns, mtime_ns)


def access(tree: Tree, node: Node, mode: int, caller: Caller) -> bool:
    """access(2) for `caller`, by the host's own rules. Raises OSError."""
    path = tree.proc(node)
    with tree.identity.of(caller):
        return os.access(path, mode, effective_ids=True)


def _made(tree: Tree, parent: Node, name: bytes, undo: Callable[[], None]) -> tuple[Node, Stat]:
    """The node of what was just made; what cannot be given a number (ENFILE) must not stay behind."""
    try:
        return tree.lookup(parent, name)
    except MappingExhausted:
        undo()
        raise
