"""fusemap mount in the background, its options, and mount(8) and fstab."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ..support import needs
from ..support.command import Daemons
from ..support.process import attempt, run
from ..support.stage import FUSEMAP, Stage, detach
from ..support.trees import replace


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


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "defaults"],
        ["-o", "rw,auto,nofail,x-systemd.automount,_netdev"],
        ["-o", "ro"],
        ["-o", "map=prefix", "-o", "cache=none"],
        ["-o", "exec,suid,dev"],
        ["-k", "5"],
        ["--cache", "always"],
    ],
    ids=" ".join,
)
def test_options_that_are_fine(daemons: Daemons, source: Path, target: Path, options: list[str]) -> None:
    pid = daemons.mount(source, target, *options)
    assert (target / "f").read_text() == "f"
    assert (os.stat(target / "f").st_ino >> 48 != 0) == ("map=prefix" in options)
    run("umount", target)
    assert daemons.wait(pid) == 0


@pytest.mark.parametrize("option", [["--reuse", "new-number"], ["-o", "reuse=new-number"], ["--reuse", "keep"], []])
def test_what_becomes_of_an_inode_number_that_is_used_again(
    daemons: Daemons, stage: Stage, target: Path, option: list[str]
) -> None:
    source = stage.ext4("src", 16, "-N", "64")
    log = stage.path / "the.log"
    (source / "f").write_text("first")
    seen = []
    for turn in range(3):
        if turn:
            replace(source / "f", lambda path: path.write_text("made while nobody looked"))
        for _ in range(2):
            pid = daemons.mount(source, target, "--log", log, "--cache", "none", *option)
            seen.append(os.stat(target / "f").st_ino)
            run("umount", target)
            assert daemons.wait(pid) == 0
    pid = daemons.mount(source, target, "--log", log, "--cache", "none", *option)
    seen.append(os.stat(target / "f").st_ino)
    text = log.read_text()
    until_closed(pid, source / "f")
    replace(source / "f", lambda path: path.write_text("made while it is mounted"))
    seen.append(os.stat(target / "f").st_ino)
    run("umount", target)
    assert daemons.wait(pid) == 0
    new = log.read_text()[len(text) :]
    assert "INFO" in new
    assert f"gave inode number {os.stat(source / 'f').st_ino} of uuid:" in new
    assert "the host gave 1 inode numbers of known files to other files" in new
    keep = "new-number" not in "".join(option)
    assert [seen.index(number) for number in seen] == ([0] * 8 if keep else [0, 0, 2, 2, 4, 4, 4, 7])
    shown = json.loads(run(*FUSEMAP, "table", "show", source, "--json").stdout)
    assert shown["reused"] == (0 if keep else 3)
    assert (shown["known_by_generation"] > 0) != keep


def until_closed(pid: int, path: Path) -> None:
    """Waits until a server at rest has let go of a file."""
    end = time.monotonic() + 10
    while str(path) in run("find", f"/proc/{pid}/fd", "-ignore_readdir_race", "-printf", "%l\\n").stdout.splitlines():
        assert time.monotonic() < end, "the server keeps it open"
        time.sleep(0.01)


def test_the_golomb_parameter_counts(daemons: Daemons, source: Path, target: Path) -> None:
    pid = daemons.mount(source, target, "-k", "5")
    assert os.stat(target / "f").st_ino == os.stat(source / "f").st_ino << 6 | 0b000001
    run("umount", target)
    assert daemons.wait(pid) == 0


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
