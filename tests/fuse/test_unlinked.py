"""Files and directories that have lost their name while somebody holds them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ..support.house import Pair, same, tried
from ..support.process import ALICE


def put(path: Path, data: bytes = b"", mode: int = 0o666) -> int:
    """A new file, open for reading and writing."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    os.write(fd, data)
    return fd


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
        told.append(tried(lambda: os.link(f"/proc/self/fd/{fd}", path / "back", follow_symlinks=True)))
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
            told.append(tried(lambda: os.mkdir("below")))
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
            told.append(tried(act))
        return told

    same(either, work, ALICE)
