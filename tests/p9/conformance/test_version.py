"""Tversion: which dialect is spoken, how long a message may be, and that it begins a session anew.

version(5): the server answers the version it was asked for, or an older one, or "unknown", and never a larger msize.
"""

from __future__ import annotations

import contextlib
import os

import pytest

from fusemap.p9.messages import NOFID, NOTAG, Rlerror, Rversion, Tattach, Tflush, Tgetattr, Tlock, Tread, Tversion
from fusemap.p9.wire import Dialect

from ..answers import Disconnected, Wrong
from .numbers import LOCK_BLOCK, LOCK_UN, LOCK_WR, O_RDWR
from .place import Place


@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value.decode())
def test_every_dialect_is_spoken_or_declined(place: Place, dialect: Dialect) -> None:
    answer = place.bare().negotiate(dialect.value)
    lawful = {dialect.value, b"9P2000", b"unknown"}
    assert answer.version in ({dialect.value} if place.target.ours else lawful)


UNKNOWN = {
    "other": b"8P1234", "empty": b"", "unknown": b"unknown", "http": b"HTTP/1.1",
    "no-text": b"\xff\xfe", "lower-case": b"9p2000.l", "long": b"9P" * 2000,
}  # fmt: skip


@pytest.mark.parametrize("form", UNKNOWN)
def test_an_unknown_version_is_answered_with_unknown(place: Place, form: str) -> None:
    version = UNKNOWN[form]
    client = place.bare()
    assert client.negotiate(version).version == b"unknown"
    assert client.negotiate(place.dialect.value).version == place.dialect.value  # and may be followed by a better one


@pytest.mark.parametrize("version", [b"9P2000.X", b"9P2000.L9", b"9P2000.", b"9P2001"])
def test_a_version_with_an_unknown_end_is_9p2000_at_most(place: Place, version: bytes) -> None:
    assert place.bare().negotiate(version).version in (b"9P2000", b"unknown")


@pytest.mark.parametrize("msize", [4096, 8192, 65536, 131072, 1 << 20, 1 << 31, 0xFFFFFFFF])
def test_msize_is_what_was_asked_or_less(place: Place, msize: int) -> None:
    answer = place.bare().negotiate(place.dialect.value, msize)
    assert answer.version == place.dialect.value
    assert 4096 <= answer.msize <= msize  # Linux gives up below 4096


@pytest.mark.parametrize("msize", [0, 1, 7, 23, 24, 100, 255])
def test_a_tiny_msize_is_not_answered_with_a_larger_one(place: Place, msize: int) -> None:
    client = place.bare()
    tag = client.send(Tversion(msize, place.dialect.value), NOTAG)
    try:
        answer = client.wait(tag)
    except Disconnected:
        return
    assert isinstance(answer, Rlerror) or answer.version == b"unknown" or answer.msize <= msize
    assert not isinstance(answer, Rversion) or answer.msize <= msize


def test_no_answer_is_longer_than_the_msize(place: Place) -> None:
    place.file("f", bytes(100_000))
    client = place.connect(4096)
    fid = place.open("f", client=client)
    for count in (4096 - 24, 4096 - 11, 4096, 100_000, 0xFFFFFFFF):
        answer = client.ask(Tread(fid, 0, count))  # the client looks at the length of every frame
        assert isinstance(answer, Rlerror) or 0 < len(answer.data) <= 4096 - 11


def test_again_in_mid_session_gives_all_fids_back(place: Place) -> None:
    client = place.client
    fids = [client.root, place.fid, place.walk()]
    client.negotiate(place.dialect.value)
    for fid in fids:
        client.fails(Tgetattr(fid, 0x7FF))
    root = client.root
    client.root = NOFID
    client.call(Tattach(root, NOFID, b"root", b"" if place.target.ours else os.fsencode(place.target.export), 0))
    assert client.getattr(root).mode >> 12 == 4


def test_again_in_mid_session_may_change_the_msize(place: Place) -> None:
    assert place.client.negotiate(place.dialect.value, 8192).msize <= 8192
    fid = place.target.attach(place.client)
    assert place.client.getattr(fid).mode >> 12 == 4


def test_again_in_mid_session_ends_what_is_under_way(place: Place) -> None:
    place.file("f")
    other = place.connect()
    held = place.open("f", flags=O_RDWR, client=other)
    lock = Tlock(held, LOCK_WR, 0, 0, 0, 1, b"other")
    assert other.call(lock).status == 0
    fid = place.open("f", flags=O_RDWR)
    client = place.client
    waiting = client.send(Tlock(fid, LOCK_WR, LOCK_BLOCK, 0, 0, 1, b"one"))
    client.negotiate(place.dialect.value)
    other.call(lock._replace(type=LOCK_UN))
    fid = place.target.attach(client)
    client.getattr(fid)  # the client takes no answer for a tag from before
    assert waiting not in [tag for tag, _ in client.arrived[-2:]]
    assert other.call(lock).status == 0, "the lock of an ended session is held"


def test_nothing_is_served_before_a_version_is_agreed(place: Place) -> None:
    place.bare().refuses(Tattach(1, NOFID, b"root", b"", 0))


def test_nothing_is_served_after_an_unknown_version(place: Place) -> None:
    client = place.connect()
    root = client.root
    assert client.negotiate(b"8P1234").version == b"unknown"
    client.refuses(Tgetattr(root, 0x7FF))


def test_a_version_with_an_ordinary_tag_is_answered_or_refused(place: Place) -> None:
    client = place.bare()
    with contextlib.suppress(Disconnected):
        client.wait(client.send(Tversion(65536, place.dialect.value), 5))


def test_a_flush_before_the_version_is_answered_or_refused(place: Place) -> None:
    client = place.bare()
    with contextlib.suppress(Disconnected, Wrong):
        client.wait(client.send(Tflush(7)))
