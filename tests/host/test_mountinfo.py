"""The mount table's lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusemap.host.mountinfo import contains, mount_table

from ..support.process import run
from ..support.stage import Stage


@pytest.mark.parametrize("name", ["plain", "a b", "tab\there", "new\nline", "back\\slash", "\\040", "#hash", "\udcff"])
def test_points_of_any_name(stage: Stage, name: str) -> None:
    path = stage.directory(name)
    stage.tmpfs(name)
    (info,) = [info for info in mount_table() if info.point == os.fsencode(path)]
    assert (info.kind, info.root, info.read_only) == ("tmpfs", b"/", False)
    assert info.device == f"{os.major(os.stat(path).st_dev)}:{os.minor(os.stat(path).st_dev)}"


def test_bind_mounts_say_which_part_they_show(stage: Stage) -> None:
    disk = stage.tmpfs("disk")
    (disk / "a" / "b").mkdir(parents=True)
    seen = stage.bind(disk / "a" / "b", "seen")
    run("mount", "-o", "remount,bind,ro", seen)
    (info,) = [info for info in mount_table() if info.point == os.fsencode(seen)]
    assert info.root == b"/a/b"
    assert info.read_only
    (info,) = [info for info in mount_table() if info.point == os.fsencode(disk)]
    assert not info.read_only


def test_a_read_only_file_system_under_a_writable_mount(stage: Stage) -> None:
    disk = stage.ext4("disk")
    run("mount", "-o", "remount,ro", disk)
    (info,) = [info for info in mount_table() if info.point == os.fsencode(disk)]
    assert info.read_only


@pytest.mark.parametrize(
    ("outer", "inner", "answer"),
    [
        (b"/", b"/", True), (b"/", b"/a", True), (b"/a", b"/a", True), (b"/a", b"/a/b", True), (b"/a", b"/ab", False),
        (b"/a/b", b"/a", False), (b"/a", b"/", False),
    ],
)  # fmt: skip
def test_contains(outer: bytes, inner: bytes, answer: bool) -> None:
    assert contains(outer, inner) == answer


def test_the_table_is_this_process_own() -> None:
    assert any(info.point == b"/" for info in mount_table())
    assert len(mount_table()) == len(Path("/proc/self/mountinfo").read_bytes().splitlines())
