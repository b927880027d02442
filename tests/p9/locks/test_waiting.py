"""Locks that are waited for: in the kernel, answered by the unlock, called back at any moment."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from pathlib import Path

import pytest

from fusemap.host import ofd
from fusemap.p9 import locks as module
from fusemap.p9.locks import BLOCKED, RDLCK, SUCCESS, UNLCK, WRLCK, Locks, Waiting
from fusemap.p9.messages import Rgetlock

from ...support.trees import descriptors
from .support import SOON, HostProcess, Session, Threads, in_kernel, interrupter_ended, until


@pytest.mark.parametrize("holder", ["ours", "host"])
def test_a_waiting_lock_is_answered_by_the_unlock(
    locks: Locks, path: Path, host: HostProcess, pool: Threads, holder: str
) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    delays = []
    for _ in range(10):
        if holder == "ours":
            assert one.lock(WRLCK) == SUCCESS
        else:
            assert host("w")
        waiting = two.wait(WRLCK, 3, 4)
        thread: list[int] = []

        def run(waiting: Waiting = waiting, thread: list[int] = thread) -> tuple[int, int]:
            thread.append(threading.get_native_id())
            return waiting.run(), time.monotonic_ns()

        future = pool.submit(run)
        in_kernel(path)
        slept = switches(thread[0])
        in_kernel(path)
        assert switches(thread[0]) == slept, "it sleeps, and does not look again and again"
        assert not future.done()
        if holder == "ours":
            since = time.monotonic_ns()
            assert one.lock(UNLCK) == SUCCESS
        else:
            since = time.monotonic_ns()
            assert host("u")
        status, then = future.result(SOON)
        assert status == SUCCESS
        delays.append(then - since)
        assert one.lock(RDLCK, 3, 1) == BLOCKED, "the waiter has it"
        assert two.lock(UNLCK) == SUCCESS
    assert min(delays) < 20e6, f"nanoseconds: {delays}"


def switches(thread: int) -> int:
    """How often a thread of this process has gone to sleep."""
    with open(f"/proc/self/task/{thread}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))


def test_a_host_process_waits_for_ours(locks: Locks, path: Path, host: HostProcess) -> None:
    one = Session(locks, path, "one")
    assert one.lock(WRLCK) == SUCCESS
    host.send("wait")
    in_kernel(path)
    one.leave()
    assert host.answer()[0] == "ok"


def test_a_wait_can_be_cancelled_at_any_moment(locks: Locks, path: Path, host: HostProcess, pool: Threads) -> None:
    one = Session(locks, path, "one")
    assert host("w")
    for moment in range(60):
        waiting = one.wait(WRLCK)
        future = pool.submit(waiting.run)
        if moment % 3 == 1:
            in_kernel(path)
        elif moment % 3 == 2:
            until(future.running, "the thread runs")
        waiting.cancel()
        waiting.cancel()
        with pytest.raises(InterruptedError):
            future.result(SOON)
        waiting.cancel()
        in_kernel(path, 0)
    assert host("u")
    assert one.lock(WRLCK) == SUCCESS


def test_a_signal_that_comes_before_the_wait_is_sent_again(
    locks: Locks, path: Path, host: HostProcess, pool: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first signals arrive in the gap between the look at the flag and the system call."""
    one, entered, call = Session(locks, path, "one"), threading.Event(), ofd.wait
    signals: list[int] = []
    kill = signal.pthread_kill

    def late(*arguments: int) -> int:
        entered.set()
        until(lambda: len(signals) >= 3, "signals")
        return call(*arguments)

    def counted(thread: int, number: int) -> None:
        signals.append(number)
        kill(thread, number)

    monkeypatch.setattr(ofd, "wait", late)
    monkeypatch.setattr(signal, "pthread_kill", counted)
    assert host("w")
    waiting = one.wait(WRLCK)
    future = pool.submit(waiting.run)
    assert entered.wait(SOON)
    waiting.cancel()
    with pytest.raises(InterruptedError):
        future.result(SOON)
    assert len(signals) > 3


def test_a_wait_that_never_began_is_over_when_cancelled(locks: Locks, path: Path, host: HostProcess) -> None:
    one, before = Session(locks, path, "one"), descriptors()
    assert host("w")
    waiting = one.wait(WRLCK)
    assert descriptors() != before
    waiting.cancel()
    assert descriptors() == before
    assert locks._waiting == 0
    with pytest.raises(InterruptedError):
        waiting.run()


