"""The mounts and devices beneath the exported root, found as clients walk into them.

A mount beneath the root is not held open: the administrator must be able to unmount it at any time. So a mount is
remembered by the directory it covers (a node and a name), opened when it is needed, and taken for gone when another
mount, or none, is found there. The kernel's mount ids say which.

A device is a file system by its identity, so that the same disk unmounted and mounted again keeps its numbers, and
another disk that was dealt the same st_dev does not get them.

Bind mounts that show the same directory twice need care: a FUSE client (and any kernel's cache of directories) cannot
have one directory in two places. Of mounts whose parts of a file system overlap, the one whose mount point sorts first
is known by the device alone and each further one has a `domain` of its own, which enters the mapping as a device of its
own - for directories only: a file in two places is no more than a hard link. Which one is first, two processes must
agree on, however their clients walk; so the mount table tells, not the order of look-ups. Where one of the two is
read-only, files are told apart as well, so that writing through the writable one does not depend on which was seen
first.

A copy of a file system (dd, an LVM snapshot) has the uuid of its original. One number for files of both would be wrong
data, and which of the two is the original nobody can tell: not by the order in which they are met, which is another one
after the next mount. So where both are mounted, neither is known by the uuid alone. An administrator's name makes the
difference last; what has none is known until it is unmounted. Two go by the uuid all the same: the root's own device,
whose table it is, and one that was met before its copy was mounted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from typing import Final

from fusemap.host.calls import Calls, Handle, Stat
from fusemap.host.generation import btrfs_root
from fusemap.host.identity import Identity, identify, session_only
from fusemap.host.mountinfo import MountInfo, contains, mount_table
from fusemap.tree.node import Node

log = logging.getLogger(__name__)

# Metadata of these comes over a network or from another process: a look-up may take as long as that likes.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "virtiofs"})
_READ_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BTRFS_SUBVOLUME_INODE: Final = 256
_DOMAIN: Final = " at "
_CLOCK_OF_FILES: Final = 5  # CLOCK_REALTIME_COARSE, include/uapi/linux/time.h


def is_remote(kind: str) -> bool:
    """Whether a file system of this kind answers from a network or another process, as late as that likes."""
    return kind in _REMOTE or kind.startswith("fuse")


def bare(key: str) -> str:
    """The device's own key, where `Mount.key` may have added through which mount it is seen."""
    return key.partition(_DOMAIN)[0]


Seen = Callable[[str, str], None]
"""Is told of every device that is met: its key and where it is mounted."""


class Device:
    """A file system (or btrfs subvolume) under the root: what the first half of (device, inode) means."""

    __slots__ = ("identity", "key", "major", "minor", "subvolume", "superblock")

    def __init__(self, key: str, identity: Identity, st: Stat, superblock: str, subvolume: int | None) -> None:
        self.key = key
        self.identity = identity
        self.major = st.dev_major
        self.minor = st.dev_minor
        self.superblock = superblock
        self.subvolume = subvolume

    def __str__(self) -> str:
        return f"{self.key} ({self.major}:{self.minor})"


class Mount:
    """One mount in the tree. `place` is the node and name it covers, None for the root's own mount.

    `met` is when it was first seen, in nanoseconds since 1970, by the clock by which files are stamped: it may lie
    behind others by more than a tick, and what is made later must never seem older.
    """

    __slots__ = ("domain", "file_domain", "handles", "id", "info", "met", "place", "remote")

    def __init__(self, id: int, info: MountInfo | None, place: tuple[Node, bytes] | None) -> None:
        self.id = id
        self.info = info
        self.place = place
        self.domain = ""
        self.file_domain = ""
        self.handles = False
        self.met = time.clock_gettime_ns(_CLOCK_OF_FILES)
        self.remote = is_remote(info.kind if info else "")

    def key(self, device: Device, directory: bool) -> str:
        """What stands in the mapping for `device` as seen through this mount."""
        domain = self.domain if directory else self.file_domain
        return device.key + _DOMAIN + domain if domain else device.key

    @property
    def kind(self) -> str:
        """The file system's name in the mount table, "" if it was not found there."""
        return self.info.kind if self.info else ""


