"""Tags and Tflush: flush(5). A flush is always answered with Rflush, and the old tag never after it."""

from __future__ import annotations

import pytest

from fusemap.p9.messages import Rflush, Rlerror, Rlock, Tflush, Tgetattr, Tlock, Tread, Tstatfs

from ..answers import Disconnected
from .numbers import LOCK_BLOCK, LOCK_SUCCESS, LOCK_UN, LOCK_WR, O_RDWR
from .place import Place


def waiting(place: Place) -> tuple[int, int]:
    """Two tags of requests that stay unanswered on the place's connection; skips where none is kept waiting."""
    place.file("f")
    other = place.connect()
    lock = Tlock(place.open("f", flags=O_RDWR, client=other), LOCK_WR, 0, 0, 0, 1, b"other")
    assert other.call(lock).status == LOCK_SUCCESS
    client = place.client
    tags = [client.send(Tlock(place.open("f", flags=O_RDWR), LOCK_WR, LOCK_BLOCK, 0, 0, n, b"one")) for n in (1, 2)]
    client.getattr(place.fid)
    if any(tag in tags for tag, _ in client.arrived):
        pytest.skip("the server answers a lock that is taken at once")
    return tags[0], tags[1]


@pytest.mark.parametrize("oldtag", [9999, 0xFFFF, 0])
def test_a_tag_that_nobody_used(place: Place, oldtag: int) -> None:
    assert place.client.call(Tflush(oldtag)) == Rflush()


def test_a_request_that_was_answered(place: Place) -> None:
    client = place.client
    tag = client.send(Tgetattr(place.fid, 0x7FF))
    client.wait(tag)
    assert client.call(Tflush(tag)) == Rflush()
    assert client.wait(client.send(Tgetattr(place.fid, 0x7FF), tag)).valid


def test_its_own_tag(place: Place) -> None:
    client = place.client
    answer = client.wait(client.send(Tflush(4321), 4321))
    assert isinstance(answer, (Rflush, Rlerror))
    client.getattr(place.fid)


def test_a_flush_of_a_flush(place: Place) -> None:
    client = place.client
    tags = [100, 101, 102, 103]
    for tag in tags:
        client.send(Tflush(tag - 1), tag)
    for tag in tags:
        assert client.wait(tag) == Rflush()


def test_the_old_tag_is_not_answered_after_the_flush(place: Place) -> None:
    place.file("f", bytes(60000))
    client = place.client
    fid = place.open("f")
    for _ in range(20):
        old = client.send_all([Tread(fid, 0, 60000), Tgetattr(place.fid, 0x3FFF), Tread(fid, 0, 60000), Tstatfs(fid)])
        flushes = client.send_all([Tflush(tag) for tag in old])
        for tag in flushes:
            assert client.wait(tag) == Rflush()
        order = [tag for tag, _ in client.arrived]
        for tag, flush in zip(old, flushes, strict=True):
            assert tag not in order or order.index(tag) < order.index(flush)
        client.getattr(place.fid)  # whatever came late would come before this
        client.arrived.clear()
        client._waiting.clear()
        client._used.clear()


def test_several_flushes_of_one_tag_are_answered_in_order(place: Place) -> None:
    client = place.client
    old, _ = waiting(place)
    flushes = client.send_all([Tflush(old) for _ in range(5)])
    assert client.wait(flushes[-1]) == Rflush()
    order = [tag for tag, _ in client.arrived if tag in flushes]
    assert order == flushes[-len(order) :] == sorted(order)  # the last may stand for all


def test_a_waiting_request_is_cancelled(place: Place) -> None:
    client = place.client
    old, second = waiting(place)
    assert client.call(Tflush(old)) == Rflush()
    order = [tag for tag, _ in client.arrived]
    assert old not in order or isinstance(dict(client.arrived)[old], Rlerror)
    assert second not in order
    client._used[old] = 0
    assert client.wait(client.send(Tgetattr(place.fid, 0x7FF), old)).valid  # the tag is free


def test_a_flush_of_a_flush_of_a_waiting_request(place: Place) -> None:
    client = place.client
    old, _ = waiting(place)
    first = client.send(Tflush(old))
    second = client.send(Tflush(first))
    assert client.wait(second) == Rflush()
    client.getattr(place.fid)


def test_a_tag_in_use_is_refused(place: Place) -> None:
    client = place.client
    old, _ = waiting(place)
    client.send(Tgetattr(place.fid, 0x7FF), old)
    try:
        assert isinstance(client.wait(old), Rlerror)
    except Disconnected:
        return
    client.getattr(place.fid)


def test_others_are_answered_while_one_waits(place: Place) -> None:
    waiting(place)
    tags = place.client.send_all([Tgetattr(place.fid, 0x7FF)] * 50)
    assert all(place.client.wait(tag).valid for tag in tags)


def test_clunking_a_fid_with_a_waiting_request(place: Place) -> None:
    place.file("f")
    other = place.connect()
    lock = Tlock(place.open("f", flags=O_RDWR, client=other), LOCK_WR, 0, 0, 0, 1, b"other")
    assert other.call(lock).status == LOCK_SUCCESS
    client = place.client
    fid = place.open("f", flags=O_RDWR)
    tag = client.send(Tlock(fid, LOCK_WR, LOCK_BLOCK, 0, 0, 1, b"one"))
    client.clunk(fid)
    other.call(lock._replace(type=LOCK_UN))
    answer = client.wait(tag)  # it must not stay unanswered for ever
    assert isinstance(answer, (Rlerror, Rlock))
    assert other.call(lock).status == LOCK_SUCCESS, "a lock by a fid that is gone is held"


def test_five_hundred_requests_at_once_are_each_answered_once(place: Place) -> None:
    client = place.client
    tags = client.send_all([Tgetattr(place.fid, 0x3FFF), Tstatfs(place.fid)] * 250)
    answers = [client.wait(tag) for tag in tags]
    assert {type(answer).__name__ for answer in answers[::2]} == {"Rgetattr"}
    assert {type(answer).__name__ for answer in answers[1::2]} == {"Rstatfs"}
    assert len(client.arrived) == len({tag for tag, _ in client.arrived[-500:]}) + len(client.arrived) - 500
    client.getattr(place.fid)


def test_any_tag_will_do(place: Place) -> None:
    for tag in (0, 1, 0x7FFF, 0x8000, 0xFFFE):
        assert place.client.wait(place.client.send(Tgetattr(place.fid, 0x7FF), tag)).valid