def test_a_lock_that_was_got_before_the_cancel_is_reported(
    locks: Locks, path: Path, host: HostProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, call = Session(locks, path, "one"), ofd.wait
    assert host("w")
    waiting = one.wait(WRLCK)

    def got(*arguments: int) -> int:
        answer = call(*arguments)
        waiting.cancel()
        return answer

    assert host("u")
    monkeypatch.setattr(ofd, "wait", got)
    assert waiting.run() == SUCCESS
    assert not host("w")
    assert one.lock(UNLCK) == SUCCESS
    assert host("w")


@pytest.mark.parametrize("end", ["clunk", "disconnect"])
def test_a_wait_ends_with_its_fid(locks: Locks, path: Path, host: HostProcess, pool: Threads, end: str) -> None:
    one = Session(locks, path, "one")
    assert host("w", 0, 10)
    assert one.lock(WRLCK, 20, 10) == SUCCESS
    waiting = one.wait(WRLCK, 5, 20)
    future = pool.submit(waiting.run)
    in_kernel(path)
    if end == "clunk":
        one.clunk()
    else:
        one.leave()
    assert host("w", 20, 10), "its other lock is gone at once, whenever the thread comes back"
    with pytest.raises(InterruptedError):
        future.result(SOON)
    assert host("u")
    assert host("w")


def test_a_clunk_ends_only_the_waits_of_that_fid(locks: Locks, path: Path, host: HostProcess, pool: Threads) -> None:
    one = Session(locks, path, "one")
    assert host("w", 0, 10)
    first = pool.submit(one.wait(WRLCK, 0, 1, fid=1).run)
    second = pool.submit(one.wait(WRLCK, 1, 1, fid=2).run)
    in_kernel(path, 2)
    one.clunk(1)
    with pytest.raises(InterruptedError):
        first.result(SOON)
    interrupter_ended()
    in_kernel(path, 1)
    assert not second.done()
    assert host("u")
    assert second.result(SOON) == SUCCESS
    assert not host("w", 1, 1)


def test_a_lock_got_by_a_session_that_has_gone_is_given_back(
    locks: Locks, path: Path, host: HostProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, call = Session(locks, path, "one"), ofd.wait
    assert host("w")
    waiting = one.wait(WRLCK)

    def got(*arguments: int) -> int:
        answer = call(*arguments)
        one.leave()
        return answer

    assert host("u")
    monkeypatch.setattr(ofd, "wait", got)
    with pytest.raises(InterruptedError):
        waiting.run()
    assert host("w")


def test_the_owner_may_go_on_while_it_waits(locks: Locks, path: Path, host: HostProcess, pool: Threads) -> None:
    one, two = Session(locks, path, "one"), Session(locks, path, "two")
    assert host("w", 0, 1)
    future = pool.submit(one.wait(WRLCK, 0, 1).run)
    in_kernel(path)
    assert one.lock(WRLCK, 5, 5) == SUCCESS
    assert one.lock(UNLCK, 5, 5) == SUCCESS
    assert two.lock(WRLCK, 5, 5) == SUCCESS
    assert not future.done()
    assert host("u")
    assert future.result(SOON) == SUCCESS
    assert two.test(RDLCK, 0, 1) == Rgetlock(WRLCK, 0, 1, 1, b"one")


def test_many_wait_and_each_gets_its_turn(locks: Locks, path: Path, host: HostProcess, pool: Threads) -> None:
    count = 3 * module.MAX_WAITING_OF_ONE
    sessions = [Session(locks, path, f"{n}") for n in range(count)]
    assert host("w")
    futures = {pool.submit(session.wait(WRLCK).run): session for session in sessions}
    in_kernel(path, count)
    assert host("u")
    while futures:
        done, _ = concurrent.futures.wait(futures, SOON, concurrent.futures.FIRST_COMPLETED)
        (future,) = done  # one at a time: the next gets it only from this one
        assert future.result() == SUCCESS
        futures.pop(future).leave()
    assert host("w")


def test_all_who_wait_come_back_when_everything_ends(
    locks: Locks, path: Path, host: HostProcess, pool: Threads
) -> None:
    assert host("w")
    sessions = [Session(locks, path, f"{n}") for n in range(100)]
    futures = [pool.submit(session.wait(WRLCK).run) for session in sessions]
    locks.close()
    for future in futures:
        with pytest.raises(InterruptedError):
            future.result(SOON)
    in_kernel(path, 0)
