"""The control names: a small directory of files that are made when they are opened."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.records import DMDIR
from fusemap.p9.wire import Cursor, Dialect, codec
from fusemap.qid import QID

from .inside import DIALECTS, O_RDWR, refused
from .talk import Talk, talking

FILES = {b"stats.json", b"devices.json", b"null", b"zero"}


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.value.decode())
def talk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Talk]:
    """A client of each dialect of the file "f"; its fid `ctl` is the control directory."""
    (tmp_path / "f").touch()
    with talking(tmp_path, request.param) as client:
        client.fids = 100
        client.attach(aname=b"ctl")
        assert client.fids == CTL
        yield client


CTL = 101
ENTRY = struct.Struct("<BIQQBH")


def text(talk: Talk, name: str) -> Any:
    fid = talk.walk(name, CTL)
    talk.open_fid(fid)
    data = b""
    while part := talk.read(fid, len(data), 100):
        data += part
    talk.clunk(fid)
    return json.loads(data)


def test_statistics_count_what_was_asked(talk: Talk) -> None:
    before = text(talk, "stats.json")
    with refused(errno.ENOENT):
        talk.walk("missing")
    after = text(talk, "stats.json")
    assert after["requests"]["Twalk"] == before["requests"]["Twalk"] + 2
    assert after["errors"].get("2", 0) == before["errors"].get("2", 0) + 1
    assert after["bytes_in"] > before["bytes_in"]
    assert after["bytes_out"] > before["bytes_out"]
    assert (after["clients"], after["connections"], after["fids"]) == (1, 1, 1)
    assert after["known_inodes"] == 1


def test_devices(talk: Talk, tmp_path: Path) -> None:
    (device,) = text(talk, "devices.json")
    assert device["identity"]
    assert tmp_path.is_relative_to(device["mounted"][0])
    st_dev = tmp_path.stat().st_dev
    assert device["st_dev"] == f"{st_dev >> 8 & 0xFFF}:{st_dev & 0xFF}"


def test_walking(talk: Talk) -> None:
    root = talk.ask(m.Twalk(CTL, 50, (b"stats.json", b"..", b"."))).wqid
    assert [qid.type for qid in root] == [0, 0x80, 0x80]
    assert len({qid.path for qid in root}) == 2
    assert len(talk.ask(m.Twalk(CTL, 51, (b"stats.json", b"x"))).wqid) == 1
    with refused(errno.EBADF):
        talk.clunk(51)
    with refused(errno.ENOENT):
        talk.ask(m.Twalk(CTL, 51, (b"f",)))
    for new in (talk.root, 50, m.NOFID):
        with refused(errno.EINVAL):
            talk.ask(m.Twalk(CTL, new, ()))
        with refused(errno.EINVAL):
            talk.ask(m.Twalk(talk.root, CTL, ()))
    assert talk.ask(m.Twalk(50, 50, (b"devices.json",))).wqid[0].type == 0
    talk.open_fid(50)
    assert json.loads(talk.read(50, 0, 65536))


def test_attaching_where_a_fid_is(talk: Talk) -> None:
    for fid in (CTL, talk.root):
        for aname in (b"ctl", b""):
            message: Any = m.Tattach(fid, m.NOFID, b"root", aname, 0)
            with refused(errno.EINVAL):
                talk.ask(message if talk.dialect is not Dialect.BASE else message._replace(n_uname=m.NONUNAME))


def test_fids_are_limited(talk: Talk) -> None:
    with refused(errno.EMFILE):
        for number in range(1000, 2000):
            talk.ask(m.Twalk(CTL, number, ()))
    talk.clunk(1000)
    talk.ask(m.Twalk(CTL, 1000, ()))
    assert talk.walk("f")


def test_nothing_is_changed(talk: Talk) -> None:
    fid = talk.walk("stats.json", CTL)
    messages: list[Any] = [m.Tcreate(CTL, b"x", 0o600, 1)] if talk.dialect is not Dialect.LINUX else []
    if talk.dialect is Dialect.LINUX:
        messages = [
            m.Tlcreate(CTL, b"x", O_RDWR, 0o600, 0), m.Tmkdir(CTL, b"x", 0o700, 0), m.Tunlinkat(CTL, b"stats.json", 0),
            m.Trenameat(CTL, b"stats.json", CTL, b"x"), m.Trenameat(talk.root, b"f", CTL, b"x"),
            m.Trename(fid, CTL, b"x"), m.Tlink(talk.root, fid, b"x"), m.Tlink(CTL, talk.walk("f"), b"x"),
            m.Txattrcreate(fid, b"user.a", 1, 0), m.Tlock(fid, 0, 0, 0, 0, 1, b"c"),
        ]  # fmt: skip
    for message in messages:
        with refused(errno.EPERM):
            talk.ask(message)
    with refused(errno.EROFS):
        talk.open_fid(fid, O_RDWR)
    with refused(errno.EBADF):
        talk.read(fid)
    with refused(errno.EPERM):
        talk.write(fid, b"x")
    with refused(errno.EPERM):
        talk.ask(m.Tremove(fid))
    with refused(errno.EBADF):
        talk.clunk(fid)


def names(data: bytes) -> dict[bytes, tuple[QID, int]]:
    found = {}
    cursor = Cursor(data, 0, len(data))
    while cursor.at < len(data):
        at = cursor.take(24)
        kind, version, path, cookie, _, size = ENTRY.unpack_from(data, at)
        found[data[at + 24 : at + 24 + size]] = QID(kind, version, path), cookie
        cursor.take(size)
    return found


def test_the_directory(talk: Talk) -> None:
    fid = talk.walk("", CTL)
    talk.open_fid(fid)
    if talk.dialect is Dialect.LINUX:
        whole = names(bytes(talk.ask(m.Treaddir(fid, 0, 4096)).data))
        assert set(whole) == FILES | {b".", b".."}
        for name, (qid, cookie) in whole.items():
            assert talk.ask(m.Twalk(CTL, talk.new(), (name,))).wqid == (qid,)
            rest = names(bytes(talk.ask(m.Treaddir(fid, cookie, 4096)).data))
            assert set(rest) == {other for other, (_, later) in whole.items() if later > cookie}
        with refused(errno.EINVAL):
            talk.ask(m.Treaddir(fid, 0, 20))
        with refused(errno.EISDIR):
            talk.read(fid)
        return
    data, found = talk.read(fid), set()
    cursor = Cursor(data, 0, len(data))
    while cursor.at < len(data):
        size = cursor.u16()
        at = cursor.take(size)
        record = m.StatRecord(*codec(m.StatRecord, talk.dialect).read(Cursor(data, at, at + size)))
        assert record == talk.ask(m.Tstat(talk.walk(record.name, CTL))).stat._replace(
            length=record.length, atime=record.atime, mtime=record.mtime
        )
        found.add(record.name)
    assert found == FILES
    assert talk.read(fid, len(data)) == b""


def test_attributes(talk: Talk) -> None:
    fid = talk.walk("devices.json", CTL)
    if talk.dialect is not Dialect.LINUX:
        assert talk.ask(m.Tstat(CTL)).stat.mode == DMDIR | 0o555
        assert talk.ask(m.Tstat(fid)).stat.mode == 0o444
        return
    assert talk.ask(m.Tgetattr(CTL, 0x3FFF)).mode == 0o40555
    before = talk.ask(m.Tgetattr(fid, 0x3FFF))
    assert (before.mode, before.valid, before.qid.version) == (0o100444, 0x7FF, 0)
    talk.open_fid(fid)
    assert talk.ask(m.Tgetattr(fid, 0x3FFF)).size == len(talk.read(fid, 0, 65536)) == before.size
    assert talk.ask(m.Tstatfs(CTL)).namelen == 255
    with refused(errno.EOPNOTSUPP):
        talk.ask(m.Txattrwalk(fid, 99, b""))


def test_a_new_version_ends_these_too(talk: Talk) -> None:
    talk.tell(m.Tversion(8192, talk.dialect.value), m.NOTAG)
    talk.attach()
    with refused(errno.EBADF):
        talk.clunk(CTL)



def test_null_takes_everything_and_zero_gives_nothing_else(talk: Talk) -> None:
    null, zero = talk.walk("null", CTL), talk.walk("zero", CTL)
    talk.open_fid(null, O_RDWR)
    talk.open_fid(zero)
    assert talk.ask(m.Twrite(null, 1 << 40, b"gone")).count == 4
    assert talk.read(null, 0, 100) == b""
    assert talk.read(zero, 1 << 40, 100) == bytes(100)
    with refused(errno.EPERM):
        talk.ask(m.Twrite(zero, 0, b"x"))