class FileSystems:
    """The known mounts and devices of one tree."""

    def __init__(self, calls: Calls, root_path: bytes, names: Mapping[str, str], seen: Seen) -> None:
        self._calls = calls
        self._root_path = root_path
        self._names = names
        self._seen = seen
        self._mounts: dict[int, Mount] = {}
        self._devices: dict[tuple[int, int, int], Device] = {}  # mount id, major, minor
        self._keys: dict[str, Device] = {}
        self._identities: dict[tuple[int, int, int], Identity | None] = {}  # by mount id, major, minor

    def mounts(self) -> list[Mount]:
        """The mounts that were met so far."""
        return list(self._mounts.values())

    def devices(self) -> list[Device]:
        """The devices that were met so far."""
        return list(self._keys.values())

    def any_remote(self) -> bool:
        """Whether anything beneath the root is mounted now from a network or another process."""
        kinds = {info.kind for info in mount_table() if contains(self._root_path, info.point)}
        kinds.update(mount.kind for mount in self._mounts.values())
        return any(is_remote(kind) for kind in kinds)

    def mount(self, mount_id: int) -> Mount | None:
        """The mount with this id, None where it was not met."""
        return self._mounts.get(mount_id)

    def knows(self, mount_id: int) -> bool:
        """Whether the mount with this id was met."""
        return mount_id in self._mounts

    def mount_of(self, st: Stat, place: tuple[Node, bytes] | None, open_directory: Callable[[], int]) -> Mount:
        """The mount that a file is on; `open_directory` opens the file for reading where it is a directory.

        Raises OSError, ESTALE when the mount changed while it was looked at.
        """
        mount = self._mounts.get(st.mnt_id)
        if mount is None:
            mount = self._discover(st, place, open_directory)
            self._mounts[st.mnt_id] = mount
        return mount

    def device_of(
        self, st: Stat, mount: Mount, handle: Handle | None, open_directory: Callable[[], int]
    ) -> Device:
        """The device that a file is on. Raises OSError."""
        place = (mount.id, st.dev_major, st.dev_minor)
        device = self._devices.get(place)
        subvolume = btrfs_root(handle) if handle is not None else None
        if device is not None and device.subvolume == subvolume:
            return device
        device = self._devices[place] = self._identify(st, mount, subvolume, open_directory)
        return device

    def number(self, path: Callable[[str, int], int], st: Stat, below: Node) -> int:
        """The number of a directory that is only named, not entered; that of `below` where its device is not known."""
        key = self.key(st, True)
        if key is None:
            if st.mnt_id != below.mount.id or (st.dev_major, st.dev_minor) != (below.device.major, below.device.minor):
                return below.number
            key = below.mount.key(below.device, True)
        return path(key, st.ino)

    def key(self, st: Stat, directory: bool) -> str | None:
        """What stands in the mapping for a file's device, None where it was not met yet."""
        mount = self._mounts.get(st.mnt_id)
        device = self._devices.get((st.mnt_id, st.dev_major, st.dev_minor))
        return None if mount is None or device is None else mount.key(device, directory)

    def forget_mount(self, mount: Mount) -> None:
        """`mount` is gone from the host; its place in the tables may be another's by now."""
        self._mounts.pop(mount.id, None)
        for place in [place for place in self._devices if place[0] == mount.id]:
            del self._devices[place]

    def _discover(self, st: Stat, place: tuple[Node, bytes] | None, open_directory: Callable[[], int]) -> Mount:
        table = mount_table()
        if not stat.S_ISDIR(st.mode):  # a single file bound over another: known by its place, never opened here
            # Without a descriptor its record cannot be told from others of the same device; it needs none.
            return Mount(st.mnt_id, None, place)
        fd = open_directory()
        try:
            if self._calls.statx(fd, b"").mnt_id != st.mnt_id:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            legacy = self._calls.mount_id(fd)
            info = next((info for info in table if info.id == legacy), None)
            mount = Mount(st.mnt_id, info, place)
            mount.handles = self._handles_open(fd)
        finally:
            os.close(fd)
        if info is not None:
            self._drop_dead(table, info)
            self._place_in_domain(table, mount, info)
        return mount

    def _drop_dead(self, table: list[MountInfo], new: MountInfo) -> None:
        """Forgets mounts that are gone. Mount ids are dealt out again, so `new` ends the life of one with its id."""
        live = {(info.id, info.device, info.point) for info in table if info.id != new.id}
        for mount in self.mounts():
            info = mount.info
            if info is not None and (info.id, info.device, info.point) not in live:
                self.forget_mount(mount)

    def _handles_open(self, fd: int) -> bool:
        try:
            os.close(self._calls.open_by_handle(fd, self._calls.handle(fd, b""), os.O_PATH | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def _shown(self, info: MountInfo) -> bytes:
        """The part of its file system that a mount brings into the tree."""
        if not contains(info.point, self._root_path):
            return info.root
        below = self._root_path[len(info.point.rstrip(b"/")) :]
        return info.root.rstrip(b"/") + below if below else info.root

    def _place_in_domain(self, table: list[MountInfo], mount: Mount, info: MountInfo) -> None:
        shown = self._shown(info)
        others = [other.info for other in self._mounts.values() if other.info is not None and not other.domain]
        others += [other for other in self._beneath(table) if other.point < info.point]  # it will have no domain
        for other in others:
            theirs = self._shown(other)
            if other.id == info.id or other.device != info.device:
                continue
            if contains(theirs, shown) or contains(shown, theirs):
                where = info.point.removeprefix(self._root_path).lstrip(b"/")
                mount.domain = os.fsdecode(where) or "/"
                if info.read_only != other.read_only:
                    mount.file_domain = mount.domain
                log.info(
                    "%s shows directories that %s shows too; they get numbers of their own",
                    os.fsdecode(info.point), os.fsdecode(other.point),
                )  # fmt: skip
                return

    def _beneath(self, table: list[MountInfo]) -> list[MountInfo]:
        """The mounts below the root's path."""
        return [info for info in table if info.point != self._root_path and contains(self._root_path, info.point)]

    def _identify(
        self, st: Stat, mount: Mount, subvolume: int | None, open_directory: Callable[[], int]
    ) -> Device:
        table = mount_table()
        superblock = mount.info.device if mount.info else f"{st.dev_major}:{st.dev_minor}"
        name = self._name(st)
        first = st._replace(mnt_id=self._first_mount(st, mount, table))
        if stat.S_ISDIR(st.mode):
            fd = open_directory()
            try:
                identity = identify(fd, first, mount.kind, name)
            finally:
                os.close(fd)
        else:  # a file on another device than its directory, or mounted by itself: a known device, or a nameless one
            identity = session_only(first)
        device = self._still_mounted(st, mount, superblock, subvolume, {info.id for info in table})
        if device is not None and not (device.identity.lasting and identity.lasting):
            return device
        device = self._keys.get(identity.key)
        if device is not None and (device.major, device.minor) == (st.dev_major, st.dev_minor):
            return device
        if identity.lasting and self._has_copy(device, mount, identity, name, table):
            where = os.fsdecode(mount.info.point) if mount.info else "a file system"
            log.warning(
                "%s has the %s of another mounted file system, as a copy has: its numbers last until it is unmounted. "
                "Give it a name for good: --name %s=NAME", where, "name" if name else "uuid", where,
            )  # fmt: skip
            identity = session_only(first)
        key = identity.key
        device = self._keys[key] = Device(key, identity, st, superblock, subvolume)
        self._seen(key, os.fsdecode(mount.info.point) if mount.info else "")
        lasting = "" if identity.lasting else ", known until it is unmounted"
        log.info("new device %s, %s%s", device, mount.kind or "file system", lasting)
        return device

    def _has_copy(
        self, known: Device | None, mount: Mount, identity: Identity, name: str | None, table: list[MountInfo]
    ) -> bool:
        """Whether another file system that is mounted has this identity, by which `known` was known so far."""
        if known is not None and any(known is device for device in self._devices.values()):
            return True
        if known is not None or name is not None or mount.info is None or not self._devices:
            return False  # it was unmounted since: this is the same one, come back; or it is the root's own
        own = [other.info for other in self._mounts.values() if other.place is None and other.info is not None]
        for info in self._beneath(table) + (own if mount.kind == "btrfs" else []):
            if info.kind == mount.info.kind and info.device != mount.info.device:
                with contextlib.suppress(OSError):
                    found = self._identity_at(info)
                    if found == identity or (found is not None and _of_one_btrfs(found.key, identity.key)):
                        return True
        return False

    def _identity_at(self, info: MountInfo) -> Identity | None:
        """The identity of what a mount shows at its top, None where another mount covers it. Raises OSError."""
        st = self._calls.statx(-100, info.point)  # AT_FDCWD
        place = (st.mnt_id, st.dev_major, st.dev_minor)
        if place not in self._identities:
            fd = os.open(info.point, _READ_DIRECTORY)
            try:
                legacy = self._calls.mount_id(fd)
                self._identities[place] = identify(fd, st, info.kind, self._name(st)) if legacy == info.id else None
            finally:
                os.close(fd)
        return self._identities[place]

    def _first_mount(self, st: Stat, mount: Mount, table: list[MountInfo]) -> int:
        """Of the mounts that show a file's file system, the id of the oldest: every process comes to the same."""
        if mount.info is None:
            return st.mnt_id
        found = [st.mnt_id]
        for info in self._beneath(table):
            if info.device == mount.info.device:
                with contextlib.suppress(OSError):
                    top = self._calls.statx(-100, info.point)
                    if (top.dev_major, top.dev_minor) == (st.dev_major, st.dev_minor):  # and not covered by another
                        found.append(top.mnt_id)
        return min(found)

    def _name(self, st: Stat) -> str | None:
        """What the administrator calls the device of a file, if he named it by where it is mounted, or by the root."""
        for path, name in self._names.items():
            raw = os.fsencode(path)
            try:
                top, above = self._calls.statx(-100, raw), self._calls.statx(-100, raw + b"/..")  # AT_FDCWD
            except OSError:
                continue
            # Where nothing is mounted now, the name is not that of the directory's own device.
            place, beside = (top.dev_major, top.dev_minor), (above.dev_major, above.dev_minor)
            if raw != self._root_path and place == beside and top.mnt_id == above.mnt_id:
                continue
            if place == (st.dev_major, st.dev_minor):
                return name
        return None

    def _still_mounted(
        self, st: Stat, mount: Mount, superblock: str, subvolume: int | None, mount_ids: set[int]
    ) -> Device | None:
        """The known device with this st_dev, if a mount by which it is known is still there: then it is the same."""
        own = mount.info.id if mount.info else None
        for device in self._keys.values():
            if (device.major, device.minor, device.subvolume) != (st.dev_major, st.dev_minor, subvolume):
                continue
            for other in self._mounts.values():
                info = other.info
                if info is None or info.device != device.superblock or info.id == own:
                    continue
                if info.id in mount_ids:
                    return device
            if mount.info is None or device.superblock != superblock:
                continue
            if any(place[0] == mount.id for place, known in self._devices.items() if known is device):
                return device
        return None


def _of_one_btrfs(key: str, other: str) -> bool:
    """Whether these are two subvolumes of one btrfs: a copy of it has all of them, and shows one at its top."""
    (disk, _, subvolume), (others, _, theirs) = key.rpartition(":"), other.rpartition(":")
    return disk.startswith("btrfs:") and disk == others and subvolume.partition("#")[0] != theirs.partition("#")[0]


def opener(dirfd: int, name: bytes) -> Callable[[], int]:
    """A function that opens directory `name` of `dirfd` for reading, never through a symbolic link."""
    return lambda: os.open(name or b".", _READ_DIRECTORY, dir_fd=dirfd)
