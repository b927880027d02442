"""Tlopen and Tlcreate: what the flags do, what can be opened, and what a new file is like."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from fusemap.p9.messages import Rlerror, Tgetattr, Tlcreate, Tlopen, Tread

from .numbers import (
    EEXIST,
    EINVAL,
    EISDIR,
    ENOTDIR,
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECT,
    O_DIRECTORY,
    O_DSYNC,
    O_EXCL,
    O_FASYNC,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    O_SYNC,
    O_TRUNC,
    O_WRONLY,
)
from .place import Place

HARMLESS = {
    "NOCTTY": O_NOCTTY,
    "NONBLOCK": O_NONBLOCK,
    "LARGEFILE": O_LARGEFILE,
    "CLOEXEC": O_CLOEXEC,
    "NOFOLLOW": O_NOFOLLOW,
    "NOATIME": O_NOATIME,
    "DSYNC": O_DSYNC,
    "SYNC": O_SYNC,
    "FASYNC": O_FASYNC,
    "APPEND": O_APPEND,
    "linux": O_LARGEFILE | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW,
}


def test_the_qid_is_that_of_the_file(place: Place) -> None:
    place.file("f", b"content")
    fid = place.walk("f")
    answer = place.client.call(Tlopen(fid, O_RDONLY))
    assert answer.qid == place.client.qid(fid)
    assert answer.iounit == 0 or answer.iounit <= place.client.msize - 24


@pytest.mark.parametrize("name", HARMLESS)
def test_flags_that_change_nothing_for_the_client(place: Place, name: str) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_RDWR | HARMLESS[name])
    assert place.client.read(fid) == b"content"
    assert place.client.write(fid, b"", 0) == 0


def test_direct_is_refused_or_dropped(place: Place) -> None:
    """A client's buffer says nothing about how the server's is aligned."""
    place.file("f", b"content")
    fid = place.walk("f")
    answer = place.client.ask(Tlopen(fid, O_RDONLY | O_DIRECT))
    if isinstance(answer, Rlerror):
        assert answer.ecode == EINVAL
    else:
        assert place.client.read(fid, 1, 3) == b"ont"


@pytest.mark.parametrize("flags", [O_CREAT, O_CREAT | O_EXCL, 1 << 30, 3], ids=["CREAT", "EXCL", "unknown", "access-3"])
def test_flags_that_have_no_meaning_here_are_answered(place: Place, flags: int) -> None:
    place.file("f", b"content")
    fid = place.walk("f")
    answer = place.client.ask(Tlopen(fid, flags))
    assert isinstance(answer, Rlerror) or answer.qid == place.client.qid(fid)
    assert (place / "f").read_bytes() == b"content"


def test_trunc(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_RDWR | O_TRUNC)
    assert (place / "f").read_bytes() == b""
    assert place.client.read(fid) == b""


def test_a_directory(place: Place) -> None:
    for flags in (O_RDONLY, O_RDONLY | O_DIRECTORY, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_LARGEFILE | O_CLOEXEC):
        assert place.client.readdir(place.open(flags=flags))


@pytest.mark.parametrize("flags", [O_WRONLY, O_RDWR, O_RDWR | O_TRUNC], ids=["WRONLY", "RDWR", "TRUNC"])
def test_a_directory_is_not_opened_for_writing(place: Place, flags: int) -> None:
    place.client.fails(Tlopen(place.walk(), flags), EISDIR)


def test_directory_demanded_of_a_file(place: Place) -> None:
    place.file("f")
    place.client.fails(Tlopen(place.walk("f"), O_RDONLY | O_DIRECTORY), ENOTDIR)


@pytest.mark.parametrize("flags", [O_RDONLY, O_WRONLY, O_RDWR | O_TRUNC], ids=["RDONLY", "WRONLY", "TRUNC"])
def test_a_symlink_is_not_opened(place: Place, flags: int) -> None:
    place.file("f", b"content")
    os.symlink("f", place / "link")
    secret = place.outside()
    os.symlink(secret, place / "out")
    for name in ("out", "link"):
        place.client.fails(Tlopen(place.walk(name), flags))
    assert (place / "f").read_bytes() == b"content"
    assert secret.read_bytes() == b"outside"


@pytest.mark.parametrize("flags", [O_RDONLY, O_WRONLY, O_RDWR], ids=["RDONLY", "WRONLY", "RDWR"])
@pytest.mark.parametrize("kind", ["fifo", "char", "block", "socket"])
def test_a_special_file_is_not_opened(place: Place, kind: str, flags: int) -> None:
    """It would be the server's device, not the client's; and a FIFO would make it wait."""
    path = place / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as plug:
            plug.bind(os.path.relpath(path) if len(os.fsencode(path)) > 100 else str(path))
    else:
        device = (stat.S_IFCHR, os.makedev(1, 3)) if kind == "char" else (stat.S_IFBLK, os.makedev(1, 0))
        try:
            os.mknod(path, device[0] | 0o666, device[1])
        except PermissionError:
            pytest.skip("this machine makes no device nodes")
    fid = place.walk(kind)
    place.client.fails(Tlopen(fid, flags))
    assert place.client.getattr(fid).mode == os.lstat(path).st_mode
    place.client.fails(Tread(fid, 0, 1))


def test_an_open_that_fails_leaves_the_fid_as_it_was(place: Place) -> None:
    place.file("f", b"content")
    fid = place.walk("f")
    place.client.fails(Tlopen(fid, O_RDONLY | O_DIRECTORY))
    place.client.call(Tlopen(fid, O_RDONLY))
    assert place.client.read(fid) == b"content"


def test_a_file_that_the_host_has_removed_or_replaced(place: Place) -> None:
    """A fid is a file, not a name: what is opened is the file that was walked to, or nothing."""
    place.file("f", b"the old one")
    fid = place.walk("f")
    os.rename(place / "f", place / "elsewhere")
    place.file("f", b"another file")
    answer = place.client.ask(Tlopen(fid, O_RDONLY))
    assert isinstance(answer, Rlerror) or place.client.read(fid) == b"the old one"


def test_create(place: Place) -> None:
    fid = place.walk()
    answer = place.client.call(Tlcreate(fid, b"new", O_RDWR | O_CREAT | O_EXCL, 0o640, 0))
    assert answer.qid.type == 0
    assert answer.qid.path == place.client.qid(fid).path == place.client.qid(place.walk("new")).path
    assert place.client.write(fid, b"content") == 7
    assert place.client.read(fid) == b"content"
    assert (place / "new").read_bytes() == b"content"
    place.client.fails(Tlopen(fid, O_RDONLY))


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o640, 0o777, 0o4755, 0o2755, 0o1666, 0o000, 0o100644], ids=oct)
def test_create_takes_the_mode_as_it_is(place: Place, mode: int) -> None:
    """The client has applied the umask of its process."""
    place.create(b"new", O_RDWR | O_CREAT | O_EXCL, mode)
    assert stat.S_IMODE((place / "new").stat().st_mode) == mode & 0o7777


def test_create_gives_the_file_to_the_user_and_the_group(place: Place) -> None:
    fid = place.walk()
    place.client.call(Tlcreate(fid, b"new", O_RDWR | O_CREAT | O_EXCL, 0o644, 1234))
    told = place.client.getattr(fid)
    assert (told.uid, told.gid) == (0, 1234)


@pytest.mark.parametrize("access", [O_RDONLY, O_WRONLY], ids=["RDONLY", "WRONLY"])
def test_create_opens_as_it_was_told(place: Place, access: int) -> None:
    fid = place.create(b"new", access | O_CREAT | O_EXCL)
    if access == O_RDONLY:
        assert place.client.read(fid) == b""
    else:
        assert place.client.write(fid, b"x") == 1


def test_create_without_write_permission_for_oneself(place: Place) -> None:
    """What cp -p and tar do: the mode is that of the next open, not of this one."""
    fid = place.create(b"new", O_WRONLY | O_CREAT | O_EXCL, 0o400)
    assert place.client.write(fid, b"x") == 1


def test_create_of_what_is_there_exclusively(place: Place) -> None:
    place.file("f", b"content")
    place.client.fails(Tlcreate(place.walk(), b"f", O_RDWR | O_CREAT | O_EXCL | O_TRUNC, 0o644, 0), EEXIST)
    assert (place / "f").read_bytes() == b"content"


def test_create_of_what_is_there(place: Place) -> None:
    place.file("f", b"content")
    fid = place.walk()
    answer = place.client.ask(Tlcreate(fid, b"f", O_RDWR | O_CREAT, 0o644, 0))
    assert isinstance(answer, Rlerror) or place.client.read(fid) == b"content"


@pytest.mark.parametrize("aim", ["there", "missing", "outside", "directory"])
def test_create_follows_no_symlink(place: Place, aim: str) -> None:
    place.file("there", b"content")
    secret = place.outside()
    os.symlink({"outside": str(secret), "directory": "/"}.get(aim, aim), place / "link")
    for flags in (O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_TRUNC, O_RDWR | O_CREAT | O_EXCL):
        place.client.fails(Tlcreate(place.walk(), b"link", flags, 0o644, 0))
    assert (place / "there").read_bytes() == b"content"
    assert secret.read_bytes() == b"outside"
    assert not (place / "missing").exists()


def test_create_opens_no_special_file(place: Place) -> None:
    os.mkfifo(place / "fifo")
    for flags in (O_RDONLY | O_CREAT, O_WRONLY | O_CREAT, O_RDWR | O_CREAT):
        fid = place.walk()
        place.client.fails(Tlcreate(fid, b"fifo", flags, 0o644, 0))
        place.client.call(Tgetattr(fid, 0x7FF))


def test_create_in_a_directory_that_is_gone(place: Place) -> None:
    (place / "d").mkdir()
    fid = place.walk("d")
    (place / "d").rmdir()
    place.client.fails(Tlcreate(fid, b"new", O_RDWR | O_CREAT, 0o644, 0))
