"""Tlock and Tgetlock: byte ranges, between connections, owners, and processes of the host.

diod's protocol notes describe them after fcntl(2): an owner is a client's name and a process id; a lock that is taken
is answered BLOCKED, but a server may let a request with the flag BLOCK wait. Linux's client, told BLOCKED, tries again
only every thirty seconds, so waiting is what one wants.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any

import pytest

from fusemap.p9.messages import Rlerror, Tclunk, Tflush, Tgetattr, Tgetlock, Tlock

from ..client import Client
from .numbers import (
    LOCK_BLOCK,
    LOCK_BLOCKED,
    LOCK_ERROR,
    LOCK_RD,
    LOCK_SUCCESS,
    LOCK_UN,
    LOCK_WR,
    O_RDWR,
)
from .place import Place


class Owner:
    """A process of a client that has opened the file "f"."""

    def __init__(self, place: Place, client: Client, process: int, name: bytes = b"client") -> None:
        self.place, self.client, self.process, self.name = place, client, process, name
        self.fid = place.open("f", flags=O_RDWR, client=client)

    def message(self, kind: int, start: int = 0, length: int = 0, flags: int = 0) -> Tlock:
        return Tlock(self.fid, kind, flags, start, length, self.process, self.name)

    def lock(self, kind: int, start: int = 0, length: int = 0, flags: int = 0) -> int:
        """The status that the server answers; an error answer counts as ERROR."""
        answer = self.client.ask(self.message(kind, start, length, flags))
        return LOCK_ERROR if isinstance(answer, Rlerror) else answer.status

    def ask(self, kind: int, start: int = 0, length: int = 0) -> Any:
        """Rgetlock."""
        return self.client.call(Tgetlock(self.fid, kind, start, length, self.process, self.name))

    def waits(self, kind: int = LOCK_WR, start: int = 0, length: int = 0) -> int:
        """Asks for a lock that is taken, to wait for it; the tag. Fails when it is answered at once."""
        tag = self.client.send(self.message(kind, start, length, LOCK_BLOCK))
        self.client.getattr(self.fid)
        assert tag not in [arrived for arrived, _ in self.client.arrived], "answered at once"
        return tag


@pytest.fixture
def one(place: Place) -> Owner:
    """Process 1 of the first connection."""
    place.file("f", bytes(1000))
    return Owner(place, place.client, 1, b"one")


@pytest.fixture
def two(place: Place, one: Owner) -> Owner:
    """Process 1 of a second connection."""
    return Owner(place, place.connect(), 1, b"two")


@pytest.mark.parametrize("flags", [0, LOCK_BLOCK, 2, 3])
@pytest.mark.parametrize("kind", [LOCK_RD, LOCK_WR])
def test_a_free_lock_is_given_at_once(one: Owner, kind: int, flags: int) -> None:
    assert one.lock(kind, 0, 0, flags) == LOCK_SUCCESS
    assert one.lock(kind, 0, 0, flags) == LOCK_SUCCESS  # and to its owner again
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert one.lock(LOCK_UN) == LOCK_SUCCESS


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (LOCK_WR, LOCK_WR, LOCK_BLOCKED),
        (LOCK_WR, LOCK_RD, LOCK_BLOCKED),
        (LOCK_RD, LOCK_WR, LOCK_BLOCKED),
        (LOCK_RD, LOCK_RD, LOCK_SUCCESS),
    ],
    ids=["write-write", "write-read", "read-write", "read-read"],
)
def test_two_connections(one: Owner, two: Owner, first: int, second: int, status: int) -> None:
    assert one.lock(first) == LOCK_SUCCESS
    assert two.lock(second) == status
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert two.lock(second) == LOCK_SUCCESS


def test_ranges_that_do_not_meet(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR, 0, 100) == LOCK_SUCCESS
    assert two.lock(LOCK_WR, 100, 100) == LOCK_SUCCESS
    assert one.lock(LOCK_WR, 200, 0) == LOCK_SUCCESS
    assert two.lock(LOCK_WR, 99, 1) == LOCK_BLOCKED
    assert two.lock(LOCK_WR, 1 << 40, 1) == LOCK_BLOCKED
    assert one.lock(LOCK_RD, 150, 10) == LOCK_BLOCKED


def test_a_part_is_given_back(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR, 0, 100) == LOCK_SUCCESS
    assert one.lock(LOCK_UN, 40, 20) == LOCK_SUCCESS
    assert two.lock(LOCK_WR, 40, 20) == LOCK_SUCCESS
    assert two.lock(LOCK_WR, 39, 1) == LOCK_BLOCKED
    assert two.lock(LOCK_WR, 60, 1) == LOCK_BLOCKED


def test_a_lock_is_changed_by_its_owner(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    assert one.lock(LOCK_RD) == LOCK_SUCCESS
    assert two.lock(LOCK_RD) == LOCK_SUCCESS
    assert one.lock(LOCK_WR) == LOCK_BLOCKED
    assert two.lock(LOCK_UN) == LOCK_SUCCESS
    assert one.lock(LOCK_WR) == LOCK_SUCCESS


def test_two_processes_of_a_client(place: Place, one: Owner) -> None:
    other = Owner(place, place.client, 2, b"one")
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    assert other.lock(LOCK_WR) == LOCK_BLOCKED
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert other.lock(LOCK_WR) == LOCK_SUCCESS


def test_two_processes_through_one_fid(place: Place, one: Owner) -> None:
    """A descriptor that was inherited: Linux has one fid for it, and the locks are the processes'."""
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    answer = place.client.call(one.message(LOCK_WR)._replace(proc_id=2))
    assert answer.status == LOCK_BLOCKED


