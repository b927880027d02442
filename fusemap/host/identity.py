"""Which file system is it? st_dev answers that only until the next mount, when the host may deal the number out anew.

The lasting answer is a uuid that is stored in the file system. Kernels differ in whom they tell it, so there is a
ladder, and the first rung that holds is taken:

    btrfs: the subvolume's uuid and the file system's (BTRFS_IOC_GET_SUBVOL_INFO, BTRFS_IOC_FS_INFO; uapi/linux/btrfs.h)
    FS_IOC_GETFSUUID (Linux 6.9, uapi/linux/fs.h), for most others
    what ext4 and xfs have of their own for older kernels (EXT4_IOC_GETFSUUID, uapi/linux/ext4.h; XFS_IOC_FSGEOMETRY_V1,
        fs/xfs/libxfs/xfs_fs.h)
    statfs f_fsid, only where it comes from a uuid: ext2 to ext4, btrfs, zfs. Elsewhere it is st_dev in disguise, or 0.
    /dev/disk/by-uuid, which udev keeps
    a name that the administrator gives; where there is a uuid too, it is added to that: a copy of a file system (dd, an
        LVM snapshot) has its original's uuid, and nothing but a name tells one from the other for ever
    this session only: the boot id with what is unique while this kernel runs

A rung that gives the same uuid gives the same key, so that a new kernel does not make a new device. A uuid of zeros is
no uuid: every file system that was made without one has it.

All of it works for an ordinary user on a descriptor open for reading.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import re
import stat
import struct
import uuid
from typing import Final, NamedTuple

from fusemap.errors import Refused
from fusemap.host.calls import Stat

BY_UUID: Final = "/dev/disk/by-uuid"

_FS_IOC_GETFSUUID: Final = 0x80111500
_EXT4_IOC_GETFSUUID: Final = 0x8008662C
_XFS_IOC_FSGEOMETRY_V1: Final = 0x80705864
_BTRFS_IOC_FS_INFO: Final = 0x8400941F
_BTRFS_IOC_GET_SUBVOL_INFO: Final = 0x81F8943C
_SUBVOL_UUID_AT: Final = 296
_FSID_AT: Final = 16
_FS_INFO_FLAGS_AT: Final = 48
_METADATA_UUID_AT: Final = 64
_FS_INFO_METADATA_UUID: Final = 4  # BTRFS_FS_INFO_FLAG_METADATA_UUID
_BTRFS_IN_SYSFS: Final = "/sys/fs/btrfs"
_XFS_UUID_AT: Final = 64
_NULL: Final = uuid.UUID(int=0)

_STATFS: Final = struct.Struct("@l48xQ")  # f_type, then f_fsid behind six more numbers (asm-generic/statfs.h, 64 bits)
_EXT: Final = 0xEF53
BTRFS: Final = 0x9123683E
_ZFS: Final = 0x2FC12FC1
# These make a uuid up at every mount (shmem_fill_super() in mm/shmem.c, kernfs_fill_super() in fs/kernfs/mount.c).
_MAKE_IT_UP: Final = frozenset(
    {0x01021994, 0x62656572, 0x27E0EB, 0x63677270, 0x7655821}  # tmpfs, sysfs, cgroup 1 and 2, resctrl
)
_FSID_FROM_UUID: Final = {_EXT: "ext", BTRFS: "btrfs", _ZFS: "zfs"}

_MNT_ID_UNIQUE: Final = 0x4000  # statx(2): stx_mnt_id is never used again while this kernel runs; Linux 6.8
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")


class Identity(NamedTuple):
    """`key` is equal for equal file systems; `lasting` says whether it survives a new mount and a reboot."""

    key: str
    lasting: bool


def identify(fd: int, st: Stat, kind: str, name: str | None = None, by_uuid: str | None = BY_UUID) -> Identity:
    """The identity of the file system that readable descriptor `fd` lies on.

    `st` is the file's own stat, `kind` the file system's name in the mount table ("" if not known), `name` what the
    administrator calls it, `by_uuid` udev's directory of links or None. Never raises OSError: what cannot be asked
    falls to the next source. Raises Refused for a name that `named` refuses.
    """
    found = _by_itself(fd, st, kind, by_uuid)
    if found is None:
        return session_only(st) if name is None else named(name)
    if name is None:
        return found
    return Identity(f"{found.key}#{name}", True) if found.lasting and named(name) else named(name)


def _by_itself(fd: int, st: Stat, kind: str, by_uuid: str | None) -> Identity | None:
    """What the file system says of itself, None where that is nothing."""
    magic, fsid = _statfs(fd)
    if kind == "btrfs" or magic == BTRFS:
        subvolume = _subvolume(fd)
        if subvolume is not None:
            return Identity(subvolume, True)
    if kind == "tmpfs" or magic in _MAKE_IT_UP:  # and f_fsid from it
        found = _uuid(fd, _FS_IOC_GETFSUUID, bytes(17), 1)
        unique = str(found) if found else f"{fsid:016x}" if fsid else None
        return None if unique is None else Identity(f"session:{boot_id()}:{unique}", False)
    found = _file_system_uuid(fd, kind, magic)
    if found is not None:
        return Identity(f"uuid:{found}", True)
    if fsid and magic in _FSID_FROM_UUID:
        return Identity(f"fsid:{_FSID_FROM_UUID[magic]}:{fsid:016x}", True)
    link = _by_uuid(st, by_uuid) if by_uuid is not None else None
    if link is not None:
        return Identity(f"uuid:{link}", True)
    return None


def named(name: str) -> Identity:
    """The identity of a file system by the administrator's word.

    `name` (str) has letters, digits and ._+- , up to 63 of them, the first a letter or digit; else Refused.
    """
    if not _NAME.fullmatch(name):
        raise Refused(
            f"{name!r} cannot be a device's name: use up to 63 letters, digits and . _ + -, the first a letter "
            f"or digit"
        )
    return Identity(f"name:{name}", True)


def session_only(st: Stat) -> Identity:
    """The identity of a file system that has no uuid: its mount and st_dev, for as long as it stays mounted.

    Every process on this machine that asks for the same mount gives it the same key. Only where the kernel uses mount
    ids again (before Linux 6.8) it is good for this process alone: another mount may have had the same one by now.
    """
    mount = str(st.mnt_id) if st.mask & _MNT_ID_UNIQUE else f"{st.mnt_id}.{_process_token()}"
    return Identity(f"session:{boot_id()}:{mount}:{st.dev_major}:{st.dev_minor}", False)


def lasts(key: str) -> bool:
    """Whether the key of an identity, or what begins with one, is that of a lasting identity."""
    return not key.startswith("session:")


@functools.cache
def boot_id() -> str:
    """The uuid that this kernel made up when it started (proc_sys_kernel(5)); "unknown" where /proc does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip() or "unknown"
    except OSError:
        return "unknown"


