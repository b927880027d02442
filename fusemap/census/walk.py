"""Every name of a tree with its device and inode, and as few system calls as that takes.

A directory is opened and asked for its own stat: mount points and btrfs subvolumes have another inode there than in the
listing above. Everything else is taken from the listing, d_ino and d_type, without a stat of its own - where the file
system is one whose d_ino is known to be st_ino. Where it is not (overlay without xino, FUSE, networks), and for the
few names over which a single file is mounted, lstat tells. os.scandir() it is, not getdents(2) through ctypes: measured
equal in speed, and it lets go of the interpreter lock while a disk thinks.

Each device is a job of its own, several at a time in threads: one head seeks while another does. The walk is like
find's, into everything that is mounted, bind mounts included, and it ends for the same reason: mounts are finite, and
symbolic links are not followed. A file in several places (hard links, bind mounts) is one file; that is settled later,
by its device and inode. So what a mount does about directories that two bind mounts show (fusemap.tree.filesystems) is
no collision here.

How many names there are to come is known where the file systems themselves count their inodes, and all of each is in
the tree. Otherwise nothing is said of it: the part of a tree that has been walked tells nothing of the rest.

The threads are daemons, so that a network that does not answer cannot hold up whoever has pressed Ctrl-C.

A copy of a file system has the uuid of its original. As in fusemap.tree, the root's own device keeps it, and of others
that share one none does; which is found out when all are known, so that it does not depend on which thread was first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue
from typing import Final, NamedTuple, TypeAlias

from fusemap.census.spill import RUN, Spill
from fusemap.errors import Refused
from fusemap.host.calls import Calls, open_no_symlinks
from fusemap.host.identity import Identity, filesystem_magic, identify, session_only
from fusemap.host.mountinfo import MountInfo, contains, mount_table

THREADS: Final = 8
"""Devices that are walked at a time."""

KEPT: Final = 10_000
"""Places that could not be looked at and are named; of all others there is a count."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AT_FDCWD: Final = -100
_VANISHED: Final = frozenset(  # or replaced, by a file or a symbolic link; ESRCH is /proc's
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESRCH, errno.ESTALE}
)
_TICK: Final = 0.2  # seconds between two calls of `progress`
_PATIENCE: Final = 1.0  # seconds that threads get to notice that the walk is over before its time
_COUNTS_INODES: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "f2fs", "squashfs", "erofs"})

# ext2 to ext4, xfs, btrfs, tmpfs, f2fs, squashfs, erofs: linux/magic.h
_D_INO_IS_ST_INO: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x73717368, 0xE0F5E1E2})


Progress: TypeAlias = Callable[[int, int, "float | None"], None]
"""Is told the names and devices so far, and what part of the walk is over, 0 to 1, None where that cannot be known."""


class Unreadable(NamedTuple):
    """A directory or name that could not be looked at, and the operating system's word for why."""

    path: bytes
    why: str


class Met:
    """A device as the walk met it. `place` is where, relative to the tree's top; `top` the inode found there."""

    def __init__(
        self, index: int, identity: Identity, session: Identity, dev: int, place: bytes, top: int, kind: str
    ) -> None:
        self.index = index
        self.identity = identity
        self.session = session  # what it is known by where another one has its identity
        self.dev = dev
        self.place = place
        self.top = top
        self.kind = kind
        self.plain = False  # whether listings tell the inode


