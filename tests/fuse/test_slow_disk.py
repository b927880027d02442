"""Who waits for a slow disk waits alone."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.process import Child, die_with_parent, run
from ..support.stage import Mounted, Stage, wait_mounted, watchdog

FILES = 400


class Slow:
    """The slow disk below a mounted tree, and the hand that holds its reads back."""

    def __init__(self, stage: Stage, at: Path, image: Path | None = None) -> None:
        at.mkdir()
        path = stage.path / "slow.socket"
        command = [sys.executable, "-m", "tests.support.slowdisk", str(at), str(path), str(FILES)]
        command += [str(image)] if image else []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(command, preexec_fn=die_with_parent, env=environment)
        watchdog.guard(self.process.pid)
        stage.after(self.close, at)
        wait_mounted(at, self.process.pid)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(os.fspath(path))
        self._file = self._socket.makefile("rb")

    def close(self, at: Path) -> None:
        """Ends it, whoever still waits."""
        subprocess.run(["umount", "-l", at], check=False, timeout=30)
        self.process.kill()
        self.process.wait(10)
        watchdog.release(self.process.pid)
        self._file.close()
        self._socket.close()

    def until_waiting(self, count: int) -> None:
        """Returns when that many reads wait."""
        while int(self._file.readline()) < count:
            pass

    def waiting(self) -> int:
        """How many reads wait, as far as that is known now."""
        last = 0
        while select.select([self._socket], [], [], 0.3)[0]:
            last = int(self._file.readline())
        return last

    def hold(self) -> None:
        """Holds back every read and write of the image from now on."""
        self._socket.sendall(b"hold")

    def go(self) -> None:
        """Lets all reads and writes go."""
        self._socket.sendall(b"go")


@pytest.fixture
def slow(stage: Stage) -> Iterator[tuple[Mounted, Slow]]:
    source = stage.ext4("src")
    disk = stage.ext4("src/fast")
    for n in range(50):
        (disk / str(n)).write_bytes(b"%d" % n * 3000)
    hand = Slow(stage, source / "slow")
    mounted = stage.fusemap(source)
    yield mounted, hand
    hand.go()


class Readers:
    """Threads of one child that read files 0 to `count` of the slow disk; results() waits for what they read."""

    def __init__(self, mounted: Mounted, count: int) -> None:
        def work() -> list[bytes]:
            found = [b""] * count  # what was read, or the name of an errno

            def one(n: int) -> None:
                try:
                    with open(mounted / f"slow/{n}", "rb") as file:
                        found[n] = file.read(10)
                except OSError as error:
                    found[n] = errno.errorcode[error.errno or 0].encode()

            threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return found

        self._child = Child(work)
        self._count = count

    def results(self, *errors: bytes) -> None:
        """Waits for all, which must have read what is theirs, or failed with one of `errors`."""
        for n, found in enumerate(self._child.result()):
            assert found in (str(n).encode().ljust(10, b"."), *errors)


def everything_else(mounted: Mounted) -> None:
    """Every kind of work on the fast disk."""
    for n in range(50):
        for top in (mounted.source, mounted.path):  # so that the read has to go to the disk
            with open(top / f"fast/{n}", "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert (mounted / f"fast/{n}").read_bytes() == b"%d" % n * 3000
    (mounted / "fast/new").write_bytes(b"new" * 100_000)
    fd = os.open(mounted / "fast/new", os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    os.rename(mounted / "fast/new", mounted / "fast/renamed")
    os.unlink(mounted / "fast/renamed")
    assert len(os.listdir(mounted / "fast")) == 51


@pytest.mark.parametrize("readers", [1, 20, 300])
def test_reads_that_wait_stop_nobody_else(slow: tuple[Mounted, Slow], readers: int) -> None:
    """One read, more than a disk's worker threads, more than the kernel's queue for reading ahead and all tasks."""
    mounted, hand = slow
    waiting = Readers(mounted, readers)
    hand.until_waiting(1)
    if readers > 1:
        hand.waiting()
    start = time.monotonic()
    Child(lambda: everything_else(mounted)).result(timeout=30)
    assert time.monotonic() - start < 20
    hand.go()
    waiting.results()


@pytest.fixture
def slow_ext4(stage: Stage) -> Iterator[tuple[Mounted, Slow]]:
    """An ext4 on a slow disk, below a tree with a fast one."""
    source = stage.ext4("src")
    fast = stage.ext4("src/fast")
    for n in range(50):
        (fast / str(n)).write_bytes(b"%d" % n * 3000)
    hand = Slow(stage, stage.path / "drive", stage.image("ext4", 16))
    disk = stage.mount(stage.path / "drive" / "image", "src/slow", "-o", "loop")
    for n in range(20):
        (disk / str(n)).write_bytes(str(n).encode().ljust(4096, b"."))
    mounted = stage.fusemap(source)
    yield mounted, hand
    hand.go()


def test_a_disks_own_slowness_stops_nobody_else(slow_ext4: tuple[Mounted, Slow]) -> None:
    """A file system that is not remote but waits for its disk: reads past the page cache, and fsync."""
    mounted, hand = slow_ext4
    run("sync", "-f", mounted.source / "slow")
    for n in range(20):
        for top in (mounted.path, mounted.source):  # the mount's kernel knows the file, nobody its data
            with open(top / f"slow/{n}", "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    hand.hold()
    waiting = Readers(mounted, 19)
    hand.until_waiting(1)
    hand.waiting()
    Child(lambda: everything_else(mounted)).result(timeout=30)

    def save() -> None:
        with open(mounted / "slow/19", "r+b") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())

    saving = Child(save)
    hand.waiting()
    Child(lambda: everything_else(mounted)).result(timeout=30)
    hand.go()
    waiting.results()
    saving.result()


def test_a_mount_ends_although_reads_wait(slow: tuple[Mounted, Slow]) -> None:
    """umount -l, then the disk comes back: the server ends by itself once the last reader is served."""
    mounted, hand = slow
    waiting = Readers(mounted, 3)
    hand.until_waiting(3)
    mounted.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        mounted.process.wait(0.3)
    hand.go()
    assert mounted.wait() == 0
    waiting.results(b"ENOTCONN", b"ECONNABORTED")  # at least the close comes too late


def test_a_second_signal_does_not_wait(slow: tuple[Mounted, Slow]) -> None:
    mounted, hand = slow
    waiting = Readers(mounted, 3)
    hand.until_waiting(3)
    mounted.process.terminate()
    while "unmounting" not in mounted.log():
        time.sleep(0.01)
    mounted.process.terminate()
    try:
        assert mounted.wait(10) == 0
    finally:
        hand.go()
        waiting.results(b"ENOTCONN", b"ECONNABORTED")
