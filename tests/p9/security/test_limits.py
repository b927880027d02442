"""Attacks by number and size, and on what is not the client's own: others' fids, the control names."""

from __future__ import annotations

import errno
import os
import resource
import stat

import pytest

from fusemap.p9 import holdings
from fusemap.p9 import messages as m
from fusemap.p9.wire import Dialect, WireError, encode

from ...support.describe import describe_tree
from ...support.process import call_as
from ..inside import (
    NOTHING_CHANGED,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    SET_MODE,
    SET_SIZE,
    Inside,
    exported,
    refused,
    setattr_message,
)
from .ground import Ground, dialects, models, names_of


def test_numbers_of_fids_are_bounded(disk_ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU's list of fids, on which nobody put an end."""
    monkeypatch.setattr(holdings, "FIDS", 1000)
    with exported(disk_ground.tree) as export:
        with Inside(export) as client:
            with refused(errno.EMFILE):
                for _ in range(1001):
                    client.walk()
            assert len(client.session.fids) == 1000
            with refused(errno.EMFILE):
                client.attach()
            client.clunk(1)
        with Inside(export) as another:
            assert another.content("file") == b"a file"


def test_numbers_of_control_fids_are_bounded(disk_ground: Ground) -> None:
    """As above, by the way of the control names."""
    with exported(disk_ground.tree) as export, Inside(export, aname=b"ctl") as client:
        with refused(errno.EINVAL):
            client.ask(m.Twalk(client.root, m.NOFID, ()))
        with refused(errno.EMFILE):
            for _ in range(holdings.FIDS + 1):
                client.walk("stats.json")
        with refused(errno.EMFILE):
            client.attach(0, b"ctl")
        assert len(client.session.control) < 10000


def test_memory_for_attributes_is_bounded(disk_ground: Ground) -> None:
    """QEMU's fids of attributes: each could hold 64 KiB, announced but never written, or read and never clunked."""
    os.setxattr(disk_ground.tree / "file", "user.x", b"x" * 900)
    with exported(disk_ground.tree) as export, Inside(export) as client:
        file = client.walk("file")
        with refused(errno.ENOSPC, errno.ENOMEM, errno.EMFILE):
            for _ in range(1 << 16):
                client.ask(m.Txattrwalk(file, client.new(), b"user.x"))
        first = min(fid for fid in client.session.fids if fid > file)
        for fid in [fid for fid in client.session.fids if fid > file]:
            client.clunk(fid)
        assert client.xattr("file", b"user.x") == b"x" * 900
        assert first
        with refused(errno.ENOSPC, errno.ENOMEM, errno.EMFILE):
            for _ in range(1 << 16):
                fid = client.walk("file")
                client.ask(m.Txattrcreate(fid, b"user.y", 65536, 0))
        with refused(errno.E2BIG):
            client.ask(m.Txattrcreate(client.root, b"user.y", 65537, 0))
        with refused(errno.E2BIG):
            client.ask(m.Txattrcreate(client.root, b"user.y", (1 << 64) - 1, 0))


def test_a_client_that_opens_all_it_can(disk_ground: Ground) -> None:
    """Descriptors are the server's: who runs into the limit gets an error, and what is not open goes on working."""
    tree = disk_ground.tree

    def work() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with exported(tree) as export, Inside(export) as client:
            fids = []
            with refused(errno.EMFILE, errno.ENFILE):
                for _ in range(300):
                    fids.append(client.open("file", O_RDWR))
            count = len(fids)
            for fid in fids[:8]:
                client.clunk(fid)
            assert client.content("dir/file") == b"dir's file"
            for fid in fids[8:]:
                assert client.read(fid) == b"a file"
            return count, len(client.session.fids)

    opened, left = call_as(None, work)
    assert 100 < opened < 256
    assert left >= opened - 8


@dialects
def test_numbers_out_of_range(disk_ground: Ground, dialect: Dialect) -> None:
    """hugelgupf/p9 and others took offsets and sizes as signed, or added them up first."""
    with exported(disk_ground.tree) as export, Inside(export, dialect=dialect, msize=8192) as client:
        fid = client.open("file", O_RDWR)
        for offset in (1 << 63, (1 << 64) - 1, (1 << 63) - 2):
            reply = client.say(m.Tread(fid, offset, 100))
            assert isinstance(reply, (m.Rlerror, m.Rerror)) or bytes(reply.data) == b""
            with refused(errno.EFBIG, errno.EINVAL):
                client.write(fid, b"abc", offset)
        assert len(client.read(fid, 0, 0xFFFFFFFF)) == 6
        os.truncate(disk_ground.tree / "file", 100000)
        assert len(client.read(fid, 0, 0xFFFFFFFF)) == 8192 - 24
        if dialect is Dialect.LINUX:
            for size in (1 << 63, (1 << 64) - 1):
                with refused(errno.EFBIG, errno.EINVAL):
                    client.setattr("file", SET_SIZE, size=size)
            for seconds in (1 << 62, 1 << 63, (1 << 64) - 1):
                client.say(setattr_message(fid, 0xFF0, atime_s=seconds, mtime_s=seconds))
            with refused(errno.EINVAL):
                client.setattr("file", 0xFF0, atime_ns=1_000_000_000)
            listing = client.open("dir")
            for offset in (1 << 63, (1 << 64) - 1, 12345):
                client.say(m.Treaddir(listing, offset, 4096))
            with refused(errno.EINVAL):
                client.ask(m.Treaddir(listing, 0, 24))
            for major, minor in ((0xFFFFFFFF,) * 2, (0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1 << 12, 0), (0, 1 << 20)):
                with refused(errno.EINVAL):
                    client.ask(m.Tmknod(client.root, b"device", stat.S_IFCHR | 0o600, major, minor, 0))
        else:
            with refused(errno.EFBIG):
                client.ask(m.Twstat(fid, NOTHING_CHANGED._replace(length=1 << 63)))
        if dialect is Dialect.UNIX:
            for extension in (b"9" * 20, b"9" * 5000, b"-1", b"", b"1 2"):
                with refused(errno.EINVAL, errno.EBADF):
                    client.ask(m.Tcreate(client.walk(), b"x", 0x01000000 | 0o777, 0, extension))
            for extension in (b"c 99999999999 1", b"b 1 " + b"9" * 5000, b"x 1 3", b"c 1", b"c -1 3", b""):
                with refused(errno.EINVAL):
                    client.ask(m.Tcreate(client.walk(), b"x", 0x00800000 | 0o644, 0, extension))
    with exported(disk_ground.tree) as export, Inside(export, dialect=dialect, attach=False) as client:
        reply = client.say(m.Tattach(1, m.NOFID, b"9" * 5000, b""))
        assert isinstance(reply, m.Rattach)  # a name that nobody has


@pytest.mark.parametrize("count", [0, 16, 17, 0xFFFF])
def test_long_walks(ground: Ground, count: int) -> None:
    """MAXWELEM: a walk of 16 names is the longest."""
    with exported(ground.tree) as export, Inside(export) as client:
        frame = encode(m.Twalk(client.root, 7, (b".",) * min(count, 17)), 1, client.dialect)
        if count > 17:
            frame = frame[:15] + count.to_bytes(2, "little") + frame[17:]
        client.session.space()[: len(frame)] = frame
        client.session.received(len(frame))
        client.session.advance()
        reply = b"".join(bytes(part) for part in client.session.outgoing())
        assert reply[4] == (111 if count <= 16 else 7)
        assert (7 in client.session.fids) == (count <= 16)


@pytest.mark.parametrize(
    "frame", [bytes(7), b"\6\0\0\0\x78\1\0", b"\xff\xff\xff\xff\x78\1\0", b"\7\0\0\0\x79\1\0"]
)
def test_frames_that_are_none(ground: Ground, frame: bytes) -> None:
    """Frames shorter than a header, longer than msize, or no requests end the connection and hurt nobody else."""
    with exported(ground.tree) as export, Inside(export) as client, Inside(export) as other:
        client.session.space()[:7] = frame
        client.session.received(7)
        with pytest.raises(WireError):
            client.session.advance()
        client.close()
        assert other.content("file") == b"a file"


@models
def test_fids_mean_nothing_in_another_connection(ground: Ground, model: str) -> None:
    """A fid is looked for among those of its own connection, and a connection that ends takes no other's with it."""
    with exported(ground.tree, model) as export, Inside(export) as one:
        fid = one.open("file", O_RDWR)
        fid = [fid, *(one.open("file", O_RDWR) for _ in range(20))][-1]
        with Inside(export) as two:
            for message in (
                m.Tread(fid, 0, 100),
                m.Twrite(fid, 0, b"x"),
                m.Twalk(fid, 999, ()),
                m.Tgetattr(fid, 0x3FFF),
                m.Tclunk(fid),
                m.Tremove(fid),
                m.Tlock(fid, 1, 0, 0, 0, 1, b""),
                m.Tlink(two.root, fid, b"x"),
                m.Trename(fid, two.root, b"x"),
                m.Trenameat(two.root, b"file", fid, b"x"),
                m.Txattrwalk(fid, 999, b""),
                setattr_message(fid, SET_MODE, mode=0),
            ):
                with refused(errno.EBADF):
                    two.ask(message)
            same = two.open("dir/file")
            while same != fid:
                same = two.open("dir/file")
            assert two.read(fid) == b"dir's file"
        assert one.read(fid) == b"a file"


@dialects
@models
def test_control_names_cannot_be_written(ground: Ground, model: str, dialect: Dialect) -> None:
    """As of .virtfs_metadata: what the server says of itself is for reading only, and is not in the tree."""
    with exported(ground.tree, model) as export, Inside(export, dialect=dialect) as client:
        top = client.attach(0, b"ctl")
        before = describe_tree(ground.tree)
        for what, message in names_of(client, client.root).items():
            if not what.startswith(("walk", "wstat")):
                request = message(b"stats.json")
                for place, value in enumerate(request):
                    if value in client.session.fids and place < 3:
                        fid = client.walk("stats.json", top) if place else top
                        with refused(errno.EPERM, errno.EROFS, errno.ENOTDIR):
                            client.ask(request._replace(**{request._fields[place]: fid}))
        for path in ("", "stats.json", "devices.json"):
            for flags in (O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC):
                with refused(errno.EROFS, errno.EPERM):
                    client.open_fid(client.walk(path, top), flags)
            fid = client.walk(path, top)
            client.open_fid(fid)
            with refused(errno.EBADF, errno.EPERM, errno.EROFS):
                client.write(fid, b"x")
            if dialect is Dialect.LINUX:
                with refused(errno.EROFS, errno.EPERM):
                    client.ask(setattr_message(fid, SET_MODE, mode=0o777))
                with refused(errno.EROFS, errno.EPERM):
                    client.ask(m.Txattrcreate(fid, b"user.x", 1, 0))
                with refused(errno.EOPNOTSUPP):
                    client.ask(m.Txattrwalk(fid, client.new(), b""))
                with refused(errno.EROFS, errno.EPERM, errno.EBADF):
                    client.ask(m.Tlock(fid, 1, 0, 0, 0, 1, b""))
            else:
                with refused(errno.EROFS, errno.EPERM):
                    client.ask(m.Twstat(fid, NOTHING_CHANGED._replace(mode=0o777)))
            with refused(errno.EROFS, errno.EPERM):
                client.ask(m.Tremove(fid))
        assert describe_tree(ground.tree) == before
        for dots in (1, 2, 16):
            assert len(set(client.ask(m.Twalk(top, client.new(), (b"..",) * dots)).wqid)) == 1
        with refused(errno.ENOENT, errno.ENOTDIR):
            client.walk_names((b"..", b"file"), top)
