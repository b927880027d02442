"""The live tree: client's number <-> node <-> host file.

Both front ends stand on this. Everything here is synchronous, runs on one thread and makes short metadata calls only.

How a file is reached. A node keeps a file handle, not a descriptor, so a million known files cost no descriptor, and a
directory that is renamed on the host is still found. Descriptors (O_PATH) are a cache for one burst of requests: they
spare the next request on the same node a few microseconds and are closed by `rest()` as soon as nothing is left to do,
so that no mount beneath the root is ever kept busy by an idle server. Nothing is found by a path string. Whatever is
reached is compared with the node before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Generator
from typing import Final

from fusemap.host.calls import Calls, Handle, Stat
from fusemap.host.creds import Identity
from fusemap.host.generation import generation
from fusemap.qid import Mapper
from fusemap.tree.filesystems import FileSystems, Mount, opener
from fusemap.tree.node import Node

log = logging.getLogger(__name__)

BURST_DESCRIPTORS: Final = 128
SETTLED_NS: Final = 100_000_000  # longer than any clock tick by which ctime is stamped
_O_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KIND: Final = 0o170000


class Tree:
    """An exported tree: the directory `source` with everything mounted beneath it.

    `mapper` gives the numbers; it must be injective (prefix or suffix), since a number is a node's name.
    Raises OSError when `source` cannot be opened as a directory.
    """

    def __init__(self, source: str | os.PathLike[str], mapper: Mapper) -> None:
        self.calls = Calls()
        self.identity = Identity()
        self.mapper = mapper
        self.reused = 0
        self._path = mapper.path
        self._nodes: dict[int, Node] = {}
        self._descriptors: dict[Node, int] = {}
        self._mount_descriptors: dict[Mount, int] = {}
        self._opened: dict[Node, list[int]] = {}
        self._root_fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.source: Final = os.readlink(b"/proc/self/fd/%d" % self._root_fd)
            self.filesystems: Final = FileSystems(self.calls, self.source)
            self.root: Final = self._enter(None, b"", self._root_fd, b"", self.calls.statx(self._root_fd, b""))
        except BaseException:
            os.close(self._root_fd)
            raise
        self.root.lookups = 1

    def close(self) -> None:
        """Closes every descriptor that the tree holds."""
        self.rest()
        os.close(self._root_fd)

    # Nodes ------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many nodes are known."""
        return len(self._nodes)

    def node(self, number: int) -> Node:
        """The known node with this number. Raises OSError, ESTALE when there is none."""
        try:
            return self._nodes[number]
        except KeyError:
            raise _stale() from None

    def lookup(self, parent: Node, name: bytes) -> tuple[Node, Stat]:
        """The file `name` in directory `parent`; its look-up count is raised by one.

        "." is the directory itself and ".." its parent, which for the root is the root. Raises OSError.
        """
        if name == b"..":
            return self._lookup_parent(parent)
        fd = os.open(name, _O_PATH, dir_fd=self.fd(parent))
        try:
            st = self.calls.statx(fd, b"")
            node = self._enter(parent, name, fd, b"", st)
        except BaseException:
            os.close(fd)
            raise
        self._cache(node, fd)
        node.lookups += 1
        return node, st

    def adopt(self, parent: Node, name: bytes, fd: int) -> tuple[Node, Stat]:
        """The node of the file that was just created as `name` and is open as `fd`; its look-up count is raised."""
        st = self.calls.statx(fd, b"")
        node = self._enter(parent, name, fd, b"", st)
        node.lookups += 1
        return node, st

    def forget(self, node: Node, count: int = 1) -> None:
        """Takes `count` look-ups back; a node without any is dropped. The root stays."""
        node.lookups -= count
        if node.lookups <= 0 and node is not self.root:
            if self._nodes.get(node.number) is node:
                del self._nodes[node.number]
            self._close_descriptor(node)

    def entry(self, parent: Node, parent_fd: int, name: bytes, now_ns: int) -> tuple[Node, Stat]:
        """The node and stat of a directory's entry. Its look-up count is not raised.

        The caller either raises it or calls `forget(node, 0)`. `now_ns` is the clock at or before this call. A known
        file whose ctime is old and still the same is the same file, since one made later would have a later ctime; then
        its handle need not be asked for. Raises OSError.
        """
        st = self.calls.statx(parent_fd, name)
        mount, device, kind = parent.mount, parent.device, st.mode & _KIND
        if (
            not mount.handles
            or st.mnt_id != mount.id
            or st.dev_minor != device.minor
            or st.dev_major != device.major
            or kind == stat.S_IFDIR
        ):
            return self._enter(parent, name, parent_fd, name, st), st
        # What follows is _enter() for the ordinary case, a file on its directory's device: listing is the busiest path.
        number = self._path(device.key if not mount.file_domain else mount.key(device, False), st.ino)
        ctime = st.ctime_s * 1_000_000_000 + st.ctime_ns
        node = self._nodes.get(number)
        if node is not None and node.unchanged == ctime and node.mount is mount and node.kind == kind:
            return node, st
        handle = self.calls.handle(parent_fd, name)
        if node is None:
            node = self._nodes[number] = Node(number, device, mount, st.ino, kind, handle, generation(handle))
        elif node.handle != handle or node.mount is not mount:
            node = self._enter(parent, name, parent_fd, name, st)
        node.unchanged = ctime if ctime < now_ns - SETTLED_NS and not mount.remote else 0
        return node, st

    def check_uncovered(self, node: Node) -> None:
        """Raises OSError, ESTALE, if a mount hides directory `node` from whoever walks to it by path."""
        try:
            st = self.calls.statx(-100, os.readlink(self.proc(node)))
        except FileNotFoundError:
            return
        if st.mnt_id != node.mount.id:
            raise _stale()

    def find(self, path: bytes) -> Node | None:
        """The known node of the directory at a host `path`, for telling clients that it changed. Raises OSError."""
        fd = os.open(path, _O_PATH | os.O_DIRECTORY)
        try:
            st = self.calls.statx(fd, b"")
        finally:
            os.close(fd)
        if self._is_root(st):
            return self.root
        key = self.filesystems.key(st)
        number = None if key is None else self.mapper.peek(key, st.ino)
        return None if number is None else self._nodes.get(number)

    def guess(self, parent: Node, inode: int) -> int:
        """The number of an entry of `parent` of which only the inode number can be seen. Raises OSError."""
        return self._path(parent.mount.key(parent.device, False), inode)

    def number_above(self, node: Node, fd: int) -> tuple[int, Stat]:
        """Number and stat for the ".." of directory `node`, open as `fd`; the root's is the root. Raises OSError."""
        if node is self.root:
            return node.number, self.stat(node)
        st = self.calls.statx(fd, b"..")
        number = self.root.number if self._is_root(st) else self.filesystems.number(self._path, st, node)
        return number, st

    def renamed(self, old_parent: Node, old: bytes, new_parent: Node, new: bytes, exchanged: bool) -> None:
        """Tells nodes that are known by their place of a rename that went through the tree."""
        if old_parent.mount.handles and new_parent.mount.handles:
            return
        moved = [(new_parent, new)]
        if exchanged:
            moved.append((old_parent, old))
        for parent, name in moved:
            try:
                node, _ = self.lookup(parent, name)  # enters it at its new place
                self.forget(node)
            except OSError:
                pass  # renamed or removed again by the host; the next look-up tells

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
        self._cache(node, fd)
        return st

    # Descriptors ------------------------------------------------------------------------------------------------------

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
        self._cache(node, fd)
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

    def fd_on(self, node: Node, mount: Mount) -> int:
        """A descriptor of `node` through `mount`, where that shows the same file system; link(2) asks for one mount."""
        theirs, ours = node.mount.info, mount.info
        if node.mount is mount or node.handle is None or not mount.handles or theirs is None or ours is None:
            return self.fd(node)
        if theirs.device != ours.device:
            return self.fd(node)
        self._close_descriptor(node)
        node.mount = mount
        return self.fd(node)

    def rest(self) -> None:
        """Nothing is left to do for now: lets go of every descriptor that could keep a mount busy."""
        for fds in (self._descriptors, self._mount_descriptors):
            for fd in fds.values():
                os.close(fd)
            fds.clear()

    def descriptors(self) -> int:
        """How many descriptors the tree's own cache holds at this moment."""
        return len(self._descriptors) + len(self._mount_descriptors) + 1

    # Inside -----------------------------------------------------------------------------------------------------------

    def _enter(self, parent: Node | None, name: bytes, at: int, at_name: bytes, st: Stat) -> Node:
        """The node for a file that was just seen as `at_name` in `at`, made if it is new."""
        try:
            handle = self.calls.handle(at, at_name)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EOVERFLOW):
                raise
            handle = None
        if parent is not None and st.mnt_id == parent.mount.id:
            mount = parent.mount
        else:
            place = None if parent is None else (parent, name)
            mount = self.filesystems.mount_of(st, place, opener(at, at_name))
        kind = st.mode & _KIND
        if (
            parent is not None
            and mount is parent.mount
            and st.dev_minor == parent.device.minor
            and st.dev_major == parent.device.major
            and (st.ino != 256 or kind != stat.S_IFDIR)
        ):
            device = parent.device
        else:
            device = self.filesystems.device_of(st, mount, handle, opener(at, at_name))
        number = self._path(mount.key(device, kind == stat.S_IFDIR), st.ino)
        node = self._nodes.get(number)
        if node is None:
            node = Node(number, device, mount, st.ino, kind, handle, 0 if handle is None else generation(handle))
            self._nodes[number] = node
        elif node.handle != handle or node.kind != kind:
            if at_name and parent is not None:  # stat and handle were two look-ups of a name that the host may change
                return self._enter_again(parent, name, at, at_name)
            self._reuse(node, kind, handle)
        if node.mount is not mount and node is not self.root:
            self._close_descriptor(node)
            node.mount = mount
            node.device = device
        if not mount.handles and parent is not None:
            node.place = (parent, name)
        return node

    def _enter_again(self, parent: Node, name: bytes, at: int, at_name: bytes) -> Node:
        """`_enter` by a descriptor, so that stat and handle are surely the same file's."""
        fd = os.open(at_name, _O_PATH, dir_fd=at)
        try:
            return self._enter(parent, name, fd, b"", self.calls.statx(fd, b""))
        finally:
            os.close(fd)

    def _reuse(self, node: Node, kind: int, handle: Handle | None) -> None:
        """The host gave the inode number to another file: same number, another generation; clients see a new file."""
        self.reused += 1
        self._close_descriptor(node)
        node.kind = kind
        node.unchanged = 0
        node.handle = handle
        node.generation = (node.generation + 1) & 0xFFFFFFFF if handle is None else generation(handle)
        log.debug("inode number used again: %r", node)

    def _reach(self, node: Node) -> tuple[int, Stat]:
        """A new O_PATH descriptor of `node`, proved to be the same file, and its stat."""
        if node.handle is not None and node.mount.handles:
            fd = self.calls.open_by_handle(self._mount_fd(node.mount), node.handle, _O_PATH)
            return self._prove(node, fd)
        # Down from the nearest ancestor that can be reached otherwise, each step proved; a loop, since paths are deep.
        steps: list[tuple[Node, bytes]] = []
        start = node
        while start.place is not None and start not in self._descriptors and (start is node or not self._direct(start)):
            steps.append((start, start.place[1]))
            start = start.place[0]
        if not steps:
            raise _stale()
        fd, st = os.dup(self.fd(start)), None
        while steps:
            step, name = steps.pop()
            above = fd
            try:
                fd = os.open(name, _O_PATH, dir_fd=above)
            except (FileNotFoundError, NotADirectoryError):
                raise _stale() from None
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
                or st.mode & _KIND != node.kind
                or (not node.mount.handles and node.handle is not None and self.calls.handle(fd, b"") != node.handle)
            ):
                raise _stale()
        except BaseException:
            os.close(fd)
            raise
        return fd, st

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
                raise _stale() from None
            if self.calls.statx(fd, b"").mnt_id != mount.id:
                os.close(fd)
                self.filesystems.forget_mount(mount)
                raise _stale()
        self._mount_descriptors[mount] = fd
        return fd

    def _lookup_parent(self, node: Node) -> tuple[Node, Stat]:
        """The directory above, proved to be inside the tree: a directory moved out of it on the host is a dead end."""
        if node is self.root:
            node.lookups += 1
            return node, self.stat(node)
        fd = os.open(b"..", _O_PATH, dir_fd=self.fd(node))
        try:
            with contextlib.closing(self._ancestors(fd)) as ancestors:
                if not any(self._is_root(st) for st in ancestors):
                    raise _stale()
            st = self.calls.statx(fd, b"")
            if not self.filesystems.knows(st.mnt_id):
                raise _stale()
            parent = self.root if self._is_root(st) else self._enter(None, b"", fd, b"", st)
        finally:
            os.close(fd)
        parent.lookups += 1
        return parent, st

    def _ancestors(self, start: int) -> Generator[Stat, None, None]:
        fd = os.dup(start)
        try:
            st = self.calls.statx(fd, b"")
            yield st
            while True:
                above = os.open(b"..", _O_PATH, dir_fd=fd)
                os.close(fd)
                fd = above
                last, st = st, self.calls.statx(fd, b"")
                if (last.ino, last.dev, last.mnt_id) == (st.ino, st.dev, st.mnt_id):
                    return
                yield st
        finally:
            os.close(fd)

    def _is_root(self, st: Stat) -> bool:
        root, device = self.root, self.root.device
        same_file = st.ino == root.inode and st.dev_minor == device.minor and st.dev_major == device.major
        return same_file and st.mnt_id == root.mount.id

    def _cache(self, node: Node, fd: int) -> None:
        fds = self._descriptors
        old = fds.pop(node, None)
        if old is not None:
            os.close(old)
        elif len(fds) >= BURST_DESCRIPTORS:
            os.close(fds.pop(next(iter(fds))))
        fds[node] = fd

    def _close_descriptor(self, node: Node) -> None:
        fd = self._descriptors.pop(node, None)
        if fd is not None:
            os.close(fd)


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))