class Walk:
    """One walk of one tree. `names` are the administrator's names of devices by absolute path."""

    def __init__(self, root: str, spill: Spill, names: Mapping[str, str] | None = None) -> None:
        self._root = os.fsencode(os.path.realpath(root))
        self._spill = spill
        self._names = self._names_by_device(names or {})
        self._lock = threading.Lock()
        self._calls = Calls()  # under the lock
        self._devices: dict[int, Met] = {}
        self._kinds: dict[bytes, str] = {}
        self._covered: dict[bytes, set[str]] = {}
        self._jobs: SimpleQueue[bytes | None] = SimpleQueue()
        self.expected: int | None = None
        """How many names there will be, about; None where that cannot be known."""
        self._pending = 0  # jobs that have not ended
        self._idle = threading.Condition()
        self._error: Exception | None = None
        self._stop = threading.Event()
        self.unreadable: list[Unreadable] = []
        self.unnamed = 0
        """How many more could not be looked at."""
        self.vanished = 0
        """Names that were listed and then not there any more."""

    @property
    def devices(self) -> list[Met]:
        """The devices met so far, in the order of their index."""
        with self._lock:
            return sorted(self._devices.values(), key=lambda met: met.index)

    def run(self, progress: Progress = lambda names, devices, done: None) -> None:
        """Walks the tree. `progress` is called several times a second.

        Raises Refused where the top cannot be read, or there is no room for what is found.
        """
        self._look_at_mounts()
        try:
            os.close(os.open(self._root, _DIRECTORY))
        except OSError as error:
            raise Refused(f"cannot read {os.fsdecode(self._root)}: {error.strerror}") from error
        threads = [threading.Thread(target=self._work, name="walk", daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        patience = _PATIENCE
        try:
            self._submit(b".")
            self._wait(progress)
            patience = threading.TIMEOUT_MAX
        finally:
            self._stop.set()
            for _ in threads:
                self._jobs.put(None)
            end = time.monotonic() + patience
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
        self._tell_copies_apart()
        progress(self._spill.rows, len(self._devices), 1.0)

    def _wait(self, progress: Progress) -> None:
        while self._error is None:
            with self._idle:
                if not self._pending:
                    break
                self._idle.wait(_TICK)
            progress(self._spill.rows, len(self._devices), self.done())
        if self._error is not None:
            raise self._error

    def done(self) -> float | None:
        """What part of the walk is over; None where that cannot be known."""
        if self.expected is None or self._spill.rows > self.expected:  # hard links: more names than inodes
            return None
        return self._spill.rows / self.expected

    def _submit(self, path: bytes) -> None:
        with self._idle:
            self._pending += 1
        self._jobs.put(path)

    def _work(self) -> None:
        while (path := self._jobs.get()) is not None:
            try:
                top = os.open(self._root, _DIRECTORY | os.O_PATH)
                try:
                    self._walk(top, path)
                finally:
                    os.close(top)
            except Exception as error:
                self._error = error
                self._stop.set()
            finally:
                with self._idle:
                    self._pending -= 1
                    if not self._pending or self._error is not None:
                        self._idle.notify()

    def _look_at_mounts(self) -> None:
        points: dict[bytes, MountInfo] = {}
        for info in mount_table():
            if contains(self._root, info.point):
                points[info.point] = info  # the last one is on top
                relative = os.path.relpath(info.point, self._root)
                self._kinds[relative] = info.kind
                above, name = os.path.split(relative)
                self._covered.setdefault(above or b".", set()).add(os.fsdecode(name))
            elif contains(info.point, self._root):
                self._kinds[b"."] = info.kind
        if self._root in points:
            self.expected = _inodes(points.values())

    def _names_by_device(self, names: Mapping[str, str]) -> dict[int, str]:
        """The names by st_dev, of what is mounted at their paths."""
        found = {}
        for path, name in names.items():
            with contextlib.suppress(OSError):
                dev = os.stat(path).st_dev
                # Where nothing is mounted now, the name is not that of the directory's own device.
                if os.fsencode(os.path.realpath(path)) == self._root or dev != os.stat(os.path.join(path, "..")).st_dev:
                    found[dev] = name
        return found

    def _tell_copies_apart(self) -> None:
        count = Counter(met.identity.key for met in self._devices.values())
        for met in self._devices.values():
            if count[met.identity.key] > 1 and met.place != b".":
                met.identity = met.session

    def _walk(self, top: int, start: bytes) -> None:
        """Walks one directory and what is below it on the same device; others become jobs of their own."""
        # A directory, and names of directories in it, are one text: a list of all their paths could fill memory.
        todo = [b"\0" + start]
        own: int | None = None
        while todo and not self._stop.is_set():
            rest, _, name = todo.pop().rpartition(b"\0")
            head, more, _ = rest.partition(b"\0")
            if more:
                todo.append(rest)
            path = head + name
            try:
                fd = self._open(top, path)
            except OSError as error:
                self._cannot_open(path, error)
                continue
            try:
                st = os.fstat(fd)
                if own is None:
                    own = st.st_dev
                if st.st_dev != own:
                    self._submit(path)
                    continue
                met = self._devices.get(own) or self._meet(fd, b"", own, path, st.st_ino)
                if path < met.place:
                    self._place(met, path, st.st_ino)
                self._list(fd, path, met, st.st_ino, todo)
            except OSError as error:
                self._failed(path, error)
            finally:
                os.close(fd)

    def _open(self, top: int, path: bytes) -> int:
        # Whoever may rename in the tree could put a link in the way, and have names from outside in the census.
        try:
            return open_no_symlinks(top, path, _DIRECTORY)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ENOSYS, errno.EPERM):
                raise
        fd = os.dup(top)
        for name in path.split(b"/"):
            below = fd
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=below)
            finally:
                os.close(below)
        return fd

    def _list(self, fd: int, path: bytes, met: Met, inode: int, todo: list[bytes]) -> None:
        """Adds a directory and what is in it but directories, which go to `todo`."""
        names, inodes, first = [b""], array("Q", [inode]), True
        below: list[bytes] = []
        head = b"" if path == b"." else path + b"/"
        covered = self._covered.get(path, ())
        plain, fsencode, spill = met.plain, os.fsencode, self._spill
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = entry.name
                    try:
                        directory = entry.is_dir(follow_symlinks=False)  # a stat where the listing does not tell
                    except OSError as error:
                        self._failed(head + fsencode(name), error)
                        continue
                    if directory:
                        below.append(fsencode(name))
                        if len(below) == RUN:
                            todo.append(b"\0".join([head, *below]))
                            below.clear()
                        continue
                    if plain and name not in covered:
                        inodes.append(entry.inode())
                    else:
                        st = self._lstat(fd, name, head)
                        if st is None:
                            continue
                        if stat.S_ISDIR(st.st_mode):
                            below.append(fsencode(name))
                            continue
                        if st.st_dev != met.dev:
                            raw = fsencode(name)
                            other = self._devices.get(st.st_dev) or self._meet(fd, raw, st.st_dev, head + raw, 0)
                            spill.add(other.index, path, [raw], array("Q", [st.st_ino]), False)
                            continue
                        inodes.append(st.st_ino)
                    names.append(fsencode(name))
                    if len(names) == RUN:
                        spill.add(met.index, path, names, inodes, first)
                        names, inodes, first = [], array("Q"), False
                        if self._stop.is_set():
                            break
        finally:
            if below:
                todo.append(b"\0".join([head, *below]))
            if names:
                spill.add(met.index, path, names, inodes, first)

    def _lstat(self, fd: int, name: str, head: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            self._failed(head + os.fsencode(name), error)
            return None

    def _meet(self, fd: int, name: bytes, dev: int, place: bytes, top: int) -> Met:
        """The device that directory `fd` is on, or `name` in it, which cannot be opened. Raises OSError."""
        with self._lock:
            met = self._devices.get(dev)
            if met is not None:
                return met
            st = self._calls.statx(fd, name)
            kind = self._kinds.get(place, "")
            # A file on another device than its directory is on a nameless one, as in fusemap.tree.
            session = session_only(st)
            identity = session if name else identify(fd, st, kind, self._names.get(dev))
            met = Met(len(self._devices), identity, session, dev, place, top, kind)
            met.plain = not name and filesystem_magic(fd) in _D_INO_IS_ST_INO
            self._devices[dev] = met
            return met

    def _place(self, met: Met, path: bytes, inode: int) -> None:
        """A device that is seen in several places is named after the first of them, whichever thread was first."""
        with self._lock:
            if path != b"." and met.place == b".":
                return
            if path == b"." or path < met.place:
                met.place, met.top = path, inode

    def _cannot_open(self, path: bytes, error: OSError) -> None:
        """A directory that cannot be read has a number all the same."""
        self._failed(path, error)
        if error.errno in _VANISHED:
            return
        with contextlib.suppress(OSError):
            full = os.path.join(self._root, path)
            st = os.lstat(full)
            if stat.S_ISDIR(st.st_mode):
                met = self._devices.get(st.st_dev) or self._meet(_AT_FDCWD, full, st.st_dev, path, st.st_ino)
                self._spill.add(met.index, path, [b""], array("Q", [st.st_ino]), True)

    def _failed(self, path: bytes, error: OSError) -> None:
        with self._lock:
            if error.errno in _VANISHED:
                self.vanished += 1
            elif len(self.unreadable) == KEPT:
                self.unnamed += 1
            else:
                self.unreadable.append(Unreadable(path, error.strerror or str(error)))


def _inodes(mounts: Iterable[MountInfo]) -> int | None:
    """How many inodes in use these mounts show, None where one of them does not say, or shows a part of its own."""
    total = 1  # the top covers nothing of the tree
    for info in mounts:
        if info.kind not in _COUNTS_INODES or info.root != b"/":
            return None
        try:
            dev, counts = os.stat(info.point).st_dev, os.statvfs(info.point)
        except OSError:
            return None
        if f"{os.major(dev)}:{os.minor(dev)}" != info.device:
            continue  # beneath another mount, where nobody gets to
        if not counts.f_files:
            return None
        total += counts.f_files - counts.f_ffree - 1  # it covers a directory
    return total
