"""A connection's rules: frames, tags, flush, works under way, and what must not be left when it ends."""

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
from fusemap.p9 import session as sessions
from fusemap.p9.fids import File
from fusemap.p9.session import Progress
from fusemap.p9.wire import Dialect, WireError, encode

from .inside import O_RDONLY, O_RDWR, Inside, refused
from .talk import Talk, talking

WRITE, BLOCK = 1, 1  # of Tlock


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    """A client of a directory with the file "f" in it."""
    (tmp_path / "f").write_bytes(b"content")
    with talking(tmp_path) as client:
        yield client


def slow(talk: Talk, fid: int) -> int:
    """Makes every read and write of an open fid a work."""
    file = talk.session.fids[fid].io
    assert isinstance(file, File)
    file.read_inline = file.write_inline = None
    return fid


def slowly_open(talk: Talk, name: str = "f") -> int:
    return slow(talk, talk.open(name, O_RDWR))


def test_a_frame_in_pieces_of_one_byte(talk: Talk) -> None:
    frame = encode(m.Tgetattr(talk.root, 0x7FF), 7, talk.dialect)
    for at in range(len(frame) - 1):
        assert talk.feed(frame[at : at + 1]) is Progress.HUNGRY
    assert talk.answers() == []
    talk.feed(frame[-1:])
    ((tag, reply),) = talk.answers()
    assert tag == 7
    assert isinstance(reply, m.Rgetattr)


def test_a_frame_that_is_larger_than_the_first_buffer(talk: Talk) -> None:
    fid = talk.open("f", O_RDWR)
    data = bytes(range(256)) * 500
    assert talk.write(fid, data) == len(data)
    assert talk.read(fid, 0, 1 << 17) == data[: (1 << 17) - 24]


def alone(talk: Talk, data: bytes) -> bytes | None:
    """What the session says to bytes that come in one piece, when it is asked whether that is all there is to do."""
    talk.session.space()[: len(data)] = data
    return talk.session.answer_alone(len(data))


def counted(talk: Talk) -> dict[str, Any]:
    """The statistics but for times."""
    said = talk.session.export.statistics.as_json()
    return {name: value for name, value in said.items() if isinstance(value, int) or name in ("requests", "errors")}


