"""Names: mkdir, symlink, mknod, link, rename, renameat, unlinkat and readlink of 9P2000.L."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final

import pytest

from fusemap.p9.messages import (
    Rlerror,
    Tgetattr,
    Tlcreate,
    Tlink,
    Tmkdir,
    Tmknod,
    Treadlink,
    Trename,
    Trenameat,
    Tsymlink,
    Tunlinkat,
)

from ..answers import Disconnected
from .numbers import (
    AT_REMOVEDIR,
    EBUSY,
    EEXIST,
    EINVAL,
    EISDIR,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    EPERM,
    EXDEV,
    O_CREAT,
    O_RDWR,
    QT_DIR,
    QT_SYMLINK,
)
from .place import Place

# Every message with a name, made of a directory, that name, and a fid of a file "f" in the directory
WITH_NAME: Final[dict[str, Callable[[int, bytes, int], Any]]] = {
    "lcreate": lambda d, name, f: Tlcreate(d, name, O_RDWR | O_CREAT, 0o644, 0),
    "mkdir": lambda d, name, f: Tmkdir(d, name, 0o755, 0),
    "symlink": lambda d, name, f: Tsymlink(d, name, b"aim", 0),
    "mknod": lambda d, name, f: Tmknod(d, name, 0o100644, 0, 0, 0),
    "link": lambda d, name, f: Tlink(d, f, name),
    "rename": lambda d, name, f: Trename(f, d, name),
    "renameat-old": lambda d, name, f: Trenameat(d, name, d, b"renamed"),
    "renameat-new": lambda d, name, f: Trenameat(d, b"f", d, name),
    "unlinkat": lambda d, name, f: Tunlinkat(d, name, 0),
    "unlinkat-dir": lambda d, name, f: Tunlinkat(d, name, AT_REMOVEDIR),
}
NEW: Final = ("mkdir", "symlink", "mknod", "link")
NO_NAMES: Final = {
    "empty": b"", "dot": b".", "dotdot": b"..", "slash": b"/", "below": b"inner/new", "absolute": b"/new",
    "trailing": b"new/", "up": b"../new", "NUL-inside": b"a\0b", "NUL-at-the-end": b"new\0",
}  # fmt: skip
NAMES: Final = {
    "long": b"n" * 255, "no-text": b"\xff\xfe", "spaces": b"a b\tc\n", "unicode": "\u00fc\u4e16".encode(),
    "three-dots": b"...", "two-dots-more": b"..a", "dash": b"-f", "backslash": b"\\",
}  # fmt: skip


@pytest.mark.parametrize("form", NO_NAMES)
@pytest.mark.parametrize("kind", WITH_NAME)
def test_what_is_no_name_is_refused(place: Place, kind: str, form: str) -> None:
    (place / "sub" / "inner").mkdir(parents=True)
    place.file("f", b"content")
    fid = place.walk("sub")
    client = place.connect()
    inner, file = place.walk("sub", client=client), place.walk("f", client=client)
    if kind == "renameat-new":
        inner = place.walk(client=client)
    client.refuses(WITH_NAME[kind](inner, NO_NAMES[form], file))
    assert sorted(os.listdir(place.host)) == ["f", "sub"]
    assert os.listdir(place / "sub") == ["inner"]
    assert os.listdir(place / "sub" / "inner") == []
    assert place.client.qid(fid).type == QT_DIR


@pytest.mark.parametrize("kind", WITH_NAME)
def test_too_long_a_name_is_refused(place: Place, kind: str) -> None:
    place.file("f", b"content")
    message = WITH_NAME[kind](place.walk(), b"n" * 256, place.walk("f"))
    place.client.fails(message, ENAMETOOLONG, *([EOPNOTSUPP] if kind.startswith(("renameat", "unlinkat")) else []))
    assert os.listdir(place.host) == ["f"]


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("form", NAMES)
def test_any_other_name_will_do(place: Place, kind: str, form: str) -> None:
    name = NAMES[form]
    place.file("f", b"content")
    place.client.call(WITH_NAME[kind](place.fid, name, place.walk("f")))
    assert sorted(os.listdir(os.fsencode(place.host))) == sorted([b"f", name])


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("there", ["file", "directory", "symlink", "dangling"])
def test_what_is_there_is_not_made_again(place: Place, kind: str, there: str) -> None:
    place.file("f", b"content")
    path = place / "there"
    if there == "file":
        path.write_text("there")
    elif there == "directory":
        path.mkdir()
    else:
        os.symlink("f" if there == "symlink" else "missing", path)
    before = os.lstat(path).st_ino
    place.client.fails(WITH_NAME[kind](place.fid, b"there", place.walk("f")), EEXIST)
    assert os.lstat(path).st_ino == before
    assert not (place / "missing").exists()


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o777, 0o1777, 0o40750, 0o000], ids=oct)
def test_mkdir_takes_the_mode_as_it_is(place: Place, mode: int) -> None:
    """Linux sends it with S_IFDIR and after the umask."""
    answer = place.client.call(Tmkdir(place.fid, b"d", mode, 0))
    assert stat.S_IMODE((place / "d").stat().st_mode) == mode & 0o7777
    assert answer.qid == place.client.qid(place.walk("d"))
    assert answer.qid.type == QT_DIR


@pytest.mark.parametrize("kind", ["mkdir", "symlink", "mknod"])
def test_what_is_new_belongs_to_the_user_and_the_group(place: Place, kind: str) -> None:
    message = WITH_NAME[kind](place.fid, b"new", 0)
    place.client.call(message._replace(gid=1234))
    told = place.client.getattr(place.walk("new"))
    assert (told.uid, told.gid) == (0, 1234)


AIMS: Final = {
    "name": b"f", "missing": b"missing/x", "absolute": b"/absolute", "up": b"../..", "no-text": b"\xff\xfe",
    "space": b"a b", "long": b"x" * 1000, "dot": b".", "root": b"/",
}  # fmt: skip


@pytest.mark.parametrize("aim", AIMS)
def test_a_symlink_keeps_its_target_as_it_is(place: Place, aim: str) -> None:
    target = AIMS[aim]
    answer = place.client.call(Tsymlink(place.fid, b"l", target, 0))
    fid = place.walk("l")
    assert os.readlink(os.fsencode(place / "l")) == target
    assert place.client.call(Treadlink(fid)).target == target
    assert answer.qid == place.client.qid(fid)
    assert answer.qid.type == QT_SYMLINK
    assert place.client.getattr(fid).size == len(target)


def test_the_longest_target(place: Place) -> None:
    place.client.call(Tsymlink(place.fid, b"l", b"t" * 1000, 0))  # ext4 has a limit of one block
    os.symlink("u" * 1000, place / "m")
    assert place.client.call(Treadlink(place.walk("m"))).target == b"u" * 1000
    place.client.fails(Tsymlink(place.fid, b"n", b"t" * 5000, 0), ENAMETOOLONG)
    place.client.fails(Tsymlink(place.fid, b"n", b"", 0), ENOENT)


def test_only_symlinks_are_read_as_such(place: Place) -> None:
    place.file("f", b"content")
    for fid in (place.walk("f"), place.fid):
        place.client.fails(Treadlink(fid), EINVAL)


@pytest.mark.parametrize(
    ("kind", "major", "minor"),
    [
        (stat.S_IFREG, 0, 0), (stat.S_IFIFO, 0, 0), (stat.S_IFSOCK, 0, 0),
        (stat.S_IFCHR, 1, 3), (stat.S_IFBLK, 259, 70000),
    ],
    ids=["file", "fifo", "socket", "char", "block"],
)  # fmt: skip
def test_mknod(place: Place, kind: int, major: int, minor: int) -> None:
    answer = place.client.ask(Tmknod(place.fid, b"n", kind | 0o640, major, minor, 0))
    if isinstance(answer, Rlerror) and answer.ecode == EPERM:
        pytest.skip("this machine makes no device nodes")
    told = os.lstat(place / "n")
    assert told.st_mode == kind | 0o640
    if major:
        assert (os.major(told.st_rdev), os.minor(told.st_rdev)) == (major, minor)
    fid = place.walk("n")
    assert answer.qid == place.client.qid(fid)
    assert answer.qid.type == 0
    assert place.client.getattr(fid).rdev == told.st_rdev


def test_mknod_of_a_directory_is_refused(place: Place) -> None:
    place.client.fails(Tmknod(place.fid, b"n", stat.S_IFDIR | 0o755, 0, 0, 0))
    place.client.fails(Tmknod(place.fid, b"n", stat.S_IFLNK | 0o755, 0, 0, 0))
    assert os.listdir(place.host) == []


def test_link(place: Place) -> None:
    place.file("f", b"content")
    (place / "d").mkdir()
    fid = place.walk("f")
    place.client.call(Tlink(place.walk("d"), fid, b"g"))
    assert os.path.samefile(place / "f", place / "d" / "g")
    assert place.client.qid(place.walk("d", "g")) == place.client.qid(fid)
    assert place.client.getattr(fid).nlink == 2


def test_link_of_an_open_file(place: Place) -> None:
    place.file("f", b"content")
    place.client.call(Tlink(place.fid, place.open("f"), b"g"))
    assert os.path.samefile(place / "f", place / "g")


def test_link_of_a_symlink_is_one_of_itself(place: Place) -> None:
    place.file("f", b"content")
    os.symlink("f", place / "l")
    place.client.call(Tlink(place.fid, place.walk("l"), b"m"))
    assert os.readlink(place / "m") == "f"
    assert os.lstat(place / "f").st_nlink == 1


def test_link_of_a_directory_is_refused(place: Place) -> None:
    (place / "d").mkdir()
    place.client.fails(Tlink(place.fid, place.walk("d"), b"e"), EPERM, EISDIR)


def test_a_link_or_a_name_does_not_cross_file_systems(place: Place) -> None:
    mounts = place.mounts()
    place.file("f", b"content")
    client = place.client
    there = client.walk(client.root, mounts[0].name)
    client.fails(Tlink(there, place.walk("f"), b"crossing"), EXDEV)
    client.fails(Trename(place.walk("f"), there, b"crossing"), EXDEV)
    client.fails(Trenameat(place.fid, b"f", there, b"crossing"), EXDEV, EOPNOTSUPP)
    assert not (mounts[0] / "crossing").exists()
    assert (place / "f").read_bytes() == b"content"


# Renaming: what stood where before, and what is due

RENAMES: Final[dict[str, tuple[str, str, tuple[int, ...]]]] = {
    "new": ("file", "nothing", ()),
    "over-a-file": ("file", "file", ()),
    "over-a-symlink": ("file", "symlink", ()),
    "over-an-empty-directory": ("empty", "empty", ()),
    "directory": ("full", "nothing", ()),
    "symlink": ("symlink", "nothing", ()),
    "over-a-full-directory": ("empty", "full", (ENOTEMPTY, EEXIST)),
    "directory-over-a-file": ("empty", "file", (ENOTDIR,)),
    "file-over-a-directory": ("file", "empty", (EISDIR,)),
    "missing": ("nothing", "file", (ENOENT,)),
}


def put(place: Place, path: str, kind: str) -> None:
    """What is to stand at a name."""
    if kind == "file":
        (place / path).write_text(path)
    elif kind == "symlink":
        os.symlink("aim", place / path)
    elif kind in ("empty", "full"):
        (place / path).mkdir()
        if kind == "full":
            (place / path / "inside").write_text(path)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("case", RENAMES)
def test_renameat(place: Place, case: str, where: str) -> None:
    old, new, errors = RENAMES[case]
    (place / "sub").mkdir()
    target = "new" if where == "here" else "sub/new"
    put(place, "old", old)
    put(place, target, new)
    before = os.lstat(place / "old").st_ino if old != "nothing" else 0
    message = Trenameat(place.fid, b"old", place.fid if where == "here" else place.walk("sub"), b"new")
    if errors:
        place.client.fails(message, *errors, *(() if place.target.ours else (EOPNOTSUPP,)))
        assert os.path.lexists(place / "old") == (old != "nothing")
        return
    place.supported(message)
    assert not os.path.lexists(place / "old")
    assert os.lstat(place / target).st_ino == before
    assert place.client.qid(place.walk(*target.split("/")))


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("case", [case for case in RENAMES if case != "missing"])
def test_rename(place: Place, case: str, where: str) -> None:
    old, new, errors = RENAMES[case]
    (place / "sub").mkdir()
    target = "new" if where == "here" else "sub/new"
    put(place, "old", old)
    put(place, target, new)
    client = place.client
    fid = place.walk("old")
    qid = client.qid(fid)
    message = Trename(fid, place.fid if where == "here" else place.walk("sub"), b"new")
    if errors:
        client.fails(message, *errors)
        assert os.path.lexists(place / "old")
        assert client.qid(fid).path == qid.path
        return
    client.call(message)
    assert not os.path.lexists(place / "old")
    assert client.qid(fid).path == qid.path == client.qid(place.walk(*target.split("/"))).path


def test_a_renamed_directory_is_walked_in_its_new_place(place: Place) -> None:
    (place / "d" / "inner").mkdir(parents=True)
    (place / "e").mkdir()
    client = place.client
    fid, inner = place.walk("d"), place.walk("d", "inner")
    client.call(Trename(fid, place.walk("e"), b"new"))
    for start, ups in ((fid, 1), (inner, 2)):
        new, qids = place.twalk(start, *[b".."] * ups)
        assert qids[-1].path == client.qid(place.walk("e")).path == client.qid(new).path
    assert client.qid(client.walk(fid, "inner")).path == client.qid(inner).path
    client.call(Tmkdir(inner, b"made", 0o755, 0))
    assert (place / "e" / "new" / "inner" / "made").is_dir()


def test_a_directory_does_not_go_into_itself(place: Place) -> None:
    (place / "d" / "inner").mkdir(parents=True)
    client = place.client
    for below in (("d",), ("d", "inner")):
        client.fails(Trename(place.walk("d"), place.walk(*below), b"new"), EINVAL)
        client.fails(Trenameat(place.fid, b"d", place.walk(*below), b"new"), EINVAL, EOPNOTSUPP)
    assert (place / "d" / "inner").is_dir()


def test_a_name_onto_itself_changes_nothing(place: Place) -> None:
    place.file("f", b"content")
    os.link(place / "f", place / "g")
    place.supported(Trenameat(place.fid, b"f", place.fid, b"f"))
    place.client.call(Trenameat(place.fid, b"f", place.fid, b"g"))  # two names of one file: rename(2) does nothing
    place.client.call(Trename(place.walk("f"), place.fid, b"f"))
    assert sorted(os.listdir(place.host)) == ["f", "g"]


def test_the_root_is_not_renamed(place: Place) -> None:
    place.client.fails(Trename(place.client.root, place.fid, b"new"))
    assert os.listdir(place.host) == []


@pytest.mark.parametrize("name", ["file", "symlink", "fifo"])
def test_unlinkat_of_a_file(place: Place, name: str) -> None:
    place.file("file")
    os.symlink("file", place / "symlink")
    os.mkfifo(place / "fifo")
    wire = name.encode()
    place.client.fails(Tunlinkat(place.fid, wire, AT_REMOVEDIR), ENOTDIR, EOPNOTSUPP)
    place.supported(Tunlinkat(place.fid, wire, 0))
    assert not os.path.lexists(place / name)
    assert len(os.listdir(place.host)) == 2
    place.client.fails(Tunlinkat(place.fid, wire, 0), ENOENT)


def test_unlinkat_of_a_directory(place: Place) -> None:
    (place / "d").mkdir()
    (place / "full" / "x").mkdir(parents=True)
    place.client.fails(Tunlinkat(place.fid, b"d", 0), EISDIR, EPERM, EOPNOTSUPP)
    place.supported(Tunlinkat(place.fid, b"d", AT_REMOVEDIR))
    assert os.listdir(place.host) == ["full"]
    place.client.fails(Tunlinkat(place.fid, b"full", AT_REMOVEDIR), ENOTEMPTY)
    place.client.fails(Tunlinkat(place.fid, b"missing", AT_REMOVEDIR), ENOENT)


def test_a_mount_point_is_not_taken_away(place: Place) -> None:
    for path in place.mounts():
        client = place.client
        client.fails(Tunlinkat(client.root, os.fsencode(path.name), AT_REMOVEDIR), EBUSY, EOPNOTSUPP)
        client.fails(Trenameat(client.root, os.fsencode(path.name), place.fid, b"new"), EBUSY, EXDEV, EOPNOTSUPP)
        client.fails(Trename(client.walk(client.root, path.name), place.fid, b"new"))
        assert os.path.ismount(path)


def test_names_in_a_directory_that_is_gone(place: Place) -> None:
    (place / "d").mkdir()
    place.file("f")
    fid = place.walk("d")
    (place / "d").rmdir()
    for kind in NEW:
        place.client.fails(WITH_NAME[kind](fid, b"new", place.walk("f")))
    try:
        place.client.ask(Tgetattr(fid, 0x7FF))
    except Disconnected:
        raise AssertionError("the connection is gone") from None