def filesystem_magic(fd: int) -> int:
    """f_type of statfs(2): which kind of file system a descriptor lies on (linux/magic.h). 0 where it is not told."""
    return _statfs(fd)[0]


def _subvolume(fd: int) -> str | None:
    fsid = _btrfs_fsid(fd)
    answer = _ioctl(fd, _BTRFS_IOC_GET_SUBVOL_INFO, bytes(504))
    if fsid is None or answer is None:
        return None
    own = uuid.UUID(bytes=answer[_SUBVOL_UUID_AT : _SUBVOL_UUID_AT + 16])
    number = int.from_bytes(answer[:8], "little")
    # Only the top-level subvolume may lack a uuid (mkfs before btrfs-progs 4.16), and its number never changes.
    return f"btrfs:{fsid}:{own if own != _NULL else number}"


def _btrfs_fsid(fd: int) -> uuid.UUID | None:
    """The uuid of a btrfs. A copy that is mounted beside its original has one that the kernel made up (Linux 6.7).

    What both have on disk is then in another place (find_fsid_by_device() in fs/btrfs/volumes.c).
    """
    asked = struct.pack("<48xQ", _FS_INFO_METADATA_UUID).ljust(1024, b"\0")
    answer = _ioctl(fd, _BTRFS_IOC_FS_INFO, asked)
    if answer is None:
        return None
    fsid = uuid.UUID(bytes=answer[_FSID_AT : _FSID_AT + 16])
    stored = uuid.UUID(bytes=answer[_METADATA_UUID_AT : _METADATA_UUID_AT + 16])
    (flags,) = struct.unpack_from("<Q", answer, _FS_INFO_FLAGS_AT)
    if flags & _FS_INFO_METADATA_UUID and stored not in (fsid, _NULL) and _made_up(fsid):
        fsid = stored
    return None if fsid == _NULL else fsid


def _made_up(fsid: uuid.UUID) -> bool:
    try:
        with open(f"{_BTRFS_IN_SYSFS}/{fsid}/temp_fsid", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _file_system_uuid(fd: int, kind: str, magic: int) -> uuid.UUID | None:
    found = _uuid(fd, _FS_IOC_GETFSUUID, bytes(17), 1)
    if found is None and magic == _EXT:
        found = _uuid(fd, _EXT4_IOC_GETFSUUID, struct.pack("<II16x", 16, 0), 8)
    if found is None and kind == "xfs":
        found = _uuid(fd, _XFS_IOC_FSGEOMETRY_V1, bytes(112), _XFS_UUID_AT)
    return found


def _by_uuid(st: Stat, directory: str) -> str | None:
    """The name under which udev links to the block device that a file is on, None where it does not.

    Of a copy and its original, udev links to one only: the other one falls further.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return None
    for name in names:
        try:
            target = os.stat(os.path.join(directory, name))
        except OSError:
            continue
        if stat.S_ISBLK(target.st_mode) and target.st_rdev == st.dev:
            # vfat and others have short ones, which are as good; none may be all zeros
            return name if name.strip("0-") else None
    return None


def _uuid(fd: int, request: int, argument: bytes, at: int) -> uuid.UUID | None:
    answer = _ioctl(fd, request, argument)
    if answer is None:
        return None
    found = uuid.UUID(bytes=answer[at : at + 16])
    return None if found == _NULL else found


def _ioctl(fd: int, request: int, argument: bytes) -> bytes | None:
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError:
        return None


def _statfs(fd: int) -> tuple[int, int]:
    """f_type and f_fsid of fstatfs(2), zeros where it fails."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).fstatfs(fd, buffer):
        return 0, 0
    magic, fsid = _STATFS.unpack_from(buffer)
    return magic & 0xFFFFFFFF, fsid


@functools.cache
def _process_token() -> str:
    return uuid.uuid4().hex[:12]
