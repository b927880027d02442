"""A scratch directory with real file systems in it and fusemap mounts of them.

Whatever a test builds on a `Stage` is taken down when the stage closes, in reverse order and whatever has happened: a
mount that is busy is detached, a server that does not end is killed. What was not as it should be - a server that
logged an exception, did not end, or ended with another status than 0 - is an error then.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from . import needs, server
from .process import User, Watchdog, attempt, call_as, die_with_parent, run

FUSEMAP: Final = (sys.executable, "-m", "fusemap")
MEBIBYTE: Final = 1 << 20
watchdog: Final = Watchdog()


class Mounted:
    """A running `fusemap mount -f`. `path` is the mount, `source` what it shows, `log` what it has said so far."""

    def __init__(
        self, source: Path, path: Path, log: Path, options: tuple[str, ...], hooks: tuple[str, ...] = (),
        user: User | None = None, **spawn: Any,
    ) -> None:  # fmt: skip
        self.source = source
        self.path = path
        self._log = log
        self._checked = 0
        self.expected: list[str] = []
        self._ended = False
        self._socket = log.with_suffix(f".{len(list(log.parent.iterdir()))}.socket")
        program = FUSEMAP if not hooks else server.command(self._socket, *hooks)
        command = [*program, "mount", str(source), str(path), "-f", *options]
        if user is not None:
            spawn |= {"user": user.uid, "group": user.gid, "extra_groups": user.groups, "umask": user.umask}
        with open(log, "ab") as file:
            spawn = {"preexec_fn": die_with_parent, "cwd": "/", **spawn}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **spawn)
        watchdog.guard(self.process.pid)
        try:
            wait_mounted(path, self.process.pid, user)
        except BaseException as error:
            self.kill()
            detach(path)
            raise AssertionError(f"{' '.join(command)} did not come up ({error!r}):\n{self.log()}") from None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def inside(self) -> server.Inside:
        """The way to ask a server that was started with hooks about its inside."""
        return server.Inside(self._socket)

    def log(self) -> str:
        """What the server has logged."""
        return self._log.read_text(errors="replace")

    def descriptors(self) -> int:
        """How many descriptors the server has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def open_below(self, top: Path) -> list[str]:
        """What the server holds open at or below the host directory `top`."""
        found = []
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/{self.pid}/fd/{fd}")
                if Path(path).is_relative_to(top):
                    found.append(path)
        return found

    def check_log(self) -> None:
        """Fails when the server logged an exception or an error since the last call, unless it is in `expected`."""
        text = self.log()
        new, self._checked = text[self._checked :], len(text)
        wrong = "Traceback" in new or any(line.startswith(("ERROR", "CRITICAL")) for line in new.splitlines())
        if wrong and not any(word in new for word in self.expected):
            raise AssertionError(f"the server logged an error:\n{new}")

    def unmount(self) -> int:
        """Unmounts and waits for the server to end; its exit status."""
        run("umount", self.path)
        return self.wait()

    def wait(self, timeout: float = 20.0) -> int:
        """Waits for the server to end; its exit status."""
        status = self.process.wait(timeout)
        watchdog.release(self.pid)
        self._ended = True
        return status

    def kill(self) -> None:
        """kill -9 of the server, whatever state it is in; the dead mount stays."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        watchdog.release(self.pid)
        self._ended = True

    def close(self) -> None:
        """Takes the mount down; an error when the server did not end well."""
        if not self._ended:
            if attempt("umount", self.path).returncode:
                attempt("umount", "-l", self.path)
            try:
                status = self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                attempt("umount", "-l", self.path)
                raise AssertionError(f"the server did not end when it was unmounted:\n{self.log()}") from None
            assert status == 0, f"the server ended with status {status}:\n{self.log()}"
        while os.fsencode(self.path) in mount_points():
            run("umount", "-l", self.path)
        self.check_log()


class Stage:
    """Builds file systems and mounts; see the head of this module."""

    def __init__(self) -> None:
        self.path = Path(os.path.realpath(tempfile.mkdtemp(prefix="fusemap-test-")))
        self.path.chmod(0o755)
        self._undo = contextlib.ExitStack()
        # What is still mounted below by a mistake must not lose its files
        self._undo.callback(run, "rm", "-rf", "--one-file-system", self.path)
        self._undo.callback(self._detach_all)
        self._images = 0
        # Tables of numbers are named after inodes of the host, which are used again and again.
        self._undo.callback(os.environ.__setitem__, "STATE_DIRECTORY", os.environ["STATE_DIRECTORY"])
        os.environ["STATE_DIRECTORY"] = str(self.directory("state"))
        self.state.chmod(0o1777)

    @property
    def state(self) -> Path:
        """Where fusemap keeps tables of numbers that a tree cannot hold itself."""
        return self.path / "state"

    def close(self) -> None:
        """Takes everything down. Raises what the mounts have to complain of."""
        self._undo.close()

    def _detach_all(self) -> None:
        """What a test has mounted by itself and not taken away."""
        for point in reversed(mount_points()):
            if point.startswith(os.fsencode(self.path) + b"/"):
                run("umount", "-l", os.fsdecode(point))

    def after(self, function: Callable[..., Any], *arguments: Any) -> None:
        """`function` is to be called when the stage closes, before what is there now is taken down."""
        self._undo.callback(function, *arguments)

    def directory(self, name: str | Path) -> Path:
        """A directory below the stage, made if it is not there."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, kind: str, size: int = 0, *options: str) -> Path:
        """A file with a new file system in it; `size` in MiB, 0 for the smallest comfortable one."""
        needs.file_system(kind)
        self._images += 1
        path = self.path / f"{self._images}.{kind}"
        size = size or {"ext4": 64, "xfs": 300, "btrfs": 128}[kind]
        with open(path, "wb") as file:
            file.truncate(size * MEBIBYTE)
        force = "-F" if kind == "ext4" else "-f"
        run(f"mkfs.{kind}", "-q", force, *options, path)
        return path

    def mount(self, source: str | Path, at: str | Path, *options: str) -> Path:
        """mount(8) at a directory below the stage, made if it is not there."""
        needs.root()
        path = self.directory(at)
        run("mount", *options, source, path)
        self._undo.callback(detach, path)
        return path

    def disk(self, kind: str, at: str | Path, size: int = 0, *options: str) -> Path:
        """A new file system on a loop device."""
        return self.mount(self.image(kind, size, *options), at, "-o", "loop")

    def ext4(self, at: str | Path, size: int = 0, *options: str) -> Path:
        """A new ext4."""
        return self.disk("ext4", at, size, *options)

    def tmpfs(self, at: str | Path, options: str = "size=64m") -> Path:
        """A new tmpfs."""
        return self.mount("tmpfs", at, "-t", "tmpfs", "-o", options)

    def bind(self, source: Path, at: str | Path) -> Path:
        """A bind mount."""
        return self.mount(source, at, "--bind")

    def overlay(self, at: str | Path, lowers: int = 2) -> Path:
        """An overlay with xino=on over tmpfs layers: its inode numbers have a layer number in their top bits."""
        needs.file_system("overlay")
        lower = [self.tmpfs(f"layers/{Path(at).name}/{n}") for n in range(lowers)]
        for n, path in enumerate(lower):
            (path / f"from-{n}").write_text(f"layer {n}")
        upper = self.tmpfs(f"layers/{Path(at).name}/upper")
        for name in ("data", "work"):
            (upper / name).mkdir()
        options = f"xino=on,lowerdir={':'.join(map(str, lower))},upperdir={upper}/data,workdir={upper}/work"
        return self.mount("overlay", at, "-t", "overlay", "-o", options)

    def admit(self, user: User) -> None:
        """Lets an ordinary user mount, in our mount namespace only: /dev/fuse is open to him, and he has a name."""
        needs.fuse()
        if os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
            node = self.tmpfs("dev", "dev,size=64k") / "fuse"
            os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
            node.chmod(0o666)
            self._cover(node, "/dev/fuse")
        users = Path("/etc/passwd").read_text()
        if f":{user.uid}:" not in users:  # fusermount3 asks for the name
            line = f"{user.name}:x:{user.uid}:{user.gid}::/nonexistent:/bin/sh"
            (self.path / "passwd").write_text(f"{users.rstrip()}\n{line}\n")
            self._cover(self.path / "passwd", "/etc/passwd")

    def _cover(self, source: Path, target: str) -> None:
        run("mount", "--bind", source, target)
        self._undo.callback(detach, Path(target))

    def fusemap_as(self, user: User, source: Path, *options: str, at: str = "mnt", **spawn: Any) -> Mounted:
        """As `fusemap`, by an ordinary user, who mounts with the help of fusermount3."""
        needs.tools("fusermount3")
        self.admit(user)
        os.chown(self.directory(at), user.uid, user.gid)
        return self.fusemap(source, *options, at=at, user=user, **spawn)

    def fusemap(self, source: Path, *options: str, at: str = "mnt", **spawn: Any) -> Mounted:
        """`fusemap mount -f source`, usable when this returns; taken down with the stage."""
        needs.fuse()
        path = self.directory(at)
        mounted = Mounted(source, path, self.path / f"{path.name}.log", options, **spawn)
        self._undo.callback(mounted.close)
        return mounted


