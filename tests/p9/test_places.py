"""Walks and places: where a fid is, however it came there and whatever is renamed or removed meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemap.p9 import messages as m
from fusemap.tree import live

from .inside import O_RDWR, Inside, refused
from .talk import Talk, large, talking


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    """A client of d/e/f, g and an empty "void"."""
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_bytes(b"content")
    (tmp_path / "g").write_bytes(b"other")
    (tmp_path / "void").mkdir()
    with talking(tmp_path) as client:
        yield client


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
