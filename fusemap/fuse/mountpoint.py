"""Mounting and unmounting.

As root the FUSE device is mounted with mount(2) directly, not by libfuse: that gives the real errno, and the flag
MS_POSIXACL, with which the kernel leaves the umask to us - it must not be applied where a directory has a default ACL,
and only the host's kernel knows. libfuse takes the mounted device over as "/dev/fd/N". An ordinary user's mount is made
by fusermount3, which hands the device over a socket (its protocol: util/fusermount.c in libfuse).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass, field
from typing import Final

from fusemap.errors import Refused
from fusemap.host import calls
from fusemap.host.mountinfo import MountInfo, contains, mount_table

log = logging.getLogger(__name__)

TYPE: Final = "fuse.fusemap"
BACKGROUND: Final = 512
# -o word -> (flags to set, flags to clear), mount(2)
FLAGS: Final = {
    "ro": (calls.MS_RDONLY, 0),
    "rw": (0, calls.MS_RDONLY),
    "nosuid": (calls.MS_NOSUID, 0),
    "suid": (0, calls.MS_NOSUID),
    "nodev": (calls.MS_NODEV, 0),
    "dev": (0, calls.MS_NODEV),
    "noexec": (calls.MS_NOEXEC, 0),
    "exec": (0, calls.MS_NOEXEC),
    "sync": (calls.MS_SYNCHRONOUS, 0),
    "async": (0, calls.MS_SYNCHRONOUS),
    "dirsync": (calls.MS_DIRSYNC, 0),
    "noatime": (calls.MS_NOATIME, 0),
    "atime": (0, calls.MS_NOATIME),
    "nodiratime": (calls.MS_NODIRATIME, 0),
    "diratime": (0, calls.MS_NODIRATIME),
    "relatime": (0, calls.MS_NOATIME),
}
DEFAULT_FLAGS: Final = calls.MS_NOSUID | calls.MS_NODEV


@dataclass
class MountOptions:
    """How to mount: mount(2) flags, the source's name in the mount table, whether other users may enter."""

    source: str
    flags: int = DEFAULT_FLAGS
    allow_other: bool | None = None  # None: as root yes, as a user no
    words: list[str] = field(default_factory=list)  # the -o flag words as given, for fusermount3


def check(source: str, target: str) -> None:
    """Refuses what cannot work before anything is mounted. Raises Refused with one sentence."""
    _check_directory(source, "the tree to show")
    _detach_dead(target)
    _check_directory(target, "the mount point")
    real_source, real_target = os.path.realpath(source), os.path.realpath(target)
    if real_source == real_target:
        raise Refused(f"{target} cannot be mounted on itself; choose a mount point outside {source}")
    if contains(os.fsencode(real_target), os.fsencode(real_source)):
        raise Refused(f"{source} lies inside the mount point {target}, which would hide it; choose another mount point")
    if contains(os.fsencode(real_source), os.fsencode(real_target)):
        raise Refused(f"{target} lies inside {source}, so the mount would show itself; choose a mount point outside")
    table = mount_table()
    for info in table:
        if info.point == os.fsencode(real_target):
            what = f"{info.source} ({info.kind})"
            raise Refused(f"{target} is in use: {what} is mounted there; unmount it or choose another directory")
    again = _seen_inside(table, os.fsencode(real_source), os.fsencode(real_target))
    if again is not None:
        raise Refused(f"{target} is also to be seen at {again}, inside {source}; choose a mount point outside")


def mount(target: str, options: MountOptions) -> int:
    """Mounts the FUSE device on `target` and returns its descriptor. Raises Refused."""
    if os.geteuid() != 0:
        return _mount_as_user(target, options)
    fd = _open_device()
    words = [f"fd={fd}", f"rootmode={stat.S_IFDIR:o}", "user_id=0", "group_id=0", "default_permissions"]
    if options.allow_other is not False:
        words.append("allow_other")
    try:
        calls.mount(options.source, target, TYPE, options.flags | calls.MS_POSIXACL, ",".join(words))
    except OSError as error:
        os.close(fd)
        raise Refused(f"cannot mount on {target}: {error.strerror}{_advice(error)}") from error
    return fd


