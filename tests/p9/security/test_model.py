"""Who is who, the model none, servers without root, and read-only exports."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect

from ...support.describe import describe_tree
from ...support.house import outcome
from ...support.process import ALICE, BOB, TEAM, call_as
from ..inside import (
    AT_REMOVEDIR,
    MODELS,
    NOTHING_CHANGED,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    Inside,
    exported,
    refused,
    setattr_message,
)
from .deeds import (
    ACL_ACCESS,
    ACL_DEFAULT,
    ANY,
    FOR_BOB,
    GROUP_OBJ,
    INHERITED,
    LONG_AGO,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    acl,
    furnish,
)
from .ground import dialects
from .hands import ByClient, owner, owner_of_new
from .users import NOBODY, STRANGER

pytestmark = pytest.mark.usefixtures("known")
on_each_disk = pytest.mark.parametrize("source", ["ext4", "xfs", "tmpfs"], indirect=True)


@dialects
@pytest.mark.parametrize(
    ("uname", "uid", "expected"),
    [
        (b"alice", None, (ALICE.uid, ALICE.gid)),
        (b"61002", None, (BOB.uid, BOB.gid)),
        (b"", ALICE.uid, (ALICE.uid, ALICE.gid)),
        (b"bob", ALICE.uid, (ALICE.uid, ALICE.gid)),  # the number goes before the name
        (b"nobody-knows-him", ALICE.uid, (ALICE.uid, ALICE.gid)),
        (b"61009", None, (STRANGER.uid, NOBODY)),
        (b"", STRANGER.uid, (STRANGER.uid, NOBODY)),
        (b"", 0, (0, 0)),
        (b"root", None, (0, 0)),
        (b"", 0xFFFFFFFE, (0xFFFFFFFE, NOBODY)),
        (b"", None, (NOBODY, NOBODY)),
        (b"nobody-knows-him", None, errno.EPERM),
        (b"alice\0", None, errno.EPERM),
        (b"\xff\xfe", None, errno.EPERM),
        (b"4294967295", None, errno.EPERM),
        (b"-1", None, errno.EPERM),
        (b"9" * 5000, None, errno.EPERM),
    ],
)
def test_attached_as(
    source: Path, dialect: Dialect, uname: bytes, uid: int | None, expected: tuple[int, int] | int
) -> None:
    source.chmod(0o777)
    if dialect is Dialect.BASE and uid is not None:
        return  # has no number
    number = m.NONUNAME if uid is None else uid
    with exported(source, "passthrough") as export, Inside(export, dialect=dialect, attach=False) as client:
        client.root = client.new()
        message = m.Tattach(client.root, m.NOFID, uname, b"", number)
        if isinstance(expected, int):
            with refused(expected):
                client.ask(message)
        else:
            client.ask(message)
            assert owner_of_new(client, source) == expected
    # Under none a name that says nothing to this host is the server's own user.
    with exported(source, "none") as export, Inside(export, dialect=dialect, attach=False) as client:
        client.root = client.new()
        client.ask(m.Tattach(client.root, m.NOFID, uname, b"", number))
        unknown = isinstance(expected, int) or (not uname and uid is None)
        assert owner_of_new(client, source) == ((0, 0) if unknown else expected)


@dialects
@pytest.mark.parametrize("model", ["none", "passthrough"])
def test_a_peer_attaches_as_himself(source: Path, dialect: Dialect, model: str) -> None:
    source.chmod(0o777)
    with exported(source, model) as export:
        with Inside(export, ALICE.uid, dialect, uname=b"alice", peer=ALICE.uid) as client:
            assert owner_of_new(client, source) == (ALICE.uid, ALICE.gid)
            for uname in (b"bob", b"root", b"0", b"61002", b"", b"nobody-knows-him"):
                for aname in (b"", b"ctl"):
                    with refused(errno.EPERM):
                        client.ask(m.Tattach(client.new(), m.NOFID, uname, aname))
            if dialect is not Dialect.BASE:
                for uid in (0, BOB.uid):
                    with refused(errno.EPERM):
                        client.ask(m.Tattach(client.new(), m.NOFID, b"alice", b"", uid))
            client.attach(ALICE.uid, b"", b"alice")
            client.attach(ALICE.uid, b"ctl", b"alice")


@pytest.mark.parametrize("model", ["none", "passthrough"])
def test_creating_where_something_is(source: Path, model: str) -> None:
    """open(2) with O_CREAT and without O_EXCL: what is there is opened, unless it is a directory."""
    furnish(source)
    with exported(source, model) as export, Inside(export) as client:
        for flags in (O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_RDWR | O_TRUNC):
            with refused(errno.EISDIR):
                client.create("d", flags)
        assert client.read(client.create("file", O_RDONLY, 0o777)) == b"content of file"
        assert stat.S_IMODE((source / "file").stat().st_mode) == 0o640
        assert owner(source / "file") == (ALICE.uid, ALICE.gid)
        for flags in (O_RDONLY | O_TRUNC, O_RDWR | O_TRUNC):
            client.clunk(client.create("file", flags))
            assert (source / "file").read_bytes() == b""
            (source / "file").write_text("content")


# None ---------------------------------------------------------------------------------------------------------------


@on_each_disk
def test_none_makes_for_the_user_with_the_servers_rights(source: Path) -> None:
    """The client has checked already: nothing is refused, and what is made is the user's."""
    furnish(source)
    source.chmod(0o700)
    with exported(source) as export, Inside(export, BOB.uid) as client:
        client.make("new", b"content", 0o4751)
        assert oct((source / "new").stat().st_mode) == oct(stat.S_IFREG | 0o751)  # writing has taken set-user-id away
        client.clunk(client.create("script-2", mode=0o4751))
        assert oct((source / "script-2").stat().st_mode) == oct(stat.S_IFREG | 0o4751)
        client.ask(m.Tmkdir(client.root, b"dir", 0o1730, TEAM))
        client.ask(m.Tsymlink(client.root, b"sym", b"nowhere", TEAM))
        client.ask(m.Tmknod(client.root, b"fifo", stat.S_IFIFO | 0o640, 0, 0, TEAM))
        client.ask(m.Tmknod(client.root, b"null", stat.S_IFCHR | 0o640, 1, 3, TEAM))
        for name in ("dir", "sym", "fifo", "null"):
            assert owner(source / name) == (BOB.uid, TEAM)
        assert owner(source / "new") == (BOB.uid, BOB.gid)
        assert stat.S_IMODE((source / "dir").stat().st_mode) == 0o1730
        assert (source / "null").stat().st_rdev == os.makedev(1, 3)
        do = ByClient(client, "")
        do.chmod("file", 0o600)
        do.chown("file", BOB.uid, TEAM)
        do.set_times("file", LONG_AGO)
        do.touch("ours")
        do.truncate("ours", 1)
        do.write("d/inner", b"bob's now")
        do.set_xattr("other", "user.x", b"y")
        do.set_xattr("ours", ACL_ACCESS, FOR_BOB)
        do.rename("d/inner", "moved")
        do.unlink("acl")
        assert owner(source / "file") == (BOB.uid, TEAM)
        assert (source / "file").stat().st_mtime_ns == LONG_AGO
        assert (source / "moved").read_bytes() == b"bob's nowf d/inner"


