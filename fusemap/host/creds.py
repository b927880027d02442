"""Acting as the caller for one system call.

A file must be created by the user who asked for it, not by the server: then the host's own rules give it the right
owner, group (setgid directories), mode and ACL. setfsuid(2), setfsgid(2) and setgroups(2) as bare system calls change
one thread only, so around a call with no await inside they are safe on the event loop's own thread. The umask belongs
to the whole process; only creating calls look at it, and those run on one thread.
"""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Final, NamedTuple

from fusemap.host.calls import syscall_number


class Caller(NamedTuple):
    """Who asks: effective user and group, umask, and the thread id by which /proc knows the supplementary groups."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0


class Identity:
    """Switches the calling thread between the server's own credentials and a caller's."""

    def __init__(self) -> None:
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._groups = os.getgroups()
        self.can_switch: Final = self._uid == 0
        if self.can_switch:
            self._setgroups = syscall_number("setgroups")

    def of(self, caller: Caller) -> _As:
        """A context in which this thread creates files as `caller` would, umask included."""
        return _As(self, caller)

    def _become(self, uid: int, gid: int, groups: list[int]) -> None:
        array = (ctypes.c_uint32 * len(groups))(*groups)
        if self._libc.syscall(self._setgroups, len(groups), array):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        # Their return value is the previous id, also on failure; root's calls do not fail.
        self._libc.setfsgid(gid)
        self._libc.setfsuid(uid)

    def _restore(self) -> None:
        self._libc.setfsuid(self._uid)
        self._libc.setfsgid(self._gid)
        array = (ctypes.c_uint32 * len(self._groups))(*self._groups)
        self._libc.syscall(self._setgroups, len(self._groups), array)


class _As:
    __slots__ = ("_caller", "_identity", "_switched", "_umask")

    def __init__(self, identity: Identity, caller: Caller) -> None:
        self._identity = identity
        self._caller = caller
        self._switched = False

    def __enter__(self) -> None:
        identity, caller = self._identity, self._caller
        if identity.can_switch and (caller.uid, caller.gid) != (identity._uid, identity._gid):
            self._switched = True
            try:
                identity._become(caller.uid, caller.gid, supplementary_groups(caller.pid))
            except BaseException:
                identity._restore()
                raise
        self._umask = os.umask(caller.umask)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.umask(self._umask)
        if self._switched:
            self._identity._restore()


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
