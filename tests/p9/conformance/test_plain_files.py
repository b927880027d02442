"""9P2000 and 9P2000.u: Topen, Tcreate, Tread, Twrite, Tremove, errors - open(5), read(5), remove(5), error(5)."""

from __future__ import annotations

import os
import stat

import pytest

from fusemap.p9.messages import (
    NOFID,
    Rerror,
    Tattach,
    Tclunk,
    Tcreate,
    Tflush,
    Tgetattr,
    Tlopen,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Twalk,
    Twrite,
)
from fusemap.p9.wire import Dialect

from ..answers import Disconnected
from .numbers import DM_DIR, ENOENT, OEXEC, ORCLOSE, ORDWR, OREAD, OTRUNC, OWRITE, QT_DIR
from .place import Place


def test_a_whole_file(plain: Place) -> None:
    plain.file("f", b"content")
    assert plain.client.read(plain.open("f", flags=OREAD)) == b"content"


def test_a_large_file(plain: Place) -> None:
    data = bytes(range(256)) * 2000
    plain.file("f")
    fid = plain.open("f", flags=ORDWR)
    plain.client.write_all(fid, data)
    assert (plain / "f").read_bytes() == data
    assert plain.client.read_all(fid) == data
    assert plain.client.read(fid, len(data), 10) == b""


@pytest.mark.parametrize(("mode", "reads", "writes"), [(OREAD, 1, 0), (OWRITE, 0, 1), (ORDWR, 1, 1), (OEXEC, 1, 0)])
def test_the_mode_is_kept_to(plain: Place, mode: int, reads: int, writes: int) -> None:
    plain.file("f", b"content")
    (plain / "f").chmod(0o755)
    fid = plain.open("f", flags=mode)
    assert isinstance(plain.client.ask(Tread(fid, 0, 10)), Rerror) != reads
    assert isinstance(plain.client.ask(Twrite(fid, 0, b"C")), Rerror) != writes


def test_the_qid_of_open(plain: Place) -> None:
    plain.file("f", b"content")
    fid = plain.walk("f")
    answer = plain.client.call(Topen(fid, OREAD))
    assert answer.qid == plain.client.qid(fid)
    assert answer.iounit == 0 or answer.iounit <= plain.client.msize - 24
    plain.client.fails(Topen(fid, OREAD))


def test_trunc(plain: Place) -> None:
    plain.file("f", b"content")
    plain.open("f", flags=OWRITE | OTRUNC)
    assert (plain / "f").read_bytes() == b""


def test_a_file_that_goes_when_it_is_closed(plain: Place) -> None:
    plain.file("f", b"content")
    fid = plain.open("f", flags=OREAD | ORCLOSE)
    assert plain.client.read(fid) == b"content"
    assert (plain / "f").exists()
    plain.client.clunk(fid)
    assert not (plain / "f").exists()


@pytest.mark.parametrize("mode", [OWRITE, ORDWR, OREAD | OTRUNC, OWRITE | OTRUNC, OREAD | ORCLOSE])
def test_a_directory_is_opened_for_reading_only(plain: Place, mode: int) -> None:
    (plain / "d").mkdir()
    plain.client.fails(Topen(plain.walk("d"), mode))
    assert (plain / "d").is_dir()


def test_special_files_are_not_opened(plain: Place) -> None:
    os.mkfifo(plain / "fifo")
    for mode in (OREAD, OWRITE, ORDWR):
        plain.client.fails(Topen(plain.walk("fifo"), mode))


def test_symlinks_out_of_the_export_are_not_opened(plain: Place) -> None:
    secret = plain.outside()
    os.symlink(secret, plain / "link")
    answer = plain.client.ask(Twalk(plain.fid, 777, (b"link",)))
    if isinstance(answer, Rerror):
        return
    for mode in (OREAD, OWRITE, OWRITE | OTRUNC):
        answer = plain.client.ask(Topen(777, mode))
        assert isinstance(answer, Rerror) or b"outside" not in plain.client.read(777)
    assert secret.read_bytes() == b"outside"


def test_create_a_file(plain: Place) -> None:
    fid = plain.walk()
    answer = plain.client.call(Tcreate(fid, b"new", 0o644, ORDWR))
    assert plain.client.write(fid, b"content") == 7
    assert plain.client.read(fid) == b"content"
    assert (plain / "new").read_bytes() == b"content"
    assert stat.S_IMODE((plain / "new").stat().st_mode) == 0o644
    assert answer.qid.path == plain.client.qid(fid).path == plain.client.qid(plain.walk("new")).path
    assert answer.qid.type == 0


def test_create_without_permission_for_oneself(plain: Place) -> None:
    fid = plain.walk()
    plain.client.call(Tcreate(fid, b"new", 0o444, OWRITE))
    assert plain.client.write(fid, b"x") == 1


