"""A file system whose files have whatever inode numbers one likes.

    python -m tests.guest.odd MNT NUMBER...

shows an empty file for each NUMBER (decimal, 2 to 2^64 - 1), called "00", "01" and so on, until it is unmounted.
"""

from __future__ import annotations

import errno
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio


class Odd(pyfuse3.Operations):
    """One directory. What FUSE calls a node id is the file's inode number here."""

    enable_writeback_cache = False

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.files = {b"%02d" % n: number for n, number in enumerate(numbers)}

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if root else stat.S_IFREG | 0o644
        entry.st_nlink = 1
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name not in self.files:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(self.files[name], ctx)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for n, (name, number) in enumerate(self.files.items()):
            if n >= start_id:
                entry = pyfuse3.EntryAttributes()
                entry.st_ino = number
                entry.st_mode = stat.S_IFREG | 0o644
                entry.st_nlink = 1
                if not pyfuse3.readdir_reply(token, name, entry, n + 1):
                    return

    async def releasedir(self, fh: int) -> None:
        return

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        return


if __name__ == "__main__":
    target, *words = sys.argv[1:]
    pyfuse3.init(Odd([int(word) for word in words]), target, {"fsname=odd", "allow_other"})
    trio.run(pyfuse3.main)
    pyfuse3.close(unmount=False)
