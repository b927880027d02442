"""A FUSE file system as one first writes it with pyfuse3: the host's inode number is the node's name.

Stands in for pyfuse3's examples/passthroughfs.py where that cannot be fetched. It has the same design: a dictionary
from inode number to path, a set of paths where one number was seen twice, on the assumption that these are hard links,
of which any will do. Reading only.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Sequence

import pyfuse3
import trio


class Passthrough(pyfuse3.Operations):
    """Mirrors the directory `source`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._paths: dict[int, str | set[str]] = {pyfuse3.ROOT_INODE: source}
        self._lookups: Counter[int] = Counter()
        self._open: dict[int, int] = {}

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Finds a name in the directory that the number is thought to be."""
        path = os.path.join(self._path(parent_inode), os.fsdecode(name))
        entry = _attributes(path)
        self._remember(entry.st_ino, path)
        return entry

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """Forgets numbers; as in the example, an open one is not expected."""
        for inode, count in inode_list:
            self._lookups[inode] -= count
            if self._lookups[inode] <= 0:
                assert inode not in self._open.values()
                self._paths.pop(inode, None)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """The attributes of whatever the number is thought to be."""
        return _attributes(self._path(inode))

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """The number serves as handle."""
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries in the order of their numbers, which serve as positions too."""
        path = self._path(fh)
        entries = [(entry := _attributes(os.path.join(path, name)), name) for name in os.listdir(path)]
        for entry, name in sorted(entries, key=lambda pair: (pair[0].st_ino, pair[1])):
            if entry.st_ino > start_id:
                if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, entry.st_ino):
                    break
                self._remember(entry.st_ino, os.path.join(path, name))

    async def open(self, inode: pyfuse3.InodeT, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Opens for reading."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        fd = os.open(self._path(inode), os.O_RDONLY)
        self._open[fd] = inode
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fd))

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """Reads."""
        return os.pread(fh, size, off)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Closes."""
        del self._open[fh]
        os.close(fh)

    def _path(self, inode: int) -> str:
        found = self._paths.get(inode)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return found if isinstance(found, str) else next(iter(found))

    def _remember(self, inode: int, path: str) -> None:
        self._lookups[inode] += 1
        known = self._paths.setdefault(inode, path)
        if isinstance(known, set):
            known.add(path)
        elif known != path:
            self._paths[inode] = {known, path}


def _attributes(path: str) -> pyfuse3.EntryAttributes:
    try:
        found = os.lstat(path)
    except OSError as error:
        raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
    entry = pyfuse3.EntryAttributes()
    for name in ("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns"):
        setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
    entry.generation = 0
    entry.entry_timeout = 0
    entry.attr_timeout = 0
    return entry


def main() -> None:
    """`passthrough.py SOURCE TARGET`, in the foreground."""
    source, target = sys.argv[1:]
    pyfuse3.init(Passthrough(source), target, set(pyfuse3.default_options))
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
