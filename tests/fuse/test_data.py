"""Reading and writing: open flags, sparse and large files, mapped memory, and files that have lost their name."""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support.house import Failed, House, Pair, same
from ..support.process import ALICE, Child

PAGE = mmap.PAGESIZE


def put(path: Path, data: bytes = b"", mode: int = 0o666) -> int:
    """A new file, open for reading and writing."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    os.write(fd, data)
    return fd


@pytest.mark.parametrize("flags", ["O_RDONLY", "O_WRONLY", "O_RDWR"])
@pytest.mark.parametrize("more", ["", "O_TRUNC", "O_APPEND", "O_EXCL", "O_CREAT", "O_CREAT|O_EXCL", "O_CREAT|O_TRUNC", "O_DIRECTORY", "O_NOFOLLOW", "O_SYNC", "O_NOATIME", "O_PATH", "O_CREAT|O_DIRECTORY"])
@pytest.mark.parametrize("target", ["file", "directory", "missing", "symlink", "dangling", "loop", "fifo", "file/below", "missing/below", "symlink/"])
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
        told: list[Any] = []
        try:
            fd = os.open(os.path.join(path, target), flag | os.O_NONBLOCK, 0o644)
        except OSError as error:
            told.append(errno.errorcode[error.errno])
        else:
            for act in (
                lambda: stat.filemode(os.fstat(fd).st_mode),
                lambda: os.read(fd, 4) if target != "fifo" else b"",
                lambda: os.write(fd, b"AB") if target != "fifo" else b"",
                lambda: os.fstat(fd).st_size if target != "directory" else 0,
            ):
                try:
                    told.append(act())
                except OSError as error:
                    told.append(errno.errorcode[error.errno])
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
    """The kernel of the mount knows nothing of the host's append when ours is written, and must not keep a wrong page."""
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


@pytest.fixture(params=["auto", "none"])
def either(request: pytest.FixtureRequest) -> Pair:
    """A pair with the default cache, and one whose mount asks the server about everything."""
    found: Pair = request.getfixturevalue("pair" if request.param == "auto" else "uncached")
    return found


def elsewhere(path: Path) -> None:
    """Makes the server busy with so many other files that it keeps nothing of the last ones at hand."""
    for n in range(300):
        (path / f"other{n}").mkdir()
        os.stat(path / f"other{n}")
    for n in range(300):
        (path / f"other{n}").rmdir()


def test_an_open_file_that_was_unlinked_works_on(either: Pair) -> None:
    def work(path: Path) -> list[Any]:
        fd = put(path / "f", b"before")
        os.setxattr(fd, "user.a", b"1")
        os.unlink(path / "f")
        elsewhere(path)
        told: list[Any] = [os.fstat(fd).st_nlink, os.pread(fd, 10, 0), os.listdir(path)]
        os.pwrite(fd, b"after", 3)
        told.append(os.pread(fd, 10, 0))
        os.ftruncate(fd, 4)
        told.append((os.fstat(fd).st_size, os.pread(fd, 10, 0)))
        os.ftruncate(fd, 100000)
        told.append(os.fstat(fd).st_size)
        os.fchmod(fd, 0o604)
        told.append(oct(os.fstat(fd).st_mode))
        os.utime(fd, ns=(5, 6))
        told.append(os.fstat(fd).st_mtime_ns)
        os.setxattr(fd, "user.b", b"2")
        told.append({name: os.getxattr(fd, name) for name in sorted(os.listxattr(fd))})
        os.removexattr(fd, "user.a")
        os.fsync(fd)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.write(again, b"again")
        told.append(os.pread(fd, 5, 0))
        os.close(again)
        told.append(os.pread(fd, 5, 0))
        try:
            os.link(f"/proc/self/fd/{fd}", path / "back", follow_symlinks=True)
        except OSError as error:
            told.append(error.errno)
        # a new file of the same name, and very likely of the same inode number once the old one is closed
        other = put(path / "f", b"new")
        told.append((os.pread(fd, 5, 0), os.pread(other, 5, 0), os.fstat(fd).st_ino != os.fstat(other).st_ino))
        os.close(fd)
        told.append(os.pread(other, 5, 0))
        return told

    told = same(either, work, ALICE)
    assert isinstance(told, list)
    assert told[0] == 0


