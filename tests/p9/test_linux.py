"""9P2000.L from the inside: places, walks, opening, changing, reading directories, and what is left after each."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemap import errors
from fusemap.p9 import linux, transfer
from fusemap.p9 import messages as m
from fusemap.p9 import session as sessions
from fusemap.p9.export import Export
from fusemap.p9.fids import File
from fusemap.p9.model import Model
from fusemap.p9.wire import Dialect
from fusemap.qid import Allocator, Mapper
from fusemap.tree import live

from ..support import needs
from ..support.process import ALICE, call_as
from ..support.stage import Stage
from .inside import O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, Inside, exported, refused, setattr_message
from .talk import Talk, talking

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


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 32 KiB take long to truncate and to remove."""
    for module in (transfer, linux, live):
        monkeypatch.setattr(module, "LONG_REMOVAL_BLOCKS", 32)


def large(path: Path) -> Path:
    with open(path, "wb") as file:
        file.write(bytes(32768))
        os.fsync(file.fileno())  # so that its blocks are counted
    return path


# Walks


def test_a_fid_remembers_its_place_through_dots(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk_names((b"d", b".", b"e", b"f"))
    dotted = talk.walk_names((b"d", b"e", b"."))
    upper = talk.walk("d")
    talk.ask(m.Trenameat(upper, b"e", upper, b"E"))
    talk.ask(m.Trename(dotted, talk.root, b"moved"))
    assert (tmp_path / "moved" / "f").exists()
    talk.ask(m.Tremove(fid))
    assert not (tmp_path / "moved" / "f").exists()


def test_a_walk_that_ends_half_way_makes_no_fid(talk: Talk) -> None:
    reply = talk.ask(m.Twalk(talk.root, 50, (b"d", b"e", b"missing", b"f")))
    assert len(reply.wqid) == 2
    with refused(errno.EBADF):
        talk.ask(m.Tclunk(50))
    reply = talk.ask(m.Twalk(talk.root, 50, (b"d", b"e", b"f", b"x")))
    assert len(reply.wqid) == 3


def test_a_walk_onto_itself(talk: Talk) -> None:
    fid = talk.walk("d")
    assert len(talk.ask(m.Twalk(fid, fid, (b"e", b"missing"))).wqid) == 1
    with refused(errno.ENOENT):
        talk.ask(m.Twalk(fid, fid, (b"missing",)))
    assert len(talk.ask(m.Twalk(fid, fid, (b"e", b"f"))).wqid) == 2
    talk.open_fid(fid)
    assert talk.read(fid) == b"content"
    with refused(errno.EINVAL):  # it is open
        talk.ask(m.Twalk(fid, fid, ()))
    assert talk.ask(m.Twalk(fid, 50, ())).wqid == ()


@pytest.mark.parametrize("names", [(b"..",), (b"..", b"d"), (b"d", b"e", b"..", b"..", b"..", b"d")])
def test_above_the_root_is_the_root(talk: Talk, names: tuple[bytes, ...]) -> None:
    qids = talk.ask(m.Twalk(talk.root, 50, names)).wqid
    assert qids[0] in (talk.getattr().qid, talk.getattr("d").qid)
    assert qids[-1] == talk.getattr("d" if names[-1] == b"d" else "").qid


def test_a_walk_from_a_directory_that_is_gone(talk: Talk, tmp_path: Path) -> None:
    fid, file = talk.walk("d/e"), talk.walk("d/e/f")
    os.unlink(tmp_path / "d" / "e" / "f")
    os.rmdir(tmp_path / "d" / "e")
    for message in (
        m.Twalk(fid, 50, (b"f",)), m.Twalk(fid, 50, (b"..",)), m.Twalk(file, 50, (b"x",)), m.Tgetattr(fid, 1),
    ):  # fmt: skip
        with refused(errno.ESTALE, errno.ENOENT, errno.ENOTDIR):
            talk.ask(message)
    assert talk.ask(m.Twalk(fid, 50, ())).wqid == ()


def test_an_attached_directory_stays_the_top_when_its_fid_has_gone(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "d" / "e" / "h").mkdir()
    top = talk.attach(aname=b"d/e")
    inner = talk.walk("f", top)
    below = talk.walk("", top)
    talk.clunk(top)
    talk.clunk(below)
    with Inside(talk.session.export, attach=False) as other:
        other.root = other.attach(aname=b"/d")
        lower = other.walk("e")
        other.clunk(other.root)
        deep = other.walk("h", lower)
        other.clunk(lower)
        up = other.walk_names((b"..", b".."), deep)
        again = other.walk_names((b"..", b"..", b"..", b"e", b"..", b".."), up)
        assert other.ask(m.Tgetattr(again, 0x7FF)).qid == talk.getattr("d").qid
        with refused(errno.EBUSY):
            other.ask(m.Trename(up, deep, b"x"))
        other.open_fid(again, 0o200000)
        data = bytes(other.ask(m.Treaddir(again, 0, 8192)).data)
        number = talk.getattr("d").qid.path
        assert data.count(number.to_bytes(8, "little")) == 2  # "." and ".."
    assert talk.ask(m.Tgetattr(inner, 0x7FF)).size == 7


def test_making_a_file_of_the_attached_fid(talk: Talk, tmp_path: Path) -> None:
    top = talk.attach(aname=b"d")
    second = talk.walk("", top)
    talk.ask(m.Tlcreate(top, b"new", O_RDWR, 0o600, m.NONUNAME))
    assert talk.write(top, b"data") == 4
    assert talk.ask(m.Tgetattr(talk.walk_names((b"..",), second), 0x7FF)).qid == talk.getattr("d").qid
    talk.ask(m.Tremove(top))
    assert os.listdir(tmp_path / "d") == ["e"]


# Places


def moved(talk: Talk, fid: int) -> None:
    """Proves that a fid has its place, by removing it."""
    talk.ask(m.Tremove(fid))


def test_a_place_goes_with_renames(talk: Talk, tmp_path: Path) -> None:
    first, second, deep = talk.walk("g"), talk.walk("g"), talk.walk("d/e/f")
    talk.ask(m.Trenameat(talk.root, b"g", talk.walk("d"), b"h"))
    talk.ask(m.Trename(second, talk.root, b"i"))
    talk.ask(m.Trenameat(talk.walk("d"), b"e", talk.root, b"E"))
    talk.ask(m.Trename(deep, talk.walk("d"), b"F"))
    assert sorted(os.listdir(tmp_path)) == ["E", "d", "i", "void"]
    assert os.listdir(tmp_path / "d") == ["F"]
    talk.ask(m.Trename(first, talk.root, b"i"))  # onto itself
    moved(talk, first)
    moved(talk, deep)
    with refused(errno.ENOENT):
        moved(talk, second)


def test_a_place_that_another_file_took(talk: Talk, tmp_path: Path) -> None:
    replaced, mover = talk.walk("g"), talk.walk("d/e/f")
    talk.ask(m.Trename(mover, talk.root, b"g"))
    with refused(errno.ENOENT):
        talk.ask(m.Tremove(replaced))
    assert (tmp_path / "g").read_bytes() == b"content"
    talk.ask(m.Trename(mover, talk.root, b"f"))
    assert (tmp_path / "f").read_bytes() == b"content"


def test_a_file_that_the_host_put_in_a_place_is_not_removed(talk: Talk, tmp_path: Path) -> None:
    fid = talk.walk("g")
    (tmp_path / "h").write_bytes(b"new")
    os.replace(tmp_path / "h", tmp_path / "g")
    with refused(errno.ENOENT):
        talk.ask(m.Tremove(fid))
    assert (tmp_path / "g").read_bytes() == b"new"


@pytest.mark.parametrize("message", ["rename", "renameat"])
def test_renaming_one_name_of_a_file_to_another_changes_nothing(talk: Talk, tmp_path: Path, message: str) -> None:
    os.link(tmp_path / "g", tmp_path / "h")
    one, two = talk.walk("g"), talk.walk("h")
    if message == "rename":
        talk.ask(m.Trename(one, talk.root, b"h"))
    else:
        talk.ask(m.Trenameat(talk.root, b"g", talk.root, b"h"))
    assert sorted(os.listdir(tmp_path)) == ["d", "g", "h", "void"]
    talk.ask(m.Tremove(one))
    assert sorted(os.listdir(tmp_path)) == ["d", "h", "void"]
    talk.ask(m.Tremove(two))
    assert sorted(os.listdir(tmp_path)) == ["d", "void"]


def test_each_name_of_a_file_has_a_place_of_its_own(talk: Talk, tmp_path: Path) -> None:
    os.link(tmp_path / "g", tmp_path / "h")
    one, two = talk.walk("g"), talk.walk("h")
    talk.ask(m.Tunlinkat(talk.root, b"g", 0))
    (tmp_path / "g").write_bytes(b"new")
    talk.ask(m.Tlink(talk.root, two, b"i"))
    with refused(errno.ENOENT):  # which of the two other names is meant cannot be known
        talk.ask(m.Tremove(one))
    moved(talk, two)
    assert sorted(os.listdir(tmp_path)) == ["d", "g", "i", "void"]


def test_the_last_of_several_fids_at_one_place(talk: Talk, tmp_path: Path, all_is_large: None) -> None:
    """A large file that was removed is freed with its last fid, and the places of others are none of its business."""
    large(tmp_path / "L")
    first, second = talk.walk("L"), talk.walk("L")
    talk.ask(m.Tunlinkat(talk.root, b"L", 0))
    talk.clunk(first)
    assert talk.tell(m.Tclunk(second)) == []
    assert talk.run() == [(1, m.Rclunk())]


def test_removing_what_is_open(talk: Talk, tmp_path: Path) -> None:
    fid, other = talk.open("g", O_RDWR), talk.open("g")
    talk.ask(m.Tremove(fid))
    assert talk.read(other) == b"other"
    assert talk.ask(m.Tgetattr(other, 0x7FF)).nlink == 0
    with refused(errno.EBADF):
        talk.ask(m.Tclunk(fid))
    with refused(errno.ENOTEMPTY):
        talk.ask(m.Tremove(talk.walk("d")))
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("how", ["unlinkat", "remove", "remove-held", "rename-over"])
def test_a_directory_that_takes_long_to_free(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(live, "LONG_REMOVAL_BLOCKS", -1)
    if how == "remove-held":
        talk.open("void")
    if how == "unlinkat":
        talk.ask(m.Tunlinkat(talk.root, b"void", 0x200))
    elif how == "rename-over":
        talk.ask(m.Trenameat(talk.root, b"d", talk.root, b"void"))
    else:
        talk.remove("void")
    assert len(os.listdir(tmp_path)) == 2


def test_nothing_removes_or_renames_the_root(talk: Talk) -> None:
    with refused(errno.EBUSY):
        talk.ask(m.Trename(talk.root, talk.walk("d"), b"x"))
    with refused(errno.EBUSY):
        talk.ask(m.Tremove(talk.walk("")))


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
    monkeypatch.setattr(sessions, "ATTRIBUTE_BYTES", 1 << 18)
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


# Directories


def entries(data: bytes) -> list[tuple[bytes, int]]:
    """Names and cookies of the entries in Rreaddir."""
    found = []
    while data:
        size = 24 + int.from_bytes(data[22:24], "little")
        found.append((data[24:size], int.from_bytes(data[13:21], "little")))
        data = data[size:]
    return found


def listed(talk: Talk, fid: int, count: int, start: int = 0) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    while True:
        part = entries(bytes(talk.ask(m.Treaddir(fid, found[-1][1] if found else start, count)).data))
        if not part:
            return found
        found += part


def test_a_listing_in_any_portions_and_from_any_place(talk: Talk, tmp_path: Path) -> None:
    names = {b"n" * (1 + n % 200) + b"%d" % n for n in range(150)}
    for name in names:
        (tmp_path / "void" / os.fsdecode(name)).touch()
    fid = talk.open("void")
    whole = listed(talk, fid, 1 << 17)
    assert {name for name, _ in whole} == names | {b".", b".."}
    assert len(whole) == len(names) + 2
    for count in (228, 229, 500, 4096):
        assert listed(talk, fid, count) == whole
    for at in (0, 1, 75, 150):
        assert listed(talk, fid, 3000, whole[at][1]) == whole[at + 1 :]
    for count in (0, 24, 24):
        with refused(errno.EINVAL):
            talk.ask(m.Treaddir(fid, 0, count))
    assert listed(talk, fid, 1 << 17) == whole


def test_a_listing_goes_on_whatever_is_removed(talk: Talk, tmp_path: Path) -> None:
    for n in range(100):
        (tmp_path / "void" / f"{n}").touch()
    fid = talk.open("void")
    found: list[tuple[bytes, int]] = []
    while part := entries(bytes(talk.ask(m.Treaddir(fid, found[-1][1] if found else 0, 100)).data)):
        for name, _ in part:
            if name.isdigit():
                os.unlink(tmp_path / "void" / os.fsdecode(name))
        found += part
    assert len(found) == 102
    assert os.listdir(tmp_path / "void") == []
    assert [name for name, _ in listed(talk, fid, 100)] == [b".", b".."]


def test_an_entry_of_mapped_xattr_that_goes_while_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    with talking(tmp_path, model="mapped-xattr") as talk:
        show = type(talk.session.model).shown_entry

        def gone(self: Any, directory: Any, name: bytes, st: Any) -> Any:
            if name == b"b":
                os.unlink(tmp_path / "b")
            return show(self, directory, name, st)

        monkeypatch.setattr(type(talk.session.model), "shown_entry", gone)
        assert {name for name, _ in listed(talk, talk.open(""), 8192)} == {b".", b"..", b"a", b"c"}


def test_what_a_mapped_server_may_not_read_is_shown_as_it_is(stage: Stage) -> None:
    needs.root()
    top = stage.directory("mapped")
    (top / "closed").mkdir(mode=0o700)
    (top / "secret").write_bytes(b"secret")
    (top / "secret").chmod(0o600)
    (top / "open").write_bytes(b"open")
    os.setxattr(top / "open", "user.virtfs.uid", (77).to_bytes(4, "little"))

    def server() -> tuple[set[bytes], int, int]:
        with talking(top, model="mapped-xattr") as talk:
            names = {name for name, _ in listed(talk, talk.open(""), 8192)}
            with refused(errno.EACCES):
                talk.open("secret")
            return names, talk.getattr("secret").mode, talk.getattr("open").uid

    assert call_as(ALICE, server) == ({b".", b"..", b"closed", b"secret", b"open"}, 0o100600, 77)


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


# No number left


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """That no number is left is logged once, and was."""
    monkeypatch.setattr(errors, "_exhausted_logged", True)


def scarce(numbers: int) -> Mapper:
    """A mapper that has this many numbers left (mode suffix, k = 0)."""
    return Mapper(source=Allocator(65536, 2**31 - numbers))


MAKING: dict[str, Any] = {
    "lcreate": lambda fid: m.Tlcreate(fid, b"new", O_RDWR, 0o600, 0),
    "mkdir": lambda fid: m.Tmkdir(fid, b"new", 0o700, 0),
    "mknod": lambda fid: m.Tmknod(fid, b"new", 0o10600, 0, 0, 0),
    "symlink": lambda fid: m.Tsymlink(fid, b"new", b"target", 0),
    "create": lambda fid: m.Tcreate(fid, b"new", 0o600, 2),
    "create-directory": lambda fid: m.Tcreate(fid, b"new", 0x800001ED, 0),
    "create-symlink": lambda fid: m.Tcreate(fid, b"new", 0x02000000, 0, b"target"),
    "create-fifo": lambda fid: m.Tcreate(fid, b"new", 0x00200180, 0),
}


@pytest.mark.parametrize("which", ["own", "shown"])
@pytest.mark.parametrize("name", MAKING)
def test_what_gets_no_number_is_not_made(tmp_path: Path, name: str, which: str, logged: None) -> None:
    (tmp_path / "old").touch()
    mapper = scarce(1) if which == "own" else None
    shown = None if which == "own" else scarce(1)
    dialect = Dialect.UNIX if name.startswith("create") else Dialect.LINUX
    with exported(tmp_path, mapper=mapper, shown=shown) as export, Talk(export, 0, dialect) as talk:
        fid = talk.walk("")
        for _ in range(2):
            with refused(errno.ENFILE):
                talk.ask(MAKING[name](fid))
            assert os.listdir(tmp_path) == ["old"]
        with refused(errno.ENFILE):
            talk.walk("old")
        number = talk.ask(m.Tgetattr(fid, 1)).qid if dialect is Dialect.LINUX else talk.ask(m.Tstat(fid)).stat.qid
        assert number.type == 0x80
        talk.open_fid(fid)


def test_what_is_there_and_gets_no_number_is_not_removed(tmp_path: Path, logged: None) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with exported(tmp_path, shown=scarce(1)) as export, Talk(export) as talk:
        with refused(errno.ENFILE):
            talk.ask(m.Tlcreate(talk.walk(""), b"old", O_RDWR, 0o600, 0))
    assert (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize("which", ["own", "shown"])
def test_a_listing_and_a_walk_up_to_what_gets_no_number(tmp_path: Path, which: str, logged: None) -> None:
    for n in range(10):
        (tmp_path / f"d{n}").mkdir()
    options: dict[str, Any] = {"mapper": scarce(5)} if which == "own" else {"shown": scarce(5)}
    with exported(tmp_path, **options) as export, Talk(export) as talk:
        fid = talk.open("")
        first = entries(bytes(talk.ask(m.Treaddir(fid, 0, 8192)).data))
        for _ in range(2):
            with refused(errno.ENFILE):
                talk.ask(m.Treaddir(fid, first[-1][1], 8192))
        seen = [name for name, _ in first if name.startswith(b"d")]
        assert len(seen) == 4
        (tmp_path / os.fsdecode(seen[0]) / "below").touch()
        assert len(talk.ask(m.Twalk(talk.root, 50, (seen[0], b"below"))).wqid) == 1
        other = next(f"d{n}" for n in range(10) if b"d%d" % n not in seen)
        for act in (talk.walk, lambda name: talk.attach(aname=name.encode()), talk.open):
            with refused(errno.ENFILE):
                act(other)


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
