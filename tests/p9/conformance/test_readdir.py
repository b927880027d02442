"""Treaddir: every name once, whole entries, any cookie, and the same QIDs as everywhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fusemap.p9.messages import Rlerror, Treaddir

from ..answers import Entry
from .numbers import QT_DIR, QT_SYMLINK
from .place import Place

DT = {"file": 8, "directory": 4, "symlink": 10, "fifo": 1}


def names(entries: list[Entry]) -> list[bytes]:
    return sorted(entry.name for entry in entries)


@pytest.fixture
def many(place: Place) -> Place:
    """Three hundred files with names of every length."""
    for n in range(300):
        place.file(f"{n:03}-" + "x" * (n * 7 % 250))
    return place


def on_host(place: Place) -> list[bytes]:
    return sorted([b".", b"..", *os.listdir(os.fsencode(place.host))])


def test_an_empty_directory(place: Place) -> None:
    fid = place.open()
    listed = place.client.list(fid)
    assert names(listed) == [b".", b".."]
    assert place.client.readdir(fid, listed[-1].offset) == []


@pytest.mark.parametrize("count", [300, 512, 1000, 4096, 65536 - 24])
def test_every_name_once(many: Place, count: int) -> None:
    assert names(many.client.list(many.open(), count)) == on_host(many)


def test_more_than_the_msize(many: Place) -> None:
    fid = many.open()
    answer = many.client.ask(Treaddir(fid, 0, 0xFFFFFFFF))
    assert isinstance(answer, Rlerror) or 0 < len(answer.data) <= many.client.msize - 11
    client = many.connect(4096)
    fid = client.open(client.root, *many.steps)
    answer = client.ask(Treaddir(fid, 0, 1 << 20))
    assert isinstance(answer, Rlerror) or 0 < len(answer.data) <= 4096 - 11


@pytest.mark.parametrize("count", [1, 23, 24])
def test_a_count_that_holds_no_entry_is_an_error(place: Place, count: int) -> None:
    """No bytes would be the end of the directory."""
    place.client.fails(Treaddir(place.open(), 0, count))


def test_a_count_too_small_for_the_next_entry_is_an_error(place: Place) -> None:
    place.file("n" * 255)
    fid = place.open()
    found: list[Entry] = []
    while True:
        answer = place.client.ask(Treaddir(fid, found[-1].offset if found else 0, 40))
        if isinstance(answer, Rlerror):
            break
        assert answer.data, "the end of the directory, before its longest name"
        found += place.client.readdir(fid, found[-1].offset if found else 0, 40)
    assert len(found) <= 2
    rest = place.client.readdir(fid, found[-1].offset if found else 0, 2000)
    assert names(found + rest) == on_host(place)


def test_any_cookie_leads_to_what_came_after_it(many: Place) -> None:
    fid = many.open()
    listed = many.client.list(fid)
    wire = [entry.name for entry in listed]
    for index in (0, 1, 2, 7, 150, 299, 40, 0, 301):
        again: list[Entry] = []
        at = listed[index].offset
        while part := many.client.readdir(fid, at, 5000):
            again += part
            at = part[-1].offset
        assert [entry.name for entry in again] == wire[index + 1 :]
    assert [entry.name for entry in many.client.list(fid)] == wire


def test_a_cookie_of_another_fid(many: Place) -> None:
    """Linux's seekdir(3) brings cookies to a directory that was opened anew."""
    listed = many.client.list(many.open())
    rest = many.client.readdir(many.open(), listed[200].offset, 60000)
    wanted = [entry.name for entry in listed[201:]]
    assert [entry.name for entry in rest] == wanted[: len(rest)]
    assert rest


def test_cookies_are_offsets_of_a_file(many: Place) -> None:
    listed = many.client.list(many.open())
    assert all(0 < entry.offset < 1 << 63 for entry in listed)
    assert len({entry.offset for entry in listed}) == len(listed)


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_cookie_that_was_never_given(many: Place, offset: int) -> None:
    fid = many.open()
    answer = many.client.ask(Treaddir(fid, offset, 8192))
    assert isinstance(answer, Rlerror) or len(answer.data) <= 8192
    # Not by the same fid: after a seek to the end of a directory that was just opened, ext4 does not find its beginning
    assert names(many.client.list(many.open())) == on_host(many)


def test_the_beginning_again_shows_what_is_new(place: Place) -> None:
    fid = place.open()
    assert names(place.client.list(fid)) == [b".", b".."]
    place.file("new")
    assert names(place.client.list(fid)) == [b".", b"..", b"new"]
    (place / "new").unlink()
    assert names(place.client.list(fid)) == [b".", b".."]


