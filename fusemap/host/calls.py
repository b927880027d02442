"""The system calls that Python's os module does not have, one small function each.

They are called through ctypes with pre-built pointers into buffers that are made once, because building an argument
object costs more than the system call itself. So one `Calls` object must not be used by two threads at once; every
`Tree` owns one. ctypes.PyDLL keeps the interpreter lock: such a call is shorter than handing the lock over and back.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from typing import Any, Final, NamedTuple, NewType

AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
_AT_HANDLE_FID: Final = 0x200
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
UTIME_OMIT: Final = (1 << 30) - 2
_UTIME_NOW: Final = (1 << 30) - 1
NOW: Final = 1 << 100
"""Stands for the present in place of a time in nanoseconds: who may write a file may set that (utimensat(2))."""
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_DIRSYNC: Final = 128
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_POSIXACL: Final = 1 << 16
MNT_DETACH: Final = 2

_STATX_BASIC: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_STATX_MNT_ID: Final = 0x1000
_STATX_MNT_ID_UNIQUE: Final = 0x4000
_MAX_HANDLE: Final = 128

# struct statx, include/uapi/linux/stat.h, up to stx_mnt_id; what is not used is skipped
_STATX: Final = struct.Struct("<II8xIIIH2xQQQ8x qI4x qI4x qI4x qI4x IIII Q")

_DIRENT: Final = struct.Struct("<QqHB")
_DIRENT_NAME: Final = 19
DIRENT_BUFFER: Final = 1 << 15

_SYSCALLS: Final = {
    "x86_64": {"setgroups": 116, "setresuid": 117, "setresgid": 119, "capget": 125, "capset": 126},
    "aarch64": {"setgroups": 159, "setresuid": 147, "setresgid": 149, "capget": 90, "capset": 91},
    "riscv64": {"setgroups": 159, "setresuid": 147, "setresgid": 149, "capget": 90, "capset": 91},
}


class Stat(NamedTuple):
    """What statx(2) said of one file, in the kernel's order; times in seconds and nanoseconds, blocks of 512 bytes."""

    mask: int
    blksize: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    atime_s: int
    atime_ns: int
    btime_s: int
    btime_ns: int
    ctime_s: int
    ctime_ns: int
    mtime_s: int
    mtime_ns: int
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int
    mnt_id: int

    @property
    def dev(self) -> int:
        """st_dev, as os.stat() gives it."""
        return os.makedev(self.dev_major, self.dev_minor)

    @property
    def content_stamp(self) -> tuple[int, int, int, int, int]:
        """What changes when the content does: mtime, ctime and size."""
        return (self.mtime_s, self.mtime_ns, self.ctime_s, self.ctime_ns, self.size)


class Entry(NamedTuple):
    """One record of getdents64(2): `cookie` resumes the listing after this entry."""

    ino: int
    cookie: int
    kind: int
    name: bytes


Handle = NewType("Handle", bytes)
"""A file handle as name_to_handle_at(2) gives it: its type, 4 bytes, then the opaque bytes. Lasting; it names inode and
generation. One bytes object, because a tree keeps one for every file it knows."""


def _libc() -> ctypes.PyDLL:
    return ctypes.PyDLL(None, use_errno=True)


