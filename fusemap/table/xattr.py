"""Pieces as extended attributes of the export root, so that a table travels with its disk.

What an inode can hold differs: ext4 4 KB for all attributes together (less with small blocks), btrfs one attribute as
large as a leaf of its tree, 16 KB less some, xfs and tmpfs 64 KiB (XATTR_SIZE_MAX in include/uapi/linux/limits.h). A
snapshot is cut accordingly, and whatever does not fit is reported as NoRoom. setxattr(2) replaces a value whole: ext4
and xfs write it in one journal transaction, btrfs in one tree transaction; a kill cannot split it.

The lock is flock(2) on the directory itself. Everybody who can read the directory can take it, root and others, also
on a read-only mount; every bind mount of the directory means the same lock; and it dies with its holder. A lock file
would need a place that all of them can write to. Where a directory cannot be locked (NFS, for one, wants a descriptor
open for writing), it cannot hold a table either.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager
from typing import Final

from fusemap.host.identity import filesystem_magic
from fusemap.table.shelf import NoRoom, Shelf, flock

PREFIX: Final = "user.fusemap.table."
"""What the names of our attributes begin with."""

NO_ATTRIBUTES: Final = "it has no attributes of users"
NO_LOCK: Final = "it cannot be locked"

_BTRFS: Final = 0x9123683E
_MAX_VALUE: Final = 65536
_LIMIT: Final = 1 << 20

# What a full or unwritable place says to setxattr(2). E2BIG and ERANGE come from file systems with limits of their own.
_NO_ROOM: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ERANGE, errno.E2BIG, errno.EFBIG, errno.EROFS}
    | {errno.EACCES, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENAMETOOLONG}
)
_NO_SYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS})


class XattrShelf(Shelf):
    """The attributes of one directory. `fd` is readable and stays the caller's; `where` names it in messages."""

    kind = "xattr"
    limit = _LIMIT

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self.where = where
        self.sizes = (16000, 3800) if filesystem_magic(fd) == _BTRFS else (_MAX_VALUE,)

    def names(self) -> set[str]:
        return {name.removeprefix(PREFIX) for name in os.listxattr(self._fd) if name.startswith(PREFIX)}

    def get(self, name: str) -> bytes | None:
        try:
            return os.getxattr(self._fd, PREFIX + name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise

    def put(self, name: str, data: bytes, durable: bool = True) -> None:
        try:
            os.setxattr(self._fd, PREFIX + name, data)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise NoRoom(error.errno, error.strerror) from error
            raise
        if durable:
            self._sync()

    def remove(self, name: str) -> None:
        try:
            os.removexattr(self._fd, PREFIX + name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    def lock(self, shared: bool = False) -> AbstractContextManager[None]:
        return flock(self._fd, self.where, shared)

    def piece(self, name: str) -> str:
        return f"attribute {PREFIX}{name} of {self.where}"

    def why_not(self) -> str:
        """Why this directory cannot hold a table, as the end of a sentence; "" where it seems to be able to.

        Raises OSError, ETIMEDOUT, where another process never lets go of its lock: that is no reason to go elsewhere.

        It is asked without writing anything: a mount should not change the directory's times for nothing. The last
        word has the first attribute that is written.
        """
        try:
            os.getxattr(self._fd, PREFIX + "a.0")
        except OSError as error:
            if error.errno != errno.ENODATA:
                return f"{NO_ATTRIBUTES} ({error.strerror})"
        try:
            with flock(self._fd, self.where, shared=True):
                pass
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                raise
            return f"{NO_LOCK} ({error.strerror})"
        if os.fstatvfs(self._fd).f_flag & os.ST_RDONLY:
            return "it is mounted read-only"
        # The same directory by a path: access(2) by effective ids takes no descriptor.
        if not os.access(f"/proc/self/fd/{self._fd}", os.W_OK, effective_ids=True):
            return "this user may not write its attributes"
        st = os.fstat(self._fd)
        if st.st_mode & stat.S_ISVTX and os.geteuid() not in (0, st.st_uid):
            return "only its owner may write its attributes"  # xattr_permission() in fs/xattr.c
        return ""

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
