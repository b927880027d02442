"""The inode's generation, read out of a file handle.

A generation tells a file from an earlier one that had the same inode number. No system call gives it for every kind of
file, but every file handle holds it; where in the handle is each file system's own affair (fs/exportfs/expfs.c,
fs/xfs/xfs_export.c, fs/btrfs/export.h, mm/shmem.c). A handle of a kind not known here is hashed, which still changes
when the generation does.

Some file systems give no handle that could be opened. Since Linux 6.6 an overlay still gives one for comparing: that of
the file's first layer, so that it stays what it was when a lower file is copied up (ovl_encode_fh() in
fs/overlayfs/export.c). Where there is none either, the time of birth stands in for it, in the shape of a handle of a
type that no file system uses. Two files may be born in one tick of the clock, so that is the weakest of all.
"""

from __future__ import annotations

import struct
from typing import Final

import xxhash

from fusemap.host.calls import Handle, Stat

_INO32_GEN: Final = 0x01
_INO64_GEN: Final = 0x81
_OVERLAY: Final = 0xF8
_BIRTH: Final = struct.Struct("<4xqI")
_STATX_BTIME: Final = 0x800
_BTRFS: Final = (0x4D, 0x4E, 0x4F)
# (type, bytes after the type) -> where the generation is
_PLACES: Final = {
    (_INO32_GEN, 8): 8,  # inode, generation: ext2, ext4, f2fs, ...
    (_INO32_GEN, 12): 4,  # generation, inode low, inode high: tmpfs
    (_INO64_GEN, 12): 12,  # inode low, inode high, generation: xfs, fuse
    (_BTRFS[0], 20): 20,  # objectid 64 bits, root 64 bits, generation
}


def generation(handle: Handle) -> int:
    """The 32-bit generation inside `handle`, or a hash of the whole handle where its layout is not known."""
    at = _PLACES.get((handle[0], len(handle) - 4))
    if at is None:
        return xxhash.xxh32_intdigest(handle)
    return int.from_bytes(handle[at : at + 4], "little")


def lasting_generation(handle: Handle | None) -> int | None:
    """The generation inside `handle` where it is the same for as long as the file is; None where that is not certain.

    Certain it is for layouts known here, and for overlay's, which hold the handle of a layer's file.
    """
    if handle is None or ((handle[0], len(handle) - 4) not in _PLACES and handle[0] != _OVERLAY):
        return None
    return generation(handle)


def for_comparing(fid: bytes, st: Stat) -> Handle | None:
    """What tells a file without a handle from a later one with its inode number; None where nothing does.

    `fid` is what AT_HANDLE_FID gave, `st` the file's stat. A fid that has no generation is as good as none.
    """
    if fid and not ((fid[0], len(fid)) == (_INO64_GEN, 16) and fid[12:] == bytes(4)):
        return Handle(fid)
    if st.mask & _STATX_BTIME and (st.btime_s or st.btime_ns):
        return Handle(_BIRTH.pack(st.btime_s, st.btime_ns))
    return Handle(fid) if fid else None


def birth_ns(handle: Handle | None) -> int | None:
    """The time of birth (ns since 1970) that stands for a handle; None where `handle` is a real one, or none."""
    if handle is None or handle[0] or len(handle) != _BIRTH.size:
        return None
    seconds, nanoseconds = _BIRTH.unpack(handle)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def btrfs_root(handle: Handle) -> int | None:
    """The id of the btrfs subvolume that `handle` lies in, None for a file of another file system."""
    if handle[0] in _BTRFS and len(handle) >= 24:
        return int.from_bytes(handle[12:20], "little")
    return None
