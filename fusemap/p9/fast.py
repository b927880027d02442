"""The requests that clients make most - walk to one name, getattr, clunk - from frame to frame by hand.

The ordinary way costs a message object in, one out, and the generic codec; written out they are twice as fast, which is
what 32 requests in flight are limited by (tests/benchmarks/p9). They must give the very bytes of the ordinary way,
which a test compares, and leave to that whatever is not the plain case: tracing, mapped attributes, colliding maps,
fids that are none, names that are not plain. Each gives None then, before it has done anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from stat import S_IFDIR, S_IFLNK
from typing import TYPE_CHECKING, Final

from xxhash import xxh32_intdigest, xxh64_intdigest

from fusemap.p9.fids import Fid, Place
from fusemap.p9.messages import NOFID, NUMBERS, Rclunk, Rgetattr, Rwalk, Tclunk, Tgetattr, Twalk
from fusemap.p9.metadata import BASIC, BTIME, DATA_VERSION, GEN, STATX_BTIME
from fusemap.qid import QTDIR, QTFILE, QTSYMLINK, version

if TYPE_CHECKING:
    from fusemap.p9.session import Session
    from fusemap.tree import Node

_ASKED: Final = struct.Struct("<IQ")
# struct statx up to stx_rdev_minor. A time in it, 16 bytes with zeroes at the end, is one of Rgetattr's as it stands.
_STATX: Final = struct.Struct("<II8xIIIH2x8xQQ8x 16s 16s qI4x qI4x II").unpack_from
_STATX_SIZE: Final = 0x90  # up to there, the file's own device included, a file's attributes are
_HEAD: Final = struct.Struct("<IBH")
_ATTRIBUTES: Final = struct.Struct("<Q BIQ III QQQQQ 16s qQ qQ 16s QQ")
_WALK: Final = struct.Struct("<IIHH")  # with one name, up to its bytes
_WALKED: Final = struct.Struct("<IBH H BIQ")
_FID: Final = struct.Struct("<I")
_CLUNKED: Final = struct.Struct("<IBH")
_RWALK, _RCLUNK, _RGETATTR = NUMBERS[Rwalk], NUMBERS[Rclunk], NUMBERS[Rgetattr]
_ONE_NAME: Final = _WALK.size
_DOTS: Final = (b"", b".", b"..")
_SIZE: Final = _HEAD.size + _ATTRIBUTES.size
_STAMP: Final = struct.Struct("<QQQ")
_TYPES: Final = {S_IFDIR: QTDIR, S_IFLNK: QTSYMLINK}
_MAX64: Final = (1 << 64) - 1
_SECOND: Final = 1_000_000_000
_SUPPORTED: Final = BASIC | GEN | DATA_VERSION


def walk_frame(session: Session, buffer: bytearray, start: int, size: int, tag: int) -> bytes | None:
    """The Rwalk for a Twalk with one name and a new fid. Raises OSError."""
    if size < _ONE_NAME + 7:
        return None
    number, new, names, length = _WALK.unpack_from(buffer, start)
    if names != 1 or size != 7 + _ONE_NAME + length:
        return None
    fid = session.fids.get(number)
    name = bytes(buffer[start + _ONE_NAME : start + _ONE_NAME + length])
    if fid is None or fid.node.kind != S_IFDIR or new == NOFID or new in session.fids or new in session.control:
        return None
    if name in _DOTS or b"/" in name or b"\0" in name:
        return None
    parent = fid.node
    node, st = session.model.lookup(fid.user, parent, name)
    session.new_fid(new, Fid(node, fid.root, fid.user, Place(parent, name)))
    mtime, ctime = st.mtime_s * _SECOND + st.mtime_ns, st.ctime_s * _SECOND + st.ctime_ns
    kind = _TYPES.get(st.mode & 0o170000, QTFILE)
    return _WALKED.pack(_WALKED.size, _RWALK, tag, 1, kind, version(mtime, ctime, st.size), node.number)


def clunk_frame(session: Session, buffer: bytearray, start: int, size: int, tag: int) -> bytes | None:
    """The Rclunk for the Tclunk of a fid that is not open. Raises OSError."""
    if size != 11:
        return None
    (number,) = _FID.unpack_from(buffer, start)
    fid = session.fids.get(number)
    if fid is None or fid.io is not None or fid.remove_at_clunk or session.tree.keeps(fid.node):
        return None
    kept = session.let_go(session.drop_fid(number))
    assert kept is None
    return _CLUNKED.pack(7, _RCLUNK, tag)


def getattr_frame(session: Session, buffer: bytearray, start: int, size: int, tag: int) -> bytes | None:
    """The Rgetattr for a Tgetattr. Raises OSError.

    Mostly nothing has changed since the same fid was asked before; then the answer is the one given then. It follows
    from the kernel's struct, the file's number and generation, and what was asked, and from nothing else.
    """
    if size != 19:
        return None
    number, asked = _ASKED.unpack_from(buffer, start)
    fid = session.fids.get(number)
    if fid is None:
        return None
    node = fid.node
    raw = session.tree.stat_raw(node)
    last = fid.answered
    if last is None or not (
        raw.startswith(last[3]) and last[0] == asked and last[1] == node.number and last[2] == node.generation
    ):
        last = (asked, node.number, node.generation, bytes(raw[:_STATX_SIZE]), _attributes(node, raw, asked))
        fid.answered = last
    return _HEAD.pack(_SIZE, _RGETATTR, tag) + last[4]


def _attributes(node: Node, raw: bytearray, asked: int) -> bytes:
    """The body of an Rgetattr, from struct statx."""
    (
        mask, blksize, nlink, uid, gid, mode, length, blocks, atime, btime,
        ctime_s, ctime_ns, mtime_s, mtime_ns, major, minor,
    ) = _STATX(raw)  # fmt: skip
    stamp = _STAMP.pack(mtime_s * _SECOND + mtime_ns & _MAX64, ctime_s * _SECOND + ctime_ns & _MAX64, length)
    return _ATTRIBUTES.pack(
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
        atime,
        mtime_s,
        mtime_ns,
        ctime_s,
        ctime_ns,
        btime,
        node.generation,
        xxh64_intdigest(stamp) if asked & DATA_VERSION else 0,
    )


FAST: Final[dict[type, Callable[[Session, bytearray, int, int, int], bytes | None]]] = {
    Twalk: walk_frame,
    Tclunk: clunk_frame,
    Tgetattr: getattr_frame,
}
"""By request: given a session, its buffer, where the body begins, the frame's size and tag, the whole answer."""
