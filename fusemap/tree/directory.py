"""Reading a directory, resumable at any entry.

An entry's cookie is the host's own d_off: opaque, and good for as long as the directory is open, whatever is created or
removed meanwhile (getdents64(2), telldir(3)). Records are fetched in blocks and handed out one by one; asking for the
cookie where the last answer stopped goes on in the block, any other cookie seeks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from stat import S_IFDIR

from fusemap.errors import MappingExhausted
from fusemap.host.calls import Entry, Stat
from fusemap.tree.filesystems import BTRFS_SUBVOLUME_INODE
from fusemap.tree.live import Tree
from fusemap.tree.node import Node
from fusemap.tree.reach import KIND

_DOTS = (b".", b"..")
_LOOKED_INTO = (0, 4)  # DT_UNKNOWN, DT_DIR
ALL = 1 << 62

Item = tuple[Entry, Node | None, int, Stat | None]
"""A record; the node unless the entry is ".", ".." or given by name only; the number; the stat unless by name only."""


class Directory:
    """An open directory; `fd` is its descriptor where it is open already. Raises OSError when it cannot be opened."""

    def __init__(self, tree: Tree, node: Node, fd: int = -1) -> None:
        self._tree = tree
        self.node = node
        self.fd = tree.open(node, os.O_RDONLY | os.O_DIRECTORY) if fd < 0 else fd
        tree.opened(node, self.fd)
        self._pending: list[Entry] = []  # last record first
        self._at = 0
        self.names_left = 0  # how many more entries may be given by name only; ALL for every one
        self.names_given = 0
        self.begun = 0.0  # when, by time.monotonic(), if whoever lists it wants to know
        self.ended = False  # it was read to its end

    def close(self) -> None:
        """Closes it."""
        self._tree.closed(self.node, self.fd)
        os.close(self.fd)

    def read(self, cookie: int) -> Iterator[Item]:
        """The entries after `cookie` (0: from the start); look-up counts are not raised.

        Whoever stops taking them must say so by `reject`, so that the entry comes again. Raises OSError.
        """
        self._seek(cookie)
        tree, node, fd, pending = self._tree, self.node, self.fd, self._pending
        path, key = tree.mapper.path, node.mount.key(node.device, False)
        names = 0 if tree.by_generation else self.names_left  # a record has no handle, and so may not tell the number
        all_names = names >= ALL
        now = time.time_ns()
        while True:
            if not pending:
                now = time.time_ns()
                pending.extend(reversed(tree.calls.getdents(fd)))
                if not pending:
                    self.ended = True
                    return
            entry = pending.pop()
            inode, cookie, kind, name = entry
            try:
                if names and kind not in _LOOKED_INTO:
                    if not all_names:
                        names -= 1
                        self.names_left = names
                    self.names_given += 1
                    found, number, st = None, path(key, inode), None
                elif name in _DOTS:
                    found = None
                    number, st = (node.number, tree.stat(node)) if name == b"." else tree.number_above(node, fd)
                else:
                    found, st = tree.entry(node, fd, name, now)
                    number = found.number
            except FileNotFoundError:  # removed since the record was read
                self._at = cookie
                continue
            except MappingExhausted:
                pending.append(entry)
                raise
            except OSError:  # not searchable, a damaged inode, a dead mount: a listing shows the name all the same
                found, st = None, None
                try:
                    number = path(key, inode)
                except BaseException:  # as below
                    pending.append(entry)
                    raise
            except BaseException:
                pending.append(entry)
                raise
            self._at = cookie
            yield entry, found, number, st

    def stats(self, cookie: int, top: Node) -> Iterator[tuple[Entry, int, Stat | None]]:
        """Like `read`, for a client that is told no more than number and stat: no node is made.

        For `top` the entry ".." is `top` itself. The stat is None where the host refuses it. Raises OSError.
        """
        self._seek(cookie)
        tree, node, fd, pending = self._tree, self.node, self.fd, self._pending
        statx, path = tree.calls.statx, tree.mapper.path
        key, directory_key = node.mount.key(node.device, False), node.mount.key(node.device, True)
        mount_id = node.mount.id
        major, minor = node.device.major, node.device.minor
        while True:
            if not pending:
                pending.extend(reversed(tree.calls.getdents(fd)))
                if not pending:
                    return
            entry = pending[-1]
            inode, cookie, _, name = entry
            st: Stat | None
            try:
                if name == b"." or (name == b".." and node is top):
                    number, st = node.number, tree.stat(node)
                elif name == b"..":
                    number, st = tree.number_above(node, fd, top)
                else:
                    st = statx(fd, name)
                    plain = st.mnt_id == mount_id and st.dev_minor == minor and st.dev_major == major
                    plain = plain and not tree.by_generation
                    if plain and st.mode & KIND != S_IFDIR:
                        number = path(key, st.ino)
                    elif plain and st.ino != BTRFS_SUBVOLUME_INODE:
                        number = path(directory_key, st.ino)
                    else:  # something is mounted there, or the number is not known without a node
                        found, st = tree.entry(node, fd, name, 0)
                        number = found.number
                        tree.forget(found, 0)
            except FileNotFoundError:  # removed since the record was read
                pending.pop()
                self._at = cookie
                continue
            except MappingExhausted:
                raise
            except OSError:
                number, st = path(key, inode), None
            pending.pop()
            self._at = cookie
            yield entry, number, st

    def _seek(self, cookie: int) -> None:
        if cookie != self._at or not cookie:
            os.lseek(self.fd, cookie, os.SEEK_SET)
            self._pending.clear()
            self._at = cookie

    def reject(self, entry: Entry, cookie: int) -> None:
        """`entry`, the last one read, was not taken; the listing stands at `cookie`, that of the entry before it."""
        self._pending.append(entry)
        self._at = cookie
