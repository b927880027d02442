"""The live tree: client's number <-> node <-> host file.

Both front ends stand on this. Everything here is synchronous, runs on one thread and makes short metadata calls only.

How a node's host file is reached, and which descriptors that takes, is told in reach.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Generator, Mapping
from typing import Final

from fusemap.host.calls import Handle, Stat
from fusemap.host.generation import generation, lasting_generation
from fusemap.host.identity import lasts
from fusemap.qid import Mapper
from fusemap.tree.filesystems import FileSystems, Mount, Seen, opener
from fusemap.tree.former import Former
from fusemap.tree.node import Node
from fusemap.tree.reach import KIND, PATH_ONLY, Reach, stale

log = logging.getLogger(__name__)

SETTLED_NS: Final = 100_000_000  # longer than any clock tick by which ctime is stamped
_SETTLED_COARSE_NS: Final = 2_100_000_000  # where the disk keeps whole seconds (ext3, ext4 -I 128), or every second one
LONG_REMOVAL_BLOCKS: Final = (64 << 20) // 512  # freeing more than this takes the host a noticeable time


class Tree(Reach):
    """An exported tree: the directory `source` with everything mounted beneath it.

    `mapper` gives the numbers; it must be injective (prefix or suffix), since a number is a node's name. `names` are
    what the administrator calls the devices at some absolute paths, `seen` is told of each device that is met. The
    mapper's `by_generation` decides whether a file that gets the inode number of another one gets its number too.
    Raises OSError when `source` cannot be opened as a directory.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        mapper: Mapper,
        names: Mapping[str, str] | None = None,
        seen: Seen = lambda key, point: None,
    ) -> None:
        super().__init__(os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self.mapper: Final = mapper
        self.reused = 0
        self.by_generation: Final = mapper.by_generation
        self._path = mapper.path
        self._nodes: dict[int, Node] = {}
        self._former = Former()
        try:
            self.source: Final = os.readlink(b"/proc/self/fd/%d" % self._root_fd)
            self.filesystems = FileSystems(self.calls, self.source, names or {}, seen)
            self.root = self._enter(None, b"", self._root_fd, b"", self.calls.statx(self._root_fd, b""))
        except BaseException:
            self.close()
            raise
        self.root.lookups = 1

    def close(self) -> None:
        """Closes every descriptor but those of open files, and says how often inode numbers came up again."""
        if self.reused:
            log.info("the host gave %d inode numbers of known files to other files", self.reused)
        super().close()

    def __len__(self) -> int:
        """How many nodes are known."""
        return len(self._nodes)

    def nodes(self) -> list[Node]:
        """The known nodes, in the order in which they were met. May be called from any thread."""
        return list(self._nodes.values())

    def known(self, number: int) -> Node | None:
        """The known node with this number, None where there is none."""
        return self._nodes.get(number)

    def node(self, number: int) -> Node:
        """The known node with this number. Raises OSError, ESTALE when there is none."""
        try:
            return self._nodes[number]
        except KeyError:
            raise stale() from None

    def lookup(self, parent: Node, name: bytes) -> tuple[Node, Stat]:
        """The file `name` in directory `parent`; its look-up count is raised by one.

        "." is the directory itself and ".." its parent, which for the root is the root. Raises OSError.
        """
        if name == b"..":
            return self.lookup_parent(parent)
        fd = os.open(name, PATH_ONLY, dir_fd=self.fd(parent))
        try:
            st = self.calls.statx(fd, b"")
            node = self._enter(parent, name, fd, b"", st)
        except BaseException:
            os.close(fd)
            raise
        self.cache(node, fd)
        node.lookups += 1
        return node, st

    def adopt(self, parent: Node, name: bytes, fd: int) -> tuple[Node, Stat]:
        """The node of the file that was just created as `name` and is open as `fd`; its look-up count is raised."""
        st = self.calls.statx(fd, b"")
        node = self._enter(parent, name, fd, b"", st)
        node.lookups += 1
        return node, st

    def forget(self, node: Node, count: int = 1) -> int | None:
        """Takes `count` look-ups back; a node without any is dropped. The root stays.

        Where that was all that kept a large deleted file, the answer is a descriptor whose closing frees its blocks, to
        be closed where nobody waits for it.
        """
        node.lookups -= count
        if node.lookups > 0 or node is self.root:
            return None
        if self._nodes.get(node.number) is node:
            former = self._former.again(node)
            if former is None:
                del self._nodes[node.number]
            else:
                self._nodes[node.number] = former
        self.drop(node)
        kept = self.let_go(node)
        return None if kept < 0 else self._close_unless_long(kept)

    def inherit(self, node: Node) -> tuple[Node, ...]:
        """For a front end whose client counts look-ups by number: `node` takes over those of its number's former files.

        These are dropped; they are the answer.
        """
        before = self._former.take(node)
        for former in before:
            node.lookups += former.lookups
            former.lookups = 0
            self.drop(former)
            kept = self.let_go(former)
            if kept >= 0:
                os.close(kept)
        return before

    def removing(self, directory: int, name: bytes) -> tuple[Stat, int]:
        """Before `name` is removed from a directory, open as `directory`: its stat and a descriptor. Raises OSError."""
        fd = os.open(name, PATH_ONLY, dir_fd=directory)
        try:
            return self.calls.statx(fd, b""), fd
        except BaseException:
            os.close(fd)
            raise

    def removed(self, parent: Node, st: Stat, fd: int) -> int | None:
        """After a name was removed of the file that `removing` gave: keeps it if it is gone and a client knows it.

        The answer is like that of `forget`.
        """
        if st.nlink == 1 or stat.S_ISDIR(st.mode):
            node = self._known(parent, st, fd)
            if (
                node is not None
                and node.lookups > 0
                and (node.handle is None or self.same(node, fd, st))
                and self.keep(node, fd)
            ):
                return None
        return self._close_unless_long(fd)

    def _close_unless_long(self, fd: int) -> int | None:
        with contextlib.suppress(OSError):  # not to be told: it is closed here then
            st = self.calls.statx(fd, b"")
            if not st.nlink and st.blocks > LONG_REMOVAL_BLOCKS:
                return fd
        os.close(fd)
        return None

    def _known(self, parent: Node, st: Stat, fd: int) -> Node | None:
        """The node of a file that was seen in `parent` and is open as `fd`, if it is known."""
        mount, device = parent.mount, parent.device
        directory = stat.S_ISDIR(st.mode)
        if st.mnt_id != mount.id:
            return None
        if (st.dev_major, st.dev_minor) == (device.major, device.minor):
            key: str | None = mount.key(device, directory)
        else:
            key = self.filesystems.key(st, directory)
        handle = self.handle_of(fd, b"", st) if self.by_generation else None
        number = None if key is None else self._known_number(mount, key, st.ino, handle)
        node = None if number is None else self._nodes.get(number)
        return node if node is not None and node.kind == st.mode & KIND else None

    def entry(self, parent: Node, parent_fd: int, name: bytes, now_ns: int) -> tuple[Node, Stat]:
        """The node and stat of a directory's entry. Its look-up count is not raised.

        The caller either raises it or calls `forget(node, 0)`. `now_ns` is the clock at or before this call. A known
        file whose ctime is old and still the same is the same file, since one made later would have a later ctime; then
        its handle need not be asked for. Raises OSError.
        """
        st = self.calls.statx(parent_fd, name)
        mount, device, kind = parent.mount, parent.device, st.mode & KIND
        if (
            not mount.handles
            or self.by_generation
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
        node.unchanged = 0 if mount.remote or ctime >= now_ns - settled_ns(ctime) else ctime
        return node, st

    def check_uncovered(self, node: Node) -> None:
        """Raises OSError, ESTALE, if a mount hides directory `node` from whoever walks to it by path."""
        path = self.proc(node)
        try:
            st = self.calls.statx(-100, os.readlink(path))  # AT_FDCWD; the path is only compared, never used
        except OSError:  # renamed at this moment, or too deep to have a path: cannot be told
            return
        if st.mnt_id != node.mount.id:
            raise stale()

    def find(self, path: bytes) -> Node | None:
        """The known node of the directory at a host `path`, for telling clients that it changed. Raises OSError."""
        fd = os.open(path, PATH_ONLY | os.O_DIRECTORY)
        try:
            st = self.calls.statx(fd, b"")
            handle = self.handle_of(fd, b"", st) if self.by_generation else None
        finally:
            os.close(fd)
        if self._is(self.root, st):
            return self.root
        key = self.filesystems.key(st, True)
        mount = self.filesystems.mount(st.mnt_id)
        number = None if key is None or mount is None else self._known_number(mount, key, st.ino, handle)
        return None if number is None else self._nodes.get(number)

    def number_above(self, node: Node, fd: int, top: Node | None = None) -> tuple[int, Stat]:
        """Number and stat for the ".." of directory `node`, open as `fd`; its own for `top` (by default the root).

        Its own also for a directory that was moved out of `top`: what is above it is nobody's business. Raises OSError.
        """
        if node is self.root or node is top:
            return node.number, self.stat(node)
        st = self.calls.statx(fd, b"..")
        if self._is(self.root, st):
            return self.root.number, st
        with contextlib.closing(self._ancestors(fd)) as ancestors:
            if not any(self._is(top or self.root, above) for above in ancestors):
                return node.number, self.stat(node)
        handle = self.handle_of(fd, b"..", st) if self.by_generation else None
        mount = self.filesystems.mount(st.mnt_id) or node.mount
        return self.filesystems.number(lambda key, inode: self._number(mount, key, inode, handle), st, node), st

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

    def _enter(self, parent: Node | None, name: bytes, at: int, at_name: bytes, st: Stat) -> Node:
        """The node for a file that was just seen as `at_name` in `at`, made if it is new."""
        if self.by_generation and at_name and parent is not None:
            return self._enter_again(parent, name, at, at_name)
        handle = self.handle_of(at, at_name, st)
        if parent is not None and st.mnt_id == parent.mount.id:
            mount = parent.mount
        else:
            place = None if parent is None else (parent, name)
            mount = self.filesystems.mount_of(st, place, opener(at, at_name))
        kind = st.mode & KIND
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
        number = self._number(mount, mount.key(device, kind == stat.S_IFDIR), st.ino, handle)
        node = self._nodes.get(number)
        if node is None:
            node = Node(number, device, mount, st.ino, kind, handle, 0 if handle is None else generation(handle))
            self._nodes[number] = node
        elif node.kind != kind or (node.handle != handle and not self.copied_up(node, handle)):
            if at_name and parent is not None:  # stat and handle were two look-ups of a name that the host may change
                return self._enter_again(parent, name, at, at_name)
            node = self._reuse(node, kind, handle)
        elif handle is None and self.keeps(node):
            # A file that lost its last name was not seen by a name: this is another one. On a disk the descriptor by
            # which the first is kept keeps its inode number from being used again, on 9P it does not.
            node = self._reuse(node, kind, handle)
        if node.mount is not mount and node is not self.root:
            self.drop(node)
            node.mount = mount
            node.device = device
        if not mount.handles and parent is not None:
            node.place = (parent, name)
        return node

    def _number(self, mount: Mount, key: str, inode: int, handle: Handle | None) -> int:
        """The number of a file, by its generation too where that counts and can be told for certain."""
        if not self.by_generation:
            return self._path(key, inode)
        generation = _counts(mount, key, handle)
        if generation is None:
            return self._path(key, inode)
        full = self.mapper.full_used()
        number = self.mapper.path_of(key, inode, generation)
        if self.mapper.full_used() != full and number != self.mapper.peek(key, inode):
            self._count_reuse(key, inode, number)
        return number

    def _known_number(self, mount: Mount, key: str, inode: int, handle: Handle | None) -> int | None:
        """As `_number`, None where the file has none yet."""
        generation = _counts(mount, key, handle) if self.by_generation else None
        return self.mapper.peek(key, inode) if generation is None else self.mapper.peek_of(key, inode, generation)

    def _count_reuse(self, key: str, inode: int, number: int) -> None:
        self.reused += 1
        told = logging.DEBUG if self.reused > 1 else logging.INFO
        log.log(told, "the host gave inode number %d of %s to another file; its number is %d", inode, key, number)

    def _enter_again(self, parent: Node, name: bytes, at: int, at_name: bytes) -> Node:
        """`_enter` by a descriptor, so that stat and handle are surely the same file's."""
        fd = os.open(at_name, PATH_ONLY, dir_fd=at)
        try:
            return self._enter(parent, name, fd, b"", self.calls.statx(fd, b""))
        finally:
            os.close(fd)

    def _reuse(self, node: Node, kind: int, handle: Handle | None) -> Node:
        """The host gave the inode number to another file: same number, another generation, and a node of its own."""
        self._count_reuse(node.device.key, node.inode, node.number)
        made = node.generation if handle is None else generation(handle)
        if made == node.generation:  # or a kernel would take both for one file
            made = (made + 1) & 0xFFFFFFFF
        later = Node(node.number, node.device, node.mount, node.inode, kind, handle, made)
        self._nodes[node.number] = later
        self._former.replaced(node, later)
        return later

    def lookup_parent(self, node: Node, top: Node | None = None) -> tuple[Node, Stat]:
        """The directory above `node`, or `top` itself (by default the root) for `top`; look-up count as by `lookup`.

        It is proved to be inside `top`: a directory that was moved out on the host is a dead end. Raises OSError.
        """
        top = top or self.root
        if node is top:
            st = self.stat(node)
            node.lookups += 1
            return node, st
        fd = os.open(b"..", PATH_ONLY, dir_fd=self.fd(node))
        try:
            with contextlib.closing(self._ancestors(fd)) as ancestors:
                if not any(self._is(top, st) for st in ancestors):
                    raise stale()
            st = self.calls.statx(fd, b"")
            if not self.filesystems.knows(st.mnt_id):
                raise stale()
            parent = self.root if self._is(self.root, st) else self._enter(None, b"", fd, b"", st)
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
                above = os.open(b"..", PATH_ONLY, dir_fd=fd)
                os.close(fd)
                fd = above
                last, st = st, self.calls.statx(fd, b"")
                if (last.ino, last.dev, last.mnt_id) == (st.ino, st.dev, st.mnt_id):
                    return
                yield st
        finally:
            os.close(fd)

    def _is(self, node: Node, st: Stat) -> bool:
        """Whether this is the stat of directory `node`, seen through the same mount."""
        same_file = st.ino == node.inode and st.dev_minor == node.device.minor and st.dev_major == node.device.major
        return same_file and st.mnt_id == node.mount.id


def settled_ns(ctime_ns: int) -> int:
    """How old this ctime must be, in nanoseconds, for nothing that is done to the file later to have the same one."""
    return SETTLED_NS if ctime_ns % 1_000_000_000 else _SETTLED_COARSE_NS


def _counts(mount: Mount, key: str, handle: Handle | None) -> int | None:
    """The generation by which a file's number may be told from others', None where it has none that is certain.

    A tmpfs that is known for this session only needs none: it gives no inode number twice while it is mounted
    (shmem_reserve_inode() in mm/shmem.c), and its numbers end with it.
    """
    if mount.remote or (mount.kind == "tmpfs" and not lasts(key)):
        return None
    return lasting_generation(handle)
