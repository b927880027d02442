"""Reading and writing: open flags, appending, direct access, sparse and large files, special files."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support.house import House, Pair, same, tried
from ..support.process import ALICE, Child

PAGE = mmap.PAGESIZE


def put(path: Path, data: bytes = b"", mode: int = 0o666) -> int:
    """A new file, open for reading and writing."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    os.write(fd, data)
    return fd


MORE = [
    "", "O_TRUNC", "O_APPEND", "O_EXCL", "O_CREAT", "O_CREAT|O_EXCL", "O_CREAT|O_TRUNC", "O_DIRECTORY", "O_NOFOLLOW",
    "O_SYNC", "O_NOATIME", "O_PATH", "O_CREAT|O_DIRECTORY",
]  # fmt: skip


TARGETS = [
    "file", "directory", "missing", "symlink", "dangling", "loop", "fifo", "file/below", "missing/below", "symlink/",
]  # fmt: skip


@pytest.mark.parametrize("flags", ["O_RDONLY", "O_WRONLY", "O_RDWR"])
@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("target", TARGETS)
def test_open_flags(pair: Pair, flags: str, more: str, target: str) -> None:
    """Every combination of flags and targets opens, or fails, as it does on the host."""

    def work(path: Path) -> list[Any]:
        (path / "file").write_bytes(b"0123456789")
        (path / "directory").mkdir()
        os.symlink("file", path / "symlink")
        os.symlink("nowhere", path / "dangling")
        os.symlink("loop", path / "loop")
        os.mkfifo(path / "fifo")
        flag = getattr(os, flags)
        for word in filter(None, more.split("|")):
            flag |= getattr(os, word)
        fd = tried(lambda: os.open(os.path.join(path, target), flag | os.O_NONBLOCK, 0o644))
        told: list[Any] = [fd if isinstance(fd, str) else "opened"]
        if not isinstance(fd, str):
            for act in (
                lambda: stat.filemode(os.fstat(fd).st_mode),
                lambda: os.read(fd, 4) if target != "fifo" else b"",
                lambda: os.write(fd, b"AB") if target != "fifo" else b"",
                lambda: os.fstat(fd).st_size if target != "directory" else 0,
            ):
                told.append(tried(act))
            os.close(fd)
        told.append((path / "file").read_bytes())
        told.append(sorted(os.listdir(path)))
        return told

    same(pair, work, ALICE)


def test_every_writer_with_o_append_writes_at_the_end(pair: Pair) -> None:
    (pair.host / "log").write_bytes(b"")
    lines = 400

    def writer(path: Path, mark: bytes) -> Callable[[], None]:
        def write() -> None:
            fd = os.open(path / "log", os.O_WRONLY | os.O_APPEND)
            for n in range(lines):
                os.write(fd, mark + b" %04d\n" % n)
            os.close(fd)

        return write

    writers = [Child(writer(path, mark)) for path, mark in ((pair.seen, b"m"), (pair.host, b"h"), (pair.seen, b"n"))]
    for child in writers:
        child.result()
    found = (pair.host / "log").read_bytes().splitlines()
    assert len(found) == 3 * lines, "an append has overwritten another"
    for mark in (b"m", b"h", b"n"):
        assert [line for line in found if line.startswith(mark)] == [mark + b" %04d" % n for n in range(lines)]
    os.stat(pair.seen / "log")
    assert (pair.seen / "log").read_bytes() == (pair.host / "log").read_bytes()


def test_appending_after_the_host_appended_shows_both(pair: Pair) -> None:
    """The mount's kernel knows nothing of the host's append when ours is written; it must not keep a wrong page."""
    fd = put(pair.seen / "log", b"one ")
    os.close(fd)
    fd = os.open(pair.seen / "log", os.O_RDWR | os.O_APPEND)
    assert os.pread(fd, 100, 0) == b"one "
    with open(pair.host / "log", "ab") as host:
        host.write(b"HOST ")
    os.write(fd, b"two ")
    assert (pair.host / "log").read_bytes() == b"one HOST two "
    assert os.pread(fd, 100, 0) == b"one HOST two "
    os.write(fd, b"three")
    os.close(fd)
    assert (pair.seen / "log").read_bytes() == (pair.host / "log").read_bytes() == b"one HOST two three"


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, 3 * PAGE + 7, 1 << 20])
def test_o_direct(pair: Pair, size: int) -> None:
    data = os.urandom(size)

    def work(path: Path) -> bytes:
        (path / "f").write_bytes(data)
        fd = os.open(path / "f", os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, (1 << 20) + PAGE)
        got = os.preadv(fd, [buffer], 0)
        read = bytes(buffer[:got])
        buffer[:PAGE] = b"D" * PAGE
        os.pwritev(fd, [memoryview(buffer)[:PAGE]], 2 * PAGE)
        os.close(fd)
        return read + (path / "f").read_bytes()

    expected = bytearray(data.ljust(2 * PAGE, b"\0"))
    expected[2 * PAGE : 3 * PAGE] = b"D" * PAGE
    assert same(pair, work, ALICE) == data + expected


