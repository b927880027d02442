"""Every way in which a mount ends, and starting again afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ..support import needs
from ..support.command import Daemons, fusemap, refused
from ..support.process import attempt, die_with_parent, run
from ..support.stage import FUSEMAP, Stage, drop_caches, mount_points, watchdog


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("foreground", [True, False])
def test_a_signal_unmounts_and_ends_it(
    stage: Stage, daemons: Daemons, source: Path, target: Path, number: int, foreground: bool
) -> None:
    if foreground:
        mounted = stage.fusemap(source)
        os.kill(mounted.pid, number)
        assert mounted.wait() == 0
        assert "Traceback" not in mounted.log()
    else:
        pid = daemons.mount(source, target)
        os.kill(pid, number)
        assert daemons.wait(pid) == 0
    assert os.fsencode(target) not in mount_points()
    assert os.listdir(target) == []


def test_a_signal_ends_it_although_clients_are_inside(stage: Stage, source: Path, target: Path) -> None:
    mounted = stage.fusemap(source)
    os.chdir(target)
    fd = os.open("f", os.O_RDONLY)
    try:
        os.kill(mounted.pid, signal.SIGTERM)
        assert mounted.wait() == 0
        assert os.fsencode(target) not in mount_points()
        with pytest.raises(OSError) as failed:
            os.read(fd, 10)
        assert failed.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        os.chdir("/")
        with contextlib.suppress(OSError):  # its server is gone
            os.close(fd)


def test_a_signal_right_after_the_start(stage: Stage, source: Path, target: Path) -> None:
    """Whenever the signal comes, the process ends and nothing stays mounted."""
    for delay in (0.05, 0.15, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5):
        process = subprocess.Popen(
            [*FUSEMAP, "mount", source, target, "-f"], preexec_fn=die_with_parent, stderr=subprocess.DEVNULL
        )
        watchdog.guard(process.pid)
        time.sleep(delay)
        process.terminate()
        process.wait(10)
        watchdog.release(process.pid)
        assert os.fsencode(target) not in mount_points()


def test_umount_ends_it(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_lazy_umount_ends_it_when_the_last_client_leaves(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    with open(target / "f") as file:
        run("umount", "-l", target)
        assert file.read() == "f"
        assert pid in daemons.pids()
    assert daemons.wait(pid) == 0


def test_umount_is_refused_while_clients_are_inside(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    with open(target / "f"):
        assert attempt("umount", target).returncode != 0
        assert (target / "f").read_text() == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_after_kill_9_it_can_be_started_again(daemons: Daemons, source: Path, target: Path) -> None:
    for _ in range(2):
        pid = daemons.mount(source, target)
        os.kill(pid, signal.SIGKILL)
        assert daemons.wait(pid) == -signal.SIGKILL
        with pytest.raises(OSError) as failed:
            os.stat(target)
        assert failed.value.errno == errno.ENOTCONN
    pid = daemons.mount(source, target)
    assert (target / "f").read_text() == "f"
    assert mount_points().count(os.fsencode(target)) == 1
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_another_programs_dead_mount_is_left_alone(daemons: Daemons, stage: Stage, source: Path, target: Path) -> None:
    needs.tools("bindfs")
    run("bindfs", stage.directory("other"), target)
    (pid,) = daemons.pids()
    os.kill(pid, signal.SIGKILL)
    daemons.wait(pid)
    refused(fusemap("mount", source, target), "umount -l")
    assert os.fsencode(target) in mount_points()


def test_a_mount_over_it_is_not_taken_away(daemons: Daemons, stage: Stage, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    run("umount", "-l", target)
    assert daemons.wait(pid) == 0
    stage.tmpfs("mnt")
    (target / "mine").touch()
    assert os.listdir(target) == ["mine"]


def test_the_source_may_be_moved_and_removed(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    os.rename(source, source.parent / "moved")
    assert (target / "f").read_text() == "f"
    os.unlink(source.parent / "moved" / "f")
    os.rmdir(source.parent / "moved")
    drop_caches()
    time.sleep(1.05)
    assert not (target / "f").exists()
    run("umount", target)
    assert daemons.wait(pid) == 0
