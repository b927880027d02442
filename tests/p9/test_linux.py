"""9P2000.L from the inside: opening, making and changing files, their attributes, and what is left after each."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap.p9 import holdings
from fusemap.p9 import messages as m
from fusemap.p9.export import Export
from fusemap.p9.fids import File
from fusemap.p9.model import Model

from .inside import O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, Inside, exported, refused, setattr_message
from .talk import Talk, large, talking

O_NOATIME = 0o1000000


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    """A client of d/e/f, g and an empty "void"."""
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_bytes(b"content")
    (tmp_path / "g").write_bytes(b"other")
    (tmp_path / "void").mkdir()
    with talking(tmp_path) as client:
        yield client


# Opening and making


def test_an_open_fid_is_not_opened_again(talk: Talk) -> None:
    fid = talk.open("g")
    for message in (
        m.Tlopen(fid, O_RDONLY), m.Txattrcreate(fid, b"user.a", 1, 0), m.Tlcreate(talk.open("d"), b"x", 0, 0, 0),
    ):  # fmt: skip
        with refused(errno.EBADF, errno.ENOTDIR):
            talk.ask(message)
    assert talk.read(fid) == b"other"


@pytest.mark.parametrize("flags", [O_RDONLY, O_WRONLY, O_RDWR])
def test_truncating_at_open(talk: Talk, tmp_path: Path, flags: int) -> None:
    fid = talk.open("g", flags | O_TRUNC)  # with O_RDONLY too, as open(2) does it in Linux
    assert (tmp_path / "g").read_bytes() == b""
    if flags == O_RDONLY:
        with refused(errno.EBADF):
            talk.write(fid, b"x")
        assert talk.read(fid) == b""


@pytest.mark.parametrize("flags", [O_RDONLY, O_RDWR])
def test_truncating_a_large_file_at_open_is_waited_for(
    talk: Talk, tmp_path: Path, all_is_large: None, flags: int
) -> None:
    path = large(tmp_path / "L")
    fid = talk.walk("L")
    assert talk.tell(m.Tlopen(fid, flags | O_TRUNC), 5) == []
    with refused(errno.EBADF):
        talk.ask(m.Tlopen(fid, O_RDONLY))
    ((tag, reply),) = talk.run(talk.works[0])
    assert (tag, reply.qid.path) == (5, talk.getattr("L").qid.path)
    assert reply.qid == talk.getattr("L").qid
    assert path.stat().st_size == 0
    assert talk.read(fid) == b""


def test_truncating_a_large_file_that_fails_leaves_the_fid_as_it_was(
    talk: Talk, tmp_path: Path, all_is_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(tmp_path / "L")
    fid = talk.walk("L")

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", broken)
        assert talk.tell(m.Tlopen(fid, O_RDWR | O_TRUNC), 5) == []
        assert talk.run() == [(5, m.Rlerror(errno.EIO))]
    talk.open_fid(fid)
    assert len(talk.read(fid)) == 4096


@pytest.mark.parametrize("meanwhile", ["clunk", "close"])
def test_truncating_a_large_file_whose_fid_goes(
    talk: Talk, tmp_path: Path, all_is_large: None, meanwhile: str
) -> None:
    path = large(tmp_path / "L")
    fid = talk.walk("L")
    assert talk.tell(m.Tlopen(fid, O_RDWR | O_TRUNC), 5) == []
    if meanwhile == "clunk":
        assert talk.tell(m.Tclunk(fid), 6) == [(6, m.Rclunk())]
        assert [tag for tag, _ in talk.run()] == [5]
    else:
        talk.close()
    assert path.stat().st_size == 0


@pytest.mark.parametrize("opened", [False, True])
def test_setting_the_size_of_a_large_file_is_waited_for(
    talk: Talk, tmp_path: Path, all_is_large: None, opened: bool
) -> None:
    path = large(tmp_path / "L")
    fid = talk.open("L", O_RDWR) if opened else talk.walk("L")
    message = setattr_message(fid, 8 | 0x20 | 0x100, size=3, mtime_s=1000)
    assert talk.tell(message, 5) == []
    assert talk.tell(m.Tflush(5), 6) == []
    assert talk.run() == [(5, m.Rsetattr()), (6, m.Rflush())]
    assert (path.stat().st_size, path.stat().st_mtime) == (3, 1000)


def test_a_new_file_is_the_fid_from_then_on(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk("d")
    qid = talk.ask(m.Tlcreate(fid, b"new", O_RDWR | O_CREAT | O_EXCL, 0o640, 0)).qid
    assert talk.ask(m.Tgetattr(fid, 0x7FF)).qid == qid == talk.getattr("d/new").qid
    assert talk.write(fid, b"data") == 4
    with refused(errno.ENOTDIR):
        talk.ask(m.Twalk(fid, 50, (b"e",)))
    talk.ask(m.Trename(fid, talk.root, b"renamed"))
    assert (tmp_path / "renamed").read_bytes() == b"data"
    with refused(errno.EEXIST):
        talk.ask(m.Tlcreate(talk.walk(""), b"g", O_RDWR | O_EXCL, 0o640, 0))
    again = talk.walk("")
    talk.ask(m.Tlcreate(again, b"g", O_RDWR, 0o640, 0))
    assert talk.read(again) == b"other"


@pytest.mark.parametrize("name", [b".", b"..", b"", b"a/b", b"a\0b"])
def test_names_that_nothing_can_have(talk: Talk, name: bytes) -> None:
    d, g = talk.walk("d"), talk.walk("g")
    for message in (
        m.Tlcreate(d, name, O_RDWR, 0o600, 0), m.Tmkdir(d, name, 0o700, 0), m.Tsymlink(d, name, b"x", 0),
        m.Tmknod(d, name, 0o100600, 0, 0, 0), m.Tlink(d, g, name), m.Trename(g, d, name),
        m.Trenameat(talk.root, b"g", d, name), m.Trenameat(d, name, talk.root, b"x"), m.Tunlinkat(d, name, 0),
        m.Tunlinkat(d, name, 0x200),
    ):  # fmt: skip
        with refused(errno.EINVAL, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
            talk.ask(message)


def test_device_numbers_that_no_host_has(talk: Talk) -> None:
    for major, minor in ((1 << 12, 0), (0, 1 << 20), (0xFFFFFFFF, 0xFFFFFFFF)):
        with refused(errno.EINVAL):
            talk.ask(m.Tmknod(talk.root, b"n", 0o20600, major, minor, 0))


# Numbers at their ends


def test_offsets_that_no_file_has(talk: Talk) -> None:
    fid = talk.open("g", O_RDWR)
    assert talk.read(fid, (1 << 63) - 4097) == b""
    with refused(errno.EINVAL):  # as pread(2)
        talk.read(fid, (1 << 63) - 1)
    for offset in (1 << 63, (1 << 64) - 1):
        with refused(errno.EINVAL):
            talk.read(fid, offset)
    for offset in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        with refused(errno.EFBIG):
            talk.write(fid, b"ab", offset)
    for size in (1 << 63, (1 << 64) - 1):
        with refused(errno.EFBIG):
            talk.ask(setattr_message(fid, 8, size=size))
    with refused(errno.EFBIG):  # ext4 has no file so large
        talk.ask(setattr_message(fid, 8, size=(1 << 63) - 1))
    listing = talk.open("d")
    for offset in (1 << 63, (1 << 64) - 1):
        with refused(errno.EINVAL):
            talk.ask(m.Treaddir(listing, offset, 1000))


@pytest.mark.parametrize("seconds", [0, 1, (1 << 64) - 1, 1 << 31, (1 << 63) - 1, 1 << 63])
def test_times_that_a_client_may_send(talk: Talk, seconds: int) -> None:
    talk.ask(setattr_message(talk.walk("g"), 0x1B0, atime_s=seconds, mtime_s=seconds, mtime_ns=999_999_999))
    with refused(errno.EINVAL):
        talk.ask(setattr_message(talk.walk("g"), 0x120, mtime_s=0, mtime_ns=1_000_000_000))
    found = talk.getattr("g")  # within what the file system can keep
    assert seconds in (found.mtime_s, 1 << 31) or seconds >> 62


def test_set_id_bits_survive_a_change_of_owner_in_the_same_request(talk: Talk, tmp_path: Path) -> None:
    talk.ask(setattr_message(talk.walk("g"), 1 | 4, mode=0o104755, gid=7))
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o4755


def test_who_may_not_ask_for_noatime_reads_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"other")
    (tmp_path / "g").chmod(0o644)
    with talking(tmp_path, model="passthrough", uid=1234) as talk:
        tmp_path.chmod(0o755)
        assert talk.read(talk.open("g", O_NOATIME)) == b"other"
        with refused(errno.EACCES):
            talk.open("g", O_RDWR | O_NOATIME)


# Attributes


def test_the_value_of_an_attribute_is_written_whole(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk("g")
    talk.ask(m.Txattrcreate(fid, b"user.a", 6, 0))
    with refused(errno.ENOSPC):
        talk.write(fid, b"1234567")
    with refused(errno.EINVAL):  # a gap
        talk.write(fid, b"56", 4)
    assert talk.write(fid, b"123") == 3
    with refused(errno.EBADF):
        talk.read(fid)
    again = talk.walk("g")
    talk.ask(m.Txattrcreate(again, b"user.b", 6, 0))
    talk.write(again, b"12345")
    with refused(errno.EINVAL):
        talk.clunk(again)
    with refused(errno.EBADF):
        talk.clunk(again)
    assert talk.write(fid, b"3456", 2) == 4
    talk.clunk(fid)
    assert os.getxattr(tmp_path / "g", "user.a") == b"123456"
    assert os.listxattr(tmp_path / "g") == ["user.a"]


def test_attributes_that_are_not_clunked_are_not_set(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk("g")
    talk.ask(m.Txattrcreate(fid, b"user.a", 1, 0))
    talk.write(fid, b"1")
    talk.close()
    assert os.listxattr(tmp_path / "g") == []


def test_what_an_attribute_fid_holds_is_counted(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "ATTRIBUTE_BYTES", 1 << 18)
    held = 0
    with refused(errno.ENOSPC):
        for _ in range(1000):
            fid = talk.walk("g")
            talk.ask(m.Txattrcreate(fid, b"user.a", 65536, 0))
            held += 1
    assert held == 3
    os.setxattr(talk.session.tree.source + b"/g", "user.old", b"x" * 1000)
    for _ in range(3):
        with refused(errno.ENOSPC):
            for number in range(10**6, 10**6 + 300):
                talk.ask(m.Txattrwalk(talk.walk("g"), number, b"user.old"))
        talk.tell(m.Tversion(1 << 17, b"9P2000.L"), m.NOTAG)
        talk.root = talk.attach()
        assert talk.session._attribute_bytes == 0


# What the fast ways must not change


def test_numbers_are_the_same_in_every_answer_also_traced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"x")
    os.symlink("f", tmp_path / "l")
    os.utime(tmp_path / "f", ns=(-5, -1_500_000_000))
    answers: list[Any] = []
    lines: list[str] = []
    for trace in (None, lines.append):
        with exported(tmp_path, trace=trace) as export, Inside(export) as inside:
            shown = inside.entries()
            told = {name: inside.getattr(name) for name in ("d", "f", "l", "")}
            for name in ("d", "f", "l"):
                assert shown[name.encode()].qid == told[name].qid
                assert inside.ask(m.Twalk(inside.root, inside.new(), (name.encode(),))).wqid == (told[name].qid,)
            answers.append((shown, {name: got._replace(atime_s=0, atime_ns=0) for name, got in told.items()}))
    assert answers[0] == answers[1]
    assert any("Rgetattr" in line for line in lines)


def test_an_answer_that_is_given_again_is_never_an_old_one(tmp_path: Path) -> None:
    """The same fid asked again and again, while the host changes the file: always what the ordinary way says."""
    file = tmp_path / "f"
    file.write_bytes(b"x")
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: os.chmod(file, 0o4711),
        lambda: os.chown(file, 1234, 4321),
        lambda: os.truncate(file, 1 << 33),
        lambda: os.utime(file, ns=(5, 6)),
        lambda: os.utime(file, ns=(7, 6)),
        lambda: os.link(file, tmp_path / "g"),
        lambda: os.unlink(tmp_path / "g"),
        lambda: file.write_bytes(b"longer"),
        lambda: os.rename(file, tmp_path / "h"),
    ]
    with exported(tmp_path) as export, Inside(export) as fast, Inside(export) as slow:
        fids = []
        for inside in (fast, slow):
            fids.append(inside.new())
            inside.ask(m.Twalk(inside.root, fids[-1], (b"f",)))
        for change in changes:
            change()
            for asked in (0x3FFF, 0x7FF, 0, 0x3FFF):
                told = fast.ask(m.Tgetattr(fids[0], asked))
                slow.session._fast.clear()  # the ordinary way
                assert slow.ask(m.Tgetattr(fids[1], asked)) == told
        assert told.size == len(b"longer")
        assert fast.session._fast


def test_a_file_stays_open_by_its_own_flags(talk: Talk) -> None:
    fid = talk.open("g", O_WRONLY)
    file = talk.session.fids[fid].io
    assert isinstance(file, File)
    with refused(errno.EBADF):
        talk.read(fid)
    with refused(errno.EINVAL):
        talk.open("g", 3)


def test_a_read_only_export(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"other")
    with exported(tmp_path, read_only=True) as export, Talk(export) as talk:
        check_read_only(export, talk)
    assert (tmp_path / "g").read_bytes() == b"other"


def check_read_only(export: Export, talk: Talk) -> None:
    g, top = talk.walk("g"), talk.walk("")
    for message in (
        m.Tlopen(g, O_RDWR), m.Tlopen(g, O_WRONLY), m.Tlopen(g, O_TRUNC), m.Tlcreate(top, b"x", 0, 0, 0),
        m.Tmkdir(top, b"x", 0, 0), m.Tsymlink(top, b"x", b"x", 0), m.Tmknod(top, b"x", 0, 0, 0, 0),
        m.Tlink(top, g, b"x"), m.Trename(g, top, b"x"), m.Trenameat(top, b"g", top, b"x"), m.Tunlinkat(top, b"g", 0),
        setattr_message(g, 1), m.Txattrcreate(g, b"user.a", 1, 0), m.Tremove(g),
    ):  # fmt: skip
        with refused(errno.EROFS):
            talk.ask(message)
    assert talk.content("g") == b"other"
    assert talk.session.export is export


def test_a_link_of_mapped_xattr_is_not_truncated(tmp_path: Path) -> None:
    with talking(tmp_path, model="mapped-xattr") as talk:
        talk.ask(m.Tsymlink(talk.root, b"l", b"target", 0))
        with refused(errno.EINVAL):
            talk.ask(setattr_message(talk.walk("l"), 8, size=0))
        assert talk.readlink("l") == b"target"


def test_the_account_is_drawn_up_before_a_thread_is_asked(
    tmp_path: Path, all_is_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree belongs to one thread: what a worker does uses descriptors alone."""
    large(tmp_path / "L")
    with talking(tmp_path, model="mapped-xattr", uid=1234) as talk:
        assert talk.tell(setattr_message(talk.walk("L"), 8, size=0)) == []

        def alone(*_: Any) -> Any:
            raise AssertionError("a thread uses the tree")

        with monkeypatch.context() as patch:
            for name in ("fd", "proc", "stat", "open"):
                patch.setattr(type(talk.session.tree), name, alone)
            patch.setattr(Model, "wrote", alone)
            talk.works[0].run()
        talk.works.pop().finish(None)
        assert talk.answers() == [(1, m.Rsetattr())]
