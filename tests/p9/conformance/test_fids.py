"""Fids: unknown ones, how they end (clunk(5), remove(5)), and what may be done with one in which state."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import pytest

from fusemap.p9.messages import (
    Tclunk,
    Tfsync,
    Tgetattr,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Tread,
    Treaddir,
    Treadlink,
    Tremove,
    Trename,
    Trenameat,
    Tsetattr,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)

from .numbers import EBADF, EINVAL, EIO, EISDIR, ENOTDIR, ENOTEMPTY, EOPNOTSUPP, O_RDONLY, O_RDWR, O_WRONLY
from .place import Place

# Every message with a fid: made of that fid and one that is fine
WITH_FID: Final[dict[str, Callable[[int, int], Any]]] = {
    "statfs": lambda bad, good: Tstatfs(bad),
    "lopen": lambda bad, good: Tlopen(bad, O_RDONLY),
    "lcreate": lambda bad, good: Tlcreate(bad, b"new", O_RDWR, 0o644, 0),
    "symlink": lambda bad, good: Tsymlink(bad, b"new", b"target", 0),
    "mknod": lambda bad, good: Tmknod(bad, b"new", 0o100644, 0, 0, 0),
    "rename-fid": lambda bad, good: Trename(bad, good, b"new"),
    "rename-dfid": lambda bad, good: Trename(good, bad, b"new"),
    "readlink": lambda bad, good: Treadlink(bad),
    "getattr": lambda bad, good: Tgetattr(bad, 0x7FF),
    "setattr": lambda bad, good: Tsetattr(bad, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "xattrwalk": lambda bad, good: Txattrwalk(bad, 9999, b""),
    "xattrcreate": lambda bad, good: Txattrcreate(bad, b"user.new", 1, 0),
    "readdir": lambda bad, good: Treaddir(bad, 0, 1000),
    "fsync": lambda bad, good: Tfsync(bad, 0),
    "lock": lambda bad, good: Tlock(bad, 0, 0, 0, 0, 1, b"client"),
    "getlock": lambda bad, good: Tgetlock(bad, 0, 0, 0, 1, b"client"),
    "link-dfid": lambda bad, good: Tlink(bad, good, b"new"),
    "link-fid": lambda bad, good: Tlink(good, bad, b"new"),
    "mkdir": lambda bad, good: Tmkdir(bad, b"new", 0o755, 0),
    "renameat-old": lambda bad, good: Trenameat(bad, b"old", good, b"new"),
    "renameat-new": lambda bad, good: Trenameat(good, b"old", bad, b"new"),
    "unlinkat": lambda bad, good: Tunlinkat(bad, b"old", 0),
    "walk": lambda bad, good: Twalk(bad, 9999, ()),
    "walk-names": lambda bad, good: Twalk(bad, 9999, (b"old",)),
    "read": lambda bad, good: Tread(bad, 0, 100),
    "write": lambda bad, good: Twrite(bad, 0, b"data"),
    "clunk": lambda bad, good: Tclunk(bad),
    "remove": lambda bad, good: Tremove(bad),
}


@pytest.mark.parametrize("bad", [9998, 0xFFFFFFFF], ids=["unused", "NOFID"])
@pytest.mark.parametrize("name", WITH_FID)
def test_an_unknown_fid_is_an_error(place: Place, name: str, bad: int) -> None:
    place.file("old", b"content")
    client = place.client
    client.fails(WITH_FID[name](bad, place.fid))
    assert client.qid(place.fid)  # and nothing has happened
    assert (place / "old").read_bytes() == b"content"
    assert sorted(os.listdir(place.host)) == ["old"]


@pytest.mark.parametrize("name", WITH_FID)
def test_a_clunked_fid_is_unknown(place: Place, name: str) -> None:
    place.file("old", b"content")
    fid = place.walk("old") if name in ("read", "write", "lock", "getlock", "link-fid") else place.walk()
    place.client.clunk(fid)
    place.client.fails(WITH_FID[name](fid, place.fid))
    assert sorted(os.listdir(place.host)) == ["old"]


def test_an_unknown_fid_has_the_errno_for_it(place: Place) -> None:
    place.client.fails(Tgetattr(9998, 0x7FF), EBADF, EIO)  # diod's choice
    place.client.fails(Tclunk(9998), EBADF, EIO)


def test_a_number_can_be_used_again(place: Place) -> None:
    (place / "d").mkdir()
    client = place.client
    fid = place.walk()
    for _ in range(3):
        client.clunk(fid)
        client.call(Twalk(place.fid, fid, (b"d",)))
        assert client.qid(fid) != client.qid(place.fid)


def test_any_number_will_do(place: Place) -> None:
    for fid in (0, 1 << 31, 0xFFFFFFFE):
        place.client.call(Twalk(place.fid, fid, ()))
        assert place.client.qid(fid) == place.client.qid(place.fid)
        place.client.clunk(fid)


def test_two_thousand_fids(place: Place) -> None:
    client = place.client
    fids = range(10_000, 12_000)
    for tag in client.send_all([Twalk(place.fid, fid, ()) for fid in fids]):
        assert client.wait(tag).wqid == ()
    assert client.qid(fids[-1]) == client.qid(fids[0])


def test_a_clone_outlives_its_origin(place: Place) -> None:
    place.file("f", b"content")
    client = place.client
    first = place.open("f")
    second, _ = place.twalk(first)
    client.clunk(first)
    client.call(Tlopen(second, O_RDONLY))
    assert client.read(second) == b"content"


def test_the_root_can_be_clunked(place: Place) -> None:
    client = place.client
    client.clunk(client.root)
    client.fails(Tgetattr(client.root, 0x7FF))
    assert client.qid(place.fid)


def test_fids_of_two_connections_are_not_the_same(place: Place) -> None:
    place.file("f")
    other = place.connect()
    fid = place.walk("f")
    other.fails(Tgetattr(fid + 1000, 0x7FF))
    other.fails(Tgetattr(fid, 0x7FF))


def test_remove_takes_file_and_fid(place: Place) -> None:
    place.file("f")
    (place / "d").mkdir()
    os.symlink("missing", place / "l")
    for name in ("f", "d", "l"):
        fid = place.walk(name)
        place.client.call(Tremove(fid))
        assert not os.path.lexists(place / name)
        place.client.fails(Tgetattr(fid, 0x7FF))


def test_remove_takes_the_fid_even_if_it_fails(place: Place) -> None:
    (place / "full" / "x").mkdir(parents=True)
    client = place.client
    for number in range(2):
        fid = place.walk("full")
        if number:
            client.call(Tlopen(fid, O_RDONLY))
        client.fails(Tremove(fid), ENOTEMPTY)
        client.fails(Tgetattr(fid, 0x7FF))
        client.fails(Tclunk(fid))
    assert (place / "full" / "x").is_dir()


def test_remove_of_an_open_file(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_RDWR)
    other = place.open("f")
    place.client.call(Tremove(fid))
    assert not (place / "f").exists()
    place.client.fails(Tread(fid, 0, 10))
    assert place.client.read(other) == b"content"


def test_the_root_cannot_be_removed(place: Place) -> None:
    client = place.client
    fid, _ = place.twalk(client.root)
    client.fails(Tremove(fid))
    client.fails(Tgetattr(fid, 0x7FF))
    assert place.host.is_dir()


def test_lopen_twice_is_an_error(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f")
    place.client.fails(Tlopen(fid, O_RDONLY))
    assert place.client.read(fid) == b"content"


def test_lcreate_on_an_open_fid_is_an_error(place: Place) -> None:
    fid = place.open()
    place.client.fails(Tlcreate(fid, b"new", O_RDWR, 0o644, 0))
    assert not (place / "new").exists()


def test_lcreate_that_fails_leaves_the_directory(place: Place) -> None:
    fid = place.walk()
    before = place.client.qid(fid)
    place.client.fails(Tlcreate(fid, b"", O_RDWR, 0o644, 0))
    assert place.client.qid(fid) == before
    place.client.call(Tlcreate(fid, b"new", O_RDWR, 0o644, 0))


def test_what_is_not_open_is_not_read(place: Place) -> None:
    place.file("f", b"content")
    place.client.fails(Tread(place.walk("f"), 0, 10))


def test_what_is_not_open_is_not_written(place: Place) -> None:
    place.file("f", b"content")
    place.client.fails(Twrite(place.walk("f"), 0, b"x"))
    assert (place / "f").read_bytes() == b"content"


def test_what_is_not_open_is_not_listed(place: Place) -> None:
    place.client.fails(Treaddir(place.walk(), 0, 1000))


def test_what_is_open_for_reading_is_not_written(place: Place) -> None:
    place.file("f", b"content")
    place.client.fails(Twrite(place.open("f", flags=O_RDONLY), 0, b"x"))
    assert (place / "f").read_bytes() == b"content"


def test_what_is_open_for_writing_is_not_read(place: Place) -> None:
    place.file("f", b"content")
    place.client.fails(Tread(place.open("f", flags=O_WRONLY), 0, 10))


def test_a_directory_is_not_read(place: Place) -> None:
    place.client.fails(Tread(place.open(), 0, 100), EISDIR, EBADF)


def test_a_directory_is_not_written(place: Place) -> None:
    place.client.fails(Twrite(place.open(), 0, b"x"))


def test_a_file_is_not_listed(place: Place) -> None:
    place.file("f", b"content")
    place.client.fails(Treaddir(place.open("f"), 0, 1000), ENOTDIR, EBADF, EINVAL)


IN_A_DIRECTORY = (
    "lcreate", "symlink", "mknod", "link-dfid", "mkdir", "renameat-old", "renameat-new", "unlinkat", "rename-dfid",
)  # fmt: skip


@pytest.mark.parametrize("name", IN_A_DIRECTORY)
def test_a_file_is_no_directory(place: Place, name: str) -> None:
    place.file("old", b"content")
    place.client.fails(WITH_FID[name](place.walk("old"), place.walk("old")), ENOTDIR, EOPNOTSUPP)
    assert (place / "old").read_bytes() == b"content"
