"""Txattrwalk and Txattrcreate: a fid becomes the list of attributes, a value to read, or a value to be set at clunk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from fusemap.p9.messages import Rlerror, Tclunk, Tgetattr, Tlock, Tlopen, Tread, Twalk, Twrite, Txattrcreate, Txattrwalk

from .numbers import (
    E2BIG,
    EEXIST,
    EINVAL,
    ENODATA,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    ERANGE,
    LOCK_BLOCK,
    LOCK_SUCCESS,
    LOCK_WR,
    O_RDWR,
    XATTR_CREATE,
    XATTR_REPLACE,
)
from .place import Place


@pytest.fixture
def marked(place: Place) -> Iterator[Place]:
    """A file "f" with two attributes; skips the test where there are none."""
    place.file("f", b"content")
    os.setxattr(place / "f", "user.one", b"value \0\xff")
    os.setxattr(place / "f", "user.two", b"")
    answer = place.client.ask(Txattrwalk(place.walk("f"), place.client.new_fid(), b""))
    if isinstance(answer, Rlerror) and answer.ecode in (ENOSYS, EOPNOTSUPP) and not place.target.ours:
        pytest.skip("the server has no extended attributes")
    yield place


def value(place: Place, name: bytes, *path: str) -> bytes:
    """Walks to an attribute and reads it."""
    client = place.client
    new = client.new_fid()
    size = client.call(Txattrwalk(place.walk(*(path or ("f",))), new, name)).size
    data = client.read(new, 0, 60000)
    assert len(data) == size
    assert client.read(new, size, 100) == b""
    client.clunk(new)
    return data


def put(place: Place, name: bytes, data: bytes, flags: int = 0, size: int | None = None) -> int:
    """Creates an attribute; the errno with which that fails, at Txattrcreate or at Tclunk, or 0."""
    client = place.client
    fid = place.walk("f")
    answer = client.ask(Txattrcreate(fid, name, len(data) if size is None else size, flags))
    if not isinstance(answer, Rlerror) and data:
        answer = client.ask(Twrite(fid, 0, data))
    if isinstance(answer, Rlerror):
        client.ask(Tclunk(fid))
        return answer.ecode
    answer = client.ask(Tclunk(fid))
    client.fails(Tclunk(fid))  # it is gone, whatever came of it
    return answer.ecode if isinstance(answer, Rlerror) else 0


def test_the_list(marked: Place) -> None:
    listed = value(marked, b"")
    assert listed.endswith(b"\0")
    assert sorted(listed[:-1].split(b"\0")) == sorted(map(os.fsencode, os.listxattr(marked / "f")))


def test_an_empty_list(marked: Place) -> None:
    marked.file("g")
    if not os.listxattr(marked / "g"):
        assert value(marked, b"", "g") == b""


def test_a_value(marked: Place) -> None:
    assert value(marked, b"user.one") == b"value \0\xff"
    assert value(marked, b"user.two") == b""


def test_a_value_of_a_directory_and_of_a_symlink(marked: Place) -> None:
    (marked / "d").mkdir()
    os.setxattr(marked / "d", "user.d", b"directory")
    os.symlink("f", marked / "l")
    os.setxattr(marked / "l", "trusted.l", b"link", follow_symlinks=False)
    assert value(marked, b"user.d", "d") == b"directory"
    assert value(marked, b"trusted.l", "l") == b"link"
    marked.client.fails(Txattrwalk(marked.walk("l"), 9999, b"user.one"))


def test_a_value_in_pieces(marked: Place) -> None:
    data = bytes(range(256)) * 3
    os.setxattr(marked / "f", "user.long", data)
    new = marked.client.new_fid()
    assert marked.client.call(Txattrwalk(marked.walk("f"), new, b"user.long")).size == len(data)
    assert b"".join(marked.client.read(new, at, 100) for at in range(0, len(data), 100)) == data
    assert marked.client.ask(Tread(new, 1 << 63, 10)) is not None
    marked.client.fails(Twrite(new, 0, b"x"))


def test_what_is_absent(marked: Place) -> None:
    new = marked.client.new_fid()
    marked.client.fails(Txattrwalk(marked.walk("f"), new, b"user.absent"), ENODATA)
    marked.client.fails(Tgetattr(new, 0x7FF))
    marked.client.fails(Tclunk(new))


def test_a_name_without_a_namespace(marked: Place) -> None:
    marked.client.fails(Txattrwalk(marked.walk("f"), marked.client.new_fid(), b"nonsense"), EOPNOTSUPP, ENODATA)
    marked.client.fails(Txattrwalk(marked.walk("f"), marked.client.new_fid(), b"user." + b"n" * 300), ERANGE, ENODATA)


def test_the_probe_for_access_lists_that_linux_makes(marked: Place) -> None:
    for name in (b"system.posix_acl_access", b"system.posix_acl_default"):
        marked.client.fails(Txattrwalk(marked.walk("f"), marked.client.new_fid(), name), ENODATA, EOPNOTSUPP, ENOSYS)


def test_a_newfid_in_use(marked: Place) -> None:
    other = marked.walk()
    marked.client.fails(Txattrwalk(marked.walk("f"), other, b"user.one"))
    assert marked.client.qid(other)


def test_the_fid_stays_what_it_was(marked: Place) -> None:
    fid, new = marked.open("f"), marked.client.new_fid()
    marked.client.call(Txattrwalk(fid, new, b"user.one"))
    assert marked.client.read(fid) == b"content"
    marked.client.clunk(fid)
    assert marked.client.read(new) == b"value \0\xff"


def test_the_fid_of_an_attribute_is_no_file(marked: Place) -> None:
    new = marked.client.new_fid()
    marked.client.call(Txattrwalk(marked.walk("f"), new, b"user.one"))
    marked.client.fails(Tlopen(new, 0))
    marked.client.fails(Twalk(new, marked.client.new_fid(), (b"x",)))
    assert marked.client.read(new) == b"value \0\xff"


def test_create(marked: Place) -> None:
    assert put(marked, b"user.new", b"new \0 value") == 0
    assert os.getxattr(marked / "f", "user.new") == b"new \0 value"
    assert put(marked, b"user.one", b"another") == 0
    assert os.getxattr(marked / "f", "user.one") == b"another"


def test_create_in_pieces(marked: Place) -> None:
    client = marked.client
    fid = marked.walk("f")
    client.call(Txattrcreate(fid, b"user.new", 10, 0))
    assert client.write(fid, b"01234", 0) == 5
    assert client.write(fid, b"56789", 5) == 5
    client.clunk(fid)
    assert os.getxattr(marked / "f", "user.new") == b"0123456789"


def test_nothing_is_set_before_the_clunk(marked: Place) -> None:
    fid = marked.walk("f")
    marked.client.call(Txattrcreate(fid, b"user.new", 3, 0))
    marked.client.write(fid, b"new")
    assert "user.new" not in os.listxattr(marked / "f")


def test_create_what_is_there(marked: Place) -> None:
    assert put(marked, b"user.one", b"another", XATTR_CREATE) == EEXIST
    assert os.getxattr(marked / "f", "user.one") == b"value \0\xff"
    assert put(marked, b"user.new", b"new", XATTR_CREATE) == 0


def test_replace_what_is_absent(marked: Place) -> None:
    assert put(marked, b"user.new", b"new", XATTR_REPLACE) == ENODATA
    assert put(marked, b"user.one", b"new", XATTR_REPLACE) == 0
    assert os.getxattr(marked / "f", "user.one") == b"new"


@pytest.mark.parametrize("written", [b"", b"too", b"too-short"])
def test_less_than_was_announced_is_not_set(marked: Place, written: bytes) -> None:
    assert put(marked, b"user.one", written, size=10) != 0
    assert os.getxattr(marked / "f", "user.one") == b"value \0\xff"


def test_more_than_was_announced_is_not_written(marked: Place) -> None:
    fid = marked.walk("f")
    marked.client.call(Txattrcreate(fid, b"user.new", 3, 0))
    marked.client.fails(Twrite(fid, 0, b"much more"))
    marked.client.fails(Twrite(fid, 3, b"x"))
    marked.client.fails(Twrite(fid, (1 << 64) - 1, b"xx"))
    marked.client.ask(Tclunk(fid))
    assert "user.new" not in os.listxattr(marked / "f")


def test_no_bytes_remove_it(marked: Place) -> None:
    """So Linux's removexattr(2) is sent: size 0, to replace."""
    assert put(marked, b"user.one", b"", XATTR_REPLACE) == 0
    assert "user.one" not in os.listxattr(marked / "f")
    assert put(marked, b"user.one", b"", XATTR_REPLACE) == ENODATA


