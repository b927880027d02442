"""Host stat -> pyfuse3's EntryAttributes, and the time for which the kernel may keep them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import pyfuse3

from fusemap.host.calls import Stat

_SECOND: Final = 1_000_000_000
_ALWAYS_SECONDS: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Cache:
    """One of the cache modes, named as virtiofsd names them; `timeout` is in seconds."""

    name: str
    timeout: float
    direct: bool
    keep: bool


CACHES: Final = {
    "none": Cache("none", 0.0, direct=True, keep=False),
    "auto": Cache("auto", 1.0, direct=False, keep=False),
    "always": Cache("always", _ALWAYS_SECONDS, direct=False, keep=True),
}


def fill(
    entry: pyfuse3.EntryAttributes, st: Stat, number: int, generation: int, timeout: float
) -> pyfuse3.EntryAttributes:
    """Puts all of `st` into `entry`, under `number`. One object can be filled again and again: replies copy it."""
    (
        _, blksize, nlink, uid, gid, mode, _, size, blocks,
        atime_s, atime_ns, _, _, ctime_s, ctime_ns, mtime_s, mtime_ns, rdev_major, rdev_minor, _, _, _,
    ) = st  # fmt: skip
    entry.st_ino = number
    entry.generation = generation
    entry.entry_timeout = timeout
    entry.attr_timeout = timeout
    entry.st_mode = mode
    entry.st_nlink = nlink
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_size = size
    entry.st_blksize = blksize
    entry.st_blocks = blocks
    entry.st_atime_ns = atime_s * _SECOND + atime_ns
    entry.st_mtime_ns = mtime_s * _SECOND + mtime_ns
    entry.st_ctime_ns = ctime_s * _SECOND + ctime_ns
    # The device number as FUSE carries it, in 32 bits (new_encode_dev in include/linux/kdev_t.h).
    entry.st_rdev = (rdev_minor & 0xFF) | (rdev_major << 8) | ((rdev_minor & ~0xFF) << 12)
    return entry


class NameOnly(deque[int]):
    """A number for an entry without a node: as EntryAttributes.st_ino it sets the node id to 0, then st_ino to itself.

    pyfuse3's setter stores the same object twice, node id first, and converts it each time. The kernel takes node id 0
    in a directory listing for "no attributes given" (fuse_direntplus_link in fs/fuse/readdir.c). One object serves for
    every entry: `append(0)` and `append(number)` before each use.
    """

    __int__ = deque.popleft
    __index__ = deque.popleft
