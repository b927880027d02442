"""The maps that collide: what a mount shows of it, logs of it, and that the kernel never takes one file for another."""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.process import ALICE, call_as, run
from ..support.stage import Mounted, Stage

SAME = ("a", "b")


@pytest.fixture(scope="module", params=["raw", "qemu"])
def served(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """Two tmpfs, whose files have the same inode numbers, in an overlay, whose files mode qemu gives one number.

    The overlay's inode numbers have the layer in their two top bits. It is seen first, so its hash bits are one; its
    second suffix has three, and layers two and three differ in a bit that is in neither.
    """
    needs.fuse()
    stage = Stage()
    try:
        source = stage.overlay("src", lowers=3)
        for name in SAME:
            top = stage.tmpfs(source / name)
            for n in range(5):
                (top / f"f{n}").write_text(f"{name}{n}")
                (top / f"d{n}").mkdir()
                (top / f"d{n}" / "below").write_text(f"below {name}{n}")
        yield stage.fusemap(source, "--map", request.param)
    finally:
        stage.close()


@pytest.fixture
def mounted(served: Mounted) -> Iterator[Mounted]:
    """It may not log an error."""
    yield served
    served.check_log()


def groups(mounted: Mounted) -> dict[int, set[str]]:
    """Paths by the number that the mount shows, where several files of the host have one."""
    by_number: dict[int, dict[tuple[int, int], str]] = defaultdict(dict)
    for path in (mounted.path, *mounted.path.rglob("*")):
        name = str(path.relative_to(mounted.path))
        st = (mounted.source / name).lstat()
        by_number[path.lstat().st_ino].setdefault((st.st_dev, st.st_ino), name)
    return {number: set(files.values()) for number, files in by_number.items() if len(files) > 1}


def live(mounted: Mounted, name: str = "collisions.json") -> Any:
    return json.loads((mounted / ".fusemap" / name).read_bytes())


def test_every_collision_that_is_seen_is_told_as_real(mounted: Mounted) -> None:
    seen = groups(mounted)
    assert seen
    told = live(mounted)
    real = {row["number"]: {file["path"] for file in row["files"]} for row in told["collisions"] if row["real"]}
    assert real == seen
    assert sum(told["real"].values()) == len(seen) == live(mounted, "stats.json")["collisions_real"]
    assert told["real_files"] == sum(map(len, seen.values()))
    for row in told["collisions"]:
        directories = sum(file["directory"] for file in row["files"])
        assert row["harm"] == ("mixed", "error", "loop")[min(directories, 2)]
        assert row["count"] == len(row["files"])
        for file in row["files"]:
            assert (mounted.source / file["path"]).lstat().st_ino == file["inode"]
            assert (mounted / file["path"]).lstat().st_ino == file["number"]
    if told["map"] == "raw":
        assert told["averted_files"] == 0
        assert {"a/f3", "b/f3"} in [paths - {"a", "b"} for paths in seen.values()]
    else:
        averted = [{file["path"] for file in row["files"]} for row in told["collisions"] if not row["real"]]
        assert {"a/f3", "b/f3"} in averted
        assert {"from-1", "from-2"} in seen.values()
        assert sum(told["averted"].values()) == len(averted)


def test_each_is_logged_once(mounted: Mounted) -> None:
    run("ls", "-lR", mounted.path)
    seen = groups(mounted)
    lines = [line for line in mounted.log().splitlines() if "is shown for two files" in line]
    assert len(lines) == sum(len(paths) - 1 for paths in seen.values())
    for number, paths in seen.items():
        here = [line for line in lines if line.startswith(f"WARNING: number {number} is shown for two files: ")]
        assert len(here) == len(paths) - 1
        for path in paths:
            assert any(f"'{path}' (inode " in line for line in here)


def test_the_attribute_names_the_others(mounted: Mounted) -> None:
    for number, paths in groups(mounted).items():
        for path in paths:
            if stat.S_IFMT((mounted / path).lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                value = os.getxattr(mounted / path, "user.fusemap.collides").decode()
                assert value.splitlines()[0] == str(len(paths) - 1)
                assert set(value.splitlines()[1:]) == paths - {path}
                qid = os.getxattr(mounted / path, "user.fusemap.qid").decode().split("/")
                assert int(qid[2]) == number
                seen = call_as(ALICE, lambda path=path: os.getxattr(mounted / path, "user.fusemap.collides"))
                assert seen == str(len(paths) - 1).encode(), "names are not for everybody"


def test_two_files_with_one_number_stay_two(mounted: Mounted) -> None:
    """Open at once, in every way in which the kernel reaches a file by its node."""
    for paths in groups(mounted).values():
        files = [path for path in sorted(paths) if (mounted.source / path).is_file()]
        fds = [os.open(mounted / path, os.O_RDWR) for path in files]
        maps = [mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) for fd in fds]
        for path, fd, mapped in zip(files, fds, maps, strict=True):
            expected = (mounted.source / path).read_bytes()
            assert os.pread(fd, 100, 0) == mapped[:] == (mounted / path).read_bytes() == expected
            os.pwrite(fd, b"W", len(expected))
            assert os.fstat(fd).st_size == len(expected) + 1
            assert os.readlink(f"/proc/self/fd/{fd}") == str(mounted / path)
            assert (mounted.source / path).read_bytes() == expected + b"W"
            os.ftruncate(fd, len(expected))
        for mapped in maps:
            mapped.close()
        for fd in fds:
            os.close(fd)
        for path in paths - set(files):
            assert sorted(os.listdir(mounted / path)) == sorted(os.listdir(mounted.source / path))
            fd = os.open(mounted / path, os.O_RDONLY)
            assert os.readlink(f"/proc/self/fd/{fd}") == str(mounted / path)
            os.close(fd)


def test_one_of_two_can_be_renamed_and_removed(mounted: Mounted) -> None:
    for name in SAME:
        (mounted / name / "one").write_text(name)
        (mounted / name / "dir").mkdir()
    for name, other in (SAME, SAME[::-1]):
        os.rename(mounted / name / "one", mounted / name / "dir" / "two")
        assert (mounted / name / "dir" / "two").read_text() == name
        os.unlink(mounted / name / "dir" / "two")
        os.rmdir(mounted / name / "dir")
        if name == SAME[0]:
            assert (mounted / other / "one").read_text() == other
            assert os.listdir(mounted / other / "dir") == []


def test_a_map_that_does_not_collide_shows_all_apart(stage: Stage, tmp_path: Path) -> None:
    source = stage.directory("src")
    for name in SAME:
        (stage.tmpfs(source / name) / "f").write_text(name)
    mounted = stage.fusemap(source)
    assert groups(mounted) == {}
    told = live(mounted)
    assert (told["real_files"], told["averted_files"]) == (0, 4)
    assert "is shown for two files" not in mounted.log()
    assert os.getxattr(mounted / "a" / "f", "user.fusemap.collides") == b"1\nb/f"
    assert call_as(ALICE, lambda: os.getxattr(mounted / "a" / "f", "user.fusemap.collides")) == b"1"
    os.mkfifo(source / "a" / "fifo")
    os.symlink("f", source / "a" / "link")
    for name in ("fifo", "link"):  # the kernel answers for these itself
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(mounted / "a" / name, "user.fusemap.qid", follow_symlinks=False)
    run("cp", "-a", mounted / "a" / "f", tmp_path / "copy")
    assert os.listxattr(tmp_path / "copy") == []
