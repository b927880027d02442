"""fusemap mount: what it refuses, how it goes into the background, and every way in which it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.process import ALICE, BOB, Child, User, attempt, call_as, children, die_with_parent, reap, run, wait_exit
from ..support.stage import FUSEMAP, Stage, detach, drop_caches, mount_points, watchdog

Result = subprocess.CompletedProcess[str]


def fusemap(*arguments: str | Path, user: User | None = None, **options: Any) -> Result:
    """Runs fusemap to its end."""
    if user is not None:
        options |= {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
    options["env"] = {**os.environ, **options.get("env", {})}
    return attempt(*FUSEMAP, *arguments, **options)


class Daemons:
    """Mounts made in the background: they are children of the test run, which adopts orphans."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before = children()

    def pids(self) -> set[int]:
        """The processes that were started since and have not ended."""
        return {pid for pid in children() - self._before if not reap(pid)}

    def mount(self, *arguments: str | Path, **options: Any) -> int:
        """Mounts; the daemon's process id."""
        before = self.pids()
        done = fusemap("mount", *arguments, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        (pid,) = self.pids() - before
        watchdog.guard(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Waits for a daemon to end; its exit status."""
        status = wait_exit(pid, 20)
        watchdog.release(pid)
        return status

    def close(self) -> None:
        """Ends what is left."""
        detach(self._stage.path / "mnt")
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
            wait_exit(pid)
            watchdog.release(pid)


@pytest.fixture
def daemons(stage: Stage) -> Iterator[Daemons]:
    needs.fuse()
    found = Daemons(stage)
    yield found
    found.close()


@pytest.fixture
def source(stage: Stage) -> Path:
    """A directory with a file in it."""
    path = stage.directory("src")
    (path / "f").write_text("f")
    return path


@pytest.fixture
def target(stage: Stage) -> Path:
    """An empty directory."""
    return stage.directory("mnt")


def one_sentence(text: str) -> bool:
    """Whether a program says what is wrong as fusemap does."""
    return text.startswith("fusemap: ") and text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def refused(done: Result, *words: str) -> None:
    """Exit status 2, and one sentence that says the words; in the foreground there may be a log before it."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines(keepends=True)
    if "-f" in done.args:
        lines = [line for line in lines if not line.startswith("INFO: ")]
    assert one_sentence("".join(lines)), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
class TestRefused:
    """Nothing is mounted, and no process is left."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, daemons: Daemons, stage: Stage) -> Iterator[None]:
        self.stage = stage
        yield
        mine = [point for point in mount_points() if point.startswith(os.fsencode(stage.path))]
        allowed = {os.fsencode(stage.path / name) for name in ("mnt", "src", "disk", "dev", "src/seen")}
        assert not daemons.pids()
        assert len(mine) == len(set(mine)), "something was mounted over a mount"
        assert set(mine) <= allowed

    def test_a_source_that_is_missing(self, foreground: list[str], target: Path) -> None:
        refused(fusemap("mount", target.parent / "missing", target, *foreground), "missing", "No such file")

    def test_a_source_that_is_a_file(self, foreground: list[str], source: Path, target: Path) -> None:
        refused(fusemap("mount", source / "f", target, *foreground), "is not a directory")

    def test_a_target_that_is_missing(self, foreground: list[str], source: Path, target: Path) -> None:
        refused(fusemap("mount", source, target / "missing", *foreground), "missing", "create it first")

    def test_a_target_that_is_a_file(self, foreground: list[str], source: Path) -> None:
        refused(fusemap("mount", source, source / "f", *foreground), "is not a directory")

    def test_a_source_inside_the_target(self, foreground: list[str], target: Path) -> None:
        (target / "inside" / "deep").mkdir(parents=True)
        refused(fusemap("mount", target / "inside" / "deep", target, *foreground), "inside the mount point")

    def test_a_target_inside_the_source(self, foreground: list[str], source: Path) -> None:
        (source / "inside" / "deep").mkdir(parents=True)
        refused(fusemap("mount", source, source / "inside" / "deep", *foreground), "inside", "outside")

    def test_a_target_inside_the_source_by_a_symlink(self, foreground: list[str], source: Path, stage: Stage) -> None:
        (source / "inside").mkdir()
        os.symlink(source / "inside", stage.path / "link")
        refused(fusemap("mount", source, stage.path / "link", *foreground), "inside")

    def test_a_target_inside_the_source_by_a_bind_mount(self, foreground: list[str], source: Path, stage: Stage) -> None:
        (source / "seen").mkdir()
        (stage.directory("disk") / "target").mkdir()
        stage.bind(stage.path / "disk", source / "seen")
        refused(fusemap("mount", source, stage.path / "disk" / "target", *foreground), "inside")

    def test_the_target_is_the_source(self, foreground: list[str], source: Path) -> None:
        refused(fusemap("mount", source, source, *foreground), "on itself")
        refused(fusemap("mount", source, f"{source}/../src", *foreground), "on itself")

    def test_a_target_in_use(self, foreground: list[str], source: Path, stage: Stage, target: Path) -> None:
        stage.tmpfs("mnt")
        refused(fusemap("mount", source, target, *foreground), "in use")

    def test_a_target_in_use_by_ourselves(self, foreground: list[str], source: Path, stage: Stage, target: Path) -> None:
        mounted = stage.fusemap(source)
        refused(fusemap("mount", source, target, *foreground), "in use")
        assert (mounted / "f").read_text() == "f"
        assert mounted.unmount() == 0

    def test_no_fuse_device(self, foreground: list[str], source: Path, target: Path, stage: Stage) -> None:
        run("mount", "--bind", os.devnull, "/dev/fuse")
        try:
            refused(fusemap("mount", source, target, *foreground))
        finally:
            run("umount", "/dev/fuse")
        hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && shift 0 && exec "$@"', "-"]
        refused(attempt(*hidden, *FUSEMAP, "mount", source, target, *foreground), "/dev/fuse", "modprobe fuse")

    def test_root_without_the_right_to_mount(self, foreground: list[str], source: Path, target: Path) -> None:
        bare = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
        refused(attempt(*bare, *FUSEMAP, "mount", source, target, *foreground), "cannot mount")

    def test_an_ordinary_user_without_fusermount3(self, foreground: list[str], source: Path, target: Path) -> None:
        os.chown(target, ALICE.uid, ALICE.gid)
        done = fusemap("mount", source, target, *foreground, user=ALICE, env={"PATH": "/nonexistent"})
        refused(done, "fusermount3", "install")

    def test_an_ordinary_user_and_anothers_directory(
        self, foreground: list[str], source: Path, target: Path, stage: Stage
    ) -> None:
        needs.tools("fusermount3")
        stage.admit(ALICE)
        os.chown(target, BOB.uid, BOB.gid)
        refused(fusemap("mount", source, target, *foreground, user=ALICE))

    def test_an_ordinary_user_and_a_source_he_may_not_read(self, foreground: list[str], source: Path, target: Path) -> None:
        source.chmod(0o700)
        os.chown(target, ALICE.uid, ALICE.gid)
        refused(fusemap("mount", source, target, *foreground, user=ALICE), "Permission denied")

    def test_an_ordinary_user_and_allow_other(self, foreground: list[str], source: Path, target: Path, stage: Stage) -> None:
        needs.tools("fusermount3")
        if os.path.exists("/etc/fuse.conf") and "\nuser_allow_other" in Path("/etc/fuse.conf").read_text():
            pytest.skip("this machine lets users share their mounts")
        stage.admit(ALICE)
        os.chown(target, ALICE.uid, ALICE.gid)
        refused(fusemap("mount", source, target, *foreground, "-o", "allow_other", user=ALICE), "user_allow_other")

    @pytest.mark.parametrize("option", ["map=wrong", "nonsense", "cache=often", "k=9", "k=x", "map", "map=suffix,map=x"])
    def test_unknown_options(self, foreground: list[str], source: Path, target: Path, option: str) -> None:
        refused(fusemap("mount", source, target, *foreground, "-o", option))

    def test_a_log_that_cannot_be_written(self, foreground: list[str], source: Path, target: Path) -> None:
        refused(fusemap("mount", source, target, *foreground, "--log", source / "missing" / "log"), "log")


@pytest.mark.parametrize("user", [None, ALICE], ids=["root", "alice"])
@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["background", "foreground"])
def test_a_refused_mount_leaves_no_table_behind(
    stage: Stage, source: Path, target: Path, user: User | None, foreground: list[str]
) -> None:
    run("mount", "--bind", os.devnull, "/dev/fuse")
    stage.after(detach, Path("/dev/fuse"))
    refused(fusemap("mount", source, target, *foreground, user=user, env={"PATH": "/nonexistent"}))
    assert os.listxattr(source) == []
    assert os.listdir(stage.state) == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["mount"], ["mount", "a"], ["mount", "a", "b", "c"], ["nonsense"], ["mount", "a", "b", "--map", "x"], ["mount", "a", "b", "-k", "9"]],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = fusemap(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_tells_every_option() -> None:
    done = fusemap("mount", "--help")
    assert done.returncode == 0
    for word in ("SRC", "MNT", "--map", "suffix", "prefix", "qemu", "raw", "-k", "--cache", "--read-only", "-o", "-f", "--log"):
        assert word in done.stdout
    assert "mount" in fusemap("--help").stdout
    assert fusemap("--version").stdout.startswith("fusemap ")


# In the background ---------------------------------------------------------------------------------------------------


def test_it_returns_when_the_mount_is_usable(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target)
    assert (target / "f").read_text() == "f"  # at once
    status = Path(f"/proc/{pid}/status").read_text()
    assert "State:\tS" in status or "State:\tR" in status
    assert os.getsid(pid) != os.getsid(0), "a daemon leaves its caller's session"
    assert os.readlink(f"/proc/{pid}/cwd") == "/", "a daemon keeps no directory busy"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {os.devnull}
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_relative_paths_and_a_log(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount("src", "mnt", "--log", "the.log", cwd=source.parent)
    assert (target / "f").read_text() == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0
    log = (source.parent / "the.log").read_text()
    assert f"{target}" in log
    assert "is mounted" in log
    assert "is unmounted" in log


def test_its_pipes_are_closed_so_that_a_reader_of_its_output_ends(daemons: Daemons, source: Path, target: Path) -> None:
    # subprocess.run() in mount() reads standard output and error to their end: it would hang on an inherited pipe.
    pid = daemons.mount(source, target, timeout=20)
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_odd_names_of_source_and_target(daemons: Daemons, stage: Stage) -> None:
    source = stage.directory("a b,c=d\n\\040")
    (source / "f").write_text("f")
    target = stage.directory("m n,o\\p")
    stage.after(detach, target)
    pid = daemons.mount(source, target)
    assert (target / "f").read_text() == "f"
    found = run("findmnt", "-no", "FSTYPE,SOURCE", target, timeout=10).stdout
    assert found.startswith("fuse.fusemap")
    os.kill(pid, signal.SIGTERM)
    assert daemons.wait(pid) == 0
    assert not (target / "f").exists()


def test_a_target_that_is_a_symlink(daemons: Daemons, source: Path, target: Path) -> None:
    os.symlink(target, target.parent / "link")
    pid = daemons.mount(source, target.parent / "link")
    assert (target / "f").read_text() == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_source_as_an_ancestors_other_mount(daemons: Daemons, stage: Stage, target: Path) -> None:
    """A source below which file systems are mounted later, and one that is itself a mount point."""
    disk = stage.ext4("disk")
    (disk / "f").write_text("f")
    pid = daemons.mount(disk, target)
    stage.tmpfs("disk/later")
    (disk / "later" / "g").write_text("g")
    assert (target / "later/g").read_text() == "g"
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_it_says_in_the_mount_table_what_it_is(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target, "-o", "noexec,noatime,fsname=tree")
    line = run("findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", target).stdout.split()
    assert line[:2] == ["tree", "fuse.fusemap"]
    assert {"rw", "nosuid", "nodev", "noexec", "noatime"} <= set(line[2].split(","))
    run("umount", target)
    assert daemons.wait(pid) == 0


@pytest.mark.parametrize("options", [["-o", "defaults"], ["-o", "rw,auto,nofail,x-systemd.automount,_netdev"], ["-o", "ro"], ["-o", "map=prefix", "-o", "cache=none"], ["-o", "exec,suid,dev"], ["-k", "5"], ["--cache", "always"]], ids=" ".join)
def test_options_that_are_fine(daemons: Daemons, source: Path, target: Path, options: list[str]) -> None:
    pid = daemons.mount(source, target, *options)
    assert (target / "f").read_text() == "f"
    assert (os.stat(target / "f").st_ino >> 48 != 0) == ("map=prefix" in options)
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_the_golomb_parameter_counts(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target, "-k", "5")
    assert os.stat(target / "f").st_ino == os.stat(source / "f").st_ino << 6 | 0b000001
    run("umount", target)
    assert daemons.wait(pid) == 0


# The ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("foreground", [True, False])
def test_a_signal_unmounts_and_ends_it(stage: Stage, daemons: Daemons, source: Path, target: Path, number: int, foreground: bool) -> None:
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


# mount(8) ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_path(stage: Stage) -> None:
    """Makes fusemap a program, as after pip install."""
    needs.tools("mount.fuse3")
    place = Path("/usr/local/sbin")  # mount(8) looks in places of its own choice only
    program = stage.tmpfs(stage.path / "bin") / "fusemap"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemap "$@"\n')
    program.chmod(0o755)
    run("mount", "--bind", program.parent, place)
    stage.after(detach, place)


@pytest.mark.parametrize("options", ["map=prefix", "rw,map=prefix,cache=none,nofail", "map=prefix,ro,noexec"])
def test_mount_with_a_type(daemons: Daemons, on_path: None, source: Path, target: Path, options: str) -> None:
    run("mount", "-t", "fuse.fusemap", source, target, "-o", options)
    (pid,) = daemons.pids()
    assert (target / "f").read_text() == "f"
    assert os.stat(target / "f").st_ino >> 48
    found = run("findmnt", "-no", "FSTYPE,OPTIONS", target).stdout.split()
    assert found[0] == "fuse.fusemap"
    assert ("ro" in found[1].split(",")) == ("ro" in options.split(","))
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_mount_by_fstab(daemons: Daemons, on_path: None, stage: Stage, source: Path, target: Path) -> None:
    table = stage.path / "fstab"
    table.write_text(f"{source} {target} fuse.fusemap map=suffix,cache=auto,nofail,x-test 0 0\n")
    run("mount", "-T", table, target)
    (pid,) = daemons.pids()
    assert (target / "f").read_text() == "f"
    run("umount", target)
    assert daemons.wait(pid) == 0


def test_mount_with_a_type_says_why_not(daemons: Daemons, on_path: None, source: Path, target: Path) -> None:
    done = attempt("mount", "-t", "fuse.fusemap", source / "missing", target)
    assert done.returncode != 0
    assert "No such file" in done.stderr
    done = attempt("mount", "-t", "fuse.fusemap", source, target, "-o", "map=wrong")
    assert done.returncode != 0
    assert "map=wrong" in done.stderr
    assert not daemons.pids()


# An ordinary user ----------------------------------------------------------------------------------------------------


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
        numbers = [os.lstat(os.path.join(path, name)).st_ino for path, dirs, files in os.walk(target) for name in dirs + files]
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
def test_an_ordinary_users_mount_ends_by_a_signal(stage: Stage, daemons: Daemons, source: Path, target: Path, number: int) -> None:
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


def test_device_nodes_and_set_id_programs_are_off_unless_asked_for(daemons: Daemons, source: Path, target: Path) -> None:
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


def test_nothing_here_uses_a_function_that_is_not_there() -> None:
    """A child that raises tells so."""

    def wrong() -> None:
        raise KeyError("told")

    work: Callable[[], None] = wrong
    with pytest.raises(KeyError, match="told"):
        Child(work).result()
