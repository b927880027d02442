"""Names: making, renaming, exchanging, linking and removing them, and names of every kind."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusemap.host.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, Calls

from ..support.describe import describe, describe_tree
from ..support.house import PARTS, Failed, House, Pair, same
from ..support.process import ALICE, BOB, Child, run

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


def rename2(old: Path, new: Path, flags: int) -> None:
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
                try:
                    rename2(source, target, flags)
                    told.append("done")
                except OSError as error:
                    told.append(errno.errorcode[error.errno])
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
            try:
                rename2(Path(os.path.join(path, old)), Path(os.path.join(path, new)), flags)
                told.append("done")
            except OSError as error:
                told.append(errno.errorcode[error.errno])
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
            try:
                told.append(act())
            except OSError as error:
                told.append(errno.errorcode[error.errno])
        return [*told, sorted(os.listdir(path))]

    same(pair, work, ALICE)


@pytest.mark.parametrize("length", [1, 59, 60, 4095, 4096])
def test_long_symlink_targets(pair: Pair, length: int) -> None:
    def work(path: Path) -> list[Any]:
        os.symlink("t" * length, path / "s")
        return [os.readlink(path / "s") == "t" * length, os.lstat(path / "s").st_size]

    same(pair, work, ALICE)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"latin-\xe9", b"\x80" * 255, b"new\nline", b"tab\t", b" ", b"\\", b"a:b", b"\x01", b"-rf", b"'\"`$(x)", b".hidden", b"...", "\N{GRINNING FACE}".encode()])
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
    depth = 1200

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
        try:
            os.stat(path / "/".join(["directory"] * depth))
        except OSError as error:
            told.append(errno.errorcode[error.errno])
        return told

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
        for old, new in (("d", "e"), ("missing", "e"), ("d/file", "d/symlink"), ("d/file", "missing/e"), ("d/file", "d/fifo/e")):
            try:
                os.link(path / old, path / new, follow_symlinks=False)
                told.append("done")
            except OSError as error:
                told.append(errno.errorcode[error.errno])
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
        told: list[Any] = []
        here = Path("/", pair.seen.relative_to(house.mounted.path))
        for name in ("up", "outside", "inside"):
            try:
                told.append((here / name).read_text())
            except OSError as error:
                told.append(errno.errorcode[error.errno])
        return told

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


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_by_several_users_end_alike(pair: Pair, seed: int) -> None:
    """The same thousand random calls on a disk and on the mount: every one with the same result, and one tree at the end."""

    def calls(rng: random.Random) -> list[Callable[[Path], Any]]:
        names = ["a", "b", "c", "a/x", "b/x", "c/x", "a/x/y", "b/x/y", "a/l", "c/l"]

        def one() -> Callable[[Path], Any]:
            act = rng.choice(
                ["create", "create", "mkdir", "mkdir", "unlink", "rmdir", "rename", "rename", "exchange", "noreplace", "link", "symlink"]
                + ["mkfifo", "chmod", "chown", "chgrp", "truncate", "append", "read", "list", "stat", "utime", "xattr", "readlink", "access"]
            )
            one, two = rng.choice(names), rng.choice(names)
            mode = rng.choice([0o777, 0o755, 0o700, 0o1777, 0o2775, 0o644, 0o600, 0o444, 0])
            return {
                "create": lambda p: os.close(os.open(p / one, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)),
                "mkdir": lambda p: os.mkdir(p / one, mode | 0o700),
                "unlink": lambda p: os.unlink(p / one),
                "rmdir": lambda p: os.rmdir(p / one),
                "rename": lambda p: os.rename(p / one, p / two),
                "exchange": lambda p: rename2(p / one, p / two, RENAME_EXCHANGE),
                "noreplace": lambda p: rename2(p / one, p / two, RENAME_NOREPLACE),
                "link": lambda p: os.link(p / one, p / two, follow_symlinks=False),
                "symlink": lambda p: os.symlink(two, p / one),
                "mkfifo": lambda p: os.mkfifo(p / one, mode),
                "chmod": lambda p: os.chmod(p / one, mode),
                "chown": lambda p: os.chown(p / one, rng.choice([ALICE, BOB]).uid, -1, follow_symlinks=False),
                "chgrp": lambda p: os.chown(p / one, -1, rng.choice([61001, 61002, 62000]), follow_symlinks=False),
                "truncate": lambda p: os.truncate(p / one, 10) if stat.S_ISREG(os.stat(p / one).st_mode) else None,
                "append": lambda p: _append(p / one),
                "read": lambda p: _read(p / one),
                "list": lambda p: sorted(os.listdir(p / one)),
                "stat": lambda p: _stat(p / one),
                "utime": lambda p: os.utime(p / one, ns=(7, 8), follow_symlinks=False),
                "xattr": lambda p: os.setxattr(p / one, "user.a", b"1", follow_symlinks=False),
                "readlink": lambda p: os.readlink(p / one),
                "access": lambda p: [os.access(p / one, how) for how in (os.R_OK, os.W_OK, os.X_OK)],
            }[act]

        return [one() for _ in range(250)]

    for round, user in enumerate((ALICE, BOB, None, ALICE)):

        def work(path: Path, round: int = round) -> list[Any]:
            rng = random.Random(f"{seed} {round}")
            told: list[Any] = []
            for n, act in enumerate(calls(rng)):
                try:
                    told.append((n, act(path)))
                except OSError as error:
                    told.append((n, errno.errorcode[error.errno]))
            return told

        told = same(pair, work, user)
        assert isinstance(told, list)
        if not round:
            assert sum(isinstance(result, str) for _, result in told) < 225, "hardly anything was possible"
    assert describe_tree(pair.seen, times=False) == describe_tree(pair.host, times=False)
    assert describe_tree(pair.host, times=False) == describe_tree(pair.twin, times=False)


def _append(path: Path) -> int:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return 0
    with open(path, "ab") as file:
        return file.write(b"more")


def _read(path: Path) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    return path.read_bytes()


def _stat(path: Path) -> dict[str, Any]:
    st = os.lstat(path)
    size = st.st_size if stat.S_ISREG(st.st_mode) else 0
    return {"mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid), "nlink": st.st_nlink, "size": size}
