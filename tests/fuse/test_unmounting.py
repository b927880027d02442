"""File systems beneath the root are unmounted and mounted under clients' eyes: never busy, never stale data."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import needs
from ..support.process import Child, attempt, run
from ..support.stage import Mounted, Stage, drop_caches

GONE = (errno.ESTALE, errno.ENOENT, errno.EIO)  # EIO is what the kernel makes of an inode that it found replaced


def call(act: Callable[[], Any]) -> Any:
    """What the call returns, or its errno, made in a child so that descriptors are closed."""

    def inside() -> Any:
        try:
            return act()
        except OSError as error:
            return error.errno

    return Child(inside).result()


def unmount(mounted: Mounted, at: Path) -> None:
    """umount(8) of a disk that no client uses any more.

    A client's close(2) returns before the server hears of it, so a moment is allowed for that, and no more.
    """
    end = time.monotonic() + 0.5
    while attempt("umount", at).returncode:
        assert time.monotonic() < end, f"still busy: {mounted.open_below(at)}"
        time.sleep(0.005)


def fill(disk: Path, text: str) -> None:
    """The same names on every disk, and on fresh ones the same inode numbers."""
    (disk / "d").mkdir()
    for n in range(10):
        (disk / "d" / f"f{n}").write_text(f"{text} {n}")
    (disk / text).write_text(text)


def check(mounted: Mounted, text: str) -> None:
    """The disk shown at "disk" is the one that was filled with `text`."""
    assert sorted(set(os.listdir(mounted / "disk")) - {"lost+found"}) == sorted(["d", text])
    for n in range(10):
        path = mounted / f"disk/d/f{n}"
        assert path.read_text() == f"{text} {n}"
        assert path.stat().st_size == len(f"{text} {n}")
    assert attempt("find", mounted.path).returncode == 0


@pytest.fixture
def tree(stage: Stage) -> Path:
    """A source with an empty directory "disk", to mount things on."""
    source = stage.ext4("src")
    (source / "disk").mkdir()
    (source / "disk" / "covered").write_text("what the mount covers")
    return source


@pytest.mark.parametrize("cache", ["none", "auto", "always"])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_a_file_system_is_unmounted_and_another_mounted_there(stage: Stage, tree: Path, cache: str, kind: str) -> None:
    at = tree / "disk"
    stage.tmpfs(at) if kind == "tmpfs" else stage.disk(kind, at)
    fill(at, "first")
    mounted = stage.fusemap(tree, "--cache", cache)
    check(mounted, "first")
    numbers = {os.stat(mounted / f"disk/d/f{n}").st_ino for n in range(10)}
    unmount(mounted, at)  # not busy, although every file of it is known
    for act in ((mounted / "disk/covered").read_text, lambda: os.listdir(mounted / "disk")):
        assert act() in ("what the mount covers", ["covered"])
    assert not (mounted / "disk/d").exists()
    stage.tmpfs(at) if kind == "tmpfs" else stage.disk(kind, at)
    fill(at, "second")
    check(mounted, "second")
    assert not numbers & {os.stat(mounted / f"disk/d/f{n}").st_ino for n in range(10)}, "new files, old numbers"
    unmount(mounted, at)
    assert os.listdir(mounted / "disk") == ["covered"]


@pytest.mark.parametrize("cache", ["none", "auto", "always"])
def test_another_disk_in_the_same_drive(stage: Stage, tree: Path, cache: str) -> None:
    """The same loop device, so the same st_dev, with another file system on it."""
    first, second = stage.image("ext4"), stage.image("ext4")
    for image, text in ((first, "first"), (second, "second")):
        at = stage.mount(image, f"prepare-{text}", "-o", "loop")
        fill(at, text)
        run("umount", at)
    drive = run("losetup", "--show", "-f", first).stdout.strip()
    stage.after(attempt, "losetup", "-d", drive)
    at = stage.mount(drive, tree / "disk")
    mounted = stage.fusemap(tree, "--cache", cache)
    check(mounted, "first")
    numbers = {os.stat(mounted / f"disk/d/f{n}").st_ino for n in range(10)}
    device = os.stat(at).st_dev
    unmount(mounted, at)
    run("losetup", "-d", drive)
    run("losetup", drive, second)
    stage.mount(drive, tree / "disk")
    assert os.stat(at).st_dev == device
    check(mounted, "second")
    assert not numbers & {os.stat(mounted / f"disk/d/f{n}").st_ino for n in range(10)}


def test_the_same_disk_comes_back_changed(stage: Stage, tree: Path) -> None:
    """Numbers stay, since the disk is the same; data is what is on the disk now, even where another host wrote it."""
    image = stage.image("ext4")
    at = stage.mount(image, tree / "disk", "-o", "loop")
    fill(at, "first")
    mounted = stage.fusemap(tree)
    check(mounted, "first")
    numbers = [os.stat(mounted / f"disk/d/f{n}").st_ino for n in range(10)]
    unmount(mounted, at)
    elsewhere = stage.mount(image, "elsewhere", "-o", "loop")
    for n in range(10):
        (elsewhere / "d" / f"f{n}").write_text(f"other {n}")
    os.rename(elsewhere / "first", elsewhere / "other")
    run("umount", elsewhere)
    stage.mount(image, tree / "disk", "-o", "loop")
    check(mounted, "other")
    assert [os.stat(mounted / f"disk/d/f{n}").st_ino for n in range(10)] == numbers


def test_a_disk_set_back_to_an_earlier_state(stage: Stage, tree: Path) -> None:
    """An image restored from a copy: same inodes, same generations, same sizes, other contents."""
    image = stage.image("ext4")
    at = stage.mount(image, tree / "disk", "-o", "loop")
    fill(at, "first")
    run("umount", at)
    copy = stage.path / "copy"
    run("cp", "--sparse=always", image, copy)
    stage.mount(image, tree / "disk", "-o", "loop")
    mounted = stage.fusemap(tree)
    check(mounted, "first")
    for n in range(10):
        (at / "d" / f"f{n}").write_text(f"later {n}")
    os.rename(at / "first", at / "later")
    time.sleep(1.05)
    check(mounted, "later")
    unmount(mounted, at)
    run("cp", "--sparse=always", copy, image)
    stage.mount(image, tree / "disk", "-o", "loop")
    check(mounted, "first")


def test_a_mount_comes_while_a_client_looks_on(stage: Stage, tree: Path) -> None:
    mounted = stage.fusemap(tree)
    assert (mounted / "disk/covered").read_text() == "what the mount covers"
    at = stage.ext4(tree / "disk")
    fill(at, "new")
    check(mounted, "new")
    assert not (mounted / "disk/covered").exists()


def test_a_mount_is_hidden_by_another_on_top(stage: Stage, tree: Path) -> None:
    mounted = stage.fusemap(tree)
    for text in ("one", "two", "three"):
        fill(stage.tmpfs(tree / "disk"), text)
        check(mounted, text)
    for text in ("two", "one"):
        unmount(mounted, tree / "disk")
        check(mounted, text)
    unmount(mounted, tree / "disk")
    assert os.listdir(mounted / "disk") == ["covered"]


def test_an_open_file_keeps_its_file_system_busy_as_on_the_host(stage: Stage, tree: Path) -> None:
    fill(stage.ext4(tree / "disk"), "first")
    mounted = stage.fusemap(tree)
    with open(mounted / "disk/d/f1") as file:
        assert attempt("umount", tree / "disk").returncode != 0
        run("umount", "-l", tree / "disk")
        assert file.read() == "first 1"
        assert os.fstat(file.fileno()).st_size == 7
        assert os.listdir(mounted / "disk") == ["covered"]


def test_a_busy_walk_does_not_keep_a_file_system_from_being_unmounted(stage: Stage, tree: Path) -> None:
    """While a client works elsewhere without pause, umount of a file system that nobody uses is not refused."""
    fill(stage.ext4(tree / "disk"), "first")
    (tree / "busy").mkdir()
    for n in range(200):
        (tree / "busy" / str(n)).touch()
    mounted = stage.fusemap(tree, "--cache", "none")
    check(mounted, "first")

    def walk() -> None:
        while True:
            for n in range(200):
                os.stat(mounted / f"busy/{n}")

    child = Child(walk)
    try:
        for _ in range(5):
            os.stat(mounted / "disk/d/f1")
            unmount(mounted, tree / "disk")
            fill(stage.ext4(tree / "disk"), "next")
            os.stat(mounted / "disk/d/f1")
    finally:
        child.kill()


@pytest.fixture
def cwd_inside(stage: Stage, tree: Path) -> Iterator[tuple[Mounted, Path]]:
    """A client whose current directory is on a disk below the tree."""
    fill(stage.ext4(tree / "disk"), "first")
    mounted = stage.fusemap(tree)
    os.chdir(mounted / "disk/d")
    try:
        yield mounted, tree / "disk"
    finally:
        os.chdir("/")


def test_a_client_inside_an_unmounted_file_system_gets_an_error_and_nothing_else(
    stage: Stage, cwd_inside: tuple[Mounted, Path]
) -> None:
    mounted, at = cwd_inside
    drop_caches()
    unmount(mounted, at)
    for act in (lambda: Path("f1").read_text(), lambda: os.listdir("."), lambda: Path("new").write_text("x")):
        assert call(act) in (errno.ESTALE, errno.ENOENT)
    fill(stage.ext4(at), "second")
    assert call(lambda: Path("f1").read_text()) in (errno.ESTALE, errno.ENOENT)
    assert call(lambda: Path("new").write_text("x")) in (errno.ESTALE, errno.ENOENT)
    check(mounted, "second")


def test_mounts_come_and_go_while_clients_walk(stage: Stage, tree: Path) -> None:
    """No crash, no wrong data, whatever the moment."""
    needs.file_system("ext4")
    images = []
    for text in ("first", "second"):
        image = stage.image("ext4", 16)
        at = stage.mount(image, f"prepare-{text}", "-o", "loop")
        fill(at, text)
        run("umount", at)
        images.append(image)
    mounted = stage.fusemap(tree)
    stop = stage.path / "stop"

    def walk() -> int:
        good = 0
        while not stop.exists():
            for n in range(10):
                try:
                    text = (mounted / f"disk/d/f{n}").read_text()
                except OSError as error:
                    assert error.errno in GONE, error
                else:
                    assert text in (f"first {n}", f"second {n}"), text
                    good += 1
            try:
                names = set(os.listdir(mounted / "disk"))
            except OSError as error:
                assert error.errno in GONE, error
            else:
                assert len(names & {"covered", "first", "second"}) <= 1, names
        return good

    children = [Child(walk) for _ in range(2)]
    try:
        for n in range(30):
            run("mount", "-o", "loop", images[n % 2], tree / "disk")
            os.stat(mounted / "disk/d")
            if attempt("umount", tree / "disk").returncode:  # a client is reading
                run("umount", "-l", tree / "disk")
    finally:
        stop.touch()
        good = sum(child.result() for child in children)
    assert good
    assert os.listdir(mounted / "disk") == ["covered"]
