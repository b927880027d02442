"""Stat records: what 9P2000 and .u say of a file, and what their directories are made of.

Sources: stat(5) and read(5); for .u the "9P2000.u Unix Extension" and, for the number of hard links, what Linux's and
QEMU's agree on between them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFSOCK
from typing import TYPE_CHECKING, Final

from fusemap.host.calls import Stat
from fusemap.p9.fids import Fid, Listing
from fusemap.p9.messages import StatRecord
from fusemap.p9.model import group_name, user_name
from fusemap.p9.wire import Dialect, encode_record
from fusemap.qid import QID

if TYPE_CHECKING:
    from fusemap.p9.session import Session

DMDIR: Final = 0x80000000
DMSYMLINK: Final = 0x02000000
DMLINK: Final = 0x01000000
DMDEVICE: Final = 0x00800000
DMNAMEDPIPE: Final = 0x00200000
DMSOCKET: Final = 0x00100000
DMSETUID: Final = 0x00080000
DMSETGID: Final = 0x00040000
DMSETVTX: Final = 0x00010000

_KINDS: Final = {
    S_IFDIR: DMDIR,
    S_IFLNK: DMSYMLINK,
    S_IFBLK: DMDEVICE,
    S_IFCHR: DMDEVICE,
    S_IFIFO: DMNAMEDPIPE,
    S_IFSOCK: DMSOCKET,
}
SPECIAL: Final = ((0o4000, DMSETUID), (0o2000, DMSETGID), (0o1000, DMSETVTX))
_LATEST: Final = 0xFFFFFFFE  # seconds; all ones would mean "don't touch"
LISTED_AT_ONCE: Final = 1 << 15
_DT_DIR: Final = 4


def record(session: Session, name: bytes, qid: QID, st: Stat, target: Callable[[], bytes]) -> StatRecord:
    """The record of a file of which the client is told `st`; `target` reads a symbolic link. Raises OSError."""
    kind = st.mode & 0o170000
    unix = session.dialect is Dialect.UNIX
    mode = st.mode & 0o777 | (DMDIR if kind == S_IFDIR else 0)
    extension = b""
    if unix:
        mode |= _KINDS.get(kind, 0) | sum(bit for host, bit in SPECIAL if st.mode & host)
        if kind == S_IFLNK:
            extension = target()
        elif kind in (S_IFBLK, S_IFCHR):
            extension = b"%c %d %d" % (b"b" if kind == S_IFBLK else b"c", st.rdev_major, st.rdev_minor)
        elif kind != S_IFDIR:
            extension = b"HARDLINKCOUNT %d" % st.nlink
    owner = user_name(st.uid)
    return StatRecord(
        0,
        0,
        qid,
        mode,
        min(max(st.atime_s, 0), _LATEST),
        min(max(st.mtime_s, 0), _LATEST),
        0 if kind == S_IFDIR else st.size,
        name,
        owner,
        group_name(st.gid),
        owner,
        extension,
        st.uid,
        st.gid,
        st.uid,
    )


def name_of(session: Session, fid: Fid) -> bytes:
    """The name by which a fid was reached; "/" for the root, as of old, and of a directory reached by ".." its own."""
    if fid.node is fid.root:
        return b"/"
    if fid.place is not None and fid.place.name:
        return fid.place.name
    return os.path.basename(os.readlink(session.tree.proc(fid.node))) or b"/"


def read_directory(session: Session, fid: Fid, listing: Listing, offset: int, size: int) -> bytes:
    """Whole records, as many as fit; `offset` is 0 or where the last reading ended (read(5)). Raises OSError."""
    if offset == 0:
        listing.cookie = 0
    elif offset != listing.offset:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    export, model = session.export, session.model
    looks = model.may_look(fid.user, listing.node)
    left, at = min(size, LISTED_AT_ONCE), listing.cookie
    parts: list[bytes] = []
    try:
        for entry, number, st in listing.stats(at, fid.root):
            _, cookie, kind, name = entry
            if name in (b".", b".."):
                at = cookie
                continue
            if st is None or not looks:
                st = _nothing_known(kind)
            try:
                seen = model.shown_entry(listing, name, st)
                qid = export.qid_of(export.entry_number(listing.node, name, number, st), seen)
                target = partial(model.readlink_at, listing, name)
                made = record(session, name, qid, seen, target)
            except FileNotFoundError:  # removed since it was looked at
                at = cookie
                continue
            data = encode_record(made, session.dialect)
            if len(data) > left:
                listing.reject(entry, at)
                # Linux's .u client asks for as many bytes as the last answer fell short of what it asked for, and takes
                # an error then for that of the whole reading (net/9p/client.c, p9_client_read); 0 bytes make it go on.
                if not parts and len(data) > size and not (offset and size < listing.asked):
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                break
            parts.append(data)
            left -= len(data)
            at = cookie
    except OSError:
        if not parts:
            raise
        # What was read so far is sent; asked to go on, the same entry fails again, and then it is an error.
    answer = b"".join(parts)
    listing.cookie, listing.offset, listing.asked = at, offset + len(answer), size
    return answer


def _nothing_known(kind: int) -> Stat:
    """For an entry that the host does not let anyone look at: it is there, and that is all."""
    return Stat(*[0] * len(Stat._fields))._replace(mode=S_IFDIR if kind == _DT_DIR else 0)