def mount_points() -> list[bytes]:
    """Where something is mounted, in the order of mounting."""
    with open("/proc/self/mountinfo", "rb") as file:
        return [re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4]) for line in file]


def detach(path: Path) -> None:
    """Unmounts everything at `path`, also when it is busy."""
    while os.fsencode(path) in mount_points():
        if attempt("umount", path).returncode:
            run("umount", "-l", path)


def wait_mounted(path: Path, pid: int, user: User | None = None, timeout: float = 20.0) -> None:
    """Waits until something is mounted at `path` and answers `user`.

    Raises ChildProcessError when process `pid` ends first, or TimeoutError.
    """
    end = time.monotonic() + timeout
    with pidfd(pid) as process, open("/proc/self/mountinfo", "rb") as table:
        poll = select.poll()
        poll.register(table, select.POLLPRI)  # "the mount table has changed", proc_pid_mountinfo(5)
        poll.register(process, select.POLLIN)
        while True:
            table.seek(0)
            if any(line.split(b" ")[4] == os.fsencode(path) for line in table):
                break
            events = dict(poll.poll(max(0, end - time.monotonic()) * 1000))
            if process in events:
                raise ChildProcessError(f"process {pid} ended before {path} was mounted")
            if not events:
                raise TimeoutError(f"nothing was mounted at {path} in {timeout} s")
    if user is None:
        os.stat(path)
    else:
        call_as(user, lambda: os.stat(path))


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """A descriptor of a process, readable when it has ended."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def drop_caches() -> None:
    """Makes the kernel forget every inode and page that nobody uses; it tells FUSE servers so."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