def test_sparse_files(pair: Pair) -> None:
    far = 3 << 32

    def work(path: Path) -> list[Any]:
        fd = put(path / "f")
        os.pwrite(fd, b"end", far)
        os.pwrite(fd, b"middle", 1 << 31)
        st = os.fstat(fd)
        told = [st.st_size, st.st_blocks < 100, os.pread(fd, 10, far - 5), os.pread(fd, 8, (1 << 31) - 1)]
        told.append(os.pread(fd, 10, far + 3))
        os.ftruncate(fd, far + 100)
        told.append(os.pread(fd, 200, far))
        os.ftruncate(fd, 10)
        told.append(os.pread(fd, 200, 0))
        return told

    told = same(pair, work)
    assert isinstance(told, list)
    assert told[:2] == [far + 3, True]


@pytest.mark.parametrize("at", [(1 << 44) - 10, 1 << 44, 1 << 60, (1 << 63) - 2, (1 << 63) - 1])
def test_offsets_beyond_what_a_file_can_have(pair: Pair, at: int) -> None:
    def write(path: Path) -> tuple[int, int]:
        fd = os.open(path / "f", os.O_CREAT | os.O_RDWR, 0o644)
        return os.pwrite(fd, b"x", at), os.fstat(fd).st_size

    def truncate(path: Path) -> int:
        fd = os.open(path / "g", os.O_CREAT | os.O_RDWR, 0o644)
        os.ftruncate(fd, at)
        return os.fstat(fd).st_size

    same(pair, write)
    same(pair, truncate)


def test_a_large_file_in_one_write_and_one_read(house: House) -> None:
    data = os.urandom(1 << 20) * 24 + b"tail"
    for part in ("xfs", "subvol-a", "tmpfs", "overlay"):
        pair = house.pair("large", part)
        (pair.seen / "f").write_bytes(data)
        assert (pair.host / "f").read_bytes() == data
        assert (pair.seen / "f").read_bytes() == data
        os.unlink(pair.seen / "f")


def test_nothing_but_regular_files_is_opened_on_the_host(pair: Pair) -> None:
    """A fifo works between two clients of the mount; the host's end of it is never opened."""
    os.mkfifo(pair.seen / "fifo")
    reader = os.open(pair.seen / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError) as failed:  # nobody reads on the host
            os.open(pair.host / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        assert failed.value.errno == errno.ENXIO
        writer = os.open(pair.seen / "fifo", os.O_WRONLY)
        os.write(writer, b"through")
        assert os.read(reader, 10) == b"through"
        os.close(writer)
    finally:
        os.close(reader)


def test_device_nodes_are_shown_and_not_opened(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        told = []
        for name, kind, major, minor in (
            ("null", stat.S_IFCHR, 1, 3),
            ("far", stat.S_IFBLK, 259, 70000),
            ("big", stat.S_IFCHR, 4095, 1048575),
        ):
            os.mknod(path / name, kind | 0o666, os.makedev(major, minor))
            st = os.lstat(path / name)
            told.append((stat.filemode(st.st_mode), os.major(st.st_rdev), os.minor(st.st_rdev)))
        return told

    assert same(pair, work) == [("crw-r--r--", 1, 3), ("brw-r--r--", 259, 70000), ("crw-r--r--", 4095, 1048575)]
    assert os.lstat(pair.host / "far").st_rdev == os.makedev(259, 70000)
    with pytest.raises(PermissionError):  # the mount is nodev
        os.open(pair.seen / "null", os.O_RDONLY)


def test_writing_to_a_file_opened_for_reading_only_and_the_other_way(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        (path / "f").write_bytes(b"data")
        told: list[Any] = []
        reader, writer = os.open(path / "f", os.O_RDONLY), os.open(path / "f", os.O_WRONLY)
        for act in (
            lambda: os.write(reader, b"x"),
            lambda: os.read(writer, 1),
            lambda: os.ftruncate(reader, 0),
            lambda: os.fsync(reader),
        ):
            told.append(tried(act))
        return told

    assert same(pair, work) == ["EBADF", "EBADF", "EINVAL", None]


def test_a_size_limit_of_the_process_holds(pair: Pair) -> None:
    import resource
    import signal

    def work(path: Path) -> list[Any]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        fd = put(path / "f", b"x" * 990)
        told: list[Any] = [os.write(fd, b"y" * 100)]
        for act in (lambda: os.write(fd, b"z"), lambda: os.ftruncate(fd, 2000)):
            told.append(tried(act))
        return [*told, os.fstat(fd).st_size]

    assert same(pair, work, ALICE) == [10, "EFBIG", "EFBIG", 1000]
