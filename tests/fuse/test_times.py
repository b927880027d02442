"""Times to the nanosecond, sizes, blocks, and what statfs says."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fusemap.host.calls import Calls

from ..support.house import Failed, House, Pair, same
from ..support.process import ALICE, BOB

SECOND = 1_000_000_000
MOMENTS = [
    0, 1, 999_999_999, -1, -SECOND, -SECOND - 1, -(1 << 31) * SECOND, ((1 << 31) - 1) * SECOND + 123_456_789,
    (1 << 33) * SECOND + 7, 15_000_000_000 * SECOND, -(1 << 40) * SECOND,
]  # fmt: skip


def times(st: os.stat_result) -> tuple[int, int, int]:
    """Access, modification and change, in nanoseconds."""
    return st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns


@pytest.mark.parametrize("ns", MOMENTS)
def test_times_are_kept_to_the_nanosecond(pair: Pair, ns: int) -> None:
    def work(path: Path) -> list[Any]:
        told = []
        for name, make in (("f", Path.touch), ("d", Path.mkdir), ("s", lambda path: path.symlink_to("nowhere"))):
            make(path / name)
            os.utime(path / name, ns=(ns, ns + 1), follow_symlinks=False)
            st = os.lstat(path / name)
            told.append((st.st_atime_ns, st.st_mtime_ns))
        return told

    told = same(pair, work, ALICE)
    if -(1 << 31) * SECOND < ns < (1 << 33) * SECOND:
        assert told == [(ns, ns + 1)] * 3
    for name in "fds":
        host, shown = os.lstat(pair.host / name), os.lstat(pair.seen / name)
        assert times(host) == times(shown)


@pytest.mark.parametrize("ns", [0, -1, -SECOND - 500, 1_700_000_000_123_456_789, (1 << 33) * SECOND])
def test_times_of_the_host_are_shown_to_the_nanosecond(house: House, ns: int) -> None:
    for part in ("", "xfs", "tmpfs", "subvol-a"):
        pair = house.pair("times", part)
        (pair.host / "f").write_text("")
        os.utime(pair.host / "f", ns=(ns, ns + 1))
        host = os.stat(pair.host / "f")
        with os.scandir(pair.seen) as entries:
            listed = next(entries).stat()
        for shown in os.stat(pair.seen / "f"), listed:
            assert times(shown) == times(host)


def test_one_time_can_be_set_without_the_other_and_to_now(pair: Pair) -> None:
    calls = Calls()

    def work(path: Path) -> list[Any]:
        name = path / "f"
        name.write_text("")
        os.utime(name, ns=(111, 222))
        calls.utimens(os.fsencode(name), 333, None)
        told: list[Any] = [os.stat(name).st_atime_ns, os.stat(name).st_mtime_ns]
        calls.utimens(os.fsencode(name), None, 444)
        told += [os.stat(name).st_atime_ns, os.stat(name).st_mtime_ns]
        before = time.time_ns()
        os.utime(name)
        st = os.stat(name)
        # The kernel's clock for files ticks a few milliseconds behind.
        told += [0 <= st.st_mtime_ns - before + 20_000_000 < 10 * SECOND, st.st_atime_ns == st.st_mtime_ns]
        return told

    assert same(pair, work, ALICE) == [333, 222, 333, 444, True, True]


def test_who_may_set_times(pair: Pair) -> None:
    for top in (pair.host, pair.twin):
        (top / "f").write_text("")
        (top / "f").chmod(0o666)
    assert same(pair, lambda path: os.utime(path / "f", ns=(1, 2)), BOB) == Failed("EPERM")
    assert same(pair, lambda path: os.utime(path / "f"), BOB) is None
    for top in (pair.seen, pair.twin):
        (top / "f").chmod(0o644)
    assert same(pair, lambda path: os.utime(path / "f"), BOB) == Failed("EACCES")


ACTS = [
    "create", "write", "truncate", "chmod", "chown", "rename", "link", "unlink", "mkdir", "symlink", "read", "list",
    "xattr", "map", "nothing written", "same size",
]  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_which_times_a_call_changes(pair: Pair, act: str) -> None:
    """Of the file and of its directory: which of mtime and ctime moved, and that they moved to now."""
    import mmap

    def work(path: Path) -> dict[str, Any]:
        name = path / "d" / "f"
        (path / "d").mkdir()
        name.write_bytes(b"x" * 10)
        old = 1_000_000_000 * SECOND
        os.utime(name, ns=(old, old))
        os.utime(path / "d", ns=(old, old))
        files = (name, path / "d")
        before = [os.stat(file).st_ctime_ns for file in files]
        while time.clock_gettime_ns(5) < max(before) + 8_000_000:  # CLOCK_REALTIME_COARSE, the clock of files
            time.sleep(0.001)
        if act == "create":
            (path / "d" / "new").write_text("")
        elif act == "write":
            with open(name, "r+b") as out:
                out.write(b"y")
        elif act == "truncate":
            os.truncate(name, 3)
        elif act == "same size":
            os.truncate(name, 10)
        elif act == "chmod":
            name.chmod(0o600)
        elif act == "chown":
            os.chown(name, -1, os.getgid())
        elif act == "rename":
            os.rename(name, path / "d" / "g")
            files = (path / "d" / "g", path / "d")
        elif act == "link":
            os.link(name, path / "d" / "g")
        elif act == "unlink":
            os.link(name, path / "outside")
            os.unlink(name)
            files = (path / "outside", path / "d")
        elif act == "mkdir":
            (path / "d" / "new").mkdir()
        elif act == "symlink":
            os.symlink("x", path / "d" / "new")
        elif act == "read":
            name.read_bytes()
        elif act == "list":
            os.listdir(path / "d")
        elif act == "xattr":
            os.setxattr(name, "user.a", b"1")
        elif act == "map":
            with open(name, "r+b") as out, mmap.mmap(out.fileno(), 10) as memory:
                memory[0] = 65
                memory.flush()
        elif act == "nothing written":
            with open(name, "r+b") as out:
                os.pwrite(out.fileno(), b"", 0)
        told: dict[str, Any] = {}
        now = time.time_ns()
        for what, n in (("file", 0), ("directory", 1)):
            st, ctime = os.stat(files[n]), before[n]
            told[what] = {
                "mtime moved": st.st_mtime_ns != old,
                "ctime moved": st.st_ctime_ns != ctime,
                "to now": now - 5 * SECOND < st.st_ctime_ns <= now,
            }
        return told

    same(pair, work, ALICE)
    for path in pair.host.rglob("*"):
        host, shown = os.lstat(path), os.lstat(pair.seen / path.relative_to(pair.host))
        assert times(host)[1:] == times(shown)[1:]
        assert host.st_size == shown.st_size


def test_a_time_that_was_set_survives_closing(pair: Pair) -> None:
    """cp -p and tar write, set the time through the open file, and close: the closing must not change it again."""

    def work(path: Path) -> list[int]:
        fd = os.open(path / "f", os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(5, 6))
        os.close(fd)
        return [os.stat(path / "f").st_mtime_ns]

    assert same(pair, work, ALICE) == [6]
    assert os.stat(pair.host / "f").st_mtime_ns == 6


@pytest.mark.parametrize("size", [0, 1, 511, 513, 4096, 1_000_000])
def test_blocks_are_the_hosts(pair: Pair, size: int) -> None:
    (pair.seen / "f").write_bytes(b"x" * size)
    fd = os.open(pair.seen / "f", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    host, shown = os.stat(pair.host / "f"), os.stat(pair.seen / "f")
    assert (shown.st_blocks, shown.st_size, shown.st_nlink) == (host.st_blocks, host.st_size, host.st_nlink)
    assert shown.st_blksize >= 512


def test_statfs_is_the_roots(house: House, pair: Pair) -> None:
    shown, host = os.statvfs(pair.seen), os.statvfs(pair.host)
    for name in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
        assert getattr(shown, name) == getattr(host, name), name
    before = os.statvfs(house.mounted.path).f_bfree
    fd = os.open(pair.seen / "f", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x" * 1_000_000)
    os.fsync(fd)
    os.close(fd)
    assert before - os.statvfs(house.mounted.path).f_bfree >= 1_000_000 // shown.f_frsize
    assert os.statvfs(house.mounted.path).f_bavail == os.statvfs(house.source).f_bavail
