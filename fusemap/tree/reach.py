"""How a node's host file is reached.

A node keeps a file handle, not a descriptor, so a million known files cost no descriptor, and a directory that is
renamed on the host is still found. Descriptors (O_PATH) are a cache for one burst of requests: they spare the next
request on the same node a few microseconds and are closed by `rest()` as soon as nothing is left to do, so that no
mount beneath the root is ever kept busy by an idle server. Nothing is found by a path string. Whatever is reached is
compared with the node before it is used.

Only what a client holds is held here too: open files, and what was unlinked while a client still knows it, so that it
stays what it was until the client lets go.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from typing import Final

from fusemap.host.calls import Calls, Handle, Stat
from fusemap.host.creds import Identity
from fusemap.host.generation import birth_ns, for_comparing
from fusemap.tree.filesystems import FileSystems, Mount, opener
from fusemap.tree.node import Node

BURST_DESCRIPTORS: Final = 128
PATH_ONLY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
KIND: Final = 0o170000
_NO_HANDLE: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EOVERFLOW)


class Reach:
    """Descriptors for nodes. Its owner sets `filesystems` and `root` before anything is reached."""

    filesystems: FileSystems
    root: Node

    def __init__(self, root_fd: int) -> None:
        self.calls: Final = Calls()
        self.identity: Final = Identity()
        self._root_fd = root_fd
        self._descriptors: dict[Node, int] = {}
        self._mount_descriptors: dict[Mount, int] = {}
        self._opened: dict[Node, list[int]] = {}
        self._kept: dict[Node, int] = {}
        self._keep_at_most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def close(self) -> None:
        """Closes every descriptor but those of open files."""
        self.rest()
        for node in list(self._kept):
            os.close(self.let_go(node))
        os.close(self._root_fd)

    def stat(self, node: Node) -> Stat:
        """What the host says of `node` now. Raises OSError, ESTALE when it is gone."""
        opened = self._opened.get(node)
        if opened is not None:
            return self.calls.statx(opened[-1], b"")
        fd = self._descriptors.get(node)
        if fd is not None:
            return self.calls.statx(fd, b"")
        if node is self.root:
            return self.calls.statx(self._root_fd, b"")
        fd, st = self._reach(node)
        self.cache(node, fd)
        return st

    def stat_raw(self, node: Node) -> bytearray:
        """`stat`, as `Calls.statx_raw` gives it."""
        opened = self._opened.get(node)
        if opened is not None:
            return self.calls.statx_raw(opened[-1])
        fd = self._descriptors.get(node)
        return self.calls.statx_raw(self.fd(node) if fd is None else fd)

    def fd(self, node: Node) -> int:
        """An O_PATH descriptor of `node`, good until the next call but a few of this tree. Raises OSError."""
        fds = self._descriptors
        fd = fds.pop(node, None)
        if fd is not None:
            fds[node] = fd  # the most recently used is last, and the first is closed first
            return fd
        if node is self.root:
            return self._root_fd
        fd, _ = self._reach(node)
        self.cache(node, fd)
        return fd

    def proc(self, node: Node) -> bytes:
        """A path that names the very file, for calls that take no descriptor or none that is O_PATH.

        The kernel follows it to the file itself, also to a symbolic link, but not through one (proc_pid_fd(5)).
        """
        opened = self._opened.get(node)
        return b"/proc/self/fd/%d" % (opened[-1] if opened is not None else self.fd(node))

    def open(self, node: Node, flags: int) -> int:
        """Opens a regular file or directory for good; the caller closes the descriptor.

        Raises OSError; ENXIO for a device, fifo or socket, whose opening would reach outside the tree or block.
        """
        if node.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.ELOOP if node.kind == stat.S_IFLNK else errno.ENXIO, "not a regular file")
        flags = flags & ~os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        at_hand = node in self._descriptors or node in self._opened or node is self.root
        if node.handle is not None and node.mount.handles and not at_hand:
            fd = self.calls.open_by_handle(self._mount_fd(node.mount), node.handle, flags)
            return self._prove(node, fd)[0]
        # A descriptor that proves the node is at hand: opening it anew by /proc cannot reach another file.
        return os.open(self.proc(node), flags)

    def opened(self, node: Node, fd: int) -> None:
        """`fd` is open on `node` from now on, which keeps it alive when it is unlinked."""
        self._opened.setdefault(node, []).append(fd)

    def closed(self, node: Node, fd: int) -> None:
        """`fd` is about to be closed."""
        fds = self._opened[node]
        fds.remove(fd)
        if not fds:
            del self._opened[node]

    def keep(self, node: Node, fd: int) -> bool:
        """Holds on to a file that has lost its last name, by O_PATH descriptor `fd`; False if too many are held."""
        if node in self._kept or len(self._kept) >= self._keep_at_most:
            return False
        self._kept[node] = fd
        self._opened.setdefault(node, []).insert(0, fd)
        return True

    def keeps(self, node: Node) -> bool:
        """Whether `node` has lost its last name and is held on to."""
        return node in self._kept

    def let_go(self, node: Node) -> int:
        """No client knows `node` any more: the descriptor by which it was kept, for closing; -1 if it was not."""
        fd = self._kept.pop(node, -1)
        if fd >= 0:
            self.closed(node, fd)
        return fd

    def fd_on(self, node: Node, mount: Mount) -> int:
        """A descriptor of `node` through `mount`, where that shows the same file system; link(2) asks for one mount."""
        theirs, ours = node.mount.info, mount.info
        if node.mount is mount or node.handle is None or not mount.handles or theirs is None or ours is None:
            return self.fd(node)
        if theirs.device != ours.device:
            return self.fd(node)
        self.drop(node)
        node.mount = mount
        return self.fd(node)

    def rest(self) -> None:
        """Nothing is left to do for now: lets go of every descriptor that could keep a mount busy."""
        for fds in (self._descriptors, self._mount_descriptors):
            for fd in fds.values():
                os.close(fd)
            fds.clear()

    def _reach(self, node: Node) -> tuple[int, Stat]:
        """A new O_PATH descriptor of `node`, proved to be the same file, and its stat."""
        if node.handle is not None and node.mount.handles:
            fd = self.calls.open_by_handle(self._mount_fd(node.mount), node.handle, PATH_ONLY)
            return self._prove(node, fd)
        # Down from the nearest ancestor that can be reached otherwise, each step proved; a loop, since paths are deep.
        steps: list[tuple[Node, bytes]] = []
        start = node
        while start.place is not None and start not in self._descriptors and (start is node or not self._direct(start)):
            steps.append((start, start.place[1]))
            start = start.place[0]
        if not steps:
            raise stale()
        fd, st = os.dup(self.fd(start)), None
        while steps:
            step, name = steps.pop()
            above = fd
            try:
                fd = os.open(name, PATH_ONLY, dir_fd=above)
            except (FileNotFoundError, NotADirectoryError):
                raise stale() from None
            finally:
                os.close(above)
            fd, st = self._prove(step, fd)
        assert st is not None
        return fd, st

    def _direct(self, node: Node) -> bool:
        return node is self.root or (node.handle is not None and node.mount.handles)

    def _prove(self, node: Node, fd: int) -> tuple[int, Stat]:
        """`fd` and its stat when it is `node`; otherwise closes it and raises ESTALE."""
        try:
            st = self.calls.statx(fd, b"")
            if (
                st.ino != node.inode
                or st.dev_minor != node.device.minor
                or st.dev_major != node.device.major
                or st.mnt_id != node.mount.id
                or st.mode & KIND != node.kind
                or (not node.mount.handles and node.handle is not None and not self.same(node, fd, st))
            ):
                raise stale()
        except BaseException:
            os.close(fd)
            raise
        return fd, st

    def handle_of(self, at: int, name: bytes, st: Stat) -> Handle | None:
        """What tells the file `name` in `at` (b"": `at` itself) from later ones with its inode number. Raises OSError.

        `st` is its stat. None where the host tells nothing.
        """
        try:
            return self.calls.handle(at, name)
        except OSError as error:
            if error.errno not in _NO_HANDLE:
                raise
        return for_comparing(self.calls.fid(at, name), st)

    def same(self, node: Node, fd: int, st: Stat) -> bool:
        """Whether `fd`, whose inode and kind are the node's, is the node itself and no later file. Raises OSError."""
        handle = self.handle_of(fd, b"", st)
        return handle == node.handle or self.copied_up(node, handle)

    def copied_up(self, node: Node, handle: Handle | None) -> bool:
        """Whether an overlay's file may have got another time of birth, in `handle`, without being another file.

        That happens once, when a file of a lower layer is copied up for writing. What was born since the overlay was
        first seen lies in the upper layer already, so another time of birth is another file then. (The inode number of
        a lower layer's file is nobody else's while that layer is there; that of an older file of the upper layer may
        become another's, and that is taken for a copy. Overlays that give a handle for comparing do not come here.)
        """
        if handle is None or node.mount.kind != "overlay":
            return False
        before = birth_ns(node.handle)
        if before is None or before >= node.mount.met or birth_ns(handle) is None:
            return False
        node.handle = handle
        return True

    def _mount_fd(self, mount: Mount) -> int:
        """A descriptor that open_by_handle_at(2) takes for `mount`. Raises OSError, ESTALE when it was unmounted."""
        fd = self._mount_descriptors.get(mount)
        if fd is not None:
            return fd
        if mount.place is None:
            fd = opener(self._root_fd, b"")()
        else:
            parent, name = mount.place
            try:
                fd = opener(self.fd(parent), name)()
            except (FileNotFoundError, NotADirectoryError):
                self.filesystems.forget_mount(mount)
                raise stale() from None
            try:
                there = self.calls.statx(fd, b"").mnt_id
            except BaseException:
                os.close(fd)
                raise
            if there != mount.id:
                os.close(fd)
                self.filesystems.forget_mount(mount)
                raise stale()
        self._mount_descriptors[mount] = fd
        return fd

    def cache(self, node: Node, fd: int) -> None:
        fds = self._descriptors
        old = fds.pop(node, None)
        if old is not None:
            os.close(old)
        elif len(fds) >= BURST_DESCRIPTORS:
            os.close(fds.pop(next(iter(fds))))
        fds[node] = fd

    def drop(self, node: Node) -> None:
        fd = self._descriptors.pop(node, None)
        if fd is not None:
            os.close(fd)


def stale() -> OSError:
    """The error for a file that is not there any more."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))
