"""Acting as the caller for one system call.

A file must be created by the user who asked for it, not by the server: then the host's own rules give it the right
owner, group (setgid directories), mode and ACL. setfsuid(2), setfsgid(2) and setgroups(2) as bare system calls change
one thread only (credentials(7)), so around a call with no await inside they are safe on the event loop's own thread.
The umask belongs to the whole process; only creating calls look at it, and those run on one thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from types import TracebackType
from typing import Final, NamedTuple

from fusemap.host.calls import syscall_number

_IDS: Final = (1 << 32) - 1
_CAP_HEADER: Final = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread: capset(2)
# CAP_SYS_RESOURCE, what setfsuid(2) takes away and gives back (CAP_FS_SET in include/linux/capability.h), and what it
# leaves though extended attributes are set by it: CAP_SYS_ADMIN (trusted.*) and CAP_SETFCAP (security.capability)
CAP_FILES: Final = 1 << 24 | 0b11111 | 1 << 9 | 1 << 27 | 1 << 32 | 1 << 21 | 1 << 31


class Standing(NamedTuple):
    """What /proc says of a thread: supplementary groups, and those capabilities that matter for files, a bit each."""

    groups: list[int]
    capabilities: int


class Caller(NamedTuple):
    """Who asks: effective user and group, the thread id by which /proc knows the rest, and the umask.

    `standing` is given where no thread of this host asks, but a client that says who it is.
    """

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0
    standing: Standing | None = None

    def stand(self) -> Standing:
        """His groups and capabilities."""
        return standing(self.pid) if self.standing is None else self.standing


class Account(NamedTuple):
    """On whose account data is written; `standing` is None where user id alone decides."""

    uid: int
    gid: int
    standing: Standing | None


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
        self._partial = not _every_id_is_mapped()
        if self.can_switch:
            self._setgroups = syscall_number("setgroups")
            self._capset = syscall_number("capset")
            self._effective, self._permitted, self._inheritable = self._capabilities()
            self._as_user = self._cap_data(0)
            self._as_server = self._cap_data(CAP_FILES)

    def of(self, caller: Caller) -> _As:
        """A context in which this thread creates files as `caller` would, umask included."""
        return _As(self, caller)

    def account(self, caller: Caller, mode: int) -> Account:
        """The account for writing to a file with this st_mode.

        Writing takes set-user-id and set-group-id bits away, depending on the writer's groups and capabilities
        (setattr_should_drop_suidgid() in fs/attr.c); only for a file that has some need they be known.
        """
        special = mode & (stat.S_ISUID | stat.S_ISGID) and self._differs(caller)
        return Account(caller.uid, caller.gid, caller.stand() if special else None)

    def writing(self, account: Account) -> _Writing:
        """A context in which this thread writes data on `account`."""
        return _Writing(self, account)

    def _differs(self, caller: Caller) -> bool:
        return self.can_switch and (caller.uid, caller.gid) != (self.uid, self.gid)

    def become(self, uid: int, gid: int, of: Standing) -> None:
        """Takes on a user's, group's and groups' rights. Raises OSError."""
        array = (ctypes.c_uint32 * len(of.groups))(*of.groups)
        if self._libc.syscall(self._setgroups, len(of.groups), array):
            raise _failure()
        # Their return value is the previous id, also on failure; root's calls do not fail.
        self._libc.setfsgid(gid)
        if self._partial and self._libc.setfsgid(-1) != gid:
            raise OSError(errno.EPERM, f"group {gid} is not known in this user namespace")
        self.become_user(uid, of.capabilities)

    def become_user(self, uid: int, capabilities: int = 0) -> None:
        """Takes on a user's rights alone. Raises OSError."""
        self._libc.setfsuid(uid)
        if self._partial and self._libc.setfsuid(-1) != uid:
            raise OSError(errno.EPERM, f"user {uid} is not known in this user namespace")
        if uid:
            data = self._cap_data(capabilities) if capabilities else self._as_user
            if self._libc.syscall(self._capset, _CAP_HEADER, data):
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

    def _cap_data(self, capabilities: int) -> bytes:
        """capset(2)'s argument: of those that matter for files, only `capabilities` are effective."""
        sets = (self._effective & (capabilities | ~CAP_FILES), self._permitted, self._inheritable)
        return struct.pack("<6I", *(bits & 0xFFFFFFFF for bits in sets), *(bits >> 32 for bits in sets))


class _As:
    __slots__ = ("_caller", "_identity", "_switched", "_umask")

    def __init__(self, identity: Identity, caller: Caller) -> None:
        self._identity = identity
        self._caller = caller
        self._switched = False

    def __enter__(self) -> None:
        identity, caller = self._identity, self._caller
        if identity._differs(caller):
            self._switched = True
            try:
                identity.become(caller.uid, caller.gid, caller.stand())
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
    __slots__ = ("_account", "_identity")

    def __init__(self, identity: Identity, account: Account) -> None:
        self._identity = identity
        self._account = account

    def __enter__(self) -> None:
        uid, gid, of = self._account
        if not self._identity.can_switch:
            return
        try:
            if of is not None:
                self._identity.become(uid, gid, of)
            elif uid:
                self._identity.become_user(uid)
        except BaseException:
            self._identity.restore()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._identity.can_switch:
            return
        if self._account.standing is not None:
            self._identity.restore()
        elif self._account.uid:
            self._identity.restore_user()


def _every_id_is_mapped() -> bool:
    """Whether every id is good here. In a container some are not, and setfsuid(2) says nothing when it refuses."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            if sum(int(line.split()[2]) for line in file) < _IDS:
                return False
    return True


def standing(pid: int) -> Standing:
    """The groups and capabilities of thread `pid` (proc_pid_status(5)); none where it is gone or not visible."""
    groups: list[int] = []
    capabilities = 0
    if pid > 0:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                for line in file:
                    if line.startswith(b"Groups:"):
                        groups = [int(word) for word in line.split()[1:]]
                    elif line.startswith(b"CapEff:"):
                        capabilities = int(line.split()[1], 16) & CAP_FILES
                        break
            # Capabilities are good in the process's own user namespace (user_namespaces(7)), a container's not here.
            if capabilities and os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
                capabilities = 0
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            capabilities = 0
    return Standing(groups, capabilities)


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
