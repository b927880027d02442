"""Files that were opened and have lost their name, or got another one: a fid is a file and not a name.

Linux's client renames nothing of its own accord (as NFS does), so an open file without a name lives by its fid alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from fusemap.p9.messages import Tfsync, Tgetattr, Tlock, Tremove, Trename, Tsetattr, Tunlinkat

from .numbers import LOCK_SUCCESS, LOCK_WR, O_RDWR, SET_MODE, SET_MTIME, SET_MTIME_SET, SET_SIZE
from .place import Place

WAYS: dict[str, Callable[[Place], object]] = {
    "unlinkat": lambda place: place.supported(Tunlinkat(place.fid, b"f", 0)),
    "remove": lambda place: place.client.call(Tremove(place.walk("f"))),
    "host": lambda place: os.unlink(place / "f"),
    "renamed-over": lambda place: place.client.call(Trename(place.walk("g"), place.fid, b"f")),
}


@pytest.fixture(params=WAYS)
def gone(place: Place, request: pytest.FixtureRequest) -> tuple[Place, int]:
    """An open file that has no name any more."""
    place.file("f", b"content")
    place.file("g", b"another")
    fid = place.open("f", flags=O_RDWR)
    WAYS[request.param](place)
    return place, fid


def test_it_is_read_and_written(gone: tuple[Place, int]) -> None:
    place, fid = gone
    assert place.client.read(fid) == b"content"
    assert place.client.write(fid, b"CON") == 3
    assert place.client.read(fid) == b"CONtent"
    place.client.call(Tfsync(fid, 0))


def test_its_attributes(gone: tuple[Place, int]) -> None:
    place, fid = gone
    told = place.client.getattr(fid)
    assert (told.nlink, told.size) == (0, 7)


def test_its_attributes_are_set(gone: tuple[Place, int]) -> None:
    place, fid = gone
    for valid in (SET_SIZE, SET_MODE, SET_MTIME | SET_MTIME_SET):
        place.client.call(Tsetattr(fid, valid, 0o600, 0, 0, 3, 0, 0, 5, 6))
    told = place.client.getattr(fid)
    assert (told.size, told.mode & 0o7777, told.mtime_s, told.mtime_ns) == (3, 0o600, 5, 6)
    assert place.client.read(fid) == b"con"


def test_it_is_locked(gone: tuple[Place, int]) -> None:
    place, fid = gone
    assert place.client.call(Tlock(fid, LOCK_WR, 0, 0, 0, 1, b"client")).status == LOCK_SUCCESS


def test_its_end_is_quiet(gone: tuple[Place, int]) -> None:
    place, fid = gone
    place.client.clunk(fid)
    place.client.fails(Tgetattr(fid, 0x7FF))


def test_another_file_by_that_name_is_another(gone: tuple[Place, int]) -> None:
    place, fid = gone
    place.file("f", b"new")
    assert place.client.read(fid) == b"content"
    place.client.write(fid, b"old")
    assert (place / "f").read_bytes() == b"new"
    place.client.call(Tsetattr(fid, SET_SIZE | SET_MODE, 0o600, 0, 0, 1, 0, 0, 0, 0))
    assert (place / "f").read_bytes() == b"new"


@pytest.mark.parametrize("way", ["rename", "host"])
def test_a_renamed_open_file(place: Place, way: str) -> None:
    place.file("f", b"content")
    fid = place.open("f", flags=O_RDWR)
    if way == "host":
        os.rename(place / "f", place / "g")
    else:
        place.client.call(Trename(place.walk("f"), place.fid, b"g"))
    place.file("f", b"another")
    assert place.client.read(fid) == b"content"
    place.client.write(fid, b"CON")
    place.client.call(Tsetattr(fid, SET_MODE, 0o600, 0, 0, 0, 0, 0, 0, 0))
    assert (place / "g").read_bytes() == b"CONtent"
    assert (place / "g").stat().st_mode & 0o7777 == 0o600
    assert place.client.getattr(fid).nlink == 1


@pytest.mark.parametrize("way", ["rename", "host"])
def test_a_renamed_file_that_is_not_open(place: Place, way: str) -> None:
    place.file("f", b"content")
    fid = place.walk("f")
    if way == "host":
        os.rename(place / "f", place / "g")
    else:
        place.client.call(Trename(place.walk("f"), place.fid, b"g"))
    place.file("f", b"another")
    assert place.client.getattr(fid).size == 7
    place.client.call(Tsetattr(fid, SET_SIZE, 0, 0, 0, 3, 0, 0, 0, 0))
    assert (place / "g").read_bytes() == b"con"
    assert (place / "f").read_bytes() == b"another"


def test_an_open_directory_that_was_renamed(place: Place) -> None:
    (place / "d").mkdir()
    place.file("d/x")
    fid = place.open("d")
    os.rename(place / "d", place / "e")
    place.file("e/y")
    assert {entry.name for entry in place.client.list(fid)} == {b".", b"..", b"x", b"y"}