def _fail(name: bytes | str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


class Calls:
    """Bound system calls with their buffers; for one thread at a time."""

    def __init__(self) -> None:
        libc = _libc()
        self._statx_buffer = bytearray(256)
        self._statx = libc.statx
        self._statx_at = _pointer(self._statx_buffer)
        self._handle_buffer = bytearray(8 + _MAX_HANDLE)
        self._handle_at = _pointer(self._handle_buffer)
        self._mount_id = ctypes.c_int()
        self._mount_id_at = ctypes.byref(self._mount_id)
        self._name_to_handle = libc.name_to_handle_at
        self._open_by_handle = libc.open_by_handle_at
        self._dirents = bytearray(DIRENT_BUFFER)
        self._dirents_at = _pointer(self._dirents)
        self._getdents = libc.getdents64
        self._renameat2 = libc.renameat2
        self._utimensat = libc.utimensat
        self._mask = _STATX_BASIC | _STATX_BTIME | _STATX_MNT_ID_UNIQUE
        if not self.statx(_AT_FDCWD, b"/").mask & _STATX_MNT_ID_UNIQUE:  # Linux < 6.8
            self._mask = _STATX_BASIC | _STATX_BTIME | _STATX_MNT_ID
            if not self.statx(_AT_FDCWD, b"/").mask & _STATX_MNT_ID:
                raise OSError(errno.ENOSYS, "this kernel's statx(2) gives no mount id; Linux 5.8 or newer is needed")

    def statx(self, dirfd: int, name: bytes) -> Stat:
        """statx(2) of `name` in `dirfd`, symbolic links not followed; b"" means `dirfd` itself. Raises OSError."""
        if self._statx(dirfd, name, _STATX_FLAGS, self._mask, self._statx_at):
            raise _fail(name)
        return tuple.__new__(Stat, _STATX_UNPACK(self._statx_buffer))

    def statx_raw(self, fd: int) -> bytearray:
        """statx(2) of `fd` as struct statx, until the next call. For who takes a few fields, often. Raises OSError."""
        if self._statx(fd, b"", _STATX_FLAGS, self._mask, self._statx_at):
            raise _fail()
        return self._statx_buffer

    def mount_id(self, fd: int) -> int:
        """The mount id of an open file as /proc/self/mountinfo numbers it. Raises OSError."""
        if self._statx(fd, b"", _STATX_FLAGS, _STATX_MNT_ID, self._statx_at):
            raise _fail()
        return int(_STATX_UNPACK(self._statx_buffer)[-1])

    def handle(self, dirfd: int, name: bytes) -> Handle:
        """name_to_handle_at(2), symbolic links not followed; b"" means `dirfd` itself.

        Raises OSError, EOPNOTSUPP where the file system has no handles.
        """
        buffer = self._handle_buffer
        buffer[0] = _MAX_HANDLE  # the other three bytes of the size are always 0
        if self._name_to_handle(dirfd, name, self._handle_at, self._mount_id_at, 0 if name else AT_EMPTY_PATH):
            raise _fail(name)
        return Handle(bytes(buffer[4 : 8 + buffer[0]]))

    def fid(self, dirfd: int, name: bytes) -> bytes:
        """As `handle`, but good for comparing only (AT_HANDLE_FID, Linux 6.5): overlay and /proc have no other.

        Empty where there is none.
        """
        buffer = self._handle_buffer
        buffer[0] = _MAX_HANDLE
        flags = _AT_HANDLE_FID if name else _AT_HANDLE_FID | AT_EMPTY_PATH
        if self._name_to_handle(dirfd, name, self._handle_at, self._mount_id_at, flags):
            return b""
        return bytes(buffer[4 : 8 + buffer[0]])

    def open_by_handle(self, mount_fd: int, handle: Handle, flags: int) -> int:
        """open_by_handle_at(2): a descriptor with close-on-exec. Raises OSError, ESTALE when the file is gone."""
        buffer = self._handle_buffer
        buffer[0] = len(handle) - 4
        buffer[4 : 4 + len(handle)] = handle
        fd: int = self._open_by_handle(mount_fd, self._handle_at, flags | os.O_CLOEXEC)
        if fd < 0:
            raise _fail()
        return fd

    def getdents(self, fd: int) -> list[Entry]:
        """The next records of directory `fd` by getdents64(2); an empty list at the end. Raises OSError."""
        buffer = self._dirents
        size: int = self._getdents(fd, self._dirents_at, DIRENT_BUFFER)
        if size < 0:
            raise _fail()
        records = bytes(memoryview(buffer)[:size])
        entries: list[Entry] = []
        append, unpack, find, new = entries.append, _DIRENT.unpack_from, records.find, tuple.__new__
        at = 0
        while at < size:
            ino, cookie, length, kind = unpack(records, at)
            start = at + _DIRENT_NAME
            append(new(Entry, (ino, cookie, kind, records[start : find(b"\0", start)])))
            at += length
        return entries

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
        """renameat2(2) with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT in `flags`. Raises OSError."""
        if self._renameat2(old_dir, old, new_dir, new, ctypes.c_uint(flags)):
            raise _fail(old)

    def utimens(self, path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2) on a path, times in nanoseconds since 1970, NOW, or None for as it is. Raises OSError."""
        times = struct.pack("<qqqq", *_timespec(atime_ns), *_timespec(mtime_ns))
        if self._utimensat(_AT_FDCWD, path, times, 0):
            raise _fail(path)


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    """mount(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = (os.fsencode(source), os.fsencode(target), os.fsencode(kind))
    if libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options)):
        raise _fail(target)


