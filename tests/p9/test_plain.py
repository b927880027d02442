"""9P2000 and .u from the inside: stat records, wstat, creation, and directories as streams of records."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import messages as m
from fusemap.p9 import metadata, transfer
from fusemap.p9.records import DMDEVICE, DMDIR, DMLINK, DMNAMEDPIPE, DMSETUID, DMSOCKET, DMSYMLINK
from fusemap.p9.wire import Dialect
from fusemap.qid import QID
from fusemap.tree import Directory

from .inside import DIALECTS, O_RDWR, refused
from .talk import Talk, talking

PLAIN = [dialect for dialect in DIALECTS if dialect is not Dialect.LINUX]
OTRUNC, ORCLOSE, OAPPEND = 0x10, 0x40, 0x80
MOST = 0xFFFFFFFF
NOTHING = m.StatRecord(
    0xFFFF, MOST, QID(0xFF, MOST, (1 << 64) - 1), MOST, MOST, MOST, (1 << 64) - 1, b"", b"", b"", b"", b"",
    MOST, MOST, MOST,
)  # fmt: skip


def furnish(top: Path) -> None:
    (top / "d" / "e").mkdir(parents=True)
    (top / "f").write_bytes(b"content")
    os.symlink("f", top / "l")


@pytest.fixture(params=PLAIN, ids=lambda dialect: dialect.value.decode())
def talk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Talk]:
    """A client of either dialect of d/e, f and the link l."""
    furnish(tmp_path)
    with talking(tmp_path, request.param) as client:
        yield client


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Talk]:
    """As `talk`, of 9P2000.u."""
    furnish(tmp_path)
    with talking(tmp_path, Dialect.UNIX) as client:
        yield client


def wstat(talk: Talk, path: str, **values: Any) -> None:
    talk.at(path, lambda fid: talk.ask(m.Twstat(fid, NOTHING._replace(**values))))


# stat and wstat


def test_a_record_written_back_changes_nothing(talk: Talk, tmp_path: Path) -> None:
    for path in ("", "d", "f"):
        before = os.stat(tmp_path / path)
        record = talk.stat(path)
        talk.at(path, lambda fid, record=record: talk.ask(m.Twstat(fid, record)))  # type: ignore[misc]
        after = os.stat(tmp_path / path)
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        assert talk.stat(path).length == record.length
        assert sorted(os.listdir(tmp_path)) == ["d", "f", "l"]


@pytest.mark.parametrize(
    "change",
    [
        {"type": 1}, {"dev": 1}, {"qid": QID(2, MOST, (1 << 64) - 1)}, {"qid": QID(0xFF, 1, (1 << 64) - 1)},
        {"qid": QID(0xFF, MOST, 1)}, {"mode": DMDIR | 0o600}, {"mode": 0x40000000 | 0o600},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_client_may_change(talk: Talk, tmp_path: Path, change: dict[str, Any]) -> None:
    with refused(errno.EPERM):
        wstat(talk, "f", **{"length": 0, "mode": 0o600, **change})
    assert (tmp_path / "f").stat().st_size == 7
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


@pytest.mark.parametrize("opened", [False, True])
def test_to_change_nothing_is_to_write_to_the_disk(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    synced: list[str] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    fid = talk.open("f", O_RDWR) if opened else talk.walk("f")
    if opened:
        talk.write(fid, b"data")
    assert talk.tell(m.Twstat(fid, talk_nothing(talk)), 5) == ([] if opened else [(5, m.Rwstat())])
    if opened:
        assert talk.run() == [(5, m.Rwstat())]
    assert [path.rpartition("/")[2] for path in synced] == ["f"] * opened


@pytest.mark.parametrize("muid", [b"nobody", b"nobody-known"])
def test_linux_names_somebody_in_a_rename(talk: Talk, tmp_path: Path, muid: bytes) -> None:
    if talk.dialect is Dialect.UNIX:
        wstat(talk, "f", name=b"g", muid=muid)
        assert (tmp_path / "g").read_bytes()
    else:
        with refused(errno.EPERM):
            wstat(talk, "f", name=b"g", muid=muid)
        assert (tmp_path / "f").read_bytes()


def talk_nothing(talk: Talk) -> m.StatRecord:
    return NOTHING


def test_set_id_bits_survive_a_change_of_group_in_the_same_request(unix: Talk, tmp_path: Path) -> None:
    wstat(unix, "f", mode=DMSETUID | 0o755, n_gid=7)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o4755
    assert (tmp_path / "f").stat().st_gid == 7


def test_a_new_name(talk: Talk, tmp_path: Path) -> None:
    fid, other = talk.walk("f"), talk.walk("f")
    talk.ask(m.Twstat(fid, NOTHING._replace(name=b"g")))
    assert talk.ask(m.Tstat(other)).stat.name == b"g"
    for name in (b"", b"g"):  # as it is
        talk.ask(m.Twstat(other, NOTHING._replace(name=name, mode=0o600)))
    for name in (b".", b"..", b"a/b"):
        with refused(errno.EINVAL, errno.EEXIST):
            talk.ask(m.Twstat(other, NOTHING._replace(name=name)))
    with refused(errno.EBUSY):
        talk.ask(m.Twstat(talk.root, NOTHING._replace(name=b"x")))
    assert sorted(os.listdir(tmp_path)) == ["d", "g", "l"]


def test_a_new_name_that_is_taken(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"other")
    if talk.dialect is Dialect.BASE:
        with refused(errno.EEXIST):
            wstat(talk, "f", name=b"g")
        assert (tmp_path / "g").read_bytes() == b"other"
    else:  # Linux does rename(2) by it
        wstat(talk, "f", name=b"g")
        assert (tmp_path / "g").read_bytes() == b"content"


def test_a_long_truncation_that_is_waited_for(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (transfer, metadata):
        monkeypatch.setattr(module, "LONG_REMOVAL_BLOCKS", 32)
    with open(tmp_path / "L", "wb") as file:
        file.write(bytes(65536))
        os.fsync(file.fileno())
    fid = talk.walk("L")
    assert talk.tell(m.Twstat(fid, NOTHING._replace(length=3, mtime=1000, name=b"M")), 5) == []
    assert talk.tell(m.Tclunk(fid), 6) == [(6, m.Rclunk())]
    assert talk.run() == [(5, m.Rwstat())]
    assert (tmp_path / "M").stat().st_size == 3
    assert (tmp_path / "M").stat().st_mtime == 1000


def test_the_length_of_a_directory(talk: Talk) -> None:
    wstat(talk, "d", length=0, mode=DMDIR | 0o700)
    with refused(errno.EISDIR):
        wstat(talk, "d", length=1)


def test_names_of_what_has_no_place(talk: Talk) -> None:
    fid = talk.walk("d/e")
    assert talk.ask(m.Tstat(talk.walk_names((b"..",), fid))).stat.name == b"d"
    assert talk.ask(m.Tstat(talk.walk_names((b"..", b".."), fid))).stat.name == b"/"
    assert talk.ask(m.Tstat(talk.attach(aname=b"d"))).stat.name == b"/"


def test_times_before_and_beyond_what_the_wire_has(talk: Talk, tmp_path: Path) -> None:
    os.utime(tmp_path / "f", (-5, 1 << 33))
    record = talk.stat("f")
    assert (record.atime, record.mtime) == (0, 0xFFFFFFFE)


# Opening and creating


def test_a_failed_opening_removes_nothing_later(talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(transfer, "LONG_REMOVAL_BLOCKS", -1)
    fid = talk.walk("f")
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", broken)
        with refused(errno.EIO):
            talk.ask(m.Topen(fid, 2 | OTRUNC | ORCLOSE))
    talk.clunk(fid)
    assert (tmp_path / "f").exists()


def test_remove_on_close_of_what_has_no_place(talk: Talk) -> None:
    with refused(errno.EBUSY, errno.EISDIR):
        talk.ask(m.Topen(talk.walk(""), ORCLOSE))
    fid = talk.walk("f")
    talk.remove("f")
    with refused(errno.ENOENT):
        talk.ask(m.Topen(fid, ORCLOSE))


def test_a_file_made_to_be_removed(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk("d")
    talk.ask(m.Tcreate(fid, b"tmp", 0o600, 2 | ORCLOSE))
    assert talk.write(fid, b"data") == 4
    talk.ask(m.Twstat(fid, NOTHING._replace(name=b"moved")))
    assert (tmp_path / "d" / "moved").exists()
    talk.clunk(fid)
    assert os.listdir(tmp_path / "d") == ["e"]


def test_a_directory_is_open_whatever_its_mode(tmp_path: Path) -> None:
    furnish(tmp_path)
    tmp_path.chmod(0o777)
    with talking(tmp_path, Dialect.UNIX, 1234, model="passthrough") as talk:
        fid = talk.walk("")
        talk.ask(m.Tcreate(fid, b"closed", DMDIR, 0))
        assert talk.read(fid) == b""
        assert talk.ask(m.Tstat(fid)).stat.mode == DMDIR
        with refused(errno.EACCES):
            talk.open("closed")


def test_creation_that_is_no_creation(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk("")
    with refused(errno.EEXIST):
        talk.ask(m.Tcreate(fid, b"f", 0o600, 2))
    with refused(errno.EEXIST):
        talk.ask(m.Tcreate(fid, b"d", DMDIR | 0o700, 0))
    with refused(errno.EISDIR):
        talk.ask(m.Tcreate(fid, b"x", DMDIR | 0o700, 1))
    with refused(errno.EOPNOTSUPP):
        talk.ask(m.Tcreate(fid, b"x", 0x40000000 | 0o600, 1))
    with refused(errno.ENOTDIR):
        talk.ask(m.Tcreate(talk.walk("f"), b"x", 0o600, 1))
    with refused(errno.EBADF):
        talk.ask(m.Tcreate(talk.open("d"), b"x", 0o600, 1))
    assert sorted(os.listdir(tmp_path)) == ["d", "f", "l"]


def test_special_files_are_for_unix(tmp_path: Path) -> None:
    furnish(tmp_path)
    with talking(tmp_path, Dialect.BASE) as talk:
        for kind in (DMSYMLINK, DMLINK, DMDEVICE, DMNAMEDPIPE, DMSOCKET):
            with refused(errno.EOPNOTSUPP):
                talk.ask(m.Tcreate(talk.walk(""), b"x", kind | 0o600, 0))
        for name, kind in ((b"fifo", stat.S_IFIFO), (b"socket", stat.S_IFSOCK)):
            os.mknod(tmp_path / os.fsdecode(name), kind | 0o600)
            with refused(errno.ENXIO):
                talk.open(name)
        assert set(talk.records()) == {b"d", b"f", b"l", b"fifo", b"socket"}


def test_special_files(unix: Talk, tmp_path: Path) -> None:
    talk = unix
    made = {
        b"s": (DMSYMLINK, b"target"), b"p": (DMNAMEDPIPE, b""), b"k": (DMSOCKET, b""), b"c": (DMDEVICE, b"c 1 3"),
        b"h": (DMLINK, b"%d\n" % talk.walk("f")),
    }  # fmt: skip
    for name, (kind, extension) in made.items():
        fid = talk.walk("")
        qid = talk.ask(m.Tcreate(fid, name, kind | 0o600, 0, extension)).qid
        assert talk.ask(m.Tstat(fid)).stat.qid == qid == talk.records()[name].qid
        talk.clunk(fid)
    assert os.readlink(tmp_path / "s") == "target"
    assert (tmp_path / "h").samefile(tmp_path / "f")
    assert talk.records()[b"c"].extension == b"c 1 3"
    assert talk.records()[b"h"].extension == b"HARDLINKCOUNT 2"
    for kind, extension in (
        (DMSYMLINK, b""), (DMSYMLINK, b"a\0b"), (DMLINK, b"x"), (DMLINK, b"9" * 5000), (DMDEVICE, b"c 1"),
        (DMDEVICE, b"x 1 3"), (DMDEVICE, b"c 99999999999 1"), (DMDEVICE, b"c 5000 1"), (DMSYMLINK | DMLINK, b"1"),
    ):  # fmt: skip
        with refused(errno.EINVAL):
            talk.ask(m.Tcreate(talk.walk(""), b"x", kind | 0o600, 0, extension))
    with refused(errno.EBADF):
        talk.ask(m.Tcreate(talk.walk(""), b"x", DMLINK, 0, b"4242"))
    with refused(errno.EPERM):
        talk.ask(m.Tcreate(talk.walk(""), b"x", DMLINK, 0, b"%d" % talk.walk("d")))
    with refused(errno.EPERM):
        talk.ask(m.Tcreate(talk.walk(""), b"x", DMLINK, 0, b"%d" % talk.attach(aname=b"ctl")))


# Directories


def test_a_directory_in_whole_records_from_where_the_last_reading_ended(talk: Talk, tmp_path: Path) -> None:
    for n in range(60):
        (tmp_path / "d" / f"{'n' * n}{n}").touch()
    whole = talk.records("d")
    assert len(whole) == 61
    fid, offset, data = talk.open("d"), 0, b""
    while part := talk.read(fid, offset, 250):
        assert len(part) == 2 + int.from_bytes(part[:2], "little") or len(part) <= 250
        data, offset = data + part, offset + len(part)
    assert data.count(b"nnn") >= 57
    assert talk.read(fid, offset, 250) == b""
    for wrong in (1, offset - 1, offset + 1, 1 << 63, (1 << 64) - 1):
        with refused(errno.EINVAL):
            talk.read(fid, wrong, 8192)
    with refused(errno.EINVAL):  # not one fits
        talk.read(fid, 0, 10)
    part = talk.read(fid, 0, 250)
    assert talk.read(fid, len(part), 10) == b""  # what is left of the 250, as Linux asks for it
    with refused(errno.EINVAL):  # no end of the directory for one who always asks for so little
        talk.read(fid, len(part), 10)
    assert talk.read(fid, len(part), 250)
    assert talk.read(fid, 0, 65536)[: len(data)] == data


def test_what_is_removed_while_it_is_listed_is_left_out(
    unix: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink("f", tmp_path / "gone")
    read = type(unix.session.model).readlink_at

    def vanishing(self: Any, listing: Any, name: bytes) -> bytes:
        if name == b"gone":
            os.unlink(tmp_path / "gone")
        return read(self, listing, name)

    monkeypatch.setattr(type(unix.session.model), "readlink_at", vanishing)
    assert set(unix.records()) == {b"d", b"f", b"l"}


def test_what_cannot_be_read_does_not_hide_what_comes_before_it(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):
        (tmp_path / "d" / f"n{n}").touch()
    stats = Directory.stats

    def breaking(self: Directory, cookie: int, top: Any) -> Iterator[Any]:
        for number, item in enumerate(stats(self, cookie, top)):
            if item[0][3] == b"n5":
                self.reject(item[0], cookie)
                raise OSError(errno.EIO, "broken")
            cookie = item[0][1]
            yield item
            assert number < 100

    monkeypatch.setattr(Directory, "stats", breaking)
    fid = talk.open("d")
    first = talk.read(fid, 0, 8192)
    for _ in range(2):
        with refused(errno.EIO):
            talk.read(fid, len(first), 8192)
    monkeypatch.undo()
    rest = talk.read(fid, len(first), 8192)
    names = [f"n{n}".encode() for n in range(10)]
    assert sorted(name for name in names if name in first + rest) == names


def test_numbers_are_the_same_in_every_answer(talk: Talk, tmp_path: Path) -> None:
    for name, record in talk.records().items():
        path = os.fsdecode(name)
        assert record.qid == talk.stat(path).qid == talk.ask(m.Twalk(talk.root, talk.new(), (name,))).wqid[0]
        if name != b"l":
            assert talk.ask(m.Topen(talk.walk(path), 0)).qid == record.qid
