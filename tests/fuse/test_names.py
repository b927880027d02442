"""Names: making, renaming, exchanging, linking and removing them, and names of every kind."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fusemap.host.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, Calls

from ..support.describe import describe, describe_tree
from ..support.house import PARTS, House, Pair, same, tried
from ..support.process import ALICE, Child, run

KINDS = ("missing", "file", "empty", "full", "symlink", "fifo", "linked")


def put(path: Path, kind: str) -> None:
    """What is to stand at `path`."""
    if kind == "file":
        path.write_text(path.name)
    elif kind in ("empty", "full"):
        path.mkdir()
        if kind == "full":
            (path / "inside").write_text("inside")
    elif kind == "symlink":
        os.symlink("target", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "linked":
        path.write_text("linked")
        os.link(path, path.with_name(path.name + "-link"))


def rename2(old: Path | str, new: Path | str, flags: int) -> None:
    """renameat2(2)."""
    Calls().rename(-100, os.fsencode(old), -100, os.fsencode(new), flags)


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE, 4, 64])
def test_renaming_anything_over_anything(pair: Pair, flags: int) -> None:
    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        for old, new in itertools.product(KINDS, KINDS):
            for here in (True, False):
                top = path / f"{old}-{new}-{here}"
                (top / "sub").mkdir(parents=True)
                source, target = top / "old", (top if here else top / "sub") / "new"
                put(source, old)
                put(target, new)
                for name in (source, target):  # so that the mount's kernel knows both
                    os.path.lexists(name)
                told.append(tried(lambda: rename2(source, target, flags)))
                told.append((top.name, describe_tree(top, times=False)))
        return told

    same(pair, work, ALICE)
    assert describe_tree(pair.host, times=False) == describe_tree(pair.seen, times=False)


def test_the_special_cases_of_rename(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        (path / "d" / "e" / "f").mkdir(parents=True)
        (path / "x").write_text("x")
        os.link(path / "x", path / "y")
        told: list[Any] = []
        for old, new, flags in (
            ("d", "d/e/g", 0),
            ("d", "d", 0),
            ("d", "d/e", 0),
            ("d/e", "d", 0),
            ("d", "d/e/f", RENAME_EXCHANGE),
            ("d/e/f", "d", RENAME_EXCHANGE),
            ("x", "y", 0),  # two names of one file: nothing happens
            ("x", "y", RENAME_NOREPLACE),
            ("x", "y", RENAME_EXCHANGE),
            ("x", "x", 0),
            ("x", "x", RENAME_NOREPLACE),
            ("x", "missing/x", 0),
            ("x", "y/x", 0),
            ("d/.", "g", 0),
            ("d/..", "g", 0),
            ("x", "d/..", 0),
            ("x", "new/", 0),
            ("d", "new/", 0),
            ("missing", "x", 0),
            ("", "x", 0),
        ):
            told.append(tried(lambda: rename2(os.path.join(path, old), os.path.join(path, new), flags)))
            told.append(sorted(describe_tree(path, times=False)))
        return told

    same(pair, work, ALICE)


def test_a_renamed_directory_keeps_its_inside(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        (path / "a" / "b" / "c").mkdir(parents=True)
        (path / "a" / "b" / "c" / "f").write_text("f")
        (path / "other").mkdir()
        fd = os.open(path / "a" / "b" / "c" / "f", os.O_RDWR)
        cwd = os.open(path / "a" / "b" / "c", os.O_RDONLY)
        os.fchdir(cwd)
        os.rename(path / "a" / "b", path / "other" / "b2")
        told: list[Any] = [os.read(fd, 10), os.listdir("."), os.path.relpath(os.getcwd(), path), os.listdir("..")]
        os.write(fd, b"!")
        told.append((path / "other/b2/c/f").read_text())
        told.append(os.path.samefile("../..", path / "other"))
        (path / "other/b2/c/new").write_text("new")
        told.append(sorted(os.listdir(cwd)))
        return told

    assert same(pair, work, ALICE) == [b"f", ["f"], "other/b2/c", ["c"], "f!", True, ["f", "new"]]


def test_renames_between_devices_are_refused(house: House) -> None:
    for one, two in itertools.permutations(["", *PARTS], 2):
        pair, other = house.pair("from", one), house.pair("to", two)
        (pair.seen / "f").write_text("f")
        for act in (os.rename, os.link, lambda old, new: rename2(old, new, RENAME_EXCHANGE)):
            (other.seen / "g").write_text("g")
            with pytest.raises(OSError) as failed:
                act(pair.seen / "f", other.seen / ("h" if act is os.link else "g"))
            assert failed.value.errno == errno.EXDEV, (one, two, act)
        run("mv", pair.seen / "f", other.seen / "moved")
        assert (other.host / "moved").read_text() == "f"


def test_a_mount_point_cannot_be_removed_or_renamed(house: House) -> None:
    for part in PARTS:
        for act in (os.rmdir, lambda path: os.rename(path, house.mounted / "elsewhere")):
            with pytest.raises(OSError) as failed:
                act(house.mounted / part)
            assert failed.value.errno == errno.EBUSY, part


@pytest.mark.parametrize("length", [1, 254, 255, 256, 4095])
@pytest.mark.parametrize("letter", ["n", "\N{LATIN SMALL LETTER U WITH DIAERESIS}"])
def test_long_names(pair: Pair, length: int, letter: str) -> None:
    name = os.fsdecode((letter * length).encode()[:length])

    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        (path / "old").write_text("old")
        for act in (
            lambda: (path / name).write_text("x"),
            lambda: (path / name).read_text(),
            lambda: os.unlink(path / name),
            lambda: os.mkdir(path / name),
            lambda: os.rmdir(path / name),
            lambda: os.symlink("t", path / name),
            lambda: os.unlink(path / name),
            lambda: os.rename(path / "old", path / name),
            lambda: os.link(path / name, path / "linked"),
            lambda: os.stat(path / name).st_size,
        ):
            told.append(tried(act))
        return [*told, sorted(os.listdir(path))]

    same(pair, work, ALICE)


@pytest.mark.parametrize("length", [1, 59, 60, 4095, 4096])
def test_long_symlink_targets(pair: Pair, length: int) -> None:
    def work(path: Path) -> list[Any]:
        os.symlink("t" * length, path / "s")
        return [os.readlink(path / "s") == "t" * length, os.lstat(path / "s").st_size]

    same(pair, work, ALICE)


ODD_NAMES = [
    b"\xff\xfe", b"latin-\xe9", b"\x80" * 255, b"new\nline", b"tab\t", b" ", b"\\", b"a:b", b"\x01", b"-rf",
    b"'\"`$(x)", b".hidden", b"...", "\N{GRINNING FACE}".encode(),
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_bytes(pair: Pair, name: bytes) -> None:
    def work(path: Path) -> list[Any]:
        here = os.fsencode(path)
        full = os.path.join(here, name)
        with open(full, "wb") as file:
            file.write(name)
        os.setxattr(full, b"user.n", name)
        told: list[Any] = [os.listdir(here), open(full, "rb").read(), os.getxattr(full, b"user.n")]
        os.symlink(name, os.path.join(here, b"s"))
        told.append(os.readlink(os.path.join(here, b"s")))
        os.rename(full, full[:-1] + b"2")
        os.mkdir(full)
        told.append(sorted(os.listdir(here)))
        return told

    same(pair, work, ALICE)
    assert sorted(os.listdir(os.fsencode(pair.host))) == sorted(os.listdir(os.fsencode(pair.seen)))


def test_very_deep_paths(pair: Pair) -> None:
    """Deeper than PATH_MAX: made, walked, measured and removed step by step, as rm and find do it."""
    depth = 500

    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        for n in range(depth):
            os.mkdir("directory")
            os.chdir("directory")
            if n == depth - 1:
                Path("f").write_text("deep")
        told.append(os.stat("f").st_size)
        for _ in range(depth):
            os.chdir("..")
        told.append(os.path.samefile(".", path))
        return [*told, tried(lambda: os.stat(path / "/".join(["directory"] * depth)))]

    assert same(pair, work, ALICE) == [4, True, "ENAMETOOLONG"]
    found = run("find", pair.seen, "-type", "f", "-printf", "%d\n").stdout
    assert found == f"{depth + 1}\n"
    run("rm", "-r", pair.seen / "directory", pair.twin / "directory")
    assert os.listdir(pair.host) == []


@pytest.mark.parametrize("part", ["overlay", "xfs"])
def test_deep_paths_after_the_kernel_has_forgotten_the_way(house: House, part: str) -> None:
    pair = house.pair("deep", part)
    deep = pair.host.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "f").write_text("deep")
    shown = pair.seen.joinpath(*["d"] * 300)
    fd = os.open(shown, os.O_PATH)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        os.close(os.open("f", os.O_RDONLY, dir_fd=fd))
        assert os.stat("../d/f", dir_fd=fd).st_size == 4
    finally:
        os.close(fd)


def test_links_of_every_kind_of_file(pair: Pair) -> None:
    def work(path: Path) -> list[Any]:
        told: list[Any] = []
        (path / "d").mkdir()
        for kind in ("file", "symlink", "fifo"):
            put(path / kind, kind)
            os.link(path / kind, path / "d" / kind, follow_symlinks=False)
            told.append(describe(path / "d" / kind))
            told.append(os.lstat(path / kind).st_nlink)
            os.unlink(path / kind)
            told.append(os.lstat(path / "d" / kind).st_nlink)
        for old, new in (
            ("d", "e"), ("missing", "e"), ("d/file", "d/symlink"), ("d/file", "missing/e"), ("d/file", "d/fifo/e"),
        ):  # fmt: skip
            told.append(tried(lambda: os.link(path / old, path / new, follow_symlinks=False)))
        return told

    same(pair, work, ALICE)


def test_more_names_than_a_file_can_have(pair: Pair) -> None:
    limit = 65000  # EXT4_LINK_MAX
    (pair.host / "f").write_text("")
    (pair.host / "d").mkdir()
    for n in range(limit - 1):
        os.link(pair.host / "f", pair.host / "d" / str(n))
    with pytest.raises(OSError) as failed:
        os.link(pair.seen / "f", pair.seen / "one-more")
    assert failed.value.errno == errno.EMLINK
    assert os.stat(pair.seen / "f").st_nlink == limit


def test_link_counts_of_directories(pair: Pair) -> None:
    def work(path: Path) -> list[int]:
        told = []
        (path / "d").mkdir()
        told.append(os.stat(path / "d").st_nlink)
        (path / "d" / "one").mkdir()
        (path / "d" / "two").mkdir()
        told.append(os.stat(path / "d").st_nlink)
        (path / "other").mkdir()
        os.rename(path / "d" / "one", path / "other" / "one")
        told += [os.stat(path / "d").st_nlink, os.stat(path / "other").st_nlink]
        os.rmdir(path / "d" / "two")
        told.append(os.stat(path / "d").st_nlink)
        fd = os.open(path / "d", os.O_RDONLY)
        os.rmdir(path / "d")
        told.append(os.fstat(fd).st_nlink)
        return told

    assert same(pair, work, ALICE) == [2, 4, 3, 3, 2, 0]


def test_symlinks_are_followed_by_the_client_not_by_the_host(pair: Pair, house: House) -> None:
    (house.stage.path / "outside").mkdir(exist_ok=True)
    (house.stage.path / "outside" / "secret").write_text("outside the tree")
    inside, outside = pair.seen / "inside", pair.seen / "outside"
    os.symlink("../" * 20 + "etc/passwd", pair.host / "up")
    os.symlink(house.stage.path / "outside" / "secret", outside)
    os.symlink("f", inside)
    (pair.host / "f").write_text("f")

    # A client in a root of its own finds nothing of the host's behind a link that leaves the tree.
    def jailed() -> list[Any]:
        os.chroot(house.mounted.path)
        here = Path("/", pair.seen.relative_to(house.mounted.path))
        return [tried((here / name).read_text) for name in ("up", "outside", "inside")]

    assert Child(jailed).result() == ["ENOENT", "ENOENT", "f"]
    for link in ("up", "outside"):
        assert stat.S_ISLNK(os.lstat(pair.seen / link).st_mode)
        assert os.readlink(pair.seen / link) == os.readlink(pair.host / link)
    # Operations on the link itself leave its target alone
    before = os.stat(house.stage.path / "outside" / "secret")
    os.utime(outside, ns=(1, 2), follow_symlinks=False)
    os.chown(outside, ALICE.uid, ALICE.gid, follow_symlinks=False)
    os.unlink(outside)
    assert os.stat(house.stage.path / "outside" / "secret") == before


def test_a_name_replaced_by_a_symlink_on_the_host_is_not_followed(pair: Pair, house: House) -> None:
    """Whatever the host puts in the place of a directory that a client is in, the host's outside stays out."""
    (house.stage.path / "outside2").mkdir()
    (pair.host / "d").mkdir()
    (pair.host / "d" / "f").write_text("inside")
    fd = os.open(pair.seen / "d", os.O_PATH)
    try:
        os.rename(pair.host / "d", pair.host / "moved")
        os.symlink(house.stage.path / "outside2", pair.host / "d")
        made = os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(made)
    finally:
        os.close(fd)
    assert os.listdir(house.stage.path / "outside2") == []
    assert sorted(os.listdir(pair.host / "moved")) == ["f", "new"]
