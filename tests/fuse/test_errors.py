"""What the host refuses is refused with the same error, and a fault of our own is one caller's EIO."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.house import errno_name
from ..support.process import ALICE, BOB, User, attempt, call_as, run
from ..support.stage import MEBIBYTE, Mounted, Stage


def fails(act: Callable[[], Any], user: User | None = None) -> str:
    """The name of the errno with which the call fails."""
    try:
        call_as(user, act) if user is not None else act()
    except OSError as error:
        return errno_name(error)
    return "nothing"


def write_until_full(path: Path) -> tuple[int, str]:
    """How much could be written, and how it ended."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    done = 0
    try:
        while True:
            done += os.write(fd, b"x" * 300_000)
            if done > 1 << 30:
                return done, "never"
    except OSError as error:
        return done, errno_name(error)
    finally:
        os.close(fd)


@pytest.mark.parametrize("cache", ["auto", "none"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_file_system(stage: Stage, kind: str, cache: str) -> None:
    source = (
        stage.tmpfs("src", "size=8m,nr_inodes=100") if kind == "tmpfs" else stage.ext4("src", 8, "-N", "100", "-m", "0")
    )
    source.chmod(0o777)
    mounted = stage.fusemap(source, "--cache", cache)
    done, how = write_until_full(mounted / "big")
    assert how == "ENOSPC"
    assert done == os.stat(mounted / "big").st_size == os.stat(source / "big").st_size > 4 * MEBIBYTE
    assert (mounted / "big").read_bytes() == b"x" * done
    os.truncate(mounted / "big", 0)
    assert write_until_full(mounted / "again")[1] == "ENOSPC"
    os.unlink(mounted / "again")
    made = 0
    with pytest.raises(OSError) as failed:
        for made in range(1000):
            os.mknod(mounted / f"n{made}")
    assert failed.value.errno == errno.ENOSPC
    assert made > 50
    for act in (
        lambda: os.mkdir(mounted / "d"),
        lambda: os.symlink("x" * 500, mounted / "s"),
        lambda: (mounted / "new").touch(),
    ):
        assert fails(act) == "ENOSPC"
    assert len(os.listdir(mounted.path)) == len(os.listdir(source))


def test_blocks_reserved_for_root_are_not_a_users(stage: Stage) -> None:
    """The server is root, but what a user writes must end where it ends on the host."""
    reserved = ("-m", "50")
    ends = []
    for name in ("plain", "src"):
        disk = stage.ext4(name, 16, *reserved)
        disk.chmod(0o777)
        top = disk if name == "plain" else stage.fusemap(disk).path
        ends.append(call_as(ALICE, lambda top=top: write_until_full(top / "f")))  # type: ignore[misc]
    (plain, how), (shown, how_shown) = ends
    assert how == how_shown == "ENOSPC"
    assert abs(plain - shown) < MEBIBYTE, f"{plain} bytes on the host, {shown} through the mount"


def test_a_quota(stage: Stage) -> None:
    """btrfs's, which holds for root as well."""
    disk = stage.disk("btrfs", "disk")
    run("btrfs", "subvolume", "create", disk / "limited")
    run("btrfs", "quota", "enable", disk)
    run("btrfs", "qgroup", "limit", "10M", disk / "limited")
    mounted = stage.fusemap(disk)
    fd = os.open(mounted / "limited/f", os.O_CREAT | os.O_WRONLY)
    try:
        with pytest.raises(OSError) as failed:
            for _ in range(50):
                os.write(fd, os.urandom(1 << 20))
                os.fsync(fd)
        assert failed.value.errno == errno.EDQUOT
    finally:
        os.close(fd)
    (mounted / "elsewhere").write_text("not limited")


CHANGES: list[Callable[[Path], Any]] = [
    lambda top: (top / "new").write_text("x"),
    lambda top: (top / "f").write_text("x"),
    lambda top: os.close(os.open(top / "f", os.O_RDWR)),
    lambda top: os.truncate(top / "f", 0),
    lambda top: os.chmod(top / "f", 0o600),
    lambda top: os.chown(top / "f", 5, 5),
    lambda top: os.utime(top / "f"),
    lambda top: os.unlink(top / "f"),
    lambda top: os.rmdir(top / "d"),
    lambda top: os.mkdir(top / "new"),
    lambda top: os.symlink("x", top / "new"),
    lambda top: os.mkfifo(top / "new"),
    lambda top: os.link(top / "f", top / "new"),
    lambda top: os.rename(top / "f", top / "new"),
    lambda top: os.setxattr(top / "f", "user.a", b"1"),
    lambda top: os.removexattr(top / "f", "user.b"),
]


@pytest.mark.parametrize("how", ["disk", "bind", "option", "-o ro"])
def test_read_only_in_every_way(stage: Stage, how: str) -> None:
    """A read-only disk, a read-only bind mount of a writable one, and mounts that are read-only themselves."""
    disk = stage.ext4("disk")
    (disk / "d").mkdir()
    (disk / "f").write_text("f")
    os.setxattr(disk / "f", "user.b", b"1")
    source = disk
    options: tuple[str, ...] = ()
    if how == "disk":
        run("mount", "-o", "remount,ro", disk)
    elif how == "bind":
        source = stage.bind(disk, "src")
        run("mount", "-o", "remount,bind,ro", source)
    elif how == "option":
        options = ("--read-only",)
    else:
        options = ("-o", "ro")
    mounted = stage.fusemap(source, *options)
    assert (mounted / "f").read_text() == "f"
    for n, change in enumerate(CHANGES):
        assert fails(lambda change=change: change(mounted.path)) == "EROFS", n  # type: ignore[misc]
    assert sorted(os.listdir(disk)) == ["d", "f", "lost+found"]
    if how in ("option", "-o ro"):  # a disk below cannot say so: the mount's kernel checks modes and asks no further
        assert not os.access(mounted / "f", os.W_OK)
    if how in ("disk", "bind"):  # and writable again, without mounting anew
        run("mount", "-o", "remount,rw" if how == "disk" else "remount,bind,rw", source)
        (mounted / "f").write_text("written")
        assert (disk / "f").read_text() == "written"


def test_immutable_and_append_only_files(stage: Stage) -> None:
    needs.tools("chattr")
    disk = stage.ext4("disk")
    for name in ("immutable", "append"):
        (disk / name).write_text("x")
    run("chattr", "+i", disk / "immutable")
    run("chattr", "+a", disk / "append")
    stage.after(attempt, "chattr", "-ia", disk / "immutable", disk / "append")
    top = stage.fusemap(disk).path

    def append(path: Path) -> None:
        with open(path, "ab") as file:
            file.write(b"y")

    for act in (
        lambda path: append(path / "immutable"),
        lambda path: os.unlink(path / "immutable"),
        lambda path: os.rename(path / "immutable", path / "x"),
        lambda path: os.link(path / "immutable", path / "x"),
        lambda path: os.chmod(path / "immutable", 0),
        lambda path: os.truncate(path / "append", 0),
        lambda path: (path / "append").write_text("x"),
        lambda path: append(path / "append"),
        lambda path: os.unlink(path / "append"),
    ):
        host = fails(lambda act=act: act(disk))  # type: ignore[misc]
        assert fails(lambda act=act: act(top)) == host  # type: ignore[misc]
    assert (disk / "append").read_text() == "xyy"


def test_no_number_left(stage: Stage) -> None:
    """ENFILE for what would need one, nothing half-made, one line in the log; what has a number goes on."""
    source = stage.tmpfs("src")
    mounted = stage.fusemap(source, hooks=("tests.support.hooks:scarce",))
    mounted.expected.append("numbers of the full map are given")
    made = []
    for n in range(40):
        if fails(lambda n=n: (mounted / f"f{n}").write_text("x")) == "nothing":  # type: ignore[misc]
            made.append(f"f{n}")
    assert made == [f"f{n}" for n in range(20)]
    for act in (
        lambda: os.mkdir(mounted / "d"),
        lambda: os.symlink("x", mounted / "s"),
        lambda: os.mkfifo(mounted / "p"),
        lambda: os.mknod(mounted / "n"),
    ):
        assert fails(act) == "ENFILE"
    assert sorted(os.listdir(source)) == sorted(made) == sorted(os.listdir(mounted.path))
    (source / "host's").touch()
    assert fails(lambda: os.stat(mounted / "host's")) == "ENFILE"
    assert fails(lambda: os.listdir(mounted.path)) == "ENFILE"
    os.unlink(source / "host's")
    for name in made:
        (mounted / name).write_text("still here")
        assert (source / name).read_text() == "still here"
    os.link(mounted / "f0", mounted / "linked")
    assert mounted.log().count("ERROR") == 1


BUG = ("tests.support.hooks:broken_everything", "tests.support.hooks:broken_getxattr")


def test_a_bug_is_one_callers_eio_with_a_traceback_in_the_log(stage: Stage) -> None:
    source = stage.ext4("src")
    (source / "bug").write_text("bug")
    (source / "good").write_text("good")
    mounted: Mounted = stage.fusemap(source, hooks=BUG)
    mounted.expected.append("a bug on purpose")
    top = mounted.path
    for act in (
        lambda: os.stat(top / "bug"),
        lambda: (top / "bug").read_text(),
        lambda: os.mkdir(top / "bug"),
        lambda: os.unlink(top / "bug"),
        lambda: os.rename(top / "good", top / "bug"),
        lambda: os.getxattr(top / "good", "user.bug"),
    ):
        before = mounted.log()
        assert fails(act) == "EIO"
        said = mounted.log()[len(before) :]
        assert "Traceback" in said
        assert "a bug on purpose" in said
        assert (top / "good").read_text() == "good", "the mount is to go on"
    assert sorted(os.listdir(top)) == ["bug", "good", "lost+found"]
    assert "bug in getxattr" in mounted.log()


def test_a_listing_with_a_damaged_entry_shows_the_rest(stage: Stage) -> None:
    """A dead mount among the entries answers ENOTCONN to everything; the listing shows its name and goes on."""
    source = stage.ext4("src")
    for name in ("a", "dead", "z"):
        (source / name).mkdir()
    (source / "f").write_text("f")
    inner = stage.tmpfs("inner")
    dead = stage.fusemap(inner, at="src/dead")
    dead.kill()
    mounted = stage.fusemap(source)
    assert sorted(os.listdir(mounted.path)) == ["a", "dead", "f", "lost+found", "z"]
    assert fails(lambda: os.stat(mounted / "dead")) == "ENOTCONN"
    assert (mounted / "f").read_text() == "f"
    assert run("ls", mounted.path).returncode == 0


def test_a_directory_that_the_servers_user_may_not_enter_is_an_error_below_only(stage: Stage) -> None:
    """An ordinary user's mount of a tree that is partly others'."""
    needs.tools("fusermount3")
    source = stage.directory("src")
    (source / "open").mkdir()
    (source / "open" / "f").write_text("f")
    (source / "closed").mkdir(mode=0o700)
    os.chown(source / "open", ALICE.uid, ALICE.gid)
    mounted = stage.fusemap_as(ALICE, source)

    def look() -> list[Any]:
        return [
            sorted(os.listdir(mounted.path)),
            (mounted / "open/f").read_text(),
            fails(lambda: os.listdir(mounted / "closed")),
            fails(lambda: (mounted / "open/new").write_text("new")),
            (mounted / "open/new").stat().st_uid,
        ]

    assert call_as(ALICE, look) == [["closed", "open"], "f", "EACCES", "nothing", ALICE.uid]
    assert (source / "open" / "new").read_text() == "new"
    # Another user, root included, stays out of an ordinary user's mount.
    assert fails(lambda: os.listdir(mounted.path), BOB) == "EACCES"