@on_each_disk
@pytest.mark.parametrize("model", ["none", "passthrough"])
def test_the_servers_umask_and_the_directorys_rules(source: Path, model: str) -> None:
    """Modes are as the client says, whatever umask the server has; set-group-id and default ACLs are obeyed."""
    os.chown(source, 0, TEAM)
    source.chmod(0o2777)
    (source / "inherits").mkdir()
    (source / "inherits").chmod(0o777)
    os.setxattr(source / "inherits", ACL_DEFAULT, INHERITED)
    before = os.umask(0o077)
    try:
        with exported(source, model) as export, Inside(export, ALICE.uid) as client:
            client.make("file", mode=0o666, gid=ALICE.gid)
            client.ask(m.Tmkdir(client.root, b"dir", 0o777, ALICE.gid))
            client.make("inherits/file", mode=0o666)
            client.ask(m.Tmkdir(client.walk("inherits"), b"dir", 0o777, m.NONUNAME))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE((source / "file").stat().st_mode) == 0o666
    assert stat.S_IMODE((source / "dir").stat().st_mode) == 0o2777
    assert owner(source / "file") == owner(source / "dir") == (ALICE.uid, TEAM)
    expected = acl((USER_OBJ, 6, ANY), (USER, 5, BOB.uid), (GROUP_OBJ, 5, ANY), (MASK, 6, ANY), (OTHER, 0, ANY))
    assert os.getxattr(source / "inherits" / "file", ACL_ACCESS) == expected
    assert os.getxattr(source / "inherits" / "dir", ACL_DEFAULT) == INHERITED


# Without root -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_root(source: Path) -> None:
    """Under none it does what it may; all that is made is its own, and a wish for another owner is let pass."""
    furnish(source)
    os.chown(source, ALICE.uid, ALICE.gid)
    (source / "closed").mkdir(0o700)

    def work() -> dict[str, Any]:
        with exported(source) as export, Inside(export, BOB.uid) as client:
            do = ByClient(client, "")
            do.create("new", 0o640)
            do.mkdir("dir", 0o750)
            do.write("new", b"content")
            do.chown("new", BOB.uid, TEAM)
            do.rename("new", "dir/moved")
            do.link("file", "second")
            do.truncate("file", 3)
            do.set_xattr("file", "user.x", b"y")
            do.set_times("file", LONG_AGO)
            return {
                "read": do.read("dir/moved"),
                "not his": outcome(lambda: do.write("other", b"x")),
                "not his either": outcome(lambda: do.chmod("other", 0o600)),
                "closed": outcome(lambda: do.names("closed")),
                "in closed": outcome(lambda: client.walk("closed/x")),
                "device": outcome(lambda: do.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3))),
            }

    came = call_as(ALICE, work)
    failed = {what: getattr(value, "errno", None) for what, value in came.items()}
    assert came["read"] == b"content"
    assert failed == {
        "read": None, "not his": "EACCES", "not his either": "EPERM", "closed": "EACCES", "in closed": "EACCES",
        "device": "EPERM",
    }  # fmt: skip
    assert owner(source / "dir" / "moved") == (ALICE.uid, ALICE.gid)
    assert (source / "file").stat().st_mtime_ns == LONG_AGO


