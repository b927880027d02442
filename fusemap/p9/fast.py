"""The request that clients make most, getattr, from frame to frame by hand.

The ordinary way costs a message object in, one out, and the generic codec; written out it is twice as fast, which is
what 32 requests in flight are limited by (tests/benchmarks/p9). It must give the very bytes of the ordinary way, which
a test compares, and leaves to that whatever is not the plain case: tracing, mapped attributes, colliding maps, fids
that are none.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from xxhash import xxh32_intdigest, xxh64_intdigest

from fusemap.p9.linux import BASIC, BTIME, DATA_VERSION, GEN, STATX_BTIME
from fusemap.qid import QTDIR, QTFILE, QTSYMLINK

if TYPE_CHECKING:
    from fusemap.p9.session import Session

_ASKED: Final = struct.Struct("<IQ")
_ANSWER: Final = struct.Struct("<IBH Q BIQ III QQQQQ QQ QQ QQ QQ QQ")
_NUMBER: Final = 25  # Rgetattr
_SIZE: Final = _ANSWER.size
_STAMP: Final = struct.Struct("<QQQ")
_TYPES: Final = {0o040000: QTDIR, 0o120000: QTSYMLINK}
_MAX64: Final = (1 << 64) - 1
_SECOND: Final = 1_000_000_000
_SUPPORTED: Final = BASIC | GEN | DATA_VERSION


def getattr_frame(session: Session, buffer: bytearray, start: int, size: int, tag: int) -> bytes | None:
    """The whole Rgetattr for the Tgetattr whose body begins at `start`; None where it is not the plain case.

    Raises OSError.
    """
    if size != 19:
        return None
    number, asked = _ASKED.unpack_from(buffer, start)
    fid = session.fids.get(number)
    if fid is None:
        return None
    node = fid.node
    # Stat's fields, in its order
    (
        mask, blksize, nlink, uid, gid, mode, _, length, blocks, atime_s, atime_ns, btime_s, btime_ns,
        ctime_s, ctime_ns, mtime_s, mtime_ns, major, minor, _, _, _,
    ) = session.tree.stat(node)  # fmt: skip
    if mtime_s < 0 or ctime_s < 0 or atime_s < 0 or btime_s < 0:
        return None
    stamp = _STAMP.pack(mtime_s * _SECOND + mtime_ns & _MAX64, ctime_s * _SECOND + ctime_ns & _MAX64, length)
    return _ANSWER.pack(
        _SIZE,
        _NUMBER,
        tag,
        asked & (_SUPPORTED | BTIME if mask & STATX_BTIME else _SUPPORTED),
        _TYPES.get(mode & 0o170000, QTFILE),
        xxh32_intdigest(stamp) or 1,
        node.number,
        mode,
        uid,
        gid,
        nlink,
        minor & 0xFF | major << 8 | (minor & ~0xFF) << 12,
        length,
        blksize,
        blocks,
        atime_s,
        atime_ns,
        mtime_s,
        mtime_ns,
        ctime_s,
        ctime_ns,
        btime_s,
        btime_ns,
        node.generation,
        xxh64_intdigest(stamp) if asked & DATA_VERSION else 0,
    )
