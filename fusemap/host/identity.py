"""Which file system is it? st_dev answers that only until the next mount, when the host may deal the number out anew.

The lasting answer is a uuid that is stored in the file system: the subvolume's for btrfs (BTRFS_IOC_GET_SUBVOL_INFO, in
include/uapi/linux/btrfs.h), the file system's for most others (FS_IOC_GETFSUUID, Linux 6.9, include/uapi/linux/fs.h).
What has none is known for as long as it stays mounted: by its mount and st_dev.
"""

from __future__ import annotations

import fcntl
import uuid
from typing import Final, NamedTuple

from fusemap.host.calls import Stat

_FS_IOC_GETFSUUID: Final = 0x80111500
_BTRFS_IOC_FS_INFO: Final = 0x8400941F
_BTRFS_IOC_GET_SUBVOL_INFO: Final = 0x81F8943C
_SUBVOL_UUID_AT: Final = 296
_FSID_AT: Final = 16
_NULL: Final = uuid.UUID(int=0)


class Identity(NamedTuple):
    """`key` is equal for equal file systems; `lasting` says whether it survives a new mount and a reboot."""

    key: str
    lasting: bool


def identify(fd: int, st: Stat, kind: str) -> Identity:
    """The identity of the file system that readable descriptor `fd` lies on.

    `st` is the file's own stat, `kind` the file system's name in the mount table. Never raises: what cannot be asked
    falls to the next source.
    """
    if kind == "btrfs":
        fsid = _uuid(fd, _BTRFS_IOC_FS_INFO, 1024, _FSID_AT)
        subvolume = _ioctl(fd, _BTRFS_IOC_GET_SUBVOL_INFO, 504)
        if fsid and subvolume:
            own = uuid.UUID(bytes=subvolume[_SUBVOL_UUID_AT : _SUBVOL_UUID_AT + 16])
            number = int.from_bytes(subvolume[:8], "little")
            return Identity(f"btrfs:{fsid}:{own if own != _NULL else number}", True)
    found = _uuid(fd, _FS_IOC_GETFSUUID, 17, 1)
    if found and kind != "tmpfs":
        return Identity(f"uuid:{found}", True)
    if found:  # tmpfs makes one up at every mount
        return Identity(f"session:{found}", False)
    return session_only(st)


def session_only(st: Stat) -> Identity:
    """The identity of a file system that has no uuid: its mount and st_dev, for as long as it stays mounted."""
    return Identity(f"session:{st.mnt_id}:{st.dev_major}:{st.dev_minor}", False)


def _uuid(fd: int, request: int, size: int, at: int) -> uuid.UUID | None:
    answer = _ioctl(fd, request, size)
    if answer is None:
        return None
    found = uuid.UUID(bytes=answer[at : at + 16])
    return None if found == _NULL else found


def _ioctl(fd: int, request: int, size: int) -> bytes | None:
    try:
        return fcntl.ioctl(fd, request, bytes(size))
    except OSError:
        return None