def test_one_process_through_two_fids(place: Place, one: Owner) -> None:
    other = Owner(place, place.client, 1, b"one")
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    assert other.lock(LOCK_WR) == LOCK_SUCCESS


def test_getlock_of_what_is_free(one: Owner) -> None:
    for kind in (LOCK_RD, LOCK_WR):
        assert one.ask(kind).type == LOCK_UN


def test_getlock_tells_who_has_it(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR, 10, 20) == LOCK_SUCCESS
    told = two.ask(LOCK_WR)
    assert told[:] == (LOCK_WR, 10, 20, 1, b"one")
    assert two.ask(LOCK_RD, 29, 1)[:] == (LOCK_WR, 10, 20, 1, b"one")
    assert two.ask(LOCK_WR, 30, 0).type == LOCK_UN
    assert one.ask(LOCK_WR).type == LOCK_UN  # one's own lock is none


def test_getlock_of_a_lock_to_the_end(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_RD, 10, 0) == LOCK_SUCCESS
    assert two.ask(LOCK_WR, 500, 1)[:] == (LOCK_RD, 10, 0, 1, b"one")
    assert two.ask(LOCK_RD).type == LOCK_UN


def test_a_clunk_gives_the_lock_back(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    assert two.lock(LOCK_WR) == LOCK_BLOCKED
    one.client.call(Tclunk(one.fid))
    assert two.lock(LOCK_WR) == LOCK_SUCCESS


def test_the_end_of_a_connection_gives_the_lock_back(one: Owner, two: Owner) -> None:
    assert two.lock(LOCK_WR) == LOCK_SUCCESS
    tag = one.waits()
    two.client.close()
    assert one.client.wait(tag).status == LOCK_SUCCESS


def test_a_new_version_gives_the_lock_back(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    one.client.negotiate(b"9P2000.L")
    assert two.lock(LOCK_WR) == LOCK_SUCCESS


def test_waiting_is_answered_when_it_is_free(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    tag = two.waits()
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert two.client.wait(tag).status == LOCK_SUCCESS
    assert one.lock(LOCK_WR) == LOCK_BLOCKED


def test_waiting_for_a_clunk(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    tag = two.waits()
    one.client.clunk(one.fid)
    assert two.client.wait(tag).status == LOCK_SUCCESS


def test_many_wait(place: Place, one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    waiting = [Owner(place, two.client, 10 + n, b"two") for n in range(12)]
    tags = [owner.waits() for owner in waiting]
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    left = set(tags)
    while left:  # whoever gets it hands it on
        tag, answer = two.client.receive()
        assert answer.status == LOCK_SUCCESS
        left.remove(tag)
        assert two.client.call(waiting[tags.index(tag)].message(LOCK_UN)).status == LOCK_SUCCESS


def test_a_flush_ends_the_waiting(place: Place, one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    tag = two.waits()
    two.client.call(Tflush(tag))
    answers = dict(two.client.arrived)
    assert tag not in answers or isinstance(answers[tag], Rlerror)
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert Owner(place, place.client, 3, b"three").lock(LOCK_WR) == LOCK_SUCCESS


def test_the_end_of_a_connection_ends_the_waiting(place: Place, one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    two.waits()
    two.client.close()
    third = Owner(place, place.connect(), 3, b"three")
    tag = third.waits()
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert third.client.wait(tag).status == LOCK_SUCCESS


def test_others_are_served_while_one_waits(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    tag = two.waits()
    for _ in range(20):
        assert two.client.getattr(two.fid).size == 1000
        assert two.client.read(two.fid, 0, 10) == bytes(10)
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
    assert two.client.wait(tag).status == LOCK_SUCCESS


def test_a_process_of_the_host_has_the_lock(place: Place, one: Owner) -> None:
    with open(place / "f", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
        assert one.lock(LOCK_WR) == LOCK_BLOCKED
        assert one.lock(LOCK_WR, 15, 10) == LOCK_SUCCESS
        told = one.ask(LOCK_WR, 0, 15)
        assert (told.type, told.start, told.length) == (LOCK_WR, 5, 10)
        tag = one.waits(LOCK_WR, 0, 10)
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert one.client.wait(tag).status == LOCK_SUCCESS


def test_a_process_of_the_host_is_kept_out(place: Place, one: Owner) -> None:
    assert one.lock(LOCK_WR, 0, 10) == LOCK_SUCCESS
    with open(place / "f", "r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert one.lock(LOCK_UN) == LOCK_SUCCESS
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("kind", "start", "length"),
    [(3, 0, 0), (255, 0, 0), (LOCK_WR, 1 << 63, 1), (LOCK_WR, (1 << 63) - 1, 2), (LOCK_WR, 0, (1 << 64) - 1)],
    ids=["kind-3", "kind-255", "start", "end", "length"],
)
def test_what_is_no_lock(one: Owner, two: Owner, kind: int, start: int, length: int) -> None:
    answer = one.client.ask(one.message(kind, start, length))
    assert isinstance(answer, Rlerror) or answer.status == LOCK_ERROR
    assert two.lock(LOCK_WR) == LOCK_SUCCESS


def test_the_largest_ranges(one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR, (1 << 63) - 2, 1) == LOCK_SUCCESS
    assert two.lock(LOCK_WR, 0, (1 << 63) - 2) == LOCK_SUCCESS
    assert two.lock(LOCK_WR, (1 << 63) - 2, 0) == LOCK_BLOCKED


def test_what_is_not_open_is_not_locked(place: Place, one: Owner) -> None:
    fid = place.walk("f")
    answer = place.client.ask(Tlock(fid, LOCK_WR, 0, 0, 0, 9, b"nine"))
    assert isinstance(answer, Rlerror) or answer.status == LOCK_ERROR
    assert one.lock(LOCK_WR) == LOCK_SUCCESS


def test_any_client_name(place: Place, one: Owner) -> None:
    for name in (b"", b"\xff\xfe", b"n" * 1000):
        owner = Owner(place, place.client, 7, name)
        assert owner.lock(LOCK_WR) == LOCK_SUCCESS
        assert one.ask(LOCK_WR)[3:] == (7, name)
        assert owner.lock(LOCK_UN) == LOCK_SUCCESS


def test_a_lock_outlives_the_name(place: Place, one: Owner, two: Owner) -> None:
    assert one.lock(LOCK_WR) == LOCK_SUCCESS
    os.unlink(place / "f")
    assert two.lock(LOCK_WR) == LOCK_BLOCKED
    one.client.call(Tgetattr(one.fid, 0x7FF))
    assert one.lock(LOCK_UN) == LOCK_SUCCESS