def unmount(target: str) -> None:
    """Takes the mount off `target` now, also when it is busy; whoever is inside finds it disconnected."""
    if os.geteuid() == 0:
        try:
            calls.umount(target, calls.MNT_DETACH)
        except OSError as error:
            if error.errno != errno.EINVAL:  # not mounted any more
                raise
    else:
        subprocess.run(["fusermount3", "-u", "-q", "-z", "--", target], check=False, stderr=subprocess.DEVNULL)


def widen(target: str) -> None:
    """Lets more of the kernel's own requests (read-ahead) wait for us at once than its usual 12 for a whole mount.

    They would all be taken up by one slow disk. An ordinary user's mount keeps the limit (fs/fuse/control.c).
    """
    info = mounted_at(target)
    if info is None or os.geteuid() != 0:
        return
    connection = info.device.partition(":")[2]
    try:
        root = calls.detached_mount("fusectl")
        try:
            for name, value in (("max_background", BACKGROUND), ("congestion_threshold", BACKGROUND * 3 // 4)):
                fd = os.open(f"{connection}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
                try:
                    os.write(fd, str(value).encode())
                finally:
                    os.close(fd)
        finally:
            os.close(root)
    except OSError as error:
        log.debug("the kernel's limit of background requests stays as it is: %s", error)


def mounted_at(target: str) -> MountInfo | None:
    """The topmost mount at `target`, None where nothing is mounted."""
    point = os.fsencode(os.path.join(os.path.realpath(os.path.dirname(target) or "."), os.path.basename(target)))
    return next((info for info in reversed(mount_table()) if info.point == point), None)


def _check_directory(path: str, what: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        advice = "; create it first" if error.errno == errno.ENOENT else ""
        raise Refused(f"{path}, {what}: {error.strerror}{advice}") from error
    if not stat.S_ISDIR(mode):
        raise Refused(f"{path}, {what}, is not a directory")


def _detach_dead(target: str) -> None:
    """A mount whose server was killed answers ENOTCONN to everything; ours is taken away, to be made anew."""
    try:
        os.stat(target)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            return
        info = mounted_at(os.path.abspath(target))
        if info is None or info.kind != TYPE:
            advice = f"take it away first: umount -l {target}"
            raise Refused(f"{target} holds a mount whose server is gone; {advice}") from error
        unmount(os.path.abspath(target))


def _seen_inside(table: list[MountInfo], source: bytes, target: bytes) -> str | None:
    """Where a bind mount shows the directory `target` inside `source`, if one does."""
    home = max((info for info in table if contains(info.point, target)), key=lambda info: len(info.point), default=None)
    if home is None:  # in a chroot whose root is no mount, the table leaves out what is around it
        return None
    inside = _within(home, target)
    for info in table:
        if info.device == home.device and contains(source, info.point) and contains(info.root, inside):
            return os.fsdecode(info.point + inside[len(info.root.rstrip(b"/")) :])
    return None


def _within(info: MountInfo, path: bytes) -> bytes:
    return info.root.rstrip(b"/") + b"/" + path[len(info.point.rstrip(b"/")) :].lstrip(b"/")


def _open_device() -> int:
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        advice = {
            errno.ENOENT: "; load the kernel's fuse module (modprobe fuse)",
            errno.ENODEV: "; load the kernel's fuse module (modprobe fuse)",
            errno.EACCES: "; mounting needs root or fusermount3",
            errno.EPERM: "; mounting needs root or fusermount3",
        }.get(error.errno or 0, "")
        raise Refused(f"cannot open /dev/fuse: {error.strerror}{advice}") from error


def _advice(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "; mounting needs the right to (CAP_SYS_ADMIN)"
    if error.errno == errno.ENODEV:
        return "; load the kernel's fuse module (modprobe fuse)"
    return ""


def _mount_as_user(target: str, options: MountOptions) -> int:
    program = shutil.which("fusermount3")
    if program is None:
        raise Refused("an ordinary user's mount needs fusermount3; install the package fuse3, or mount as root")
    source = options.source.replace("\\", "\\\\").replace(",", "\\,")
    words = [f"fsname={source}", "subtype=fusemap", "default_permissions", *options.words]
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", target],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            check=False,
        )
        theirs.close()
        fds = socket.recv_fds(ours, 1, 1)[1] if done.returncode == 0 else []
    if not fds:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Refused(said[-1] if said else f"fusermount3 could not mount on {target}")
    os.set_inheritable(fds[0], False)
    return fds[0]
