"""The host renames, removes and replaces what clients know: ESTALE or the right file, never another one's data."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support.house import House, Pair, outcome
from ..support.process import Child
from ..support.stage import Mounted, Stage, drop_caches

GONE = (errno.ESTALE, errno.ENOENT, errno.EIO)  # EIO is what the kernel makes of an inode that it found replaced


@pytest.fixture(params=["ext4", "xfs", "overlay"])
def part(request: pytest.FixtureRequest, house: House) -> Pair:
    """A directory on file systems with file handles and on one without."""
    return house.pair("hostside", request.param)


def test_a_directory_that_is_a_clients_cwd_is_renamed(part: Pair) -> None:
    (part.host / "a" / "b").mkdir(parents=True)
    (part.host / "a" / "b" / "f").write_text("f")
    (part.host / "new").mkdir()
    os.listdir(part.seen / "a" / "b")
    os.chdir(part.seen / "a" / "b")
    try:
        os.rename(part.host / "a", part.host / "new" / "a2")
        acts: list[Callable[[], Any]] = [
            Path("f").read_text, os.listdir, lambda: Path("g").write_text("g"), lambda: os.stat(".").st_nlink,
        ]  # fmt: skip
        told = [outcome(act) for act in acts]
        if part.seen.parent.name != "overlay":
            assert told == ["f", ["f"], 1, 2]
            assert (part.host / "new/a2/b/g").read_text() == "g"
        # the rest of the file systems may lose the directory, but find nothing wrong in its place
        assert os.path.lexists(part.seen / "new" / "a2" / "b" / "f")
        assert (part.seen / "new/a2/b/f").read_text() == "f"
        assert not os.path.exists(part.host / "a")
    finally:
        os.chdir("/")


def test_something_else_at_the_place_of_a_renamed_directory(part: Pair) -> None:
    """The old directory's descriptor must not lead into the new directory of that name."""
    (part.host / "d").mkdir()
    (part.host / "d" / "f").write_text("right")
    fd = os.open(part.seen / "d", os.O_PATH)
    file = os.open(part.seen / "d" / "f", os.O_PATH)
    try:
        drop_caches()
        os.rename(part.host / "d", part.host / "old")
        (part.host / "d").mkdir()
        (part.host / "d" / "f").write_text("wrong")
        for act in (
            lambda: os.read(os.open("f", os.O_RDONLY, dir_fd=fd), 10),
            lambda: os.read(os.open(f"/proc/self/fd/{file}", os.O_RDONLY), 10),
        ):
            got = call(act)
            assert got in (b"right", *GONE)
        got = call(lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)))
        assert got in (None, *GONE)
        assert os.listdir(part.host / "d") == ["f"]
    finally:
        os.close(fd)
        os.close(file)


def call(act: Callable[[], Any]) -> Any:
    """What the call returns, or its errno, made in a child so that descriptors are closed."""

    def inside() -> Any:
        try:
            return act()
        except OSError as error:
            return error.errno

    return Child(inside).result()


@pytest.fixture
def reused(stage: Stage) -> Callable[[], tuple[Path, Mounted]]:
    """An ext4 of few inodes, on which a number freed is a number used, and its mount with the cache mode asked for."""

    def build(*options: str) -> tuple[Path, Mounted]:
        source = stage.ext4("src", 16, "-N", "64")
        return source, stage.fusemap(source, *options)

    return build


@pytest.mark.parametrize("cache", ["none", "auto", "always"])
@pytest.mark.parametrize("held", ["nothing", "O_PATH", "open"])
def test_an_inode_number_used_again_never_shows_another_files_data(
    reused: Callable[..., tuple[Path, Mounted]], cache: str, held: str
) -> None:
    source, mounted = reused("--cache", cache)
    hits = 0
    for n in range(12):
        (source / "old").write_text(f"old {n}")
        number = os.stat(source / "old").st_ino
        assert (mounted / "old").read_text() == f"old {n}"
        fd = os.open(mounted / "old", {"open": os.O_RDONLY, "O_PATH": os.O_PATH}.get(held, os.O_PATH))
        if held == "nothing":
            os.close(fd)
        os.unlink(source / "old")
        made = []
        for m in range(70):  # until the number comes up again; while it is open on the host's side it cannot
            try:
                (source / f"new {m}").write_text(f"new {n}")
            except OSError:
                break
            made.append(source / f"new {m}")
            if os.stat(made[-1]).st_ino == number:
                hits += 1
                assert (mounted / f"new {m}").read_text() == f"new {n}"
                assert os.stat(mounted / f"new {m}").st_size == len(f"new {n}")
                break
        if held == "open":
            assert os.pread(fd, 100, 0) == f"old {n}".encode()
            assert os.fstat(fd).st_nlink == 0 or cache != "none"
        elif held == "O_PATH":
            got = call(lambda: os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 100))
            assert got in (f"old {n}".encode(), *GONE), got
        if cache != "always":
            time.sleep(1.05 if cache == "auto" and n < 2 else 0)
            got = call((mounted / "old").read_bytes)
            assert got in (f"old {n}".encode(), *GONE), got
        if held != "nothing":
            os.close(fd)
        for path in made:
            os.unlink(path)
        drop_caches()
    if held != "open":
        assert hits, "no inode number came up again; the test tested nothing"


def test_a_directory_whose_number_becomes_a_files(reused: Callable[..., tuple[Path, Mounted]]) -> None:
    source, mounted = reused()
    hits = 0
    for n in range(6):
        (source / "d").mkdir()
        (source / "d" / "inside").write_text("inside")
        assert os.listdir(mounted / "d") == ["inside"]
        fd = os.open(mounted / "d", os.O_PATH)
        try:
            number = os.stat(source / "d").st_ino
            shutil.rmtree(source / "d")
            made = []
            while os.statvfs(source).f_ffree:  # the server may not have closed it yet, then the number is not free
                path = source / f"f{len(made)}"
                path.write_text(f"file {n}")
                made.append(path)
                if os.stat(path).st_ino == number:
                    hits += 1
                    assert (mounted / path.name).read_text() == f"file {n}"
                    break
            assert call(lambda: os.listdir(f"/proc/self/fd/{fd}")) in ([], *GONE)
            for path in made:
                os.unlink(path)
        finally:
            os.close(fd)
        drop_caches()
    assert hits, "no inode number came up again; the test tested nothing"


def test_a_client_that_writes_while_the_host_replaces_the_file(part: Pair) -> None:
    (part.host / "f").write_text("old")
    fd = os.open(part.seen / "f", os.O_WRONLY | os.O_APPEND)
    try:
        (part.host / "new").write_text("new")
        os.rename(part.host / "new", part.host / "f")
        os.write(fd, b" more")
        assert (part.host / "f").read_text() == "new"
    finally:
        os.close(fd)