def test_an_unlinked_file_stays_until_the_last_of_several_opens_is_closed(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        first = put(path / "f", b"data")
        second = os.open(path / "f", os.O_RDONLY)
        os.unlink(path / "f")
        os.close(first)
        told = [os.fstat(second).st_size, os.read(second, 10)]
        os.close(second)
        return told

    assert same(pair, work) == [4, b"data"]


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_a_removed_file_that_is_held_without_being_open(either: Pair, kind: str) -> None:
    """O_PATH descriptors and current directories hold an inode; fstat(2) of one works on a disk to the end."""

    def work(path: Path) -> list[Any]:
        name = path / "held"
        if kind == "file":
            name.write_bytes(b"data")
        elif kind == "directory":
            name.mkdir()
        else:
            os.symlink("target", name)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW)
        told: list[Any] = [os.fstat(fd).st_nlink]
        os.rmdir(name) if kind == "directory" else os.unlink(name)
        elsewhere(path)
        st = os.fstat(fd)
        told += [st.st_nlink, stat.filemode(st.st_mode)]
        if kind == "file":
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            told.append(os.read(again, 10))
        if kind == "symlink":
            told.append(os.readlink("", dir_fd=fd))
        if kind == "directory":
            os.fchdir(fd)
            told.append(os.listdir("."))
            try:
                os.mkdir("below")
            except OSError as error:
                told.append(errno.errorcode[error.errno])
        return told

    same(either, work, ALICE)


def test_a_directory_open_when_it_is_removed(either: Pair) -> None:
    def work(path: Path) -> list[Any]:
        (path / "d").mkdir()
        fd = os.open(path / "d", os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(path / "d")
        elsewhere(path)
        told: list[Any] = [os.listdir(fd), os.fstat(fd).st_nlink]
        for act in (lambda: os.mkdir("x", dir_fd=fd), lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)):
            try:
                told.append(act())
            except OSError as error:
                told.append(errno.errorcode[error.errno])
        return told

    same(either, work, ALICE)


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


