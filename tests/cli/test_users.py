"""Mounts of ordinary users, and ordinary users of root's mounts."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.command import Daemons
from ..support.process import ALICE, call_as, run
from ..support.stage import Stage, mount_points


def test_an_ordinary_users_mount(stage: Stage, daemons: Daemons, source: Path, target: Path) -> None:
    needs.tools("fusermount3")
    stage.admit(ALICE)
    os.chown(target, ALICE.uid, ALICE.gid)
    os.chown(source, ALICE.uid, ALICE.gid)
    disk = stage.ext4("src/disk")
    (disk / "d").mkdir()
    disk.chmod(0o777)
    pid = daemons.mount(source, target, user=ALICE)

    def work() -> list[Any]:
        (target / "new").write_text("new")
        (target / "disk/mine").write_text("mine")
        os.mkdir(target / "dir")
        os.rename(target / "new", target / "dir" / "moved")
        os.link(target / "dir" / "moved", target / "linked")
        os.symlink("dir/moved", target / "link")
        numbers = [
            os.lstat(os.path.join(path, name)).st_ino for path, dirs, files in os.walk(target) for name in dirs + files
        ]
        assert len(numbers) == len(set(numbers)) + 1  # one hard link
        fd = os.open(target / "dir", os.O_RDONLY)
        os.rename(target / "dir", target / "dir2")
        inside = os.listdir(fd)
        os.close(fd)
        return [(target / "link").is_symlink(), (target / "dir2/moved").read_text(), inside, sorted(os.listdir(target))]

    assert call_as(ALICE, work) == [True, "new", ["moved"], ["dir2", "disk", "f", "link", "linked"]]
    assert os.stat(source / "dir2" / "moved").st_uid == ALICE.uid
    call_as(ALICE, lambda: run("fusermount3", "-u", target))
    assert daemons.wait(pid) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_ordinary_users_mount_ends_by_a_signal(
    stage: Stage, daemons: Daemons, source: Path, target: Path, number: int
) -> None:
    needs.tools("fusermount3")
    stage.admit(ALICE)
    os.chown(target, ALICE.uid, ALICE.gid)
    pid = daemons.mount(source, target, user=ALICE)
    assert call_as(ALICE, lambda: (target / "f").read_text()) == "f"
    os.kill(pid, number)
    assert daemons.wait(pid) == 0
    assert os.fsencode(target) not in mount_points()


def test_an_ordinary_users_mount_after_kill_9(stage: Stage, daemons: Daemons, source: Path, target: Path) -> None:
    needs.tools("fusermount3")
    stage.admit(ALICE)
    os.chown(target, ALICE.uid, ALICE.gid)
    pid = daemons.mount(source, target, user=ALICE)
    os.kill(pid, signal.SIGKILL)
    daemons.wait(pid)
    pid = daemons.mount(source, target, user=ALICE)
    assert call_as(ALICE, lambda: (target / "f").read_text()) == "f"
    os.kill(pid, signal.SIGTERM)
    assert daemons.wait(pid) == 0


def test_many_known_files_of_an_ordinary_user(stage: Stage, daemons: Daemons, source: Path, target: Path) -> None:
    """Without file handles, files are found by their place; renames, here and on the host, must not lead astray."""
    needs.tools("fusermount3")
    stage.admit(ALICE)
    for path in (source, target):
        os.chown(path, ALICE.uid, ALICE.gid)
    pid = daemons.mount(source, target, user=ALICE)

    def work() -> None:
        for d in range(20):
            (target / f"d{d}" / "sub").mkdir(parents=True)
            for f in range(30):
                (target / f"d{d}" / "sub" / f"f{f}").write_text(f"{d} {f}")
        for d in range(0, 20, 2):
            os.rename(target / f"d{d}", target / f"d{d + 1}" / "inner")
        for d in range(0, 20, 2):
            for f in range(30):
                assert (target / f"d{d + 1}/inner/sub/f{f}").read_text() == f"{d} {f}"
            os.rename(target / f"d{d + 1}/inner", target / f"d{d}")
        fds = [os.open(target / f"d{d}" / "sub", os.O_PATH) for d in range(20)]
        for d in range(20):  # the host swaps them all
            os.rename(source / f"d{d}", source / f"e{19 - d}")
        for d in range(20):
            os.rename(source / f"e{d}", source / f"d{d}")
        for d, fd in enumerate(fds):
            try:
                file = os.open("f1", os.O_RDONLY, dir_fd=fd)
            except OSError as error:
                assert error.errno in (errno.ESTALE, errno.ENOENT)
            else:
                assert os.read(file, 10) == f"{d} 1".encode()
                os.close(file)
            os.close(fd)
        for d in range(20):
            assert (target / f"d{d}/sub/f1").read_text() == f"{19 - d} 1"

    call_as(ALICE, work)
    os.kill(pid, signal.SIGTERM)
    assert daemons.wait(pid) == 0


def test_other_users_of_roots_mount(stage: Stage, daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    assert call_as(ALICE, lambda: (target / "f").read_text()) == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0
    pid = daemons.mount(source, target, "-o", "no_allow_other")
    with pytest.raises(PermissionError):
        call_as(ALICE, lambda: (target / "f").read_text())
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_device_nodes_and_set_id_programs_are_off_unless_asked_for(
    daemons: Daemons, source: Path, target: Path
) -> None:
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    pid = daemons.mount(source, target)
    with pytest.raises(PermissionError):
        (target / "null").read_bytes()
    run("umount", target)
    assert daemons.wait(pid) == 0
    pid = daemons.mount(source, target, "-o", "dev")
    assert (target / "null").read_bytes() == b""
    run("umount", target)
    assert daemons.wait(pid) == 0
