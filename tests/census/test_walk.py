"""Real trees: every name is counted once, with the device and inode that stat gives, whatever is in the way."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.census import Census, take
from fusemap.census.spill import RUN, Rows, Spill
from fusemap.census.walk import Walk
from fusemap.errors import Refused

from ..support.house import build_parts
from ..support.process import ALICE, call_as
from ..support.stage import Stage


def walked(top: Path) -> set[tuple[int, int, bytes]]:
    """st_dev, inode and path of everything, as the walk has it."""
    with Spill() as spill:
        walk = Walk(str(top), spill)
        walk.run()
        devices = walk.devices
        rows = spill.rows_of()
        return {
            (devices[device].dev, inode, rows.path(chunk.start + at))
            for chunk in rows.chunks(100)
            for at, (device, inode) in enumerate(zip(chunk.device.tolist(), chunk.inode.tolist(), strict=True))
        }


def stated(top: Path) -> set[tuple[int, int, bytes]]:
    """The same by find and its stat."""
    # 1: find complains of a loop where a directory is mounted below itself, and does not enter it.
    done = subprocess.run(["find", top, "-printf", "%D %i %P\\0"], capture_output=True)
    assert done.returncode == 0 or b"loop" in done.stderr
    found = set()
    for line in done.stdout.split(b"\0")[:-1]:
        dev, inode, path = line.split(b" ", 2)
        found.add((int(dev), int(inode), path or b"."))
    return found


@pytest.fixture
def tree(stage: Stage) -> Path:
    return stage.directory("tree")


def test_every_kind_of_file_system(stage: Stage) -> None:
    source = stage.ext4("house")
    build_parts(stage, source)
    for part in ("ext4", "xfs", "subvol-a", "tmpfs", "overlay", "."):
        (source / part / "dir" / "deep").mkdir(parents=True)
        (source / part / "dir" / "file").write_text("x")
        os.link(source / part / "dir" / "file", source / part / "hard")
        os.symlink("..", source / part / "dir" / "loop")
    assert walked(source) == stated(source)
    with take(str(source), ("raw", "suffix")) as census:
        assert census.names == len(stated(source))
        assert census.files == len({file[:2] for file in stated(source)})
        assert len(census.devices) == 7
        assert census.devices[0].place == b"."
        assert census.schemes["raw"].collides
        assert not census.schemes["suffix"].collides
        assert not census.unreadable
        for device in census.devices:
            mine = {file for file in stated(source) if file[0] == device.dev}
            assert (device.names, device.highest) == (len(mine), max(file[1] for file in mine))
            assert device.files == len({file[1] for file in mine})


def test_an_overlay_without_xino(stage: Stage) -> None:
    lower, upper = stage.tmpfs("lower"), stage.tmpfs("upper")
    (lower / "low").write_text("x")
    for name in ("data", "work"):
        (upper / name).mkdir()
    options = f"xino=off,lowerdir={lower},upperdir={upper}/data,workdir={upper}/work"
    path = stage.mount("overlay", "tree", "-t", "overlay", "-o", options)
    (path / "up").write_text("x")
    assert walked(path) == stated(path)


def test_bind_mounts_of_directories_and_of_a_file(stage: Stage, tree: Path) -> None:
    for name in ("a/b", "see", "itself"):
        (tree / name).mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    (tree / "over").write_text("y")
    stage.bind(tree / "a", tree / "see")
    stage.bind(tree, tree / "itself")
    subprocess.run(["mount", "--bind", tree / "a" / "file", tree / "over"], check=True)
    outside = {file for file in walked(tree) if not file[2].startswith(b"itself")}
    assert outside == {file for file in stated(tree) if not file[2].startswith(b"itself")}
    inside = {file[2] for file in walked(tree)} - {file[2] for file in outside}
    assert {b"itself", b"itself/a/b", b"itself/itself", b"itself/over"} <= inside
    with take(str(tree), ("raw",)) as census:
        assert census.files == len({file[:2] for file in walked(tree)}) < census.names
        assert not census.collides


def test_names_of_any_bytes_and_long_paths(tree: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[31m", "grün".encode(), b"-", b" "):
        (Path(os.fsdecode(os.path.join(os.fsencode(tree), name)))).mkdir()
        Path(os.fsdecode(os.path.join(os.fsencode(tree), name, name))).touch()
    assert walked(tree) == stated(tree)


def test_deeper_than_a_path_may_be_long(tree: Path) -> None:
    name, depth = "d" * 200, 30
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    found = walked(tree)
    assert len(found) == depth + 1
    assert max(len(path) for _, _, path in found) == depth * 201 - 1
    assert found == stated(tree)


def test_a_link_that_comes_into_the_way_leads_nowhere(
    stage: Stage, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = stage.directory("outside")
    (outside / "below").mkdir()
    (outside / "below" / "secret").touch()
    (tree / "dir" / "below").mkdir(parents=True)
    listed = Walk._list

    def then_swapped(self: Walk, fd: int, path: bytes, *rest: Any) -> None:
        listed(self, fd, path, *rest)
        if path == b"dir":
            (tree / "dir").rename(outside / "dir")
            (tree / "dir").symlink_to(outside)

    monkeypatch.setattr(Walk, "_list", then_swapped)
    with Spill() as spill:
        walk = Walk(str(tree), spill)
        walk.run()
        rows = spill.rows_of()
        assert sorted(rows.path(at) for at in range(len(rows))) == [b".", b"dir"]
        assert (walk.vanished, walk.unreadable) == (1, [])


def test_of_very_many_unreadable_directories_some_are_named_and_all_are_counted(
    stage: Stage, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusemap.census.walk.KEPT", 3)
    for number in range(8):
        (tree / f"{number}").mkdir(mode=0)

    def scan() -> tuple[int, int, int]:
        with take(str(tree), ("raw",), directory="/tmp") as census:
            return census.names, len(census.unreadable), census.unnamed

    assert call_as(ALICE, scan) == (9, 3, 5)


def test_a_directory_of_more_names_than_a_run(tree: Path) -> None:
    for number in range(2 * RUN + 10):
        (tree / f"{number}").touch()
    (tree / "sub").mkdir()
    assert walked(tree) == stated(tree)


def test_unreadable_directories_are_named_and_counted(stage: Stage, tree: Path) -> None:
    (tree / "closed" / "in").mkdir(parents=True)
    (tree / "open").mkdir()
    (tree / "closed").chmod(0)

    def scan() -> tuple[int, list[tuple[bytes, str]]]:
        with take(str(tree), ("raw",), directory="/tmp") as census:
            return census.names, [tuple(where) for where in census.unreadable]

    names, unreadable = call_as(ALICE, scan)
    assert unreadable == [(b"closed", "Permission denied")]
    assert names == 3


def test_a_mount_point_that_cannot_be_read_is_a_device(stage: Stage, tree: Path) -> None:
    stage.tmpfs("tree/disk").chmod(0)

    def scan() -> list[tuple[bytes, int]]:
        with take(str(tree), ("raw",), directory="/tmp") as census:
            return [(device.place, device.names) for device in census.devices]

    assert call_as(ALICE, scan) == [(b".", 1), (b"disk", 1)]


def test_what_vanishes_on_the_way_is_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "stays", "becomes"):
        (tree / name).mkdir()
    listed = Walk._list

    def list_then_remove(self: Walk, fd: int, path: bytes, *rest: object) -> None:
        listed(self, fd, path, *rest)  # type: ignore[arg-type]
        if path == b".":
            (tree / "gone").rmdir()
            (tree / "becomes").rmdir()
            (tree / "becomes").symlink_to("stays")

    monkeypatch.setattr(Walk, "_list", list_then_remove)
    with take(str(tree), ("raw",)) as census:
        assert (census.names, census.vanished, census.unreadable) == (2, 2, [])


def test_a_tree_that_changes_all_the_time(tree: Path) -> None:
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for number in range(20):
                (tree / f"{number}").mkdir()
                (tree / f"{number}" / "file").touch()
            for number in range(20):
                (tree / f"{number}" / "file").unlink()
                (tree / f"{number}").rmdir()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            with take(str(tree), ("raw", "suffix")) as census:
                assert census.unreadable == []
                assert census.files >= 1
                assert not census.schemes["suffix"].collides
    finally:
        over.set()
        thread.join()


def test_no_thread_outlives_a_walk(tree: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    take(str(tree)).close()
    with pytest.raises(KeyboardInterrupt):
        take(str(tree), progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "walk"]


def test_a_bug_in_a_thread_is_not_lost(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Walk, "_list", broken)
    with pytest.raises(ZeroDivisionError):
        take(str(tree))


def test_progress_is_told(tree: Path) -> None:
    told: list[tuple[object, ...]] = []
    take(str(tree), progress=lambda *what: told.append(what)).close()
    assert ("walking", 1, 1, 1.0) in told
    compared = [done for doing, _, _, done in told if str(doing).startswith("comparing")]
    assert compared == sorted(compared)  # type: ignore[type-var]
    assert compared[-1] == 1 - 1 / 16  # nothing comes twice here, so the second pass of the last scheme is spared


def expected_of(top: Path) -> int | None:
    with Spill() as spill:
        walk = Walk(str(top), spill)
        walk.run()
        return walk.expected


def test_how_much_is_to_come_is_known_where_all_file_systems_say(stage: Stage) -> None:
    top = stage.tmpfs("tree")
    stage.tmpfs("tree/inner")
    for number in range(10):
        (top / f"{number}").mkdir()
    assert expected_of(top) == len(walked(top)) == 12
    stage.bind(top / "inner", top / "1")  # its file system is shown twice
    assert expected_of(top) == len(walked(top)) == 12
    assert expected_of(top / "inner") == 1
    assert expected_of(top / "2") is None, "a part of a file system"
    part = stage.bind(top / "inner", top / "3")
    (part / "dir").mkdir()
    stage.bind(top / "inner" / "dir", top / "4")
    assert expected_of(top) is None, "a part of a file system is shown beside all of it"


def test_how_much_is_to_come_is_not_made_up(stage: Stage) -> None:
    top = stage.tmpfs("tree")
    stage.tmpfs("tree/any", "nr_inodes=0")
    assert expected_of(top) is None


def test_a_file_system_beneath_another_is_not_waited_for(stage: Stage) -> None:
    top = stage.tmpfs("tree")
    (stage.tmpfs("tree/inner/deep") / "file").touch()
    stage.tmpfs("tree/inner")
    (top / "inner" / "deep").mkdir()
    assert expected_of(top) == len(walked(top)) + 1  # the directory that is hidden, and nothing that is mounted on it


def test_more_names_than_inodes_are_no_estimate(tree: Path) -> None:
    with Spill() as spill:
        walk = Walk(str(tree), spill)
        walk.run()
        walk.expected = 1
        assert walk.done() == 1
        walk.expected = 0
        assert walk.done() is None


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_top_that_cannot_be_walked(tree: Path, name: str) -> None:
    (tree / "file").touch()
    with pytest.raises(Refused):
        take(str(tree / name))


@pytest.fixture
def twins(stage: Stage) -> Iterator[Census]:
    """Two tmpfs, in which everything has the number of something in the other."""
    top = stage.tmpfs("twins")
    stage.tmpfs("twins/inner")
    for name in ("a", "b"):
        for place in (top, top / "inner"):
            (place / name).touch()
    with take(str(top), ("raw",)) as census:
        yield census


def test_lanes_add_up(twins: Census) -> None:
    lanes = twins.lanes("raw")
    for number, device in enumerate(twins.devices):
        assert lanes.files[number].sum() == device.names
        assert lanes.colliding[number].sum() == device.colliding["raw"] >= 1
    assert len(lanes.edges) == lanes.files.shape[1]
    with pytest.raises(KeyError):
        twins.lanes("nonsense")


def test_rows_read_in_chunks_of_any_size() -> None:
    from .made import File, spilled

    files = [File(number % 3, number, number % 5 == 0) for number in range(50)]
    with Spill() as spill:
        rows: Rows = spilled(spill, files)
        for size in (1, 7, 50, 100):
            found = [
                File(*row)
                for chunk in rows.chunks(size)
                for row in zip(chunk.device.tolist(), chunk.inode.tolist(), chunk.directory.tolist(), strict=True)
            ]
            assert found == files
