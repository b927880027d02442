"""The hidden directory of a mount, `.fusemap` in its root: files that say what the mount does (fusemap.tree.telling).

No listing of the root has it, so that no tool that walks the tree ever meets it; who asks by name finds it. It and its
files belong to who runs the server and are for him and root alone (mode 0500 and 0400; the kernel checks), since they
name files wherever those lie. Nothing in it can be changed, and the name cannot be given to anything through the mount.
Where SRC itself has something of that name, that is shown and nothing of this: a user's own data comes first.

A file's content is made when it is opened, and stays as it is for that open file. As in procfs its size is 0 until it
is read, which is told the kernel by direct I/O. Names, sizes and modes are asked anew each time (no timeouts).

The requests come here by way of an exception. A request that is about no known node, or a handle that is no
descriptor, raises `Asked` where its handler looks that up, and `answers` in operations.py calls the function of the
same name here. So requests about the tree pay nothing for this.

Its numbers have more zeros at their end than any affix that is ever given, and the top 16 bits of map prefix's full
map: no file of any map has them before the full map has given some 2^48 numbers (and then the directory is not there).
Only map raw may show any number at all; there stat shows others, which no local file system of Linux gives: those of
ext4 have 32 bits and those of xfs 56, btrfs keeps the last 256 for itself (BTRFS_LAST_FREE_OBJECTID).
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Sequence
from stat import S_IFDIR, S_IFREG
from typing import Any, Final

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields

from fusemap.fuse.attributes import NameOnly
from fusemap.fuse.loop import Gate
from fusemap.tree import Tree
from fusemap.tree.shown import Shown
from fusemap.tree.telling import FILES, SHORT, Telling

log = logging.getLogger(__name__)

NAME: Final = b".fusemap"
NUMBERS: Final = range((1 << 48) - (1 << 20), 1 << 48, 1 << 17)
"""Those of the directory and its files, as node ids and, but for map raw, in stat."""

RAW_NUMBERS: Final = range((1 << 64) - 16, (1 << 64) - 8)
"""What stat shows with map raw."""

_GENERATION: Final = 0x2E66_7573  # ".fus": the kernel takes a file that should get one of the numbers for another
_HANDLES: Final = 1 << 40  # above any descriptor's number
_OPEN_AT_MOST: Final = 64
_NAMES: Final = (b".", b"..", *(name.encode() for name in FILES))


class Asked(OSError):
    """A request is about the hidden directory or a file in it."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


class Handles(dict[int, Any]):
    """Open files or directories by handle: asking for one of ours raises Asked."""

    def __missing__(self, handle: int) -> Any:
        if handle >= _HANDLES:
            raise Asked
        raise KeyError(handle)