def write_in_place(fd: int) -> None:
    """Have btrfs write this file, which must be empty, in place and not to a copy (FS_NOCOW_FL, chattr(1)'s C).

    Raises OSError, also where the file system has no such flag.
    """
    flags = int.from_bytes(fcntl.ioctl(fd, 0x80086601, bytes(8)), "little")  # FS_IOC_GETFLAGS
    fcntl.ioctl(fd, 0x40086602, (flags | 0x00800000).to_bytes(8, "little"))  # FS_IOC_SETFLAGS


def detached_mount(kind: str) -> int:
    """A new mount of a virtual file system that is seen nowhere; the descriptor of its root. Raises OSError.

    fsopen, fsconfig and fsmount (Linux 5.2) have the same numbers on every machine.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    context = libc.syscall(430, kind.encode(), 1)  # FSOPEN_CLOEXEC
    if context < 0:
        raise _fail(kind)
    try:
        if libc.syscall(431, context, 6, None, None, 0):  # FSCONFIG_CMD_CREATE
            raise _fail(kind)
        fd: int = libc.syscall(432, context, 1, 0)  # FSMOUNT_CLOEXEC
        if fd < 0:
            raise _fail(kind)
        return fd
    finally:
        os.close(context)


def open_no_symlinks(dirfd: int, path: bytes, flags: int) -> int:
    """openat2(2) of a path no part of which may be a symbolic link: a descriptor with close-on-exec.

    Raises OSError, ELOOP for a link; ENOSYS or EPERM where a sandbox knows no such call. Other threads go on meanwhile.
    """
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    fd: int = _UNLOCKED.syscall(_OPENAT2, dirfd, path, how, len(how))
    if fd < 0:
        raise _fail(path)
    return fd


def umount(target: str, flags: int = 0) -> None:
    """umount2(2) of the mount itself, a symbolic link at its place not followed. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(target), flags | 8):  # UMOUNT_NOFOLLOW
        raise _fail(target)


def syscall_number(name: str) -> int:
    """The number of a system call that glibc wraps for the whole process, where one thread is meant."""
    try:
        return _SYSCALLS[platform.machine()][name]
    except KeyError:
        raise OSError(errno.ENOSYS, f"fusemap does not know the system calls of {platform.machine()}") from None


def _pointer(buffer: bytearray) -> Any:
    """An argument that points to `buffer` and keeps it; made once, it is passed on without a conversion."""
    return ctypes.byref((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _timespec(ns: int | None) -> tuple[int, int]:
    if ns is None or ns == NOW:
        return (0, UTIME_OMIT if ns is None else _UTIME_NOW)
    return divmod(ns, 1_000_000_000)


_AT_FDCWD: Final = -100
_OPENAT2: Final = 437  # on every machine; include/uapi/linux/openat2.h
_RESOLVE_NO_SYMLINKS: Final = 4
_UNLOCKED: Final = ctypes.CDLL(None, use_errno=True)
_STATX_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH
_STATX_UNPACK: Final = _STATX.unpack_from