def test_memory_shared_between_processes_and_read_back(pair: Pair) -> None:
    data = bytearray(os.urandom(5 * PAGE + 100))

    def work(path: Path) -> list[bytes]:
        fd = put(path / "f", bytes(data))
        with mmap.mmap(fd, 0) as shared, mmap.mmap(fd, 0, access=mmap.ACCESS_COPY) as private:
            private[0:7] = b"PRIVATE"
            shared[PAGE - 3 : PAGE + 3] = b"shared"

            def other() -> None:
                with open(path / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as theirs:
                    theirs[3 * PAGE : 3 * PAGE + 5] = b"other"

            Child(other).result()
            told = [bytes(shared), bytes(private[:10])]
            shared.flush()
        told.append(os.pread(fd, len(data), 0))
        os.close(fd)
        told.append((path / "f").read_bytes())
        return told

    told = same(pair, work)
    expected = bytearray(data)
    expected[PAGE - 3 : PAGE + 3] = b"shared"
    expected[3 * PAGE : 3 * PAGE + 5] = b"other"
    assert told == [bytes(expected), b"PRIVATE" + bytes(data[7:10]), bytes(expected), bytes(expected)]
    assert (pair.host / "f").read_bytes() == expected


def test_mapped_memory_outlives_the_descriptor_and_the_name(pair: Pair) -> None:
    def work(path: Path) -> bytes:
        fd = put(path / "f", b"x" * 2 * PAGE)
        memory = mmap.mmap(fd, 0)
        os.close(fd)
        os.unlink(path / "f")
        memory[PAGE : PAGE + 4] = b"kept"
        memory.flush()
        return memory[PAGE - 1 : PAGE + 5]

    assert same(pair, work) == b"xkeptx"


def test_a_program_can_be_run_and_not_be_written_meanwhile(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        import shutil
        import subprocess

        shutil.copy(shutil.which("sleep") or "/bin/sleep", path / "program")
        with subprocess.Popen([path / "program", "60"]) as running:
            try:
                (path / "program").open("r+b")
                told = "opened"
            except OSError as error:
                told = errno.errorcode[error.errno]
            running.kill()
        return [told]

    assert same(pair, work) == ["ETXTBSY"]


@pytest.mark.parametrize("seed", range(4))
def test_random_reads_and_writes_of_one_file(pair: Pair, seed: int) -> None:
    """Random writes, truncations, mappings and reads by several descriptors: what a byte array says is what is read."""
    rng = random.Random(seed)
    limit = 300_000
    model = bytearray()
    path = pair.seen / "f"
    fds = [put(path), os.open(path, os.O_RDWR), os.open(path, os.O_RDWR | os.O_APPEND)]
    try:
        for step in range(600):
            fd = rng.choice(fds)
            at, size = rng.randrange(limit), rng.choice([1, 100, PAGE, 20_000, 130_000])
            act = rng.choice(["write", "write", "read", "read", "truncate", "map", "reopen", "stat", "sync"])
            if act == "write":
                data = rng.randbytes(size)
                if fd == fds[2]:
                    if len(model) > 2 * limit:
                        continue
                    assert os.write(fd, data) == size
                    at = len(model)
                else:
                    assert os.pwrite(fd, data, at) == size
                if at > len(model):
                    model.extend(bytes(at - len(model)))
                model[at : at + size] = data
            elif act == "read":
                assert os.pread(fd, size, at) == model[at : at + size], (seed, step)
            elif act == "truncate":
                rng.choice([lambda: os.ftruncate(fds[0], at), lambda: os.truncate(path, at)])()
                del model[at:]
                model.extend(bytes(at - len(model)))
            elif act == "map" and model:
                with mmap.mmap(fds[0], len(model)) as memory:
                    assert memory[at : at + size] == model[at : at + size], (seed, step)
                    here = rng.randrange(len(model))
                    data = rng.randbytes(min(size, len(model) - here))
                    memory[here : here + len(data)] = data
                    model[here : here + len(data)] = data
            elif act == "reopen":
                os.close(fds[1])
                fds[1] = os.open(path, os.O_RDWR)
            elif act == "stat":
                assert os.fstat(fd).st_size == os.stat(path).st_size == len(model), (seed, step)
            elif act == "sync":
                os.fsync(fd)
    finally:
        for fd in fds:
            os.close(fd)
    assert (pair.host / "f").read_bytes() == path.read_bytes() == model


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
        for name, kind, major, minor in (("null", stat.S_IFCHR, 1, 3), ("far", stat.S_IFBLK, 259, 70000), ("big", stat.S_IFCHR, 4095, 1048575)):
            os.mknod(path / name, kind | 0o666, os.makedev(major, minor))
            st = os.lstat(path / name)
            told.append((stat.filemode(st.st_mode), os.major(st.st_rdev), os.minor(st.st_rdev)))
        return told

    assert same(pair, work) == [("crw-r--r--", 1, 3), ("brw-r--r--", 259, 70000), ("crw-r--r--", 4095, 1048575)]
    assert os.lstat(pair.host / "far").st_rdev == os.makedev(259, 70000)
    with pytest.raises(PermissionError):  # the mount is nodev
        os.open(pair.seen / "null", os.O_RDONLY)


def test_a_host_descriptor_limit_is_an_errno_not_an_end(pair: Pair, house: House) -> None:
    """The host's EIO, ENXIO and the like are the same through the mount: here those of a directory read as a file."""
    fd = os.open(pair.seen, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            os.read(fd, 10)
    finally:
        os.close(fd)


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
            try:
                told.append(act())
            except OSError as error:
                told.append(errno.errorcode[error.errno])
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
            try:
                told.append(act())
            except OSError as error:
                told.append(errno.errorcode[error.errno])
        return [*told, os.fstat(fd).st_size]

    assert same(pair, work, ALICE) == [10, "EFBIG", "EFBIG", 1000]


def test_failed_is_shown_as_an_errno_name() -> None:
    assert repr(Failed("EIO")) == "Failed(EIO)"
