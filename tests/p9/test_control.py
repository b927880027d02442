"""The control names: a small directory of files that are made when they are opened."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import messages as m
from fusemap.p9.records import DMDIR
from fusemap.p9.wire import Cursor, Dialect, codec
from fusemap.qid import QID, Mapper
from fusemap.tree import survey
from fusemap.tree.telling import FILES as TOLD

from ..support.process import ALICE
from ..support.stage import Stage
from .inside import DIALECTS, MODELS, O_RDWR, exported, refused
from .talk import Talk, talking

FILES = {b"stats.json", b"devices.json", b"collisions.json", b"table.json", b"null", b"zero"}


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
    long, short = (talk.ask(m.Twalk(CTL, new, (name,))).wqid for new, name in ((60, b"table.json"), (61, b"table")))
    assert long == short
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


# What is told of the tree ---------------------------------------------------------------------------------------------


@pytest.fixture
def colliding(stage: Stage) -> Path:
    """Two tmpfs with files of the same inode numbers."""
    source = stage.directory("src")
    for name in ("a", "b"):
        (stage.tmpfs(source / name) / "f").write_text(name)
        (source / name / "f").chmod(0o444)
        (source / name).chmod(0o755)
    return source


def told(talk: Talk, uid: int = 0) -> dict[str, Any]:
    """All files of the control directory, as a user reads them."""
    fid = talk.new()
    talk.ask(m.Tattach(fid, m.NOFID, b"", b"ctl", uid))
    found = {}
    for name in TOLD:
        file = talk.walk(name, fid)
        talk.open_fid(file)
        data = b""
        while part := talk.read(file, len(data), 65536):
            data += part
        found[name] = json.loads(data)
        talk.clunk(file)
    talk.clunk(fid)
    return found


def test_the_same_is_told_as_on_a_mount(colliding: Path) -> None:
    with talking(colliding) as talk:
        fids = [talk.walk("a/f"), talk.walk("b/f")]
        found = told(talk)
        stats, collisions = found["stats.json"], found["collisions.json"]
        assert (stats["front"], stats["map"], stats["source"]) == ("9p", "suffix", str(colliding))
        assert stats["operations"]["Twalk"]["count"] == stats["requests"]["Twalk"]
        assert 0 < stats["operations"]["Twalk"]["timed"] <= stats["requests"]["Twalk"]
        assert (stats["collisions_averted"], collisions["averted"]) == (2, {"loop": 1, "error": 0, "mixed": 1})
        directories, files = collisions["collisions"]
        assert {file["path"] for file in files["files"]} == {"a/f", "b/f"}
        assert {file["path"] for file in directories["files"]} == {"a", "b"}, "they are known as the files' places"
        assert len(found["table.json"]["entries"]) in (0, 3)
        assert [device["known_inodes"] for device in found["devices.json"]] == [1, 2, 2]
        for fid in fids:
            talk.open_fid(fid)
            assert talk.read(fid, 0, 10) in (b"a", b"b")
            talk.clunk(fid)
        assert told(talk)["collisions.json"]["averted_files"] == 0, "nobody knows the files any more"
        assert told(talk)["stats.json"]["bytes_read"] == 2


def test_names_are_for_root_and_the_server_only(colliding: Path) -> None:
    with talking(colliding) as talk:
        fids = [talk.walk("a/f"), talk.walk("b/f")]
        for uid, names in ((0, {"a", "b", "a/f", "b/f"}), (ALICE.uid, {None})):
            collisions = told(talk, uid)["collisions.json"]
            assert collisions["averted_files"] == 4
            assert {file["path"] for row in collisions["collisions"] for file in row["files"]} == names
        assert attribute(talk, fids[0], "collides") == b"1\nb/f"
    with talking(colliding, uid=ALICE.uid) as talk:
        fids = [talk.walk("a/f"), talk.walk("b/f")]
        assert attribute(talk, fids[0], "collides") == b"1"


def attribute(talk: Talk, fid: int, word: str) -> bytes:
    new = talk.new()
    size = talk.ask(m.Txattrwalk(fid, new, b"user.fusemap." + word.encode())).size
    value = talk.read(new, 0, 4096)
    talk.clunk(new)
    assert len(value) == size
    return value


@pytest.mark.parametrize("map_", ["suffix", "raw", "qemu"])
@pytest.mark.parametrize("model", list(MODELS))
def test_attributes_of_every_kind_of_file(colliding: Path, map_: str, model: str) -> None:
    os.mkfifo(colliding / "a" / "fifo")
    os.symlink("f", colliding / "a" / "link")
    shown = None if map_ == "suffix" else Mapper(map_)
    with exported(colliding, model=model, shown=shown) as export, Talk(export) as talk:
        fids = {path: talk.walk(path) for path in ("a", "a/f", "a/fifo", "a/link", "b/f")}
        for path, fid in fids.items():
            qid = talk.ask(m.Tgetattr(fid, 0x3FFF)).qid
            assert attribute(talk, fid, "qid") == b"%d/%d/%d" % qid
            assert int(attribute(talk, fid, "inode")) == (colliding / path).lstat().st_ino
            affix = attribute(talk, fid, "affix").decode()
            assert f"{qid.path:064b}".endswith(affix)
            assert bool(affix) == (map_ != "raw")
            new = talk.walk(path)
            with refused(errno.EPERM):
                talk.ask(m.Txattrcreate(new, b"user.fusemap.qid", 1, 0))
                talk.ask(m.Twrite(new, 0, b"x"))
                talk.clunk(new)
        listed = talk.new()
        assert talk.ask(m.Txattrwalk(fids["b/f"], listed, b"")).size == 0
        expected = b"0" if map_ == "qemu" else b"1\nb/f"
        assert attribute(talk, fids["a/f"], "collides") == expected


def test_a_long_answer_is_made_by_a_thread(colliding: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SMALL", 0)
    monkeypatch.setattr(survey, "_REST", 0)
    monkeypatch.setattr("fusemap.tree.telling._FEW", -1)
    with talking(colliding) as talk:
        talk.walk("a/f"), talk.walk("b/f")
        top = talk.new()
        talk.ask(m.Tattach(top, m.NOFID, b"", b"ctl", 0))
        for name in TOLD:
            fid = talk.walk(name, top)
            assert talk.ask(m.Tgetattr(fid, 0x3FFF)).size == 0
            assert talk.tell(m.Tlopen(fid, 0), 77) == []
            ((tag, reply),) = talk.run()
            assert (tag, type(reply)) == (77, m.Rlopen)
            found = json.loads(talk.read(fid, 0, 65536))
            assert found if name != "collisions.json" else found["averted_files"] == 4
        fid = talk.walk("stats.json", top)
        talk.tell(m.Tlopen(fid, 0), 78)
        talk.clunk(fid)
        ((tag, _),) = talk.run()
        assert tag == 78
        fid = talk.walk("devices.json", top)
        talk.tell(m.Tlopen(fid, 0), 79)
        ((tag, reply),) = talk.tell(m.Tflush(79), 80)
        assert (tag, type(reply)) == (80, m.Rflush)
        assert talk.run() == []
