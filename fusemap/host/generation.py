"""The inode's generation, read out of a file handle.

A generation tells a file from an earlier one that had the same inode number. No system call gives it for every kind of
file, but every file handle holds it; where in the handle is each file system's own affair (fs/exportfs/expfs.c,
fs/xfs/xfs_export.c, fs/btrfs/export.h, mm/shmem.c). A handle of a kind not known here is hashed, which still changes
when the generation does.
"""

from __future__ import annotations

from typing import Final

import xxhash

from fusemap.host.calls import Handle

_INO32_GEN: Final = 0x01
_INO64_GEN: Final = 0x81
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


def btrfs_root(handle: Handle) -> int | None:
    """The id of the btrfs subvolume that `handle` lies in, None for a file of another file system."""
    if handle[0] in _BTRFS and len(handle) >= 24:
        return int.from_bytes(handle[12:20], "little")
    return None