def test_taking_away_while_reading(many: Place) -> None:
    """What rm -r does: read a part, remove it, go on."""
    fid = many.open()
    seen: list[bytes] = []
    at = 0
    while part := many.client.readdir(fid, at, 2000):
        at = part[-1].offset
        for entry in part:
            seen.append(entry.name)
            if entry.name not in (b".", b".."):
                os.unlink(os.fsencode(many.host) + b"/" + entry.name)
    assert len(seen) == len(set(seen)) == 302
    assert os.listdir(many.host) == []


def test_types_and_qids(place: Place) -> None:
    place.file("file")
    (place / "directory").mkdir()
    os.symlink("file", place / "symlink")
    os.mkfifo(place / "fifo")
    types = {"directory": QT_DIR, "symlink": QT_SYMLINK}
    listed = {entry.name.decode(): entry for entry in place.client.list(place.open())}
    for name, kind in DT.items():
        assert listed[name].kind == kind
        assert listed[name].qid.type == types.get(name, 0)
        assert listed[name].qid.path == place.client.qid(place.walk(name)).path


def test_the_qid_is_that_of_walk_and_getattr(place: Place) -> None:
    place.file("file", b"content")
    (place / "directory").mkdir()
    os.symlink("file", place / "symlink")
    for entry in place.client.list(place.open()):
        if entry.name not in (b".", b".."):
            fid, qids = place.twalk(place.fid, entry.name)
            assert qids == (entry.qid,) == (place.client.qid(fid),)


def test_dot_and_dotdot(place: Place) -> None:
    (place / "d").mkdir()
    listed = {entry.name: entry for entry in place.client.list(place.open("d"))}
    assert listed[b"."].qid.path == place.client.qid(place.walk("d")).path
    assert listed[b".."].qid.path == place.client.qid(place.fid).path
    assert {listed[b"."].kind, listed[b".."].kind} == {4}


def test_dotdot_of_the_root_is_the_root(place: Place) -> None:
    """Nothing of the host outside the export is told."""
    listed = {entry.name: entry for entry in place.client.list(place.client.open(place.client.root))}
    assert listed[b"."].qid.path == listed[b".."].qid.path == place.client.qid(place.client.root).path


def test_a_mount_point_has_the_qid_of_what_is_mounted(place: Place) -> None:
    mounts = place.mounts()
    client = place.client
    listed = {entry.name: entry for entry in client.list(client.open(client.root))}
    for path in mounts:
        name = os.fsencode(path.name)
        assert listed[name].qid.path == client.qid(client.walk(client.root, path.name)).path
        assert listed[name].kind == 4


def test_dotdot_of_a_mount_point(place: Place) -> None:
    mounts = place.mounts()
    client = place.client
    for path in mounts:
        listed = {entry.name: entry for entry in client.list(client.open(client.root, path.name))}
        assert listed[b".."].qid.path == client.qid(client.root).path
        assert listed[b"."].qid.path == client.qid(client.walk(client.root, path.name)).path


def test_names_that_are_no_text(place: Place) -> None:
    wanted = [b"\xff\xfe", b"a\nb", "\u00fc".encode(), b" ", b"n" * 255]
    for name in wanted:
        Path(os.fsdecode(os.fsencode(place.host) + b"/" + name)).touch()
    assert names(place.client.list(place.open())) == sorted([b".", b"..", *wanted])


def test_a_directory_that_is_gone(place: Place) -> None:
    (place / "d").mkdir()
    place.file("d/f")
    fid = place.open("d")
    (place / "d" / "f").unlink()
    (place / "d").rmdir()
    answer = place.client.ask(Treaddir(fid, 0, 8192))
    assert isinstance(answer, Rlerror) or b"f" not in names(place.client.readdir(fid))


def test_two_readers_do_not_disturb_each_other(many: Place) -> None:
    one, two = many.open(), many.open()
    found: dict[int, list[Entry]] = {one: [], two: []}
    ends: set[int] = set()
    while len(ends) < 2:
        for fid, count in ((one, 700), (two, 1900)):
            part = many.client.readdir(fid, found[fid][-1].offset if found[fid] else 0, count)
            found[fid] += part
            if not part:
                ends.add(fid)
    assert names(found[one]) == names(found[two]) == on_host(many)


def test_entries_are_of_the_right_kind(place: Place) -> None:
    (place / "d").mkdir()
    for entry in place.client.list(place.open()):
        st = os.lstat(os.fsencode(place.host) + b"/" + entry.name)
        assert entry.kind in (0, stat.S_IFMT(st.st_mode) >> 12)
