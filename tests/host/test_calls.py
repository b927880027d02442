"""System calls that Python's os module does not have, against those that it has."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fusemap.host.calls import AT_EMPTY_PATH, RENAME_EXCHANGE, RENAME_NOREPLACE, Calls, mount, syscall_number, umount
from fusemap.host.generation import btrfs_root, generation

from ..support import needs
from ..support.process import run
from ..support.stage import Stage, mount_points


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with one file of each kind that needs no rights."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "directory").mkdir()
    os.symlink("file", tmp_path / "symlink")
    os.mkfifo(tmp_path / "fifo")
    os.link(tmp_path / "file", tmp_path / "linked")
    os.utime(tmp_path / "file", ns=(-1_500_000_001, 1_700_000_000_123_456_789))
    return tmp_path


def test_statx_says_what_stat_says(calls: Calls, here: Path) -> None:
    for name in os.listdir(here):
        ours, theirs = calls.statx(-100, os.fsencode(here / name)), os.lstat(here / name)
        assert (ours.mode, ours.ino, ours.dev, ours.nlink) == (
            theirs.st_mode,
            theirs.st_ino,
            theirs.st_dev,
            theirs.st_nlink,
        )
        assert (ours.uid, ours.gid, ours.size) == (theirs.st_uid, theirs.st_gid, theirs.st_size)
        assert (ours.blocks, ours.blksize) == (theirs.st_blocks, theirs.st_blksize)
        times = [(ours.atime_s, ours.atime_ns), (ours.mtime_s, ours.mtime_ns), (ours.ctime_s, ours.ctime_ns)]
        assert [s * 10**9 + ns for s, ns in times] == [theirs.st_atime_ns, theirs.st_mtime_ns, theirs.st_ctime_ns]
        assert os.makedev(ours.rdev_major, ours.rdev_minor) == theirs.st_rdev
    for device in ("/dev/null", "/dev/tty"):
        ours = calls.statx(-100, os.fsencode(device))
        assert os.makedev(ours.rdev_major, ours.rdev_minor) == os.stat(device).st_rdev


def test_statx_of_a_descriptor_and_below_it(calls: Calls, here: Path) -> None:
    fd = os.open(here, os.O_PATH)
    try:
        assert calls.statx(fd, b"").ino == os.stat(here).st_ino
        assert calls.statx(fd, b"file").ino == os.stat(here / "file").st_ino
        assert calls.statx(fd, b"..").ino == os.stat(here.parent).st_ino
        with pytest.raises(FileNotFoundError):
            calls.statx(fd, b"missing")
    finally:
        os.close(fd)


def test_the_content_stamp_changes_with_the_content(calls: Calls, here: Path) -> None:
    path = os.fsencode(here / "file")
    stamps = [calls.statx(-100, path).content_stamp]
    for act in (lambda: (here / "file").write_text("longer content"), lambda: os.utime(here / "file", ns=(1, 1))):
        act()
        stamps.append(calls.statx(-100, path).content_stamp)
    assert len(set(stamps)) == 3


def test_mount_ids_are_those_of_the_mount_table(calls: Calls, stage: Stage) -> None:
    from fusemap.host.mountinfo import mount_table

    path = stage.tmpfs("t")
    fd = os.open(path, os.O_RDONLY)
    try:
        (info,) = [info for info in mount_table() if info.point == os.fsencode(path)]
        assert calls.mount_id(fd) == info.id
        assert info.kind == "tmpfs"
        assert not info.read_only
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_handles_lead_back_to_the_file_wherever_it_was_moved(calls: Calls, stage: Stage, kind: str) -> None:
    top = stage.tmpfs("t") if kind == "tmpfs" else stage.disk(kind, "t")
    (top / "f").write_text("f")
    (top / "d").mkdir()
    fd = os.open(top, os.O_RDONLY)
    try:
        handle = calls.handle(fd, b"f")
        opened = os.open(top / "f", os.O_PATH)
        assert calls.handle(opened, b"") == handle
        os.close(opened)
        os.rename(top / "f", top / "d" / "g")
        opened = calls.open_by_handle(fd, handle, os.O_RDONLY)
        assert os.read(opened, 10) == b"f"
        assert not os.get_inheritable(opened)
        os.close(opened)
        os.link(top / "d" / "g", top / "h")
        assert calls.handle(fd, b"h") == handle
        for name in ("h", "d/g"):
            os.unlink(top / name)
        with pytest.raises(OSError) as failed:
            os.close(calls.open_by_handle(fd, handle, os.O_RDONLY))
        assert failed.value.errno == errno.ESTALE
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_a_generation_tells_a_file_from_the_one_before(calls: Calls, stage: Stage, kind: str) -> None:
    top = stage.tmpfs("t") if kind == "tmpfs" else stage.disk(kind, "t")
    seen: dict[tuple[int, int], int] = {}
    for n in range(20):
        (top / "f").write_text(str(n))
        os.link(top / "f", top / "g")
        handles = [calls.handle(-100, os.fsencode(top / name)) for name in "fg"]
        assert handles[0] == handles[1]
        found = generation(handles[0])
        assert 0 <= found < 1 << 32
        key = (os.stat(top / "f").st_ino, found)
        assert key not in seen, f"files {seen[key]} and {n} cannot be told apart"
        seen[key] = n
        os.unlink(top / "f")
        os.unlink(top / "g")
    if kind == "ext4":
        assert len({inode for inode, _ in seen}) < 20, "no inode number came up again; the test tested nothing"
    root = btrfs_root(handles[0])
    assert (root == 5) if kind == "btrfs" else (root is None)


def test_a_file_system_without_handles_says_so(calls: Calls) -> None:
    with pytest.raises(OSError) as failed:
        calls.handle(-100, b"/proc/self/status")
    assert failed.value.errno == errno.EOPNOTSUPP


def test_getdents_says_what_scandir_says(calls: Calls, tmp_path: Path) -> None:
    for n in range(3000):
        (tmp_path / f"name-{n}").touch()
    (tmp_path / "directory").mkdir()
    os.symlink("x", tmp_path / "symlink")
    (tmp_path / os.fsdecode(b"\xff" * 255)).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        found = {}
        while block := calls.getdents(fd):
            for entry in block:
                found[entry.name] = (entry.ino, entry.kind)
                last = entry
        assert calls.getdents(fd) == []
        os.lseek(fd, last.cookie, os.SEEK_SET)
        assert calls.getdents(fd) == []
        os.lseek(fd, 0, os.SEEK_SET)
        assert calls.getdents(fd)
    finally:
        os.close(fd)
    assert found.pop(b".")[0] == os.stat(tmp_path).st_ino
    assert found.pop(b"..")[0] == os.stat(tmp_path.parent).st_ino
    with os.scandir(os.fsencode(tmp_path)) as entries:
        assert {entry.name: entry.inode() for entry in entries} == {name: ino for name, (ino, _) in found.items()}
    assert found[b"directory"][1] == stat.S_IFDIR >> 12
    assert found[b"symlink"][1] == stat.S_IFLNK >> 12


def test_rename_flags(calls: Calls, here: Path) -> None:
    one, two = os.fsencode(here / "file"), os.fsencode(here / "directory")
    inode = os.stat(one).st_ino
    with pytest.raises(FileExistsError):
        calls.rename(-100, one, -100, two, RENAME_NOREPLACE)
    calls.rename(-100, one, -100, two, RENAME_EXCHANGE)
    assert os.stat(two).st_ino == inode
    assert stat.S_ISDIR(os.stat(one).st_mode)
    with pytest.raises(OSError) as failed:
        calls.rename(-100, one, -100, two, RENAME_EXCHANGE | RENAME_NOREPLACE)
    assert failed.value.errno == errno.EINVAL


@pytest.mark.parametrize("ns", [0, -1, 999_999_999, 1_700_000_000_123_456_789])
def test_utimens_leaves_alone_what_it_is_not_given(calls: Calls, here: Path, ns: int) -> None:
    path = os.fsencode(here / "file")
    calls.utimens(path, ns, 5)
    calls.utimens(path, None, ns)
    assert (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) == (ns, ns)
    calls.utimens(path, 7, None)
    assert (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) == (7, ns)


def test_mount_and_umount(stage: Stage) -> None:
    needs.root()
    path = stage.directory("a b\\c")
    mount("tmpfs", str(path), "tmpfs", 0, "size=64k")
    try:
        assert os.path.ismount(path)
    finally:
        umount(str(path))
    assert not os.path.ismount(path)
    with pytest.raises(OSError) as failed:
        umount(str(path))
    assert failed.value.errno == errno.EINVAL
    with pytest.raises(OSError) as failed:
        mount("nonsense", str(path), "no such file system", 0, "")
    assert failed.value.errno == errno.ENODEV


def test_umount_does_not_follow_a_link(stage: Stage) -> None:
    path = stage.tmpfs("t")
    os.symlink(path, stage.path / "link")
    with pytest.raises(OSError):
        umount(str(stage.path / "link"))
    assert os.fsencode(path) in mount_points()


def test_numbers_of_system_calls_are_this_machines() -> None:
    """Asked of the C library's header by its preprocessor, not taken from the table under test."""
    needs.tools("cc")
    for name in ("setgroups", "setresuid", "setresgid", "capget", "capset"):
        text = f"#include <sys/syscall.h>\nSYS_{name}\n"
        done = run("sh", "-c", f"printf '{text}' | cc -E -P -")
        assert syscall_number(name) == int(done.stdout.split()[-1])
    with pytest.raises(OSError):
        syscall_number("no such call")
    assert AT_EMPTY_PATH == 0x1000
