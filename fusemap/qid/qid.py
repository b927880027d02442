"""The QID: what 9P knows a file by, 13 bytes of type, version and path.

The path is `Mapper`'s business. Here are the other two, and the wire. The type follows from st_mode. The
version tells a client that what it has cached is stale. QEMU's is cheap, but 0 for an empty file of 1970,
and blind to a write within the same second that leaves the size alone. Linux takes 0 for "do not cache"
(since 6.4). Ours is a hash of everything that a write changes, in nanoseconds, and never 0. As it is 32
bits wide, a change goes unseen once in four thousand million times.
"""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

from xxhash import xxh32_intdigest

__all__ = ["QID", "QTDIR", "QTFILE", "QTSYMLINK", "qid_type", "version", "version_qemu"]

QTDIR = 0x80
"""Type of a directory (P9_QID_TYPE_DIR in QEMU's hw/9pfs/9p.h)."""

QTSYMLINK = 0x02
"""Type of a symbolic link (P9_QID_TYPE_SYMLINK)."""

QTFILE = 0x00
"""Type of everything else."""

_WIRE = struct.Struct("<BIQ")
_STAMP = struct.Struct("<QQQ")
_MAX = (1 << 64) - 1
_LETTERS = ((QTDIR, "d"), (0x40, "a"), (0x20, "l"), (0x08, "A"), (0x04, "t"), (QTSYMLINK, "L"))


class QID(NamedTuple):
    """A file as 9P sees it. All fields are unsigned: 8, 32 and 64 bits.

    `str()` writes type/version/path: the type in the letters of diod's np_printqid() ("-" for none), the
    version in hexadecimal digits, the path in decimal ones, as `ls -i` shows it.

    >>> str(QID(QTDIR, 0x5CC9B6E0, 164))
    'd/5cc9b6e0/164'
    """

    type: int
    version: int
    path: int

    def pack(self) -> bytes:
        """Return the 13 bytes of the wire, 9P's qid[13], little-endian. ValueError for a field out of range.

        >>> QID(0x80, 1, 2).pack().hex()
        '80010000000200000000000000'
        """
        try:
            return _WIRE.pack(*self)
        except struct.error as error:
            raise ValueError(f"{self!r} does not fit the 8, 32 and 64 bits of a QID: {error}") from None

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> QID:
        """Return the QID of 13 bytes, the inverse of `pack`; ValueError for any other length."""
        try:
            return cls(*_WIRE.unpack(data))
        except struct.error:
            raise ValueError(f"a QID has {_WIRE.size} bytes, not {len(data)}") from None

    def __str__(self) -> str:
        letters = "".join(letter for bit, letter in _LETTERS if self.type & bit)
        return f"{letters or '-'}/{self.version:08x}/{self.path}"


def qid_type(st_mode: int) -> int:
    """Return the QID type (int) of a file with this st_mode. Source: stat_to_qid() in QEMU's hw/9pfs/9p.c."""
    if stat.S_ISDIR(st_mode):
        return QTDIR
    if stat.S_ISLNK(st_mode):
        return QTSYMLINK
    return QTFILE


def version(mtime_ns: int, ctime_ns: int, size: int) -> int:
    """Return a version (int, 1 to 2^32 - 1) that changes, but for a rare accident, when any argument does.

    The times are nanoseconds since 1970 (int, negative before), the size is in bytes; each counts modulo
    2^64. It is XXH32 with seed 0 of the three as little-endian 64-bit numbers, and 1 where that is 0, so it
    is the same in every process.
    """
    return xxh32_intdigest(_STAMP.pack(mtime_ns & _MAX, ctime_ns & _MAX, size & _MAX)) or 1


def version_qemu(mtime_s: int, size: int) -> int:
    """Return QEMU's version (int, 0 to 2^32 - 1): mtime ^ size << 8, cut to 32 bits.

    `mtime_s` is in whole seconds since 1970 (int, negative before), rounded down; `size` is in bytes. Source:
    stat_to_qid() in QEMU's hw/9pfs/9p.c.
    """
    return (mtime_s ^ size << 8) & 0xFFFFFFFF
