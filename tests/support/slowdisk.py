"""A file system whose reads wait until they are let go: the slow disk of the tests.

    python -m tests.support.slowdisk MNT SOCKET FILES [IMAGE]

shows FILES files, "0", "1", ..., of one block each. A read of one waits until a connection to the Unix socket SOCKET
says "go". IMAGE is shown as the file "image"; reads and writes of it wait from the word "hold" to the word "go". On
connecting, and whenever one more call begins to wait, the connection is told how many do so far, in a line.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio

BLOCK = 4096


class SlowDisk(pyfuse3.Operations):
    """Files 0, 1, ... with node ids from 2, each filled with its own number; and after them the image."""

    enable_writeback_cache = False

    def __init__(self, files: int, image: str | None) -> None:
        super().__init__()
        self.files = files
        self.image = None if image is None else os.open(image, os.O_RDWR)
        self.waiting = 0
        self.go = trio.Event()  # for the numbered files
        self.open_gate = trio.Event()  # for the image
        self.open_gate.set()
        self.changed = trio.Condition()

    def say(self, word: bytes | bytearray) -> None:
        """What the other end of the socket wants."""
        if b"hold" in word:
            self.open_gate = trio.Event()
        if b"go" in word:
            self.go.set()
            self.open_gate.set()

    async def _wait(self, event: trio.Event) -> None:
        if not event.is_set():
            async with self.changed:
                self.waiting += 1
                self.changed.notify_all()
            await event.wait()

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if root else stat.S_IFREG | 0o644
        entry.st_nlink = 1
        entry.st_size = 0 if root else BLOCK
        if inode == self.files + 2 and self.image is not None:
            entry.st_size = os.fstat(self.image).st_size
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name == b"image" and self.image is not None:
            return await self.getattr(self.files + 2, ctx)
        if not name.isdigit() or int(name) >= self.files:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(int(name) + 2, ctx)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        return

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        return

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        # Every read of the image has to come here. Those of other files may wait in the page cache, where a process
        # can be killed.
        return pyfuse3.FileInfo(fh=inode, direct_io=inode == self.files + 2)

    async def release(self, fh: int) -> None:
        return

    async def flush(self, fh: int) -> None:
        return

    async def read(self, fh: int, off: int, size: int) -> bytes:
        if fh == self.files + 2 and self.image is not None:
            await self._wait(self.open_gate)
            return os.pread(self.image, size, off)
        await self._wait(self.go)
        return str(fh - 2).encode().ljust(BLOCK, b".")[off : off + size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        assert self.image is not None
        await self._wait(self.open_gate)
        return os.pwrite(self.image, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode, ctx)


async def _control(disk: SlowDisk, stream: trio.SocketStream) -> None:
    async def report() -> None:
        told = -1
        while True:
            async with disk.changed:
                while disk.waiting == told:
                    await disk.changed.wait()
                told = disk.waiting
            await stream.send_all(b"%d\n" % told)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        async for word in stream:
            disk.say(word)
        nursery.cancel_scope.cancel()


async def _main(disk: SlowDisk, path: str) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen()
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                connection, _ = await listener.accept()
                nursery.start_soon(_control, disk, trio.SocketStream(connection))

        nursery.start_soon(accept)
        await pyfuse3.main(max_tasks=2000)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    target, socket_path, files, *images = sys.argv[1:]
    slow = SlowDisk(int(files), images[0] if images else None)
    pyfuse3.init(slow, target, {"fsname=slow", "allow_other"})
    os.umask(0)
    trio.run(_main, slow, socket_path)
    pyfuse3.close(unmount=False)
