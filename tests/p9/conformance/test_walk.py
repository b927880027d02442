"""Twalk to the letter: walk(5), and what Linux's client makes of it.

A walk of several names either comes to its end and makes newfid, or stops at a name that is not there: then the QIDs up
to that name are told and newfid is not made. When the first name is missing already, that is an error.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from fusemap.p9.messages import MAX_WALK, Rlerror, Rwalk, Tclunk, Tgetattr, Tlopen, Twalk

from ..answers import Disconnected
from .numbers import ENAMETOOLONG, ENOENT, ENOTDIR, O_RDONLY, QT_DIR, QT_SYMLINK
from .place import Place


def names(count: int) -> list[str]:
    return [f"d{n}" for n in range(count)]


@pytest.fixture
def deep(place: Place) -> Place:
    """d0/d1/... twenty deep."""
    place.host.joinpath(*names(20)).mkdir(parents=True)
    return place


def test_no_names_make_a_clone(place: Place) -> None:
    client = place.client
    fid, qids = place.twalk(place.fid)
    assert qids == ()
    assert client.qid(fid) == client.qid(place.fid)
    client.clunk(place.fid)
    assert client.qid(fid).type == QT_DIR


def test_no_names_and_the_same_fid_change_nothing(place: Place) -> None:
    before = place.client.qid(place.fid)
    assert place.client.call(Twalk(place.fid, place.fid, ())).wqid == ()
    assert place.client.qid(place.fid) == before


@pytest.mark.parametrize("count", [1, 2, 15, MAX_WALK])
def test_every_step_tells_a_qid(deep: Place, count: int) -> None:
    fid, qids = deep.twalk(deep.fid, *map(os.fsencode, names(count)))
    assert len(qids) == count
    assert len(set(qids)) == count
    assert {qid.type for qid in qids} == {QT_DIR}
    assert deep.client.qid(fid) == qids[-1]
    for step in range(1, count):
        assert deep.client.qid(deep.walk(*names(step))) == qids[step - 1]


def test_seventeen_names_are_refused(deep: Place) -> None:
    deep.client.refuses(Twalk(deep.fid, deep.client.new_fid(), tuple(map(os.fsencode, names(17)))))


def test_a_walk_that_stops_half_way_makes_no_fid(deep: Place) -> None:
    client = deep.client
    new, qids = deep.twalk(deep.fid, b"d0", b"d1", b"missing", b"d3")
    assert qids == (client.qid(deep.walk("d0")), client.qid(deep.walk("d0", "d1")))
    client.fails(Tgetattr(new, 0x7FF))
    client.fails(Twalk(new, new, ()))
    assert client.call(Twalk(deep.fid, new, (b"d0",))).wqid == qids[:1]  # the number is free


def test_the_fid_that_linux_clunks_after_half_a_walk_is_unknown(deep: Place) -> None:
    new, _ = deep.twalk(deep.fid, b"d0", b"missing")
    deep.client.fails(Tclunk(new))
    assert deep.client.qid(deep.fid).type == QT_DIR


def test_a_missing_first_name_is_an_error(deep: Place) -> None:
    new = deep.client.new_fid()
    for wanted in ((b"missing",), (b"missing", b"d1")):
        deep.client.fails(Twalk(deep.fid, new, wanted), ENOENT)
        deep.client.fails(Tgetattr(new, 0x7FF))


def test_the_same_fid_moves(deep: Place) -> None:
    client = deep.client
    answer = client.call(Twalk(deep.fid, deep.fid, (b"d0", b"d1")))
    assert client.qid(deep.fid) == answer.wqid[1]
    assert len(client.call(Twalk(deep.fid, deep.fid, (b"d2",))).wqid) == 1


def test_the_same_fid_stays_when_the_walk_stops_half_way(deep: Place) -> None:
    client = deep.client
    before = client.qid(deep.fid)
    assert len(client.call(Twalk(deep.fid, deep.fid, (b"d0", b"missing"))).wqid) == 1
    assert client.qid(deep.fid) == before
    client.fails(Twalk(deep.fid, deep.fid, (b"missing",)), ENOENT)
    assert client.qid(deep.fid) == before


def test_a_newfid_in_use_is_refused_and_stays(deep: Place) -> None:
    client = deep.client
    other = deep.walk("d0", "d1")
    before = client.qid(other)
    for wanted in ((), (b"d0",), (b"d0", b"d1"), (b"missing",)):
        client.fails(Twalk(deep.fid, other, wanted))
    assert client.qid(other) == before


def test_dotdot_goes_up(deep: Place) -> None:
    client = deep.client
    fid, qids = deep.twalk(deep.fid, b"d0", b"d1", b"..", b"..", b"d0")
    assert client.qid(fid) == client.qid(deep.walk("d0"))
    assert qids[2] == qids[0] == qids[4]
    assert qids[3] == client.qid(deep.fid)


@pytest.mark.parametrize("ups", [1, 2, MAX_WALK])
def test_dotdot_ends_at_the_root(place: Place, ups: int) -> None:
    client = place.client
    root = client.qid(client.root)
    fid, qids = place.twalk(client.root, *[b".."] * ups)
    assert set(qids) == {root}
    assert client.qid(fid) == root


def test_dotdot_and_a_name_of_the_host_lead_nowhere(place: Place) -> None:
    client = place.client
    for steps in ((b"..", b"etc", b"passwd"), (*[b".."] * 8, b"etc", b"passwd"), (b"..", b"proc", b"self")):
        answer = client.ask(Twalk(client.root, client.new_fid(), steps))
        assert isinstance(answer, Rlerror) or len(answer.wqid) < len(steps)


def test_dotdot_ends_at_an_attached_directory(place: Place) -> None:
    (place / "top" / "sub").mkdir(parents=True)
    client = place.client
    name = "/".join((*place.steps, "top"))
    for aname in (name, f"{place.target.export}/{name}"):
        try:
            top = client.attach(os.fsencode(aname))
            break
        except OSError:
            continue
    else:
        pytest.skip("the server lets nobody attach to a directory below the export")
    assert client.qid(top) == client.qid(place.walk("top"))
    for steps in ((b"..",), (b"..", b".."), (b"sub", b"..", b"..", b"..")):
        fid, _ = place.twalk(top, *steps)
        assert client.qid(fid) == client.qid(top)


def test_dotdot_from_a_mount_point_goes_to_the_outer_file_system(place: Place) -> None:
    mounts = place.mounts()
    for path in mounts:
        fid, qids = place.twalk(place.client.root, os.fsencode(path.name), b"..")
        assert len(qids) == 2
        assert place.client.qid(fid) == place.client.qid(place.client.root) == qids[1]


def test_an_open_directory_can_be_walked_from(deep: Place) -> None:
    client = deep.client
    fid = deep.open()
    clone, _ = deep.twalk(fid)
    below, _ = deep.twalk(fid, b"d0")
    assert client.qid(clone) == client.qid(fid)
    assert client.qid(below) == client.qid(deep.walk("d0"))
    client.call(Tlopen(clone, O_RDONLY))  # the clone is not open


def test_an_open_file_can_be_cloned(place: Place) -> None:
    place.file("f", b"content")
    fid = place.open("f")
    clone, _ = place.twalk(fid)
    place.client.call(Tlopen(clone, O_RDONLY))
    assert place.client.read(clone) == b"content"


def test_an_open_fid_does_not_move(deep: Place) -> None:
    fid = deep.open()
    deep.client.fails(Twalk(fid, fid, (b"d0",)))
    assert deep.client.readdir(fid)


def test_a_symlink_is_not_followed(deep: Place) -> None:
    os.symlink("d0", deep / "link")
    client = deep.client
    fid, qids = deep.twalk(deep.fid, b"link")
    assert qids[0].type == QT_SYMLINK
    assert client.getattr(fid).mode >> 12 == 0o12
    client.fails(Twalk(fid, client.new_fid(), (b"d1",)))
    new, qids = deep.twalk(deep.fid, b"link", b"d1")
    assert [qid.type for qid in qids] == [QT_SYMLINK]
    client.fails(Tgetattr(new, 0x7FF))


@pytest.mark.parametrize("aim", ["/", "/etc", "..", "../../../../../.."])
def test_a_symlink_leads_nowhere_on_the_host(place: Place, aim: str) -> None:
    os.symlink(aim, place / "link")
    for last in (b"passwd", b"etc", b"..", b"."):
        answer = place.client.ask(Twalk(place.fid, place.client.new_fid(), (b"link", last)))
        assert isinstance(answer, Rlerror) or len(answer.wqid) == 1 or place.client.qid(place.fid) == answer.wqid[1]


def test_a_file_has_nothing_below_it(place: Place) -> None:
    place.file("f")
    client = place.client
    fid = place.walk("f")
    for name in (b"x", b"..", b"f"):
        client.fails(Twalk(fid, client.new_fid(), (name,)), *([ENOTDIR, ENOENT] if name == b"x" else []))
        _, qids = place.twalk(place.fid, b"f", name)
        assert len(qids) == 1


NO_NAMES = {
    "empty": b"", "two": b"d0/d1", "trailing": b"d0/", "slash": b"/", "absolute": b"/etc", "up": b"../..",
    "NUL-at-the-end": b"d0\0", "NUL": b"\0", "dotdot-NUL": b"..\0",
}  # fmt: skip


@pytest.mark.parametrize("form", NO_NAMES)
def test_what_is_no_name_leads_nowhere(deep: Place, form: str) -> None:
    name = NO_NAMES[form]
    client = deep.client
    client.refuses(Twalk(deep.fid, client.new_fid(), (name,)))
    client = deep.connect()
    try:
        answer = client.ask(Twalk(deep.walk(client=client), client.new_fid(), (b"d0", name)))
    except Disconnected:
        return
    assert isinstance(answer, Rlerror) or len(answer.wqid) == 1


def test_a_dot_is_refused_or_stays(deep: Place) -> None:
    client = deep.client
    answer = client.ask(Twalk(deep.fid, client.new_fid(), (b".",)))
    assert isinstance(answer, Rlerror) or answer.wqid == (client.qid(deep.fid),)


@pytest.mark.parametrize("length", [256, 4096, 60000])
def test_too_long_a_name_is_an_error(place: Place, length: int) -> None:
    length = min(length, place.client.msize - 100)
    place.client.fails(Twalk(place.fid, place.client.new_fid(), (b"n" * length,)), ENAMETOOLONG, ENOENT)


NAMES = {
    "long": b"n" * 255, "no-text": b"\xff\xfe", "spaces": b"a b\tc\nd", "unicode": "\u00fc\u4e16".encode(),
    "three-dots": b"...", "two-dots-more": b"..a", "backslash": b"\\", "dash": b"-",
}  # fmt: skip


@pytest.mark.parametrize("form", NAMES)
def test_any_name_that_the_host_can_have(place: Place, form: str) -> None:
    name = NAMES[form]
    Path(os.fsdecode(os.fsencode(place.host) + b"/" + name)).mkdir()
    fid, qids = place.twalk(place.fid, name)
    assert place.client.qid(fid) == qids[0]


def test_a_fid_stays_with_its_directory_when_the_host_renames_it(deep: Place) -> None:
    fid = deep.walk("d0")
    os.rename(deep / "d0", deep / "elsewhere")
    (deep / "d0").mkdir()
    _, qids = deep.twalk(fid, b"d1")
    assert len(qids) == 1


def test_nothing_is_below_a_directory_that_the_host_has_removed(place: Place) -> None:
    (place / "d").mkdir()
    fid = place.walk("d")
    (place / "d").rmdir()
    place.client.fails(Twalk(fid, place.client.new_fid(), (b"x",)))


def test_a_long_way_in_one_frame(deep: Place) -> None:
    client = deep.client
    steps = (*map(os.fsencode, names(8)), *[b".."] * 8)
    answer: Rwalk = client.call(Twalk(deep.fid, client.new_fid(), steps))
    assert len(answer.wqid) == 16
    assert answer.wqid[-1] == client.qid(deep.fid)


def test_more_names_than_are_there(deep: Place) -> None:
    client = deep.client
    client.refuses_frame(110, struct.pack("<IIHH2s", deep.fid, client.new_fid(), 5, 2, b"d0"))
