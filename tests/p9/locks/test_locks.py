"""What is locked for whom, what is refused, who is named, when locks go, and how many there may be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusemap.p9 import locks as module
from fusemap.p9.locks import BLOCKED, ERROR, FLAGS_BLOCK, FLAGS_RECLAIM, RDLCK, SUCCESS, UNLCK, WRLCK, Locks
from fusemap.p9.messages import Rgetlock

from ...support.trees import descriptors
from .support import HOST, LAST, HostProcess, Session

# Conflicts ----------------------------------------------------------------------------------------------------------


def test_a_range_is_locked_for_other_sessions_only_where_it_overlaps(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(WRLCK, 10, 10) == SUCCESS
    assert two.lock(WRLCK, 19, 1) == BLOCKED
    assert two.lock(RDLCK, 0, 11) == BLOCKED
    assert two.lock(WRLCK, 0, 10) == SUCCESS
    assert two.lock(WRLCK, 20) == SUCCESS
    assert one.lock(UNLCK, 10, 10) == SUCCESS
    assert two.lock(WRLCK, 10, 10) == SUCCESS


def test_read_locks_are_shared(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(RDLCK) == two.lock(RDLCK) == SUCCESS
    assert one.lock(WRLCK) == BLOCKED
    assert two.lock(UNLCK) == SUCCESS
    assert one.lock(WRLCK) == SUCCESS


@pytest.mark.parametrize("other", [{"process": 2}, {"client": b"other"}])
def test_processes_of_one_session_are_owners_of_their_own(locks: Locks, path: Path, other: dict[str, int]) -> None:
    one = Session(locks, path, "one")
    assert one.lock(WRLCK) == SUCCESS
    assert one.lock(WRLCK, **other) == BLOCKED


def test_the_same_process_and_client_of_two_sessions_are_two_owners(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(WRLCK, client=b"same") == SUCCESS  # type: ignore[arg-type]
    assert two.lock(WRLCK, client=b"same") == BLOCKED  # type: ignore[arg-type]


def test_a_process_does_not_stand_in_its_own_way_with_two_fids(locks: Locks, path: Path) -> None:
    one = Session(locks, path, "one")
    assert one.lock(WRLCK, fid=1) == SUCCESS
    assert one.lock(WRLCK, fid=2) == SUCCESS
    assert one.lock(RDLCK, fid=2) == SUCCESS
    assert one.opened == 1, "one owner, one descriptor"


def test_files_are_apart(locks: Locks, path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    assert Session(locks, path, "one").lock(WRLCK) == SUCCESS
    assert Session(locks, other, "two").lock(WRLCK) == SUCCESS


def test_a_classic_lock_of_the_host_blocks_ours(locks: Locks, path: Path, host: HostProcess) -> None:
    one = Session(locks, path, "one")
    assert host("w", 100, 50)
    assert one.lock(RDLCK, 149, 1) == BLOCKED
    assert one.lock(WRLCK, 150, 1) == SUCCESS
    assert host("u", 100, 50)
    assert one.lock(RDLCK, 149, 1) == SUCCESS


def test_ours_blocks_a_classic_lock_of_the_host(locks: Locks, path: Path, host: HostProcess) -> None:
    one = Session(locks, path, "one")
    assert one.lock(RDLCK, 5, 5) == SUCCESS
    assert not host("w", 9, 1)
    assert host("r", 9, 1)
    assert host("u")
    assert one.lock(UNLCK) == SUCCESS
    assert host("w")


def test_closing_another_descriptor_of_the_file_keeps_the_locks(locks: Locks, path: Path, host: HostProcess) -> None:
    one = Session(locks, path, "one")
    assert one.lock(WRLCK) == SUCCESS
    os.close(os.open(path, os.O_RDWR))
    assert not host("w")


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "length", "good"),
    [
        (LAST, 1, True),
        (LAST, 0, True),
        (LAST, 2, False),
        (LAST + 1, 0, False),
        (LAST + 1, 1, False),
        (0, LAST + 1, True),
        (1, LAST, True),
        (1, LAST + 1, False),
        (0, LAST + 2, False),
        ((1 << 64) - 1, (1 << 64) - 1, False),
        (0, (1 << 64) - 1, False),
    ],
)
def test_ranges_end_at_the_largest_offset(locks: Locks, path: Path, start: int, length: int, good: bool) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    if good:
        assert one.lock(WRLCK, start, length) == SUCCESS
        assert two.test(WRLCK) == Rgetlock(WRLCK, start, 0, 1, b"one"), "all of these reach the end"
        assert one.lock(UNLCK, start, length) == SUCCESS
        assert one.opened == 1
        assert two.lock(WRLCK) == SUCCESS
    else:
        for ask in (one.lock, one.test):
            with pytest.raises(OSError, match="Invalid") as caught:
                ask(WRLCK, start, length)
            assert caught.value.errno == errno.EINVAL


def test_length_0_reaches_every_later_byte(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(WRLCK, 100, 0) == SUCCESS
    assert two.lock(WRLCK, LAST, 1) == BLOCKED
    assert one.lock(UNLCK, 200, 10) == SUCCESS
    assert two.test(WRLCK, 205, 0) == Rgetlock(WRLCK, 210, 0, 1, b"one")
    assert two.test(WRLCK, 150, 0) == Rgetlock(WRLCK, 100, 100, 1, b"one")


@pytest.mark.parametrize("kind", [3, 255])
def test_unknown_types_are_invalid(locks: Locks, path: Path, kind: int) -> None:
    one = Session(locks, path, "one")
    for ask in (one.lock, one.test):
        with pytest.raises(OSError) as caught:
            ask(kind)
        assert caught.value.errno == errno.EINVAL


def test_other_nonsense_is_invalid(locks: Locks, path: Path) -> None:
    one = Session(locks, path, "one")
    for nonsense in (
        lambda: one.test(3),
        lambda: one.lock(WRLCK, flags=4),
        lambda: one.ask(WRLCK, client=b"c" * (module.MAX_CLIENT_ID + 1)),
    ):
        with pytest.raises(OSError) as caught:
            nonsense()
        assert caught.value.errno == errno.EINVAL
    assert not one.opened


def test_the_fid_must_be_open_for_what_is_locked(locks: Locks, path: Path) -> None:
    one = Session(locks, path, "one")
    for kind, readable, writable in ((RDLCK, False, True), (WRLCK, True, False)):
        with pytest.raises(OSError) as caught:
            one.ask(kind, readable=readable, writable=writable)
        assert caught.value.errno == errno.EBADF
    assert one.ask(RDLCK, readable=True, writable=False) == SUCCESS
    assert one.ask(UNLCK, readable=False, writable=False) == SUCCESS


def test_linux_asks_about_any_lock(locks: Locks, path: Path) -> None:
    """By type UNLCK; and what it hears is what F_GETLK says, which programs like sqlite cannot do without."""
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.test(UNLCK, 0, 7) == Rgetlock(UNLCK, 0, 7, 1, b"one")
    for kind in (RDLCK, WRLCK):
        assert two.lock(kind, 10, 5, process=9) == SUCCESS
        assert one.test(UNLCK) == Rgetlock(kind, 10, 5, 9, b"two")
        assert two.test(UNLCK, process=9).type == UNLCK, "nobody is in his own way"


def test_reclaiming_is_asking(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(WRLCK, flags=FLAGS_RECLAIM) == SUCCESS
    assert two.lock(WRLCK, flags=FLAGS_RECLAIM) == BLOCKED


def test_an_error_of_opening_leaves_nothing(locks: Locks, path: Path) -> None:
    one = Session(locks, path, "one")
    one.path = path.with_name("missing")
    with pytest.raises(FileNotFoundError):
        one.lock(WRLCK)
    assert not locks._owners.sessions()


def test_a_read_only_descriptor_is_replaced_for_a_write_lock(locks: Locks, path: Path, host: HostProcess) -> None:
    one = Session(locks, path, "one", os.O_RDONLY)
    assert one.lock(RDLCK, 0, 10) == SUCCESS
    with pytest.raises(OSError) as caught:
        one.lock(WRLCK, 20, 10)
    assert caught.value.errno == errno.EBADF
    one.mode = os.O_RDWR
    assert one.lock(WRLCK, 20, 10) == SUCCESS
    assert not host("w", 0, 1), "the old locks came along"
    assert host("w", 10, 10)


# Tgetlock -----------------------------------------------------------------------------------------------------------


def test_a_lock_that_could_be_had_is_answered_as_asked(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(RDLCK, 5, 5) == SUCCESS
    assert two.test(RDLCK, 0, 7, process=9) == Rgetlock(UNLCK, 0, 7, 9, b"two")
    assert one.test(WRLCK, 0, 7) == Rgetlock(UNLCK, 0, 7, 1, b"one"), "nobody is in his own way"
    assert not locks._owners.client("two"), "asking leaves nothing"


def test_who_is_in_the_way_is_named(locks: Locks, path: Path, host: HostProcess) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(WRLCK, 50, 10, process=7) == SUCCESS
    assert host("r", 20, 10)
    assert two.test(WRLCK, 30, 0) == Rgetlock(WRLCK, 50, 10, 7, b"one")
    assert two.test(RDLCK, 0, 0) == Rgetlock(WRLCK, 50, 10, 7, b"one")
    assert two.test(WRLCK, 0, 0) == Rgetlock(RDLCK, 20, 10, host.pid, HOST)
    assert one.test(WRLCK, 0, 0, process=7) == Rgetlock(RDLCK, 20, 10, host.pid, HOST)
    assert one.test(WRLCK, 0, 0, process=8) == Rgetlock(RDLCK, 20, 10, host.pid, HOST)
    assert one.test(RDLCK, 0, 0, process=8) == Rgetlock(WRLCK, 50, 10, 7, b"one")


def test_the_lock_that_begins_first_is_named_whatever_the_order_they_came(locks: Locks, path: Path) -> None:
    sessions = [Session(locks, path, f"{n}") for n in range(8)]
    for n in (3, 5, 7, 1, 2, 6, 4):
        assert sessions[n].lock(WRLCK, 10 * n, 5) == SUCCESS
    for n in range(1, 8):
        assert sessions[0].test(RDLCK, 10 * n - 5, 0) == Rgetlock(WRLCK, 10 * n, 5, 1, f"{n}".encode())


def test_of_several_who_share_a_range_one_is_named_with_what_he_has(locks: Locks, path: Path) -> None:
    """Whom the kernel names, has the very range that is told, and is never the one who asks."""
    sessions = [Session(locks, path, f"{n}") for n in range(12)]
    held = {}
    for n, session in enumerate(sessions):
        held[session.name.encode()] = (n % 4, 100 - n % 3)
        assert session.lock(RDLCK, *held[session.name.encode()]) == SUCCESS
    for session in sessions:
        answer = session.test(WRLCK, 10, 5)
        assert answer.type == RDLCK
        assert held[answer.client_id] == (answer.start, answer.length)
        assert answer.client_id != session.name.encode()


def test_of_two_with_the_same_range_the_other_is_named(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(RDLCK, 0, 10) == two.lock(RDLCK, 0, 10) == SUCCESS
    assert one.test(WRLCK, 5, 1).client_id == b"two"
    assert two.test(WRLCK, 5, 1).client_id == b"one"


def test_an_open_file_description_lock_of_the_host_has_no_process(locks: Locks, path: Path) -> None:
    one, foreign = Session(locks, path, "one"), Locks()
    try:
        assert Session(foreign, path, "elsewhere").lock(WRLCK, 1, 1) == SUCCESS
        assert one.test(WRLCK) == Rgetlock(WRLCK, 1, 1, 0, HOST)
    finally:
        foreign.close()


# Giving up locks ----------------------------------------------------------------------------------------------------


def test_a_clunk_gives_up_what_was_locked_through_that_fid_alone(locks: Locks, path: Path) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert one.lock(WRLCK, 0, 1, fid=1) == SUCCESS
    assert one.lock(WRLCK, 1, 1, fid=1, process=2) == SUCCESS
    assert one.lock(WRLCK, 2, 1, fid=2, process=2) == SUCCESS
    one.clunk(3)
    assert two.lock(WRLCK, 0, 1) == BLOCKED
    one.clunk(1)
    assert two.lock(WRLCK, 0, 1) == SUCCESS
    assert two.lock(WRLCK, 1, 1) == BLOCKED, "process 2 has it through fid 2 too"
    one.clunk(2)
    assert two.lock(WRLCK, 1, 2) == SUCCESS


def test_a_session_that_ends_gives_up_everything(locks: Locks, path: Path, host: HostProcess) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    for process in range(10):
        assert one.lock(RDLCK, process, 5, process=process, fid=process) == SUCCESS
    assert two.lock(RDLCK, 100, 1) == SUCCESS
    one.leave()
    assert host("w", 0, 100)
    assert not host("w", 100, 1)
    one.leave()
    one.clunk()


def test_an_unlock_of_the_last_range_closes_the_descriptor(locks: Locks, path: Path) -> None:
    one, before = Session(locks, path, "one"), descriptors()
    assert one.lock(WRLCK, 0, 10) == SUCCESS
    assert one.lock(UNLCK, 0, 5) == SUCCESS
    assert len(descriptors() - before) == 1
    assert one.lock(UNLCK, 5, 5) == SUCCESS
    assert descriptors() == before
    assert one.lock(UNLCK) == SUCCESS, "of an owner that has nothing"
    assert one.opened == 1


def test_what_is_blocked_keeps_no_descriptor(locks: Locks, path: Path, host: HostProcess) -> None:
    assert host("w")
    before = descriptors()
    assert Session(locks, path, "one").lock(RDLCK) == BLOCKED
    assert descriptors() == before


# Limits -------------------------------------------------------------------------------------------------------------


def test_no_more_wait_than_may(locks: Locks, path: Path, host: HostProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_OF_ONE", 3)
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert host("w")
    waiting = [one.wait(WRLCK, process=n) for n in range(3)]
    assert one.lock(WRLCK, process=3, flags=FLAGS_BLOCK) == BLOCKED
    waiting += [two.wait(WRLCK, process=n) for n in range(2)]
    assert two.lock(WRLCK, process=2, flags=FLAGS_BLOCK) == BLOCKED
    waiting[0].cancel()
    waiting.append(two.wait(WRLCK, process=2))
    for one_of_them in waiting:
        one_of_them.cancel()


def test_no_more_owners_and_ranges_than_may(locks: Locks, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OWNERS", 3)
    monkeypatch.setattr(module, "MAX_RANGES", 5)
    one = Session(locks, path, "one")
    for process in range(3):
        assert one.lock(RDLCK, 0, 0, process=process) == SUCCESS
    assert one.lock(RDLCK, 0, 0, process=3) == ERROR
    assert one.lock(UNLCK, 10, 1, process=0) == SUCCESS
    assert one.lock(UNLCK, 20, 1, process=0) == SUCCESS
    assert one.lock(UNLCK, 30, 1, process=0) == ERROR, "it would split a range"
    assert one.lock(RDLCK, 10, 1, process=0) == ERROR
    assert one.lock(UNLCK, 0, 10, process=0) == SUCCESS
    assert one.lock(RDLCK, 10, 11, process=0) == SUCCESS
    assert Session(locks, path, "two").lock(RDLCK) == SUCCESS, "limits are each session's own"


def test_outside_the_main_thread_nothing_waits(path: Path, host: HostProcess) -> None:
    """In a process of its own: here the signal has its handler already."""
    program = """
import logging, sys, threading
from pathlib import Path
from fusemap.p9.locks import BLOCKED, FLAGS_BLOCK, SUCCESS, WRLCK, Locks
from tests.p9.locks.support import Session
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
def work():
    locks = Locks()
    one = Session(locks, Path(sys.argv[1]), "one")
    assert one.lock(WRLCK, 0, 1, flags=FLAGS_BLOCK) == BLOCKED
    assert one.lock(WRLCK, 1, 1, flags=FLAGS_BLOCK) == SUCCESS
    locks.close()
    print("good")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    assert host("w", 0, 1)
    done = subprocess.run([sys.executable, "-c", program, path], text=True, capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith("WARNING 9P locks made outside the main thread"), done.stdout
    assert done.stdout.endswith("good\n")