@pytest.mark.parametrize("size", [65537, 1 << 30, 1 << 40, (1 << 64) - 1])
def test_an_enormous_value(marked: Place, size: int) -> None:
    assert put(marked, b"user.one", b"begin", size=size) in (ENOSPC, E2BIG, ERANGE, EINVAL, ENOMEM)
    assert os.getxattr(marked / "f", "user.one") == b"value \0\xff"


NAMES = ["empty", "no-namespace", "namespace-only", "long", "NUL"]


@pytest.mark.parametrize("name", [b"", b"nonsense", b"user.", b"user." + b"n" * 300, b"user.a\0b"], ids=NAMES)
def test_an_impossible_name(marked: Place, name: bytes) -> None:
    before = os.listxattr(marked / "f")
    assert put(marked, name, b"value") != 0
    assert os.listxattr(marked / "f") == before


@pytest.mark.parametrize("flags", [3, 4, 0xFFFFFFFF])
def test_impossible_flags(marked: Place, flags: int) -> None:
    assert put(marked, b"user.new", b"value", flags) != 0
    assert "user.new" not in os.listxattr(marked / "f")


def test_a_disconnected_client_sets_nothing(marked: Place) -> None:
    other = marked.connect()
    lock = Tlock(marked.open("f", flags=O_RDWR, client=other), LOCK_WR, 0, 0, 0, 1, b"other")
    assert other.call(lock).status == LOCK_SUCCESS
    fid = marked.walk("f", client=other)
    other.call(Txattrcreate(fid, b"user.one", 10, 0))
    other.write(fid, b"half")
    other.close()
    again = lock._replace(fid=marked.open("f", flags=O_RDWR), flags=LOCK_BLOCK)
    while marked.client.call(again).status != LOCK_SUCCESS:
        time.sleep(0.01)  # until the server has noticed; one that answers BLOCKED at once has to be asked again
    assert value(marked, b"user.one") == b"value \0\xff"
