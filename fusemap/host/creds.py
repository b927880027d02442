"""Acting as the caller for one system call.

A file must be created by the user who asked for it, not by the server: then the host's own rules give it the right
owner, group (setgid directories), mode and ACL. setfsuid(2), setfsgid(2) and setgroups(2) as bare system calls change
one thread only (credentials(7)), so around a call with no await inside they are safe on the event loop's own thread.
The umask belongs to the whole process; only creating calls look at it, and those run on one thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
from types import TracebackType
from typing import Final, NamedTuple

from fusemap.host.calls import syscall_number

_CAP_HEADER: Final = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread: capset(2)
_CAP_SYS_RESOURCE: Final = 1 << 24
# What setfsuid(2) takes away and gives back: CAP_FS_SET in include/linux/capability.h
_CAP_FS: Final = 0b11111 | 1 << 9 | 1 << 27 | 1 << 32


class Caller(NamedTuple):
    """Who asks: effective user and group, umask, and the thread id by which /proc knows the supplementary groups."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0


class Identity:
    """Switches the calling thread between the server's own credentials and a caller's.

    With a caller's user id the right to exceed quotas and to use a file system's reserved blocks goes as well: the
    first is CAP_SYS_RESOURCE (fs/quota/dquot.c), the second that or the user id itself (ext4_has_free_clusters()).
    """

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self.uid: Final = os.geteuid()
        self.gid: Final = os.getegid()
        self._groups = os.getgroups()
        self.can_switch: Final = self.uid == 0
        if self.can_switch:
            self._setgroups = syscall_number("setgroups")
            self._capset = syscall_number("capset")
            self._own = self._capabilities()
            effective = self._own[0] & ~(_CAP_FS | _CAP_SYS_RESOURCE)
            self._as_user = _cap_data(effective, self._own[1], self._own[2])
            self._as_server = _cap_data(*self._own)

    def of(self, caller: Caller) -> _As:
        """A context in which this thread creates files as `caller` would, umask included."""
        return _As(self, caller)

    def writing(self, uid: int) -> _Writing:
        """A context in which this thread writes data on account of user `uid`."""
        return _Writing(self, uid)

    def become(self, uid: int, gid: int, groups: list[int]) -> None:
        """Takes on a user's, group's and groups' rights. Raises OSError."""
        array = (ctypes.c_uint32 * len(groups))(*groups)
        if self._libc.syscall(self._setgroups, len(groups), array):
            raise _failure()
        # Their return value is the previous id, also on failure; root's calls do not fail.
        self._libc.setfsgid(gid)
        self.become_user(uid)

    def become_user(self, uid: int) -> None:
        """Takes on a user's rights alone. Raises OSError."""
        self._libc.setfsuid(uid)
        if uid and self._libc.syscall(self._capset, _CAP_HEADER, self._as_user):
            raise _failure()

    def restore_user(self) -> None:
        """Gives up a user's rights."""
        self._libc.setfsuid(self.uid)
        self._libc.syscall(self._capset, _CAP_HEADER, self._as_server)

    def restore(self) -> None:
        """Gives up a user's, group's and groups' rights."""
        self.restore_user()
        self._libc.setfsgid(self.gid)
        array = (ctypes.c_uint32 * len(self._groups))(*self._groups)
        self._libc.syscall(self._setgroups, len(self._groups), array)

    def _capabilities(self) -> tuple[int, int, int]:
        """This thread's effective, permitted and inheritable capabilities, a bit each."""
        data = bytes(24)
        if self._libc.syscall(syscall_number("capget"), _CAP_HEADER, data):
            raise _failure()
        words = struct.unpack("<6I", data)
        return (words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32)


class _As:
    __slots__ = ("_caller", "_identity", "_switched", "_umask")

    def __init__(self, identity: Identity, caller: Caller) -> None:
        self._identity = identity
        self._caller = caller
        self._switched = False

    def __enter__(self) -> None:
        identity, caller = self._identity, self._caller
        if identity.can_switch and (caller.uid, caller.gid) != (identity.uid, identity.gid):
            self._switched = True
            try:
                identity.become(caller.uid, caller.gid, supplementary_groups(caller.pid))
            except BaseException:
                identity.restore()
                raise
        self._umask = os.umask(caller.umask)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.umask(self._umask)
        if self._switched:
            self._identity.restore()


class _Writing:
    __slots__ = ("_identity", "_switched", "_uid")

    def __init__(self, identity: Identity, uid: int) -> None:
        self._identity = identity
        self._uid = uid
        self._switched = bool(uid) and identity.can_switch

    def __enter__(self) -> None:
        if self._switched:
            self._identity.become_user(self._uid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._switched:
            self._identity.restore_user()


def supplementary_groups(pid: int) -> list[int]:
    """The supplementary groups of thread `pid` (proc_pid_status(5)); none where the thread is gone or not visible."""
    if pid <= 0:
        return []
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Groups:"):
                    return [int(word) for word in line.split()[1:]]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return []


def _cap_data(effective: int, permitted: int, inheritable: int) -> bytes:
    low = 0xFFFFFFFF
    sets = (effective, permitted, inheritable)
    return struct.pack("<6I", *(bits & low for bits in sets), *(bits >> 32 for bits in sets))


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