class Hidden:
    """The directory. Its coroutines are pyfuse3's of the same names; they raise OSError."""

    def __init__(self, tree: Tree, telling: Telling, gate: Gate, shown: Shown | None = None) -> None:
        self._tree = tree
        self._telling = telling
        self._gate = gate
        self._shown = shown
        self._raw = shown is not None and shown.mode == "raw"
        self._limiter = trio.CapacityLimiter(1)
        self._made = time.time_ns()
        self._contents: dict[int, bytes] = {}
        self._next = _HANDLES
        if self._real():
            log.warning("%s has an entry %s of its own, which is shown; there is no live directory",
                        os.fsdecode(tree.source), NAME.decode())  # fmt: skip

    @property
    def there(self) -> bool:
        """Whether the name leads here: nothing on the host has it, and no file our numbers."""
        return not self._real() and not any(self._given(number) for number in NUMBERS[: 1 + len(FILES)])

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """A name in the directory, or the directory itself as a name in the root."""
        if parent_inode == pyfuse3.ROOT_INODE:
            return self._attributes(NUMBERS[0])
        if name == b".":  # asked by number, for a file handle of the mount; perhaps of a file
            return self._attributes(parent_inode)
        self._directory(parent_inode)
        word = os.fsdecode(name)
        try:
            index = FILES.index(SHORT.get(word, word))
        except ValueError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        return self._attributes(NUMBERS[1 + index])

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Attributes. With map raw their number is not the node id."""
        entry = self._attributes(inode)
        if self._raw:
            entry.st_ino = RAW_NUMBERS[NUMBERS.index(inode)]
        return entry

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """May whoever asks read (and enter the directory)? Nobody may write."""
        is_owner = ctx.uid in (0, self._tree.identity.uid)
        may = os.R_OK | (os.X_OK if inode == NUMBERS[0] else 0)
        return is_owner and not mode & ~may

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Makes the content of a file."""
        if inode == NUMBERS[0]:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        name = FILES[NUMBERS.index(inode) - 1]
        telling = self._telling
        if telling.quick(name):
            gathered = telling.gather(name)
        else:
            gathered = await self._gate.offload(self._limiter, telling.gather, name)
        return FileInfo(fh=self._handle(telling.text(name, gathered)), direct_io=True, keep_cache=False)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """A part of the content."""
        return self._contents[fh][off : off + size]

    async def flush(self, fh: int) -> None:
        """Nothing to do."""

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Nothing to do."""

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Nothing to do."""

    async def release(self, fh: int) -> None:
        """Forgets the content."""
        del self._contents[fh]

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Opens the directory."""
        self._directory(inode)
        return self._handle(b"")

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """The names, without attributes: they are no look-ups."""
        entry, number_only = EntryAttributes(), NameOnly()
        shown = RAW_NUMBERS if self._raw else NUMBERS
        numbers = (shown[0], self._root_number(), *shown[1 : 1 + len(FILES)])
        for index, (name, number) in enumerate(zip(_NAMES, numbers, strict=True)):
            if index >= start_id:
                number_only.extend((0, number))
                entry.st_ino = number_only  # type: ignore[assignment]
                entry.st_mode = S_IFDIR if index < 2 else S_IFREG
                if not pyfuse3.readdir_reply(token, name, entry, index + 1):
                    return

    async def releasedir(self, fh: int) -> None:
        """Forgets it."""
        del self._contents[fh]

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """There are no links."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """There are none."""
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """There are none."""
        return ()

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Refused."""
        raise _refused()

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Refused; nothing is open for it."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    async def refuse(self, *_: Any) -> Any:
        """Whatever would change the directory, take a file out of it or give it another name."""
        raise _refused()

    mknod = mkdir = symlink = link = create = unlink = rmdir = rename = setxattr = removexattr = refuse

    # Inside -----------------------------------------------------------------------------------------------------------

    def _attributes(self, number: int) -> EntryAttributes:
        entry = EntryAttributes()
        is_directory = number == NUMBERS[0]
        entry.st_ino = number
        entry.generation = _GENERATION
        entry.entry_timeout = entry.attr_timeout = 0
        entry.st_mode = S_IFDIR | 0o500 if is_directory else S_IFREG | 0o400
        entry.st_nlink = 2 if is_directory else 1
        entry.st_uid, entry.st_gid = self._tree.identity.uid, self._tree.identity.gid
        entry.st_rdev = entry.st_size = entry.st_blocks = 0
        entry.st_blksize = 4096
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._made
        return entry

    def _directory(self, number: int) -> None:
        if number != NUMBERS[0]:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def _handle(self, content: bytes) -> int:
        if len(self._contents) >= _OPEN_AT_MOST:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        self._next += 1
        self._contents[self._next] = content
        return self._next

    def _root_number(self) -> int:
        root = self._tree.root
        return root.number if self._shown is None else self._shown.number(root.device.key, root.inode)

    def _real(self) -> bool:
        """Whether the host has something of our name. What cannot be looked at is there."""
        try:
            os.stat(NAME, dir_fd=self._tree.fd(self._tree.root), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return True

    def _given(self, number: int) -> bool:
        try:
            self._tree.mapper.locate(number)
        except LookupError:
            return False
        return True


def _refused() -> OSError:
    return OSError(errno.EPERM, os.strerror(errno.EPERM))