def test_a_request_alone_is_answered_as_among_others(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with talking(tmp_path) as one, talking(tmp_path) as other:
        before = counted(one)
        assert counted(other) == before
        quickly = 0
        for message in (
            m.Tgetattr(one.root, 0x7FF),
            m.Twalk(one.root, 90, (b"f",)),
            m.Twalk(one.root, 90, (b"f",)),  # a fid in use
            m.Twalk(one.root, 91, (b"nothing",)),
            m.Twalk(one.root, 91, (b"f", b"g")),
            m.Tgetattr(90, 0x3FFF),
            m.Tgetattr(77, 0x3FFF),
            m.Tlopen(90, O_RDONLY),
            m.Tread(90, 0, 100),
            m.Tclunk(90),
            m.Tclunk(90),
            m.Tstatfs(one.root),
        ):
            frame = encode(message, 5, Dialect.LINUX)
            other.feed(frame)
            for work in list(other.works):
                other.works.remove(work)
                work.finish(work.run())
            said = b"".join(map(bytes, other.session.outgoing()))
            mine = alone(one, frame)
            if mine is None:
                assert one.feed(b"") is Progress.HUNGRY
                one.session.advance()
                one.works += one.session.work()
                for work in list(one.works):
                    one.works.remove(work)
                    work.finish(work.run())
                mine = b"".join(map(bytes, one.session.outgoing()))
            else:
                quickly += 1
            if not isinstance(message, m.Tstatfs):
                assert mine == said, message
            assert counted(one) == counted(other)
        assert quickly == 4


def test_what_is_not_alone_is_left_to_the_ordinary_way(talk: Talk) -> None:
    frame = encode(m.Tgetattr(talk.root, 0x7FF), 7, talk.dialect)
    assert alone(talk, frame + frame[:5]) is None
    talk.session.advance()
    assert [tag for tag, _ in talk.answers()] == [7]
    assert alone(talk, frame[5:]) is not None  # its end
    assert talk.session.space() is not None
    held = slowly_open(talk)
    talk.feed(encode(m.Tread(held, 0, 10), 7, talk.dialect))
    assert alone(talk, frame) is None  # its tag is in use
    with pytest.raises(WireError):
        talk.session.advance()


@pytest.mark.parametrize("size", [0, 6, (1 << 17) + 1, 0xFFFFFFFF])
def test_a_frame_of_an_impossible_size_ends_the_connection(talk: Talk, size: int) -> None:
    with pytest.raises(WireError):
        talk.feed(struct.pack("<IBH", size, 24, 1))


@pytest.mark.parametrize("number", [6, 7, 101, 25, 106 + 1, 255])
def test_what_is_no_request_ends_the_connection(talk: Talk, number: int) -> None:
    with pytest.raises(WireError):
        talk.feed(struct.pack("<IBH", 7, number, 1))


def test_an_unknown_request_costs_itself_an_error_and_the_statistics_nothing(talk: Talk) -> None:
    talk.feed(struct.pack("<IBH", 7, 200, 1))
    assert talk.answers() == [(1, m.Rlerror(errno.EOPNOTSUPP))]
    ctl = talk.attach(aname=b"ctl")
    fid = talk.walk("stats.json", ctl)
    talk.open_fid(fid)
    requests = json.loads(talk.read(fid, 0, 1 << 16))["requests"]
    assert requests["200"] == 1
    assert requests["Tattach"] == 2
    talk.clunk(fid)
    talk.clunk(ctl)


@pytest.mark.parametrize("message", [m.Tflush, m.Tgetattr, m.Twalk])
def test_a_body_that_makes_no_sense_costs_itself_an_error(talk: Talk, message: type) -> None:
    talk.feed(struct.pack("<IBH", 8, m.NUMBERS[message], 1) + b"x")
    assert talk.answers() == [(1, m.Rlerror(errno.EINVAL))]


def test_nothing_is_heard_before_a_version(talk: Talk) -> None:
    other = sessions.Session(talk.session.export, talk.session.peer)
    frame = encode(m.Tflush(1), 1, Dialect.LINUX)
    other.space()[: len(frame)] = frame
    other.received(len(frame))
    with pytest.raises(WireError):
        other.advance()
    other.close()


def test_a_reply_longer_than_msize_is_an_error(tmp_path: Path) -> None:
    os.symlink("x" * 800, tmp_path / "long")
    os.symlink("x" * (512 - 9), tmp_path / "just")
    os.symlink("x" * (512 - 10), tmp_path / "fits")
    with talking(tmp_path, msize=512) as talk:
        for name in ("long", "just"):  # Linux takes a frame of just msize for an error
            with refused(errno.EOVERFLOW):
                talk.readlink(name)
        assert len(talk.readlink("fits")) == 502


def test_a_read_under_way_that_is_flushed_is_never_answered(talk: Talk) -> None:
    fid = slowly_open(talk)
    assert talk.tell(m.Tread(fid, 0, 10), 5) == []
    assert talk.tell(m.Tflush(5), 6) == [(6, m.Rflush())]
    assert [tag for tag, _ in talk.tell(m.Tgetattr(fid, 1), 5)] == [5]  # the tag is free
    assert talk.tell(m.Tread(fid, 0, 10), 5) == []
    assert talk.run() == []
    ((tag, reply),) = talk.run()
    assert (tag, bytes(reply.data)) == (5, b"content")


def test_a_write_under_way_that_is_flushed_is_answered_before_its_flush(talk: Talk) -> None:
    fid = slowly_open(talk)
    assert talk.tell(m.Twrite(fid, 0, b"C"), 5) == []
    assert talk.tell(m.Tflush(5), 6) == []
    with pytest.raises(WireError):
        talk.tell(m.Tgetattr(fid, 1), 6)
    assert talk.run() == [(5, m.Rwrite(1)), (6, m.Rflush())]
    assert [tag for tag, _ in talk.tell(m.Tgetattr(fid, 1), 5)] == [5]
    assert [tag for tag, _ in talk.tell(m.Tgetattr(fid, 1), 6)] == [6]


def test_several_flushes_and_flushes_of_flushes_are_answered_in_order(talk: Talk) -> None:
    fid = slowly_open(talk)
    talk.tell(m.Twrite(fid, 0, b"C"), 5)
    assert [talk.tell(m.Tflush(old), tag) for tag, old in ((6, 5), (7, 6), (8, 5), (9, 7))] == [[]] * 4
    assert talk.run() == [(5, m.Rwrite(1)), *((tag, m.Rflush()) for tag in (6, 7, 8, 9))]


def test_a_flush_after_the_end_is_answered_at_once(talk: Talk) -> None:
    fid = slowly_open(talk)
    talk.tell(m.Twrite(fid, 0, b"C"), 5)
    assert talk.run() == [(5, m.Rwrite(1))]
    assert talk.tell(m.Tflush(5), 5) == [(5, m.Rflush())]
    assert talk.tell(m.Tflush(77), 77) == [(77, m.Rflush())]


def test_a_failed_work_that_is_flushed_says_so_before_its_flush(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    fid = slowly_open(talk)

    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "pwrite", broken)
    talk.tell(m.Twrite(fid, 0, b"C"), 5)
    talk.tell(m.Tflush(5), 6)
    assert talk.run() == [(5, m.Rlerror(errno.EIO)), (6, m.Rflush())]


def test_a_lock_that_waits_and_is_flushed_is_not_answered(talk: Talk) -> None:
    with Talk(talk.session.export) as holder:
        held = holder.open("f", O_RDWR)
        assert holder.ask(m.Tlock(held, WRITE, 0, 0, 0, 1, b"h")).status == 0
        fid = talk.open("f", O_RDWR)
        assert talk.tell(m.Tlock(fid, WRITE, BLOCK, 0, 0, 1, b"w"), 5) == []
        assert talk.tell(m.Tflush(5), 6) == []
        assert talk.run() == [(6, m.Rflush())]


def test_a_lock_that_waits_ends_with_its_fid(talk: Talk) -> None:
    with Talk(talk.session.export) as holder:
        held = holder.open("f", O_RDWR)
        assert holder.ask(m.Tlock(held, WRITE, 0, 0, 0, 1, b"h")).status == 0
        fid = talk.open("f", O_RDWR)
        talk.tell(m.Tlock(fid, WRITE, BLOCK, 0, 0, 1, b"w"), 5)
        assert talk.tell(m.Tclunk(fid), 6) == [(6, m.Rclunk())]
        assert talk.run() == [(5, m.Rlerror(errno.EINTR))]


def test_a_file_is_closed_when_no_thread_uses_it_any_more(talk: Talk) -> None:
    fid = slowly_open(talk)
    file = talk.session.fids[fid].io
    assert isinstance(file, File)
    talk.tell(m.Twrite(fid, 0, b"C"), 5)
    talk.tell(m.Twrite(fid, 1, b"O"), 6)
    assert talk.tell(m.Tclunk(fid), 7) == [(7, m.Rclunk())]
    assert talk.run() == [(5, m.Rwrite(1))]
    os.fstat(file.fd)
    assert talk.run() == [(6, m.Rwrite(1))]
    with refused(errno.EBADF):
        os.fstat(file.fd)
    assert talk.content("f") == b"COntent"


def test_an_error_of_the_last_close_harms_nobody(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    fid = slowly_open(talk)
    talk.tell(m.Twrite(fid, 0, b"C"), 5)
    talk.tell(m.Tclunk(fid), 7)
    close = os.close

    def broken(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "close", broken)
    assert talk.run() == [(5, m.Rwrite(1))]
    monkeypatch.undo()


@pytest.mark.parametrize("end", ["close", "version", "garbage"])
def test_what_is_under_way_when_all_ends(tmp_path: Path, end: str) -> None:
    """Reads, writes, truncations, locks, what is closed in a thread: nothing is answered, and nothing is left."""
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "g").write_bytes(b"content")
    with talking(tmp_path) as talk, Talk(talk.session.export) as holder:
        held = holder.open("g", O_RDWR)
        assert holder.ask(m.Tlock(held, WRITE, 0, 0, 0, 1, b"h")).status == 0
        one, two, locking = slowly_open(talk), slowly_open(talk), talk.open("g", O_RDWR)
        data = [
            m.Tread(one, 0, 5),
            m.Twrite(one, 0, b"CONTENT"),
            m.Tfsync(two, 0),
            m.Tclunk(two),
            m.Tlock(locking, WRITE, BLOCK, 0, 0, 1, b"w"),
            m.Tflush(2),
        ]
        frames = b"".join(encode(message, tag, talk.dialect) for tag, message in enumerate(data, 1))
        if end == "garbage":
            frames += struct.pack("<IBH", 7, 101, 9)
        talk.feed(frames)
        assert len(talk.works) == 4
        assert [tag for tag, _ in talk.answers()] == [4]
        if end == "garbage":
            with pytest.raises(WireError):
                talk.session.advance()
        if end == "version":
            assert talk.tell(m.Tversion(8192, b"9P2000.L"), m.NOTAG) == []
            for work in talk.works[1:]:  # only the read may come later
                assert talk.session.advance() is Progress.BUSY
                assert talk.run(work) == []
            assert talk.session.advance() is Progress.HUNGRY
            assert talk.answers() == [(m.NOTAG, m.Rversion(8192, b"9P2000.L"))]
            assert talk.run() == []
            assert talk.session.fids == {}
    assert (tmp_path / "f").read_bytes() == b"CONTENT"


def test_a_new_version_is_heard_whatever_its_tag(talk: Talk) -> None:
    fid = slowly_open(talk)
    assert talk.tell(m.Twrite(fid, 0, b"C"), 5) == []
    assert talk.feed(encode(m.Tversion(8192, b"9P2000.u"), 5, talk.dialect)) is Progress.BUSY
    assert talk.run() == []
    assert talk.session.advance() is Progress.HUNGRY
    ((tag, reply),) = talk.answers()
    assert (tag, reply.version) == (5, b"9P2000.u")
    talk.dialect = Dialect.UNIX
    assert talk.tell(m.Tattach(0, m.NOFID, b"root", b"", 0), 5)[0][0] == 5


def test_a_new_version_waits_for_what_changes_files_and_for_nothing_else(talk: Talk, tmp_path: Path) -> None:
    """version(5): what is outstanding is aborted; a write that came later would change what the new session wrote."""
    fid = slowly_open(talk)
    for tag, message in enumerate((m.Tread(fid, 0, 1), m.Twrite(fid, 0, b"old"), m.Twrite(fid, 3, b"old"))):
        assert talk.tell(message, tag) == []
    reading, first, second = talk.works
    again = encode(m.Tversion(8192, b"9P2000.L"), m.NOTAG, talk.dialect)
    assert talk.feed(again + again[:3]) is Progress.BUSY
    assert talk.session.fids == {}
    assert talk.run(second) == []
    assert talk.session.advance() is Progress.BUSY
    assert talk.run(first) == []
    assert talk.session.advance() is Progress.HUNGRY
    assert [tag for tag, _ in talk.answers()] == [m.NOTAG]
    assert talk.session.export.statistics.as_json()["requests"]["Tversion"] == 2
    assert talk.feed(again[3:]) is Progress.HUNGRY  # the read is still under way
    assert [tag for tag, _ in talk.answers()] == [m.NOTAG]
    assert talk.run(reading) == []


def test_an_unknown_version_ends_what_was(talk: Talk) -> None:
    slowly_open(talk)
    ((_, reply),) = talk.tell(m.Tversion(8192, b"7P"), m.NOTAG)
    assert reply.version == b"unknown"
    assert talk.session.fids == {}
    with pytest.raises(WireError):
        talk.tell(m.Tgetattr(0, 1))


def test_too_much_under_way_waits(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "REQUESTS_UNDER_WAY", 3)
    fid = slowly_open(talk)
    frames = [encode(m.Tread(fid, 0, 4), tag, talk.dialect) for tag in range(5)]
    assert talk.feed(b"".join(frames)) is Progress.BUSY
    assert len(talk.works) == 3
    assert [tag for tag, _ in talk.run()] == [0]
    assert talk.session.advance() is Progress.BUSY
    talk.works += talk.session.work()
    done: list[int] = []
    while talk.works:
        done += [tag for tag, _ in talk.run()]
        talk.session.advance()
        talk.works += talk.session.work()
    assert done == [1, 2, 3, 4]


def test_too_much_to_send_waits(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SENT_AT_ONCE", 1000)
    frames = [encode(m.Tgetattr(talk.root, 0x7FF), tag, talk.dialect) for tag in range(20)]
    assert talk.feed(b"".join(frames)) is Progress.FULL
    tags: list[int] = []
    for _ in range(20):
        found = talk.answers()
        assert len(found) <= 8
        tags += [tag for tag, _ in found]
        if talk.session.advance() is Progress.HUNGRY:
            break
    assert tags + [tag for tag, _ in talk.answers()] == list(range(20))


def test_data_is_good_until_it_is_sent(talk: Talk) -> None:
    fid = talk.open("f", O_RDWR)
    parts = [bytes([n]) * 40000 for n in range(6)]
    for n, part in enumerate(parts):
        talk.write(fid, part, n * 40000)
    for _ in range(2):
        frames = [encode(m.Tread(fid, n * 40000, 40000), n, talk.dialect) for n in range(6)]
        talk.feed(b"".join(frames[:3]))
        first = talk.answers()
        talk.feed(b"".join(frames[3:]))
        assert [bytes(reply.data) for _, reply in first + talk.answers()] == parts


@pytest.mark.parametrize("dialect", [Dialect.BASE, Dialect.UNIX])
@pytest.mark.parametrize("end", ["clunk", "close", "version"])
def test_what_is_to_be_removed_at_its_end_is_removed_whatever_the_end(
    tmp_path: Path, dialect: Dialect, end: str
) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with talking(tmp_path, dialect) as talk:
        fid = talk.walk("f")
        talk.ask(m.Topen(fid, 0x40))
        assert (tmp_path / "f").exists()
        if end == "clunk":
            talk.clunk(fid)
        elif end == "version":
            talk.tell(m.Tversion(8192, dialect.value), m.NOTAG)
        if end != "close":
            assert not (tmp_path / "f").exists()
    assert not (tmp_path / "f").exists()


def test_two_clients_and_a_file_that_both_hold(talk: Talk) -> None:
    with Inside(talk.session.export) as other:
        mine, theirs = talk.open("f"), other.open("f")
        talk.remove("f")
        assert talk.read(mine) == other.read(theirs) == b"content"
        other.clunk(theirs)
        assert talk.read(mine) == b"content"
        with refused(errno.ENOENT):
            talk.walk("f")


def test_closing_twice_is_closing_once(talk: Talk) -> None:
    talk.open("f", O_RDONLY)
    talk.close()
    talk.close()
    assert talk.session.export.statistics.clients == 0