# Read-only ----------------------------------------------------------------------------------------------------------


def changing(client: Inside) -> Iterator[Any]:
    """Every message of the client's dialect that changes anything, each with fids of its own."""
    most = m.NONUNAME
    if client.dialect is Dialect.LINUX:
        for flags in (O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC):
            yield m.Tlopen(client.walk("file"), flags)
        yield m.Tlcreate(client.walk(), b"new", O_RDWR, 0o644, most)
        yield m.Tlcreate(client.walk(), b"file", O_RDONLY, 0o644, most)
        yield m.Tsymlink(client.root, b"new", b"target", most)
        yield m.Tmknod(client.root, b"new", stat.S_IFREG | 0o644, 0, 0, most)
        yield m.Tmkdir(client.root, b"new", 0o755, most)
        yield m.Tlink(client.root, client.walk("file"), b"new")
        yield m.Trename(client.walk("file"), client.root, b"new")
        yield m.Trenameat(client.root, b"file", client.root, b"new")
        yield m.Tunlinkat(client.root, b"file", 0)
        yield m.Tunlinkat(client.root, b"empty", AT_REMOVEDIR)
        for bit in range(7):
            yield setattr_message(client.walk("file"), 1 << bit, size=1)
        yield m.Txattrcreate(client.walk("file"), b"user.x", 1, 0)
        yield m.Txattrcreate(client.walk("file"), b"user.here", 0, os.XATTR_REPLACE)
    else:
        for mode in (1, 2, 0x10, 0x11, 0x40):
            yield m.Topen(client.walk("file"), mode)
        yield m.Tcreate(client.walk(), b"new", 0o644, 0, b"")
        yield m.Tcreate(client.walk(), b"new", 0x80000000 | 0o755, 0, b"")
        for change in ({"mode": 0o600}, {"mtime": 1}, {"length": 1}, {"name": b"new"}, {"gid": b"team"}):
            yield m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(**change))
    if client.dialect is Dialect.UNIX:
        yield m.Tcreate(client.walk(), b"new", 0x02000000 | 0o777, 0, b"target")
        yield m.Tcreate(client.walk(), b"new", 0x01000000 | 0o644, 0, b"%d" % client.walk("file"))
        yield m.Tcreate(client.walk(), b"new", 0x00200000 | 0o644, 0, b"")
        yield m.Twstat(client.walk("file"), NOTHING_CHANGED._replace(n_uid=BOB.uid))
    yield m.Tremove(client.walk("file"))
    yield m.Tremove(client.walk("empty"))


@dialects
@pytest.mark.parametrize("model", MODELS)
def test_read_only(source: Path, model: str, dialect: Dialect) -> None:
    furnish(source)
    before = describe_tree(source)
    with exported(source, model, read_only=True) as export, Inside(export, dialect=dialect) as client:
        for message in changing(client):
            with refused(errno.EROFS):
                client.ask(message)
        assert client.content("file") == b"content of file"
        fid = client.open("file")
        with refused(errno.EBADF, errno.EROFS):
            client.write(fid, b"x")
    assert describe_tree(source) == before


@dialects
@pytest.mark.parametrize("model", MODELS)
def test_what_read_only_refuses_is_done_otherwise(source: Path, model: str, dialect: Dialect) -> None:
    """That the list above is one of requests that change something, and are refused for no other reason."""
    with exported(source, model) as export, Inside(export, dialect=dialect) as client:
        count = len(list(_first(source, client)))
        for index in range(count):
            with Inside(export, dialect=dialect) as fresh:
                message = list(_first(source, fresh))[index]
                before = _seen(source)
                fresh.ask(message)
                if (isinstance(message, m.Topen) and message.mode == 0x40) or isinstance(message, m.Txattrcreate):
                    assert isinstance(message, m.Topen) or not message.attr_size or fresh.write(message.fid, b"x") == 1
                    fresh.clunk(message.fid)
                writes = isinstance(message, (m.Tlopen, m.Topen))
                opened_only = isinstance(message, m.Tlcreate) and message.name == b"file"
                assert _seen(source) != before or writes or opened_only, message


def _first(source: Path, client: Inside) -> Iterator[Any]:
    """The messages, in a tree that is as it was."""
    for path in source.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    furnish(source)
    return changing(client)


def _seen(source: Path) -> dict[str, Any]:
    """What a tree is like, with the times of all and of the status."""
    return {str(path): (path.lstat()[:], path.lstat().st_ctime_ns) for path in sorted(source.rglob("*"))}