def test_create_a_directory(plain: Place) -> None:
    fid = plain.walk()
    answer = plain.client.call(Tcreate(fid, b"new", DM_DIR | 0o755, OREAD))
    assert answer.qid.type == QT_DIR
    assert (plain / "new").is_dir()
    assert stat.S_IMODE((plain / "new").stat().st_mode) == 0o755
    assert plain.client.read(fid) == b""  # it is open, and empty
    assert plain.client.qid(fid) == plain.client.qid(plain.walk("new"))


@pytest.mark.parametrize("perm", [0o644, DM_DIR | 0o755])
def test_create_what_is_there(plain: Place, perm: int) -> None:
    plain.file("f", b"content")
    (plain / "d").mkdir()
    for name in (b"f", b"d"):
        fid = plain.walk()
        plain.client.fails(Tcreate(fid, name, perm, OREAD))
        assert plain.client.qid(fid) == plain.client.qid(plain.fid)
    assert (plain / "f").read_bytes() == b"content"


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/a", b"a\0b"], ids=lambda n: ascii(n)[2:-1] or "empty")
@pytest.mark.parametrize("perm", [0o644, DM_DIR | 0o755], ids=["file", "directory"])
def test_create_what_is_no_name(plain: Place, name: bytes, perm: int) -> None:
    client = plain.connect()
    client.refuses(Tcreate(plain.walk(client=client), name, perm, OREAD))
    assert os.listdir(plain.host) == []


def test_create_in_a_file(plain: Place) -> None:
    plain.file("f")
    plain.client.fails(Tcreate(plain.walk("f"), b"new", 0o644, OREAD))


def test_remove(plain: Place) -> None:
    plain.file("f")
    (plain / "full" / "x").mkdir(parents=True)
    (plain / "d").mkdir()
    for name, goes in (("f", True), ("d", True), ("full", False)):
        fid = plain.walk(name)
        answer = plain.client.ask(Tremove(fid))
        assert isinstance(answer, Rerror) != goes
        assert (plain / name).exists() != goes
        plain.client.fails(Tstat(fid))


def test_walks_are_the_same_as_in_the_other_dialect(plain: Place) -> None:
    (plain / "a" / "b").mkdir(parents=True)
    client = plain.client
    assert len(client.call(Twalk(plain.fid, 500, (b"a", b"b", b".."))).wqid) == 3
    assert client.qid(500) == client.qid(plain.walk("a"))
    assert len(client.call(Twalk(plain.fid, 501, (b"a", b"missing"))).wqid) == 1
    client.fails(Tstat(501))
    client.fails(Twalk(plain.fid, 501, (b"missing",)), ENOENT)
    for steps in ((b"..",) * 3, (b"a", b"..", b"..", b"..", b"..")):
        assert client.call(Twalk(client.root, 502, steps[:1] if steps[0] == b".." else ())).wqid in (
            (client.qid(client.root),),
            (),
        )
        client.clunk(502)


def test_an_error_is_words_and_in_u_a_number(plain: Place) -> None:
    answer = plain.client.ask(Twalk(plain.fid, 500, (b"missing",)))
    assert isinstance(answer, Rerror)
    assert answer.ename
    if plain.dialect is Dialect.UNIX:
        assert answer.errno == ENOENT
        assert b"No such file" in answer.ename or plain.target.ours is False
    plain.client.fails(Tclunk(500))
    plain.client.fails(Tread(500, 0, 10))


def test_messages_of_the_other_dialect_are_refused(plain: Place) -> None:
    for message in (Tgetattr(1, 0x7FF), Tlopen(1, 0)):
        client = plain.connect()
        client.refuses(message)


def test_messages_of_this_dialect_are_refused_in_the_other(place: Place) -> None:
    for message in (Tstat(1), Topen(1, 0), Tcreate(1, b"new", 0o644, 0)):
        client = place.connect()
        client.refuses(message)
    assert os.listdir(place.host) == []


def test_attach_and_flush(plain: Place) -> None:
    client = plain.client
    client.fails(Tattach(plain.fid, NOFID, b"root", b"", 0))
    assert type(client.call(Tflush(999))).__name__ == "Rflush"
    assert client.qid(client.root).type == QT_DIR


def test_an_open_file_without_a_name(plain: Place) -> None:
    plain.file("f", b"content")
    fid = plain.open("f", flags=ORDWR)
    plain.client.call(Tremove(plain.walk("f")))
    assert plain.client.read(fid) == b"content"
    assert plain.client.write(fid, b"CON") == 3
    assert plain.client.call(Tstat(fid)).stat.length == 7


def test_a_malformed_message(plain: Place) -> None:
    sizes = b"\1\0\0\0\x05\0\xff\xff\0\0\0"  # of a stat record, which contradict each other
    for kind, body in ((112, b"\1"), (114, b"\1\0\0\0\xff\xffx"), (126, bytes(6)), (126, sizes)):
        plain.connect().refuses_frame(kind, body)
    try:
        plain.client.call(Tstat(plain.fid))
    except Disconnected:
        raise AssertionError("another connection is gone") from None
